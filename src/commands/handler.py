"""Carries out commands: load, fold, decide, append guarded by what was seen; begin again on a lost race.

A command is safe to repeat: where an answer was lost and the events turn out to be stored, deciding again on what the
log now says gives "already so".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import structlog

from ..clock import unique_id, utc_now
from ..errors import Conflict, OutcomeUnknown, StoreFull, StoreUnavailable
from ..events.codec import server_codec, task_codec, type_codec, webhook_codec
from ..events.envelope import Actor, Event, Recorded, Stored
from ..events.ids import TaskRef, WebhookRef
from ..events.server import ServerEvent
from ..events.subjects import (
    server_root,
    server_subject,
    task_root,
    task_subject,
    type_root,
    type_subject,
    webhook_root,
    webhook_subject,
)
from ..events.task import TaskEvent
from ..events.task_type import TypeEvent
from ..events.webhook import WebhookEvent
from ..streams.committer import Committer
from ..streams.connection import Connection, PayloadTooLarge
from ..streams.log import Log
from ..streams.topology import SERVERS, TASKS, WEBHOOKS
from . import server, task, task_type, webhook

logger = structlog.get_logger(__name__)

RACES = 50
"""Lost races in a row after which a command is refused; each is lost to somebody who made progress."""
PATIENCE_SECONDS = 4.0
"""How long a command waits for NATS to come back before it says so."""
FIRST_LOAD_SECONDS = 1.5
"""How long the first load of a history may take, each further one twice as long. A server of a cluster that ends may
swallow a question without a word; waiting for the connection's own timeout would use up all patience."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E", bound=Event)


class Known(NamedTuple, Generic[S]):
    """A state and the sequence of the last event it reflects; 0 for none."""

    state: S
    sequence: int


class Handled(NamedTuple, Generic[S, E]):
    """What a command came to: the state after it, and the events it appended (none if it was already so)."""

    known: Known[S]
    appended: list[Stored[E]]


