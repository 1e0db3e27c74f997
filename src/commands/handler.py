"""Execution of commands: load, fold, decide, append guarded by the last event seen; again after a lost race.

A command is safe to repeat: if an answer was lost and the events are stored, the decider returns no events the second
time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import structlog
from msgspec import Struct

from ..clock import event_id, utc_now
from ..errors import Conflict, OutcomeUnknown, StoreError, StoreFull, StoreUnavailable
from ..events.envelope import Actor, Event, Recorded, Stored
from ..streams.client.connection import PayloadTooLarge
from ..streams.log import Guard, Log, LogEntry

logger = structlog.get_logger(__name__)

RACES = 50
"""Lost races in a row after which a command fails. In each of them another writer made progress."""
PATIENCE_SECONDS = 4.0
"""How long a command waits for NATS before it fails."""
FIRST_LOAD_SECONDS = 1.5
"""Timeout of the first load of a history; each further one has twice as long. A server of a cluster that stops may drop
a request without an answer, and the connection's own timeout is longer than PATIENCE_SECONDS."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

Room: TypeAlias = Callable[[], Awaitable[Guard]]
"""Makes sure that there is room for one more history, and returns a guard that fails once somebody has taken it. Raises
Refused if there is none."""

K = TypeVar("K")
S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E", bound=Event)


class Known(NamedTuple, Generic[S]):
    """A state and the sequence of the last event in it; 0: none."""

    state: S
    sequence: int


class Handled(NamedTuple, Generic[S, E]):
    """The outcome of a command: the state after it, and the events it appended (none if it was done already)."""

    known: Known[S]
    appended: list[Stored[E]]


class HandlerCommand(Struct, Generic[K, S, C], frozen=True, kw_only=True):
    """One of several commands that are executed together, each on another history."""

    key: K
    command: C
    known: Known[S] | None = None
    """Spares the first load."""


