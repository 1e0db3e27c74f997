"""One attempt from claim to outcome.

    claim (AttemptStarted, guarded)  ─►  call the server  ─►  outcome in the log  ─►  timers  ─►  ack

The queue message is acked only when nothing more depends on it: the outcome is in the log, or the server has accepted
and the deadline's timer is set. A crash anywhere before that brings the message back, and what it finds in the log then
says what is left to do.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Coroutine
from datetime import timedelta

import structlog
from msgspec import Raw, Struct
from nats.aio.msg import Msg

from .. import metrics
from ..clock import secret_token
from ..commands.handler import Commands, Known
from ..commands.server import CircuitIsClosed, CircuitIsOpen, CloseCircuit, OpenCircuit, Present, TryCircuit
from ..commands.task import (
    AcceptAttempt,
    Ended,
    FailTask,
    Processing,
    Reporter,
    ReturnAttempt,
    StartAttempt,
    SucceedTask,
    TaskState,
    Unknown,
    Waiting,
)
from ..errors import Refused, StoreUnavailable
from ..events.envelope import Actor
from ..events.ids import TaskRef
from ..events.subjects import server_token
from ..events.task import StoredResult
from ..projections.fleet import Fleet
from ..projections.heartbeats import Heartbeats
from ..sealing import SealingError
from ..settings import Settings
from ..streams.leases import Membership
from ..streams.objects import Objects
from ..streams.timers import Timers
from .backend import Accepted, Answer, Backend, Call, Completed, Failed, FailedByBackend
from .failures import fail_attempt, set_retry
from .keepalive import InHand
from .secrets import ServerKeys
from .slots import Slots

log = structlog.get_logger(__name__)

COUNTS_AGAINST_SERVER = frozenset({"error", "unreachable", "timeout", "bad_answer"})
"""Failures that say something of the server; being busy, or refusing a task, is what a healthy one does."""
BUSY_PAUSE = timedelta(seconds=1)
"""How long a busy server that names no time is left alone."""
LOOK_AGAIN = timedelta(seconds=5)
"""When a message of a task that somebody else works on is looked at again."""


class Queued(Struct, frozen=True, kw_only=True):
    """A task out of the queue, as the log knows it."""

    ref: TaskRef
    message: Msg
    known: Known[TaskState]
    task_type: str
    payload: Raw
    avoid: str = ""
    """Server of the attempt before, to be avoided if there is another."""


class _UnderWay(Struct):
    """An attempt of this process, from before its claim until its outcome is dealt with."""

    attempt: int = 0
    """0 before the claim."""
    call: asyncio.Task[Answer] | None = None
    cancelled: int = 0
    """The attempt that the log says was cancelled."""

    @property
    def is_cancelled(self) -> bool:
        return 0 < self.attempt == self.cancelled


class AttemptRunner:
    """Runs attempts; knows those that are under way in this process."""

    def __init__(
        self,
        settings: Settings,
        commands: Commands,
        timers: Timers,
        objects: Objects,
        backend: Backend,
        keys: ServerKeys,
        fleet: Fleet,
        slots: Slots,
        in_hand: InHand,
        members: Membership,
        heartbeats: Heartbeats,
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._timers = timers
        self._objects = objects
        self._backend = backend
        self._keys = keys
        self._fleet = fleet
        self._slots = slots
        self._in_hand = in_hand
        self._members = members
        self._heartbeats = heartbeats
        self._worker = Actor("worker", members.id)
        self._running: set[asyncio.Task[None]] = set()
        self._under_way: dict[TaskRef, _UnderWay] = {}
        self._stopping = False

    def start(self, queued: Queued, server: Present) -> None:
        """Begin an attempt on a server that has room, of a task that is not under way here."""
        self._slots.begin(server.server_id, queued.ref)
        self._in_hand.take(queued.message)
        self._under_way[queued.ref] = _UnderWay()
        self.spawn(self._run(queued, server))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run something that belongs to a queue message; `drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt.crashed", error=repr(error), exc_info=error)

    def is_under_way(self, ref: TaskRef) -> bool:
        """Tell whether this process works on a task: its claim, its call, or putting down what came of it."""
        return ref in self._under_way

    async def _works_on(self, worker_id: str, ref: TaskRef) -> bool:
        """Tell whether the worker that started a task's attempt is still at it."""
        if worker_id == self._members.id:
            return self.is_under_way(ref)
        await self._members.observe()  # it may be new
        return self._members.is_alive(worker_id)

    def close_call(self, ref: TaskRef, attempt: int) -> None:
        """Break off the call of an attempt that was cancelled, or see that it is not made."""
        under_way = self._under_way.get(ref)
        if under_way is not None:
            under_way.cancelled = attempt
            if under_way.is_cancelled and under_way.call is not None:
                under_way.call.cancel()

    async def drain(self, grace_seconds: float) -> None:
        """Wait for the attempts under way; hand back those that take longer than the grace."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace_seconds)
        self._stopping = True
        for under_way in self._under_way.values():
            if under_way.call is not None:
                under_way.call.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=5)

    # The spine

    async def _run(self, queued: Queued, server: Present) -> None:
        try:
            await self._attempt(queued, server)
        except StoreUnavailable as error:
            log.warning("attempt.again", task=queued.ref.id, reason=str(error))
            await self._in_hand.give_back(queued.message, LOOK_AGAIN)
        except Exception:
            # A fault of ours. The message must not stay in hand for ever: it comes again, and finds the attempt lost.
            await self._in_hand.give_back(queued.message, LOOK_AGAIN)
            raise
        finally:
            self._under_way.pop(queued.ref, None)

    async def _attempt(self, queued: Queued, server: Present) -> None:
        server_id = server.server_id
        started = time.perf_counter()
        answer: Answer | None = None
        failures = 0
        try:
            token = secret_token()
            claimed = await self._claim(queued, server, token)
            if claimed is None:
                return
            answer = await self._call(queued, server, claimed, token)
            if answer is not None:
                metrics.attempt_seconds.labels(server_id).observe(time.perf_counter() - started)
                failures = self._learn(server, answer)
        finally:
            self._slots.end(server_id, queued.ref, continues=isinstance(answer, Accepted))
        if answer is None:
            await self._broken_off(queued, claimed)
            return
        await self._record(queued, server, claimed, answer)
        await self._judge(server, answer, failures)

    async def _claim(self, queued: Queued, server: Present, token: str) -> Known[TaskState] | None:
        """Append the start of the attempt. None if the task is not to be started: its message is dealt with."""
        command = StartAttempt(
            server_id=server.server_id,
            worker_id=self._members.id,
            token_digest=hashlib.sha256(token.encode()).hexdigest(),
        )
        try:
            if isinstance(server.circuit, CircuitIsOpen):
                await self._commands.server(server.server_id, TryCircuit(), by=self._worker)
            handled = await self._commands.task(
                queued.ref, command, by=self._worker, cause=str(queued.known.sequence), known=queued.known
            )
        except Refused:
            await self.settle(queued.ref, queued.message)
            return None
        except StoreUnavailable as error:
            log.warning("claim.failed", task=queued.ref.id, reason=str(error))
            await self._in_hand.give_back(queued.message, LOOK_AGAIN)
            return None
        return handled.known

    async def _call(self, queued: Queued, server: Present, claimed: Known[TaskState], token: str) -> Answer | None:
        """Call the server. None if the call was broken off: the task was cancelled, or this worker ends."""
        state = claimed.state
        assert isinstance(state, Processing)
        call = Call(
            task_id=queued.ref.id,
            attempt=state.facts.attempt,
            payload=queued.payload,
            deadline=state.deadline,
            callback_url=f"{self._settings.callback_base}/api/task/{queued.ref.id}",
            callback_token=token,
        )
        under_way = self._under_way[queued.ref]
        under_way.attempt = call.attempt
        try:
            api_key = await self._keys.get(server)
        except SealingError:
            return Failed(kind="error", error="the server's API key does not open; register the server again")
        if self._is_broken_off(under_way):
            return None
        under_way.call = asyncio.create_task(self._backend.call(server, call, api_key))
        try:
            return await under_way.call
        except asyncio.CancelledError:
            if self._is_broken_off(under_way):
                return None
            raise  # it was not the call that was cancelled, but this
        finally:
            under_way.call = None

    def _is_broken_off(self, under_way: _UnderWay) -> bool:
        return self._stopping or under_way.is_cancelled

    async def _broken_off(self, queued: Queued, claimed: Known[TaskState]) -> None:
        if self._under_way[queued.ref].is_cancelled:  # the log says so already
            await self._in_hand.ack(queued.message)
            return
        assert isinstance(claimed.state, Processing)
        command = ReturnAttempt(attempt=claimed.state.facts.attempt, reason="the worker is shutting down")
        await self._commands.task(queued.ref, command, by=self._worker, known=claimed)
        await self._in_hand.give_back(queued.message)

    # Outcomes

    async def _record(self, queued: Queued, server: Present, claimed: Known[TaskState], answer: Answer) -> None:
        """Put the outcome into the log, however long NATS may be away, and only then ack."""
        assert isinstance(claimed.state, Processing)
        attempt = claimed.state.facts.attempt
        ref, by, cause = queued.ref, self._worker, str(claimed.sequence)
        reporter = Reporter(kind="worker", attempt=attempt)
        outcome = "succeeded"
        try:
            match answer:
                case Completed(result=body):
                    success = SucceedTask(reporter=reporter, result=await self._stored(ref, attempt, body))
                    await self._commands.task(
                        ref, success, by=by, cause=cause, known=claimed, patience_seconds=math.inf
                    )
                case FailedByBackend(result=body, error=error):
                    outcome = "failed"
                    failure = FailTask(reporter=reporter, error=error, result=await self._stored(ref, attempt, body))
                    await self._commands.task(
                        ref, failure, by=by, cause=cause, known=claimed, patience_seconds=math.inf
                    )
                case Accepted(backend_task_id=backend_task_id):
                    outcome = "accepted"
                    acceptance = AcceptAttempt(attempt=attempt, backend_task_id=backend_task_id)
                    handled = await self._commands.task(
                        ref, acceptance, by=by, cause=cause, known=claimed, patience_seconds=math.inf
                    )
                    if _runs(handled.known.state, attempt):
                        await self._timers.watch_deadline(ref, attempt, claimed.state.deadline)
                    else:  # the callback was faster than the acceptance
                        self._slots.ended_elsewhere(server_token(server.server_id), ref)
                case Failed(kind=kind, error=error, retry_after=retry_after):
                    outcome = kind
                    await fail_attempt(
                        self._commands, self._timers, ref, attempt=attempt, kind=kind, error=error, by=by, cause=cause,
                        retry_after=retry_after, known=claimed, patience_seconds=math.inf,
                    )  # fmt: skip
        except Refused as refusal:
            log.info("outcome.dropped", task=ref.id, attempt=attempt, reason=str(refusal))
            outcome = "late"
        metrics.attempts.labels(server.server_id, outcome).inc()
        del self._under_way[ref]  # a retry may come at once
        await self._in_hand.ack(queued.message)

    async def _stored(self, ref: TaskRef, attempt: int, body: bytes) -> StoredResult:
        if len(body) <= self._settings.inline_result:
            return StoredResult(inline=Raw(body), size_bytes=len(body))
        name = f"{ref.owner}.{ref.unique}.{attempt}"
        while True:
            try:
                await self._objects.put(name, body)
                return StoredResult(object_name=name, size_bytes=len(body))
            except StoreUnavailable as error:
                log.warning("result.waits", task=ref.id, reason=str(error))
                await asyncio.sleep(LOOK_AGAIN.total_seconds())

    def _learn(self, server: Present, answer: Answer) -> int:
        """Count an answer for or against its server, before its slot is free for another; return failures in a row."""
        failing = _counts_against(answer)
        failures = self._slots.note(server.server_id, "failing" if failing else "well")
        if failing and self._opens(server, failures):
            # The circuit's event takes a moment to come round.
            self._slots.pause(server.server_id, timedelta(seconds=self._settings.circuit_cooldown))
        elif isinstance(answer, Failed) and answer.kind == "busy":
            self._slots.pause(server.server_id, answer.retry_after or BUSY_PAUSE)
        return failures

    def _opens(self, server: Present, failures: int) -> bool:
        return failures >= self._settings.circuit_failures or _is_trial(server)

    async def _judge(self, server: Present, answer: Answer, failures: int) -> None:
        """Open the circuit of a server that keeps failing, close that of one whose trial went well."""
        server_id = server.server_id
        try:
            if not _counts_against(answer):
                await self._heartbeats.note(server_id)
                if _is_trial(server):
                    await self._commands.server(server_id, CloseCircuit(reason="an attempt succeeded"), by=self._worker)
            elif self._opens(server, failures):
                assert isinstance(answer, Failed)
                command = OpenCircuit(
                    reason=f"{failures} attempts failed in a row, the last because {answer.error}",
                    cooldown=timedelta(seconds=self._settings.circuit_cooldown),
                )
                await self._commands.server(server_id, command, by=self._worker)
        except (Refused, StoreUnavailable) as error:
            log.info("circuit.unchanged", server=server_id, reason=str(error))

    # A message whose task is not waiting

    async def settle(self, ref: TaskRef, message: Msg) -> None:
        """Deal with the message of a task that cannot be started now, as the log says."""
        try:
            history = await self._commands.load_task(ref)
            state = self._commands.tasks.fold(history).state
            match state:
                case Unknown() | Ended():
                    await self._in_hand.ack(message)
                case Waiting(not_before=None):
                    await self._in_hand.give_back(message)
                case Waiting():
                    await set_retry(self._timers, ref, state)  # not due yet: its timer brings it
                    await self._in_hand.ack(message)
                case Processing(accepted=True):
                    await self._timers.watch_deadline(ref, state.facts.attempt, state.deadline)
                    await self._in_hand.ack(message)
                case Processing(worker_id=worker_id) if await self._works_on(worker_id, ref):
                    await self._in_hand.give_back(message, LOOK_AGAIN)  # whoever works on it will end it
                case Processing():
                    await self._lost(ref, state)
                    await self._in_hand.ack(message)
        except (Refused, StoreUnavailable) as error:
            log.warning("settle.failed", task=ref.id, reason=str(error))
            await self._in_hand.give_back(message, LOOK_AGAIN)

    async def _lost(self, ref: TaskRef, state: Processing) -> None:
        await fail_attempt(
            self._commands, self._timers, ref, attempt=state.facts.attempt, kind="worker_lost",
            error="the worker that made the call is gone", by=self._worker,
        )  # fmt: skip


def _counts_against(answer: Answer) -> bool:
    return isinstance(answer, Failed) and answer.kind in COUNTS_AGAINST_SERVER


def _is_trial(server: Present) -> bool:
    """Tell whether a server, as it was when the attempt began, was let one attempt to see whether it has recovered."""
    return not isinstance(server.circuit, CircuitIsClosed)


def _runs(state: TaskState, attempt: int) -> bool:
    return isinstance(state, Processing) and state.facts.attempt == attempt