class Handler(Generic[S, C, E]):
    """Handles the commands of one vocabulary."""

    def __init__(
        self,
        log: Log[E],
        initial: S,
        decide: Callable[[C, S, datetime], Sequence[E]],
        evolve: Callable[[S, Recorded[E]], S],
    ) -> None:
        self.log = log
        self._initial = initial
        self._decide = decide
        self._evolve = evolve

    def fold(self, history: Sequence[Stored[E]]) -> Known[S]:
        """Return the state that a history leads to."""
        state = self._initial
        for stored in history:
            state = self._evolve(state, stored.recorded)
        return Known(state, history[-1].sequence if history else 0)

    async def load(self, root: str) -> Known[S]:
        return self.fold(await self.log.load(root))

    async def handle(
        self,
        root: str,
        subject: Callable[[E], str],
        command: C,
        *,
        by: Actor,
        cause: str = "",
        known: Known[S] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Handled[S, E]:
        """Decide and append; `known` spares the first load.

        Raises what `decide` raises: nothing was written. Raises StoreFull at once, and StoreUnavailable when NATS has
        been away for `patience_seconds`: then the outcome may be unknown, and the command may be given again.
        """
        give_up_at = time.monotonic() + patience_seconds
        pause = FIRST_PAUSE_SECONDS
        load_seconds = FIRST_LOAD_SECONDS
        races = 0
        while True:
            try:
                if known is None:
                    known = await self._load_within(load_seconds, root)
                return await self._try(root, subject, command, by, cause, known)
            except Conflict as error:
                known = None
                races += 1
                if races >= RACES:
                    raise StoreUnavailable(f"lost {races} races in a row: {error}") from error
            except OutcomeUnknown:
                known = None
                if time.monotonic() > give_up_at:
                    raise
            except (StoreFull, PayloadTooLarge):
                raise  # waiting does not help
            except StoreUnavailable as error:
                if time.monotonic() + pause > give_up_at:
                    raise
                logger.debug("append.waits", reason=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                load_seconds *= 2

    async def _load_within(self, seconds: float, root: str) -> Known[S]:
        try:
            async with asyncio.timeout(seconds):
                return await self.load(root)
        except TimeoutError:
            raise StoreUnavailable(f"NATS did not answer in {seconds:g} s") from None

    async def _try(
        self, root: str, subject: Callable[[E], str], command: C, by: Actor, cause: str, known: Known[S]
    ) -> Handled[S, E]:
        now = utc_now()
        events = self._decide(command, known.state, now)
        if not events:
            return Handled(known, [])
        recorded = [Recorded(id=unique_id(), at=now, by=by, cause=cause, event=event) for event in events]
        pairs = [(subject(entry.event), entry) for entry in recorded]
        last = await self.log.append(root, pairs, known.sequence)
        first = last - len(recorded) + 1  # one append is contiguous
        appended = [Stored(first + place, entry) for place, entry in enumerate(recorded)]
        state = known.state
        for entry in recorded:
            state = self._evolve(state, entry)
        return Handled(Known(state, last), appended)


TaskEnded: TypeAlias = Callable[[TaskRef, task.Ended], Awaitable[None]]


class Commands:
    """The commands of all vocabularies, each by the name of what it is about."""

    def __init__(self, appending: Connection, reading: Connection, *, replicated: bool) -> None:
        task_log = Log(TASKS, task_codec, Committer(appending), reading, replicated=replicated)
        fleet_committer = Committer(appending)
        server_log = Log(SERVERS, server_codec, fleet_committer, reading, replicated=replicated)
        type_log = Log(SERVERS, type_codec, fleet_committer, reading, replicated=replicated)
        self.tasks: Handler[task.TaskState, task.TaskCommand, TaskEvent] = Handler(
            task_log, task.UNKNOWN, task.decide, task.evolve
        )
        self.servers: Handler[server.ServerState, server.ServerCommand, ServerEvent] = Handler(
            server_log, server.ABSENT, server.decide, server.evolve
        )
        self.types: Handler[task_type.TypeState, task_type.TypeCommand, TypeEvent] = Handler(
            type_log, task_type.UNDEFINED, _decide_type, task_type.evolve
        )
        webhook_log = Log(WEBHOOKS, webhook_codec, Committer(appending), reading, replicated=replicated)
        self.webhooks: Handler[webhook.WebhookState, webhook.WebhookCommand, WebhookEvent] = Handler(
            webhook_log, webhook.UNREGISTERED, webhook.decide, webhook.evolve
        )
        self._on_task_ended: TaskEnded | None = None

    def on_task_ended(self, act: TaskEnded) -> None:
        """Have something done once this process has ended a task; a crash may prevent it."""
        self._on_task_ended = act

    async def task(
        self,
        ref: TaskRef,
        command: task.TaskCommand,
        *,
        by: Actor,
        cause: str = "",
        known: Known[task.TaskState] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Handled[task.TaskState, TaskEvent]:
        handled = await self.tasks.handle(
            task_root(ref),
            lambda event: task_subject(ref, event),
            command,
            by=by,
            cause=cause,
            known=known,
            patience_seconds=patience_seconds,
        )
        if self._on_task_ended is not None and handled.appended and isinstance(handled.known.state, task.Ended):
            await self._on_task_ended(ref, handled.known.state)
        return handled

    async def server(
        self, server_id: str, command: server.ServerCommand, *, by: Actor, cause: str = ""
    ) -> Handled[server.ServerState, ServerEvent]:
        return await self.servers.handle(server_root(server_id), server_subject, command, by=by, cause=cause)

    async def type(
        self, name: str, command: task_type.TypeCommand, *, by: Actor, cause: str = ""
    ) -> Handled[task_type.TypeState, TypeEvent]:
        return await self.types.handle(type_root(name), type_subject, command, by=by, cause=cause)

    async def webhook(
        self, ref: WebhookRef, command: webhook.WebhookCommand, *, by: Actor, cause: str = ""
    ) -> Handled[webhook.WebhookState, WebhookEvent]:
        return await self.webhooks.handle(
            webhook_root(ref), lambda event: webhook_subject(ref, event), command, by=by, cause=cause
        )

    async def load_task(self, ref: TaskRef) -> list[Stored[TaskEvent]]:
        """Return a task's history, oldest first; empty if there is none."""
        return await self.tasks.log.load(task_root(ref))


def _decide_type(
    command: task_type.TypeCommand,
    state: task_type.TypeState,
    now: datetime,  # noqa: ARG001 - as every decider
) -> Sequence[TypeEvent]:
    return task_type.decide(command, state)
