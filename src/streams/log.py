"""A log: guarded appends, and the history of one thing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ..errors import OutcomeUnknown, StoreUnavailable, UnreadableEvent
from ..events.codec import Codec
from ..events.envelope import Event, Recorded, Stored
from ..events.subjects import event_subject, history_filter
from .client.connection import Connection, status_of
from .committer import Append, Committer, StreamMessage
from .jetstream.api import api
from .jetstream.messages import (
    STALE_REPLICA_PAUSE_SECONDS,
    STALE_REPLICA_TRIES,
    Position,
    last_position,
    last_sequence,
    pages,
    position_of,
    read,
    read_current,
    read_last,
)

E = TypeVar("E", bound=Event)


class LogEntry(Struct, Generic[E], frozen=True, kw_only=True):
    """Events of one thing, to store after the last one that was seen."""

    root: str
    """What all its subjects start with."""
    events: Sequence[Recorded[E]]
    expected: int
    """Sequence of the last event seen; 0: none."""


class Guard(NamedTuple):
    """A condition of an append that reaches beyond its own history."""

    subjects: str
    """A filter that includes the subject of the first event to be stored."""
    expected: int
    """Sequence of the last event seen on it; 0: none."""


class _LastOfEach(NamedTuple):
    """The last message of each subject of a history, in order, and the number of messages on each subject.

    The count is the later of the two. Whatever has one message there is among the positions, or came after them.
    """

    positions: list[Position]
    counts: dict[str, int]

    @property
    def is_history(self) -> bool:
        """Return True if these are all messages of the history."""
        return dict.fromkeys((position.subject for position in self.positions), 1) == self.counts


class Log(Generic[E]):
    """One vocabulary of events in one stream."""

    def __init__(
        self, stream: str, codec: Codec[E], committer: Committer, reading: Connection, *, replicated: bool
    ) -> None:
        self.stream = stream
        self._codec = codec
        self._committer = committer
        self._reading = reading
        self._replicated = replicated

    async def append(self, root: str, events: Sequence[Recorded[E]], expected: int) -> int:
        """Store events after the `expected` sequence of `root`; return the last one's sequence.

        Raises Conflict, StoreFull and StoreUnavailable: nothing is stored. Raises OutcomeUnknown if no answer came and
        the events were not found: they are not stored, or still on their way, or the log could not be read.
        """
        append = self._append_of(LogEntry(root=root, events=events, expected=expected))
        try:
            return await self._committer.append(append)
        except OutcomeUnknown as unknown:
            return await self._found_or(unknown, root, events[-1].id, expected)

    async def append_first(self, root: str, events: Sequence[Recorded[E]], guard: Guard) -> int:
        """Store the first events of `root` under a wider condition; return the last one's sequence.

        Raises as `append` does.
        """
        entry = self._append_of(LogEntry(root=root, events=events, expected=0))
        try:
            return await self._committer.append(
                Append(messages=entry.messages, guard=guard.subjects, expected=guard.expected)
            )
        except OutcomeUnknown as unknown:
            return await self._found_or(unknown, root, events[-1].id, 0)

    async def append_fence(self, fence: Append) -> int:
        """Store a fence alone; return its sequence. Raises as `append` does, without a check after a lost answer."""
        return await self._committer.append(fence)

    async def append_together(self, entries: Sequence[LogEntry[E]], *, fence: Append | None = None) -> int:
        """Store the events of all entries or none; return the sequence of the last event.

        They are contiguous in the log, in this order, after the `fence` if there is one. No two entries may have the
        same root. Raises as `append` does, Conflict for any entry that lost its race;
        TooManyTogether and PayloadTooLarge before anything is sent.
        """
        appends = [self._append_of(entry) for entry in entries]
        try:
            return await self._committer.append_together([fence, *appends] if fence else appends)
        except OutcomeUnknown as unknown:
            # The last of a batch is stored only with all the others.
            last = entries[-1]
            return await self._found_or(unknown, last.root, last.events[-1].id, last.expected)

    async def pause(self, seconds: float) -> None:
        """Wait before a retry; without a connection only until it is back."""
        lost = (one for one in (self._committer.connection, self._reading) if not one.is_connected)
        await next(lost, self._reading).pause(seconds)

    async def load(self, root: str, after: int = 0) -> list[Stored[E]]:
        """Return the history of `root`, oldest first, complete up to now: it has every acknowledged append.

        Raises UnreadableEvent for one that does not decode, StoreUnavailable if NATS does not answer.
        """
        if not after:
            last = await self._last_of_each(root)
            if last.is_history:
                return [self._decode(position) for position in last.positions]
        return await self._load_current(
            root, after, lambda: read(self._reading, self.stream, history_filter(root), after + 1)
        )

    async def _load_current(
        self, root: str, after: int, look: Callable[[], Awaitable[list[Position]]]
    ) -> list[Stored[E]]:
        if self._replicated:
            positions = await read_current(self._reading, self.stream, history_filter(root), look, after)
        else:
            positions = await look()
        return [self._decode(position) for position in positions]

    async def at(self, sequence: int) -> Stored[E] | None:
        """Return the event at a sequence; None if there is none, or a replica does not have it yet."""
        request = b'{"seq":%d}' % sequence
        answer = await self._reading.request(f"$JS.API.DIRECT.GET.{self.stream}", request)
        return self._decode(position_of(answer)) if status_of(answer) is None else None

    async def steps(self, root: str) -> AsyncGenerator[list[Stored[E]], None]:
        """Yield the whole history of `root`, oldest first, in steps of about 2 MiB. Complete as `load` is.

        Raises as `load` does.
        """
        last = 0
        for _ in range(STALE_REPLICA_TRIES):
            steps = pages(self._reading, self.stream, history_filter(root), last + 1)
            async with contextlib.aclosing(steps):
                async for positions in steps:
                    last = positions[-1].sequence
                    yield [self._decode(position) for position in positions]
            if not self._replicated or last >= await last_sequence(self._reading, self.stream, history_filter(root)):
                return
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {self.stream} has caught up: try again")

    async def count(self, root: str) -> int:
        """Return the number of events of `root`, which NATS keeps for each subject. Raises StoreUnavailable."""
        return sum((await self._counts(root)).values())

    async def _counts(self, root: str) -> dict[str, int]:
        """Return the number of events on each subject of `root`, as the leader knows it."""
        info = await api(self._reading, f"STREAM.INFO.{self.stream}", {"subjects_filter": history_filter(root)})
        return info["state"].get("subjects") or {}

    async def _last_of_each(self, root: str) -> _LastOfEach:
        """Return the last event of each subject of `root`, and how many each subject has.

        NATS finds and counts the last message of each subject about ten times as fast as it reads a history, which it
        searches to the end of the stream. The leader's count shows what a lagging replica leaves out.
        """
        positions = await read_last(self._reading, self.stream, [history_filter(root)])
        return _LastOfEach(sorted(positions), await self._counts(root))

    def _append_of(self, entry: LogEntry[E]) -> Append:
        messages = [
            StreamMessage(event_subject(entry.root, recorded.event), self._codec.encode(recorded))
            for recorded in entry.events
        ]
        return Append(messages=messages, guard=history_filter(entry.root), expected=entry.expected)

    async def _found_or(self, unknown: OutcomeUnknown, root: str, event_id: str, after: int) -> int:
        """Return the sequence of an event whose append was not answered. Raises `unknown` if it is not found."""
        try:
            history = await self.load(root, after)
        except StoreUnavailable:
            raise unknown from None
        for stored in history:
            if stored.recorded.id == event_id:
                return stored.sequence
        raise unknown

    def _decode(self, position: Position) -> Stored[E]:
        return decode(self._codec, position)


class CondensedLog(Log[E], Generic[E]):
    """A log in which the next event on the same subject replaces some events.

    A history is loaded without the events that were replaced, so it loads as fast after 20,000 reports as after two.
    The state after it is the same.
    """

    def __init__(
        self,
        stream: str,
        codec: Codec[E],
        committer: Committer,
        reading: Connection,
        *,
        replicated: bool,
        is_replaced: Callable[[str], bool],
    ) -> None:
        """`is_replaced`: whether only the last event on a subject matters."""
        super().__init__(stream, codec, committer, reading, replicated=replicated)
        self._is_replaced = is_replaced

    async def load(self, root: str, after: int = 0) -> list[Stored[E]]:
        """Return a history as `Log.load` does, without replaced events unless `after` is given."""
        if after:
            return await super().load(root, after)
        for _ in range(STALE_REPLICA_TRIES):
            last = await self._last_of_each(root)
            if last.is_history:
                return [self._decode(position) for position in last.positions]
            if not any(count > 1 and self._is_replaced(subject) for subject, count in last.counts.items()):
                return await self._load_current(root, 0, lambda: read(self._reading, self.stream, history_filter(root)))
            positions = await self._condensed(last)
            if positions is not None and await self._reaches_end(root, positions):
                return [self._decode(position) for position in positions]
            await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
        raise StoreUnavailable(f"no replica of {self.stream} has caught up: try again")

    async def _condensed(self, last: _LastOfEach) -> list[Position] | None:
        """Return the history up to the last of these events; None if a replica has not all of it."""
        if not last.positions:
            return None
        found = {position.sequence: position for position in last.positions}
        end = last.positions[-1].sequence
        for subject, count in last.counts.items():
            if count == 1 or self._is_replaced(subject):
                continue
            positions = await read(self._reading, self.stream, subject)
            if len(positions) < count:
                return None
            found |= {position.sequence: position for position in positions if position.sequence <= end}
        return sorted(found.values())

    async def _reaches_end(self, root: str, positions: Sequence[Position]) -> bool:
        if not self._replicated:
            return True
        return await last_sequence(self._reading, self.stream, history_filter(root)) <= positions[-1].sequence


class LatestLog(Log[E], Generic[E]):
    """A log whose last event of each kind describes the whole state: long histories load as fast as short ones."""

    async def load(self, root: str, after: int = 0) -> list[Stored[E]]:
        """Return the last event of each kind about `root`, oldest first, complete up to now.

        Raises UnreadableEvent for one that does not decode, StoreUnavailable if NATS does not answer.
        """

        async def look() -> list[Position]:
            found = await read_last(self._reading, self.stream, [history_filter(root)])
            return sorted(position for position in found if position.sequence > after)

        return await self._load_current(root, after, look)


class EndsLog(Log[E], Generic[E]):
    """A log whose state follows from the first and the last event of a history, however many are between them."""

    def __init__(
        self,
        stream: str,
        codec: Codec[E],
        committer: Committer,
        reading: Connection,
        *,
        replicated: bool,
        first: Callable[[str], str],
    ) -> None:
        """`first`: returns the filter of the first event, by the root of a history."""
        super().__init__(stream, codec, committer, reading, replicated=replicated)
        self._first = first

    async def load(self, root: str, after: int = 0) -> list[Stored[E]]:
        """Return the first and the last event of `root`, as the leader knows them. Raises as `Log.load` does."""
        last = await last_position(self._reading, self.stream, history_filter(root))
        if last is None or last.sequence <= after:
            return []
        first = await last_position(self._reading, self.stream, self._first(root))
        found = {position.sequence: position for position in (first, last) if position is not None}
        return [self._decode(found[sequence]) for sequence in sorted(found) if sequence > after]


def decode(codec: Codec[E], position: Position, *, alone: bool = False) -> Stored[E]:
    """Return the event. `alone`: nobody else in this process decodes it. Raises UnreadableEvent."""
    try:
        return Stored(position.sequence, (codec.decode_alone if alone else codec.decode)(position.data))
    except msgspec.MsgspecError as error:
        raise UnreadableEvent(position.subject, position.sequence, str(error)) from error
