"""The reader of a log that keeps the last event of each kind of a thing: states for lists, and of what is not over.

Operations and batch jobs have such logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ..events.codec import Codec
from ..events.envelope import Event, Recorded
from ..events.subjects import history_filter
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import (
    MOST_SUBJECTS,
    STALE_REPLICA_PAUSE_SECONDS,
    STALE_REPLICA_TRIES,
    Position,
    list_subjects,
    read_last,
)
from ..streams.log import decode


class ThingRef(Protocol):
    """The name of a thing."""

    @property
    def id(self) -> str: ...


class Ending(Protocol):
    """A thing that ends."""

    @property
    def is_over(self) -> bool: ...


R = TypeVar("R", bound=ThingRef)
T = TypeVar("T", bound=Ending)
E = TypeVar("E", bound=Event)


class LatestStates(Generic[R, T, E]):
    """The states of the things in one log."""

    def __init__(
        self,
        stream: str,
        codec: Codec[E],
        *,
        ref_of: Callable[[str], R],
        root_of: Callable[[R], str],
        unknown: object,
        evolve: Callable[[Any, Recorded[E]], object],
        known: type[T],
        kinds: int,
    ) -> None:
        """`unknown`: the state of what does not exist. `known`: of what does. `kinds`: of events, all in all."""
        self._stream = stream
        self._codec = codec
        self._ref_of = ref_of
        self._root_of = root_of
        self._unknown = unknown
        self._evolve = evolve
        self._known = known
        self._at_once = MOST_SUBJECTS // kinds

    async def refs(self, reading: Connection, creations: str) -> list[R]:
        """Return the things that have an event on these subjects; by id, the newest first.

        Only names of subjects are read. An id derived from an Idempotency-Key does not show the age.
        """
        subjects = await list_subjects(reading, self._stream, creations)
        return sorted(map(self._ref_of, subjects), key=lambda ref: ref.id, reverse=True)

    async def load(self, reading: Connection, refs: Sequence[R]) -> dict[R, T]:
        """Return the state of each thing; one that has just passed its retention is left out.

        Raises UnreadableEvent for an event that does not decode, StoreUnavailable if NATS does not answer.
        """
        found: dict[R, T] = {}
        missing = list(refs)
        for _ in range(STALE_REPLICA_TRIES):
            for start in range(0, len(missing), self._at_once):
                found |= await self._load(reading, missing[start : start + self._at_once])
            missing = [ref for ref in missing if ref not in found]
            if not missing:
                break
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        return found

    async def _load(self, reading: Connection, refs: Sequence[R]) -> dict[R, T]:
        states: dict[R, object] = {}
        filters = [history_filter(self._root_of(ref)) for ref in refs]
        for position in sorted(await read_last(reading, self._stream, filters)):
            self.fold(states, position)
        return {ref: state for ref, state in states.items() if isinstance(state, self._known)}

    def fold(self, states: dict[R, object], position: Position) -> R:
        """Apply an event to the state of its thing. Raises UnreadableEvent."""
        ref = self._ref_of(position.subject)
        states[ref] = self._evolve(states.get(ref, self._unknown), decode(self._codec, position).recorded)
        return ref

    def is_unfinished(self, state: object) -> bool:
        """Return True for the state of a thing that exists and is not over."""
        return isinstance(state, self._known) and not state.is_over


class UnfinishedStates(Generic[R, T, E]):
    """The things that are not over, as of the events applied."""

    def __init__(self, of: LatestStates[R, T, E]) -> None:
        self._of = of
        self._states: dict[R, Any] = {}

    def apply(self, positions: Sequence[Position]) -> None:
        """Fold events, in order. Raises UnreadableEvent."""
        for position in positions:
            ref = self._of.fold(self._states, position)
            if not self._of.is_unfinished(self._states[ref]):
                del self._states[ref]

    @property
    def states(self) -> Mapping[R, T]:
        return self._states