class Handler(Generic[K, S, C, E]):
    """Executes the commands of one vocabulary. A key names one history: the id of a server, the ref of a task."""

    def __init__(
        self,
        log: Log[E],
        root: Callable[[K], str],
        initial: S,
        decide: Callable[[C, S, datetime], Sequence[E]],
        evolve: Callable[[S, Recorded[E]], S],
    ) -> None:
        """`root`: returns what all subjects of a history start with."""
        self.log = log
        self._root = root
        self._initial = initial
        self._decide = decide
        self._evolve = evolve
        self.on_appended: Callable[[S, Sequence[Recorded[E]]], None] | None = None
        """Called with the state before and the events that this process has appended to it, to count them."""
        self.on_change: Callable[[K, S, S], Awaitable[None]] | None = None
        """Called with the states before and after, once a command of `handle` has appended events. Not called after a
        crash. It raises no StoreError."""

    def fold(self, history: Sequence[Stored[E]]) -> Known[S]:
        """Return the state after a history."""
        state = self._initial
        for stored in history:
            state = self._evolve(state, stored.recorded)
        return Known(state, history[-1].sequence if history else 0)

    async def history(self, key: K) -> list[Stored[E]]:
        """Return the events of a history, oldest first; empty if there are none."""
        return await self.log.load(self._root(key))

    async def load(self, key: K) -> Known[S]:
        return self.fold(await self.history(key))

    async def handle(
        self,
        key: K,
        command: C,
        *,
        by: Actor,
        cause: str = "",
        known: Known[S] | None = None,
        room: Room | None = None,
        check: Callable[[object], None] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Handled[S, E]:
        """Decide and append; `known` spares the first load. `room`: asked before a new history is begun.

        `check` raises Refused if the command may not be given in a state; the events are appended to that state only.

        Raises what `decide` raises: nothing was stored. Raises StoreFull at once. Raises StoreUnavailable after
        `patience_seconds` without NATS: the outcome may be unknown, and the command may be repeated.
        """
        began = time.monotonic()
        tries: _Tries | None = None
        while True:
            try:
                if known is None:
                    known = await self._load_within(tries.load_seconds if tries else FIRST_LOAD_SECONDS, key)
                if check is not None:
                    check(known.state)
                handled = await self._try(key, command, by, cause, known, room)
            except StoreError as error:
                tries = tries or _Tries(began + patience_seconds, self.log.pause)
                if await tries.after(error):
                    known = None
            else:
                if handled.appended and self.on_change is not None:
                    await self.on_change(key, known.state, handled.known.state)
                return handled

    async def handle_together(
        self,
        orders: Sequence[HandlerCommand[K, S, C]],
        *,
        by: Actor,
        cause: str = "",
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> list[Handled[S, E]]:
        """Decide each order and append all their events, in order, or none.

        Raises as `handle` does, also what `decide` raises for any order. Raises TooManyTogether for too many events.
        """
        tries = _Tries(time.monotonic() + patience_seconds, self.log.pause)
        known = {order.key: order.known for order in orders if order.known is not None}
        while True:
            try:
                for key in [order.key for order in orders if order.key not in known]:
                    known[key] = await self._load_within(tries.load_seconds, key)
                return await self._try_together(orders, known, by, cause)
            except StoreError as error:
                if await tries.after(error):
                    known.clear()

    async def _load_within(self, seconds: float, key: K) -> Known[S]:
        try:
            async with asyncio.timeout(seconds):
                return await self.load(key)
        except TimeoutError:
            raise StoreUnavailable(f"NATS did not answer in {seconds:g} s") from None

    async def _try(
        self, key: K, command: C, by: Actor, cause: str, known: Known[S], room: Room | None
    ) -> Handled[S, E]:
        now = utc_now()
        recorded = _recorded(self._decide(command, known.state, now), now, by, cause)
        if not recorded:
            return Handled(known, [])
        if room is not None and not known.sequence:
            last = await self.log.append_first(self._root(key), recorded, await room())
        else:
            last = await self.log.append(self._root(key), recorded, known.sequence)
        return self._handled(known, recorded, last - len(recorded) + 1)  # one append is contiguous

    async def _try_together(
        self, orders: Sequence[HandlerCommand[K, S, C]], known: Mapping[K, Known[S]], by: Actor, cause: str
    ) -> list[Handled[S, E]]:
        now = utc_now()
        decided = [
            _recorded(self._decide(order.command, known[order.key].state, now), now, by, cause) for order in orders
        ]
        entries = [
            LogEntry(root=self._root(order.key), events=recorded, expected=known[order.key].sequence)
            for order, recorded in zip(orders, decided, strict=True)
            if recorded
        ]
        count = sum(len(recorded) for recorded in decided)
        first = await self.log.append_together(entries) - count + 1 if entries else 0
        handled = []
        for order, recorded in zip(orders, decided, strict=True):
            handled.append(self._handled(known[order.key], recorded, first))
            first += len(recorded)
        return handled

    def _handled(self, known: Known[S], recorded: Sequence[Recorded[E]], first: int) -> Handled[S, E]:
        """Return the outcome of events that were appended from the sequence `first` on."""
        state, sequence = known
        if recorded and self.on_appended is not None:
            self.on_appended(state, recorded)
        appended = []
        for place, entry in enumerate(recorded):
            state, sequence = self._evolve(state, entry), first + place
            appended.append(Stored(sequence, entry))
        return Handled(Known(state, sequence), appended)


def _recorded(events: Sequence[E], now: datetime, by: Actor, cause: str) -> list[Recorded[E]]:
    return [Recorded(id=event_id(), at=now, by=by, cause=cause, event=event) for event in events]


class _Tries:
    """The retries of one command."""

    def __init__(self, give_up_at: float, wait: Callable[[float], Awaitable[None]]) -> None:
        """`give_up_at`: monotonic seconds. `wait`: waits so many seconds, or less if NATS is back."""
        self._wait = wait
        self.load_seconds = FIRST_LOAD_SECONDS
        self._give_up_at = give_up_at
        self._pause = FIRST_PAUSE_SECONDS
        self._races = 0

    async def after(self, error: StoreError) -> bool:
        """Wait until the next try; return True if the history must be loaded again.

        Raises the error if there is no further try.
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
                await self._wait(self._pause)
                self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
                self.load_seconds *= 2
                return False
            case _:
                raise error
