"""Attempts that pullers have: renewed, reported on, ended and given back.

A lease is a timer beside the deadline: a renewal sets it again, and no event records that. What a puller sends about an
attempt that is over changes nothing, and is answered so that it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import nats.errors
from msgspec import Struct
from nats.aio.msg import Msg

from ..backends.dialects.dialect import Ending, Update
from ..clock import jitter, utc_now
from ..commands.commands import Commands
from ..commands.handler import Known
from ..commands.task_commands import FailAttempt, ReportCancel, Reporter, RequeueTask, ReturnAttempt
from ..commands.task_state import Processing, TaskState, Waiting
from ..errors import NotFound, Refused, StoreUnavailable
from ..events.envelope import Actor, Stored
from ..events.kinds import FREEING_WORDS
from ..events.subjects import attempts_filter, task_ref, task_word
from ..events.task import (
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskSubmitted,
)
from ..projections.heartbeats import Heartbeats
from ..push.attempt_reports import AttemptReports
from ..streams.client.connection import Connection
from ..streams.timers import Timers
from ..vault.sealing import SealingError
from ..vault.secrets import SecretStore
from .attempt_ids import AttemptIds, AttemptKey
from .open_polls import OpenPolls

RENEWALS_PER_LEASE = 12
"""How often a lease is extended at most. Renewals between are answered, and change nothing."""
REMEMBERED = 10_000
"""Attempts whose last renewal is remembered."""
READ_AT_ONCE = 8
"""Attempts whose state one request reads at the same time."""
RETURNS_PER_SECOND = 10.0
"""Attempts of one server that may be given back at this process. Each costs a few events and brings the next."""
RETURNS_AT_ONCE = 50
"""Attempts of one server that may be given back after a quiet time."""
LONGEST_HOLD_SECONDS = 5.0
"""How long a request to give an attempt back is held for that, at most."""
LOOK_AGAIN_SECONDS = 15.0
"""How often the attempts that a puller asks about are read again: a copy of an event can be lost."""

Standing: TypeAlias = Literal["running", "recorded", "gone"]


class PulledAttempt(Struct, frozen=True, kw_only=True):
    """An attempt as the log has it."""

    key: AttemptKey
    started: AttemptStarted
    history: Sequence[Stored[TaskEvent]]
    """Of its task."""
    known: Known[TaskState]

    @property
    def server_id(self) -> str:
        return self.started.server_id

    @property
    def running(self) -> Processing | None:
        """The state of its task if the attempt is under way."""
        state = self.known.state
        is_running = isinstance(state, Processing) and state.facts.attempt == self.key.attempt
        return state if is_running and isinstance(state, Processing) else None

    @property
    def is_cancelled(self) -> bool:
        """True if its task was cancelled during the attempt."""
        return any(
            isinstance(event, TaskCancelled) and event.attempt == self.key.attempt
            for event in (stored.recorded.event for stored in self.history)
        )

    @property
    def reporter(self) -> Reporter:
        return Reporter(kind="server", attempt=self.key.attempt, server_id=self.server_id)

    @property
    def by(self) -> Actor:
        return Actor("server", self.server_id)

    def ended_by(self, *kinds: type[TaskEvent]) -> bool:
        """Return True if an event of some kinds ended this attempt."""
        return any(
            isinstance(event, kinds) and getattr(event, "attempt", 0) == self.key.attempt
            for event in (stored.recorded.event for stored in self.history)
        )


class AttemptAnswer(Struct, frozen=True, kw_only=True):
    """What a puller is told about its attempt."""

    standing: Standing
    """`running`: it is the puller's, and its lease was renewed. `recorded`: what the puller said has ended it. `gone`:
    it is over otherwise, and nothing was recorded."""
    cancelled: bool = False
    """Its task was cancelled: stop working on it."""
    deadline: datetime | None = None
    lease: timedelta | None = None
    """While it runs: how often to renew it."""


class PulledAttempts:
    """The attempts that pullers have."""

    def __init__(
        self,
        commands: Commands,
        reports: AttemptReports,
        timers: Timers,
        heartbeats: Heartbeats,
        secrets: SecretStore,
        listening: Connection,
        ids: AttemptIds,
        lease: timedelta,
    ) -> None:
        """`lease`: of attempts of which the log does not say it yet."""
        self._commands = commands
        self._reports = reports
        self._timers = timers
        self._heartbeats = heartbeats
        self._secrets = secrets
        self._listening = listening
        self._ids = ids
        self._lease = lease
        self._renewed: dict[AttemptKey, float] = {}
        """When leases were last extended here, monotonic."""
        self._returns_until: dict[str, float] = {}
        """By server, monotonic: until when its returns have used up its rate."""
        self._waiting: set[asyncio.Event] = set()
        """Of the requests that wait for attempts to stop."""
        self.watchers = OpenPolls()
        """The requests that wait for attempts to stop."""
        self._ended = False

    @property
    def is_ending(self) -> bool:
        """True once this process stops."""
        return self._ended

    def end(self) -> None:
        """End every request that waits, now and from now on: this process stops."""
        self._ended = True
        for news in self._waiting:
            news.set()

    # Which attempt

    async def by_token(self, attempt_id: str, token: str) -> PulledAttempt:
        """Return an attempt for the bearer of its token. Raises NotFound, also for another token."""
        return await self.load(self._ids.read(attempt_id), token)

    async def by_server(self, attempt_id: str, server_id: str) -> PulledAttempt:
        """Return an attempt for a caller that acts for its server. Raises NotFound, also for another server's."""
        found = await self._load(self._ids.read(attempt_id))
        if found.server_id != server_id:
            raise NotFound("attempt", attempt_id)
        return found

    async def load(self, key: AttemptKey, token: str) -> PulledAttempt:
        """Return an attempt for the bearer of its token. Raises NotFound, also for another token."""
        found = await self._load(key)
        digest = hashlib.sha256(token.encode()).hexdigest()
        if not hmac.compare_digest(found.started.token_digest, digest):
            raise NotFound("attempt", key.ref.id)
        return found

    async def _load(self, key: AttemptKey) -> PulledAttempt:
        history = await self._commands.tasks.history(key.ref)
        for stored in history:
            event = stored.recorded.event
            if isinstance(event, AttemptStarted) and event.attempt == key.attempt:
                return PulledAttempt(key=key, started=event, history=history, known=self._commands.tasks.fold(history))
        raise NotFound("attempt", key.ref.id)

    async def keys(self, attempt: PulledAttempt) -> list[str]:
        """Return the keys that the puller received and may echo."""
        submitted = attempt.history[0].recorded.event
        if isinstance(submitted, TaskSubmitted) and submitted.key_id:
            with contextlib.suppress(SealingError):
                return [await self._secrets.get(attempt.key.ref, submitted.key_id)]
        return []

    # What its puller says

    async def renew(self, attempt: PulledAttempt) -> AttemptAnswer:
        """Renew the lease of an attempt that runs. Raises StoreUnavailable: it may be renewed or not."""
        state = attempt.running
        if state is None:
            return _gone(attempt)
        lease = state.lease or self._lease
        now = time.monotonic()
        last = self._renewed.get(attempt.key)
        if last is None or timedelta(seconds=now - last) >= lease / RENEWALS_PER_LEASE:
            due_at = min(state.deadline, utc_now() + lease)
            await self._timers.watch_deadline(attempt.key.ref, attempt.key.attempt, due_at)
            self._remember(attempt.key, now)
        await self._heartbeats.note(attempt.server_id)
        return AttemptAnswer(standing="running", deadline=state.deadline, lease=lease)

    async def progress(
        self, attempt: PulledAttempt, update: Update, cause: str, *, is_kept_apart: bool = False
    ) -> AttemptAnswer:
        """Record progress of an attempt that runs, and renew its lease. Raises StoreUnavailable.

        `is_kept_apart`: as an event of its own, which is in the log before the answer.
        """
        if attempt.running is None:
            return _gone(attempt)
        try:
            await self._reports.progress(
                attempt.key.ref,
                update,
                attempt.reporter,
                by=attempt.by,
                cause=cause,
                known=attempt.known,
                is_kept_apart=is_kept_apart,
            )
        except Refused:
            return _gone(await self._load(attempt.key))
        return await self.renew(attempt)

    async def finish(self, attempt: PulledAttempt, ending: Ending, digest: str, cause: str) -> AttemptAnswer:
        """End the task with the puller's verdict. The same again, by its digest, is `recorded` as well.

        Raises StoreUnavailable.
        """
        try:
            await self._reports.end(
                attempt.key.ref,
                ending,
                attempt.reporter,
                update_digest=digest,
                by=attempt.by,
                cause=cause,
                known=attempt.known,
            )
        except Refused:
            return await self._refused(await self._load(attempt.key), cause)
        await self._is_over(attempt)
        return AttemptAnswer(standing="recorded")

    async def fail(
        self, attempt: PulledAttempt, error: str, retry_after: timedelta | None, cause: str
    ) -> AttemptAnswer:
        """Fail an attempt; its task is tried again if it has attempts left. Raises StoreUnavailable."""
        ref = attempt.key.ref
        if attempt.running is None:
            return await self._closed(attempt, cause, AttemptFailed, TaskFailed)
        await self._reports.flush(ref)
        command = FailAttempt(
            attempt=attempt.key.attempt, kind="error", error=error, jitter=jitter(), retry_after=retry_after
        )
        handled = await self._commands.task(ref, command, by=attempt.by, cause=cause)
        if not handled.appended:
            return await self._closed(await self._load(attempt.key), cause, AttemptFailed, TaskFailed)
        state = handled.known.state
        if isinstance(state, Waiting) and state.not_before is not None:
            await self._timers.queue_task(ref, state.facts.pool, state.facts.priority, state.not_before)
        await self._is_over(attempt)
        return AttemptAnswer(standing="recorded")

    async def give_back(self, attempt: PulledAttempt, reason: str, cause: str = "") -> AttemptAnswer:
        """Return an attempt: it does not count, and its task is queued again at once. Raises StoreUnavailable.

        A task that is returned again and again fails after the `busyFor` of its type, as after busy answers.
        """
        ref, state = attempt.key.ref, attempt.running
        if state is None:
            return await self._closed(attempt, cause, AttemptReturned)
        await self._hold_return(attempt.server_id)
        await self._reports.flush(ref)
        if state.facts.unserved_since is None:
            await self._timers.watch_busy_wait(ref, utc_now() + state.facts.policy.busy_for)
        command = ReturnAttempt(attempt=attempt.key.attempt, reason=reason, kind="busy")
        handled = await self._commands.task(ref, command, by=attempt.by, cause=cause)
        if not handled.appended:
            return await self._closed(await self._load(attempt.key), cause, AttemptReturned)
        if isinstance(handled.known.state, Waiting):
            requeue = RequeueTask(reason=f"its puller returned it: {reason}")
            await self._commands.task(ref, requeue, by=attempt.by, cause=cause, known=handled.known)
        await self._is_over(attempt)
        return AttemptAnswer(standing="recorded")

    async def _hold_return(self, server_id: str) -> None:
        """Wait until a server may give an attempt back."""
        now = time.monotonic()
        for other in [other for other, until in self._returns_until.items() if until <= now]:
            del self._returns_until[other]
        until = self._returns_until.get(server_id, now) + 1 / RETURNS_PER_SECOND
        self._returns_until[server_id] = min(until, now + RETURNS_AT_ONCE / RETURNS_PER_SECOND + LONGEST_HOLD_SECONDS)
        if (over := until - now - RETURNS_AT_ONCE / RETURNS_PER_SECOND) > 0:
            await asyncio.sleep(min(over, LONGEST_HOLD_SECONDS))

    async def confirm_stop(self, attempt: PulledAttempt, cause: str = "") -> None:
        """Record that the puller of an attempt whose task was cancelled has stopped. Otherwise do nothing.

        Raises StoreUnavailable.
        """
        stop = ReportCancel(attempt=attempt.key.attempt, outcome="confirmed", detail="its puller has stopped")
        with contextlib.suppress(Refused):
            await self._commands.task(attempt.key.ref, stop, by=attempt.by, cause=cause)

    async def _closed(self, attempt: PulledAttempt, cause: str, *kinds: type[TaskEvent]) -> AttemptAnswer:
        """Return the answer to the end of an attempt that is over: it is recorded if it had been sent before."""
        if attempt.ended_by(*kinds):
            return AttemptAnswer(standing="recorded")
        return await self._refused(attempt, cause)

    async def _refused(self, attempt: PulledAttempt, cause: str) -> AttemptAnswer:
        """Return the answer to the end of an attempt that was over: its puller has stopped."""
        if attempt.is_cancelled:
            await self.confirm_stop(attempt, cause)
        return _gone(attempt)

    async def stopped(
        self, server_id: str, attempt_ids: Iterable[str], wait_seconds: float, gone: asyncio.Future[None]
    ) -> dict[str, AttemptAnswer]:
        """Return those of a server's attempts, by id, that are over, as soon as there is one; none after the wait.

        An id that is none of the server's attempts counts as over. `gone`: done once the puller has hung up.
        """
        news = asyncio.Event()
        gone.add_done_callback(lambda _: news.set())
        known: dict[str, AttemptKey] = {}
        over: dict[str, AttemptAnswer] = {}
        for attempt_id in attempt_ids:
            try:
                known[attempt_id] = self._ids.read(attempt_id)
            except NotFound:
                over[attempt_id] = AttemptAnswer(standing="gone")
        tasks = {key.ref for key in known.values()}

        def hear(message: Msg) -> None:
            if task_word(message.subject) in FREEING_WORDS and task_ref(message.subject) in tasks:
                news.set()

        give_up_at = time.monotonic() + wait_seconds
        self._waiting.add(news)
        try:
            async with self._events_of(server_id, hear):
                while True:
                    news.clear()
                    over |= await self._over(server_id, known)
                    left = give_up_at - time.monotonic()
                    if over or left <= 0 or gone.done() or self._ended:
                        return over
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(left, LOOK_AGAIN_SECONDS)):
                            await news.wait()
        finally:
            self._waiting.discard(news)

    @contextlib.asynccontextmanager
    async def _events_of(self, server_id: str, hear: Callable[[Msg], None]) -> AsyncIterator[None]:
        """Hear the copies of events that start or end attempts on a server."""
        try:
            subscription = await self._listening.listen(attempts_filter(server_id), hear)
        except nats.errors.Error as error:
            raise StoreUnavailable(f"NATS did not take a subscription: {error}") from error
        try:
            yield
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _over(self, server_id: str, known: dict[str, AttemptKey]) -> dict[str, AttemptAnswer]:
        places = asyncio.Semaphore(READ_AT_ONCE)

        async def look(key: AttemptKey) -> AttemptAnswer | None:
            async with places:
                try:
                    found = await self._load(key)
                except NotFound:
                    return AttemptAnswer(standing="gone")
            if found.server_id != server_id:
                return AttemptAnswer(standing="gone")
            return None if found.running else _gone(found)

        answers = await asyncio.gather(*map(look, known.values()))
        return {attempt_id: answer for attempt_id, answer in zip(known, answers, strict=True) if answer is not None}

    async def _is_over(self, attempt: PulledAttempt) -> None:
        self._renewed.pop(attempt.key, None)
        await self._heartbeats.note(attempt.server_id)

    def _remember(self, key: AttemptKey, now: float) -> None:
        self._renewed.pop(key, None)
        if len(self._renewed) >= REMEMBERED:
            del self._renewed[next(iter(self._renewed))]
        self._renewed[key] = now


def _gone(attempt: PulledAttempt) -> AttemptAnswer:
    return AttemptAnswer(standing="gone", cancelled=attempt.is_cancelled)
