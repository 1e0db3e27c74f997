"""Carries out commands: load, fold, decide, append guarded by what was seen; begin again on a lost race.

A command is safe to repeat: where an answer was lost and the events turn out to be stored, deciding again on what the
log now says gives "already so".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import structlog
from msgspec import Struct

from ..clock import unique_id, utc_now
from ..errors import Conflict, OutcomeUnknown, StoreError, StoreFull, StoreUnavailable
from ..events.codec import (
    owner_codec,
    pool_codec,
    schedule_codec,
    server_codec,
    task_codec,
    type_codec,
    webhook_codec,
)
from ..events.envelope import Actor, Event, Recorded, Stored
from ..events.ids import ScheduleRef, TaskRef, WebhookRef
from ..events.owner import OwnerEvent
from ..events.pool import PoolEvent
from ..events.schedule import ScheduleEvent
from ..events.server import ServerEvent
from ..events.subjects import (
    owner_root,
    owner_subject,
    pool_root,
    pool_subject,
    schedule_root,
    schedule_subject,
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
from ..streams.latest import LatestLog
from ..streams.log import Entry, Log
from ..streams.topology import SCHEDULES, SERVERS, TASKS, WEBHOOKS
from . import owner, pool, schedule, server, task, task_type, webhook
from .task import SubmitTask, TaskCommand, TaskState

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


class Order(Struct, Generic[S, C, E], frozen=True, kw_only=True):
    """A command about one thing, of several that are carried out together."""

    root: str
    """What all the thing's subjects start with; no two orders have the same."""
    subject: Callable[[E], str]
    command: C
    known: Known[S] | None = None
    """Spares the first load."""


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
        tries = _Tries(patience_seconds)
        while True:
            try:
                if known is None:
                    known = await self._load_within(tries.load_seconds, root)
                return await self._try(root, subject, command, by, cause, known)
            except StoreError as error:
                if await tries.after(error):
                    known = None

    async def handle_together(
        self,
        orders: Sequence[Order[S, C, E]],
        *,
        by: Actor,
        cause: str = "",
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> list[Handled[S, E]]:
        """Decide on each order, and append what comes of all of them or nothing; in the log in their order.

        Raises as `handle` does, what `decide` raises for any of them; TooManyTogether for more than is stored together.
        """
        tries = _Tries(patience_seconds)
        known = {order.root: order.known for order in orders if order.known is not None}
        while True:
            try:
                for root in [order.root for order in orders if order.root not in known]:
                    known[root] = await self._load_within(tries.load_seconds, root)
                return await self._try_together(orders, known, by, cause)
            except StoreError as error:
                if await tries.after(error):
                    known.clear()

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
        recorded = _recorded(self._decide(command, known.state, now), now, by, cause)
        if not recorded:
            return Handled(known, [])
        last = await self.log.append(root, [(subject(entry.event), entry) for entry in recorded], known.sequence)
        return self._handled(known, recorded, last - len(recorded) + 1)  # one append is contiguous

    async def _try_together(
        self, orders: Sequence[Order[S, C, E]], known: Mapping[str, Known[S]], by: Actor, cause: str
    ) -> list[Handled[S, E]]:
        now = utc_now()
        decided = [
            _recorded(self._decide(order.command, known[order.root].state, now), now, by, cause) for order in orders
        ]
        entries = [
            Entry(
                root=order.root,
                events=[(order.subject(entry.event), entry) for entry in recorded],
                expected=known[order.root].sequence,
            )
            for order, recorded in zip(orders, decided, strict=True)
            if recorded
        ]
        count = sum(len(recorded) for recorded in decided)
        first = await self.log.append_together(entries) - count + 1 if entries else 0
        handled = []
        for order, recorded in zip(orders, decided, strict=True):
            handled.append(self._handled(known[order.root], recorded, first))
            first += len(recorded)
        return handled

    def _handled(self, known: Known[S], recorded: Sequence[Recorded[E]], first: int) -> Handled[S, E]:
        """Return what came of events that were appended from the sequence `first` on."""
        state, sequence = known
        appended = []
        for place, entry in enumerate(recorded):
            state, sequence = self._evolve(state, entry), first + place
            appended.append(Stored(sequence, entry))
        return Handled(Known(state, sequence), appended)


def _recorded(events: Sequence[E], now: datetime, by: Actor, cause: str) -> list[Recorded[E]]:
    return [Recorded(id=unique_id(), at=now, by=by, cause=cause, event=event) for event in events]


class _Tries:
    """How often, and for how long, a command is tried."""

    def __init__(self, patience_seconds: float) -> None:
        self.load_seconds = FIRST_LOAD_SECONDS
        self._give_up_at = time.monotonic() + patience_seconds
        self._pause = FIRST_PAUSE_SECONDS
        self._races = 0

    async def after(self, error: StoreError) -> bool:
        """Return when it is time for another try, and whether what was known must be loaded again.

        Raises the error if there is to be none.
        """
        match error:
            case Conflict():
                self._races += 1
                if self._races >= RACES:
                    raise StoreUnavailable(f"lost {self._races} races in a row: {error}") from error
                return True
            case OutcomeUnknown() if time.monotonic() <= self._give_up_at:
                return True
            case OutcomeUnknown() | StoreFull() | PayloadTooLarge():
                raise error  # waiting does not help
            case StoreUnavailable() if time.monotonic() + self._pause <= self._give_up_at:
                logger.debug("append.waits", reason=str(error))
                await asyncio.sleep(self._pause)
                self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
                self.load_seconds *= 2
                return False
            case _:
                raise error


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
        pool_log = Log(SERVERS, pool_codec, fleet_committer, reading, replicated=replicated)
        self.pools: Handler[pool.PoolState, pool.PoolCommand, PoolEvent] = Handler(
            pool_log, pool.NEVER_PAUSED, pool.decide, pool.evolve
        )
        owner_log = Log(SERVERS, owner_codec, fleet_committer, reading, replicated=replicated)
        self.owners: Handler[owner.OwnerState, owner.OwnerCommand, OwnerEvent] = Handler(
            owner_log, owner.NEVER_LIMITED, owner.decide, owner.evolve
        )
        webhook_log = Log(WEBHOOKS, webhook_codec, Committer(appending), reading, replicated=replicated)
        self.webhooks: Handler[webhook.WebhookState, webhook.WebhookCommand, WebhookEvent] = Handler(
            webhook_log, webhook.UNREGISTERED, webhook.decide, webhook.evolve
        )
        schedule_log = LatestLog(SCHEDULES, schedule_codec, Committer(appending), reading, replicated=replicated)
        self.schedules: Handler[schedule.ScheduleState, schedule.ScheduleCommand, ScheduleEvent] = Handler(
            schedule_log, schedule.UNCREATED, schedule.decide, schedule.evolve
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

    async def submit_together(
        self, submissions: Sequence[tuple[TaskRef, SubmitTask]], *, by: Actor, cause: str = ""
    ) -> list[Handled[TaskState, TaskEvent]]:
        """Submit new tasks, all of them or none; those that are there already, by the same request, stay as they are.

        Raises IdempotencyConflict or AlreadyExists for those that are there by another.
        """
        new = self.tasks.fold([])
        orders: list[Order[TaskState, TaskCommand, TaskEvent]] = [
            Order(root=task_root(ref), subject=partial(task_subject, ref), command=command, known=new)
            for ref, command in submissions
        ]
        return await self.tasks.handle_together(orders, by=by, cause=cause)

    async def server(
        self, server_id: str, command: server.ServerCommand, *, by: Actor, cause: str = ""
    ) -> Handled[server.ServerState, ServerEvent]:
        return await self.servers.handle(server_root(server_id), server_subject, command, by=by, cause=cause)

    async def type(
        self, name: str, command: task_type.TypeCommand, *, by: Actor, cause: str = ""
    ) -> Handled[task_type.TypeState, TypeEvent]:
        return await self.types.handle(type_root(name), type_subject, command, by=by, cause=cause)

    async def pool(
        self, name: str, command: pool.PoolCommand, *, by: Actor, cause: str = ""
    ) -> Handled[pool.PoolState, PoolEvent]:
        return await self.pools.handle(pool_root(name), pool_subject, command, by=by, cause=cause)

    async def owner(
        self, subject: str, command: owner.OwnerCommand, *, by: Actor, cause: str = ""
    ) -> Handled[owner.OwnerState, OwnerEvent]:
        """`subject`: the owner's, of their JWT."""
        return await self.owners.handle(owner_root(subject), owner_subject, command, by=by, cause=cause)

    async def webhook(
        self, ref: WebhookRef, command: webhook.WebhookCommand, *, by: Actor, cause: str = ""
    ) -> Handled[webhook.WebhookState, WebhookEvent]:
        return await self.webhooks.handle(
            webhook_root(ref), lambda event: webhook_subject(ref, event), command, by=by, cause=cause
        )

    async def schedule(
        self,
        ref: ScheduleRef,
        command: schedule.ScheduleCommand,
        *,
        by: Actor,
        cause: str = "",
        known: Known[schedule.ScheduleState] | None = None,
    ) -> Handled[schedule.ScheduleState, ScheduleEvent]:
        return await self.schedules.handle(
            schedule_root(ref), lambda event: schedule_subject(ref, event), command, by=by, cause=cause, known=known
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
