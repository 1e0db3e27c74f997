"""The fan-out of the log within a process: one reader of the stream, any number of listeners, no consumer for each.

Each listener has a bounded queue. When it overflows, the listener reads on from the log at its own pace; others are not
affected.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from typing import TypeVar

import nats.errors
import structlog
from msgspec import Struct
from msgspec.structs import replace
from nats.aio.msg import Msg

from ..errors import StoreError, StoreUnavailable, TaskstreamError, UnreadableEvent
from ..events.codec import task_codec
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS, LIVE_WORDS, MOVING_WORDS
from ..events.subjects import (
    LIVE_SUBJECTS,
    TASK_SUBJECTS,
    history_filter,
    live_ref,
    task_ref,
    task_root,
    task_word,
    tasks_filter,
)
from ..events.task import ProgressReported, TaskEvent
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.consumers import follow
from ..streams.jetstream.messages import Position, position_at
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from ..streams.topology.epochs import read_extent
from .live import LiveReport
from .live import decode as decode_live

log = structlog.get_logger(__name__)

K = TypeVar("K")

QUEUE_LENGTH = 512
"""Events that wait for one listener before it has to read them from the log."""
QUEUE_BYTES = 8 * 1024 * 1024
"""Likewise, in bytes. Events are shared between queues; the slowest listener keeps them in memory."""
IDLE_SECONDS = 30.0
"""How long the stream is read on after the last listener has left."""
REMEMBERED = 10_000
"""Ended tasks and logged batches that are remembered, to drop their late reports."""
BEFORE = 2_000
"""Events read from before the start, to recognise late reports."""
HELD = 4_096
"""Live reports that wait for earlier events; beyond that, subscribers get them from the log."""
START_SECONDS = 5.0
PAUSE_SECONDS = 0.5


class LogReplaced(TaskstreamError):
    """NATS has another log now: an older one was restored, or the last events of this one were lost."""


class LoggedEvent:
    """An event of a task at its place in the log; decoded once, for all listeners."""

    def __init__(self, position: Position) -> None:
        self.sequence = position.sequence
        self.size_bytes = len(position.data)
        self.subject = position.subject
        self.ref = task_ref(position.subject)
        self.kind = task_word(position.subject)
        """As the subject has it: `submitted`, `progressed`, …"""
        self.encoded: bytes | None = None
        """As it is sent, once somebody has sent it."""
        self._position = position

    @cached_property
    def stored(self) -> Stored[TaskEvent]:
        """The event. Raises UnreadableEvent."""
        return decode(task_codec, self._position)

    @property
    def event(self) -> TaskEvent:
        return self.stored.recorded.event

    def with_event(self, event: TaskEvent) -> LoggedEvent:
        """Return this with another event in its place."""
        other = LoggedEvent(self._position)
        sequence, recorded = self.stored
        other.stored = Stored(sequence, replace(recorded, event=event))
        return other


def event_at(position: Position) -> LoggedEvent | None:
    """Return the event of a message; None if its subject names no task: then nobody can subscribe to it."""
    try:
        return LoggedEvent(position)
    except ValueError:
        log.warning("hub.skipped", subject=position.subject, sequence=position.sequence)
        return None


class LiveEvent:
    """A report of progress that the log does not have yet."""

    def __init__(self, ref: TaskRef, report: LiveReport, size_bytes: int) -> None:
        self.ref = ref
        self.size_bytes = size_bytes
        self.report = report
        self.event = report.event
        self.encoded: bytes | None = None
        """As it is sent, once somebody has sent it."""
        self.position = 0
        """Up to where the hub had read the log when this came."""


class Scope(Struct, frozen=True, kw_only=True):
    """The tasks whose events a listener gets: one task, one owner's, or (both None) all."""

    ref: TaskRef | None = None
    owner: str | None = None
    """Owner token."""

    @property
    def subject(self) -> str:
        """The filter of these events in the stream."""
        if self.ref is not None:
            return history_filter(task_root(self.ref))
        return tasks_filter(self.owner)

    def has(self, ref: TaskRef) -> bool:
        return ref == self.ref if self.ref is not None else self.owner in (None, ref.owner)


class Listener:
    """The queue of one listener."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.overflowed = False
        """Events were dropped since `clear`: read them from the log."""
        self.ended = False
        """Nothing more comes: the process stops."""
        self.is_lost = False
        """Nothing more comes: NATS has another log now, in which positions of this one mean nothing."""
        self._queue: deque[LoggedEvent | LiveEvent] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()

    def offer(self, update: LoggedEvent | LiveEvent) -> None:
        if self.overflowed:
            return
        if len(self._queue) >= QUEUE_LENGTH or self._waiting_bytes > QUEUE_BYTES:
            self.overflowed = True
        else:
            self._queue.append(update)
            self._waiting_bytes += update.size_bytes
        self._news.set()

    def end(self) -> None:
        self.ended = True
        self._news.set()

    def lose(self) -> None:
        self.is_lost = True
        self._news.set()

    def clear(self) -> None:
        """Empty the queue, and end an overflow."""
        self._queue.clear()
        self._waiting_bytes = 0
        self.overflowed = False

    async def next(self, timeout_seconds: float) -> LoggedEvent | LiveEvent | None:
        """Return the next event; None if none came in time, or if `overflowed`, `ended` or `is_lost` is set."""
        if self.is_lost:
            return None
        if not self._queue and not self.overflowed and not self.ended:
            self._news.clear()
            # Not `wait_for`: on Python 3.11 it makes a task each time, and may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._news.wait()
        if not self._queue:
            return None
        update = self._queue.popleft()
        self._waiting_bytes -= update.size_bytes
        return update


class Hub:
    """Reads the stream while there are listeners; one for each process that pushes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listeners: dict[TaskRef | str | None, set[Listener]] = {}
        """By task, by owner token, and (None) of everything."""
        self._reading: asyncio.Task[None] | None = None
        self._is_live = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._ended = False
        self._ended_tasks: dict[TaskRef, None] = {}
        """Tasks that ended lately; their late reports are dropped."""
        self._logged: dict[str, None] = {}
        """Batches that the log has had lately; their late reports are dropped."""
        self._position = 0
        """Sequence of the last event that was delivered."""
        self._last: Position | None = None
        """The last event that was delivered."""
        self._held: deque[LiveEvent] = deque()
        """Reports that came before the event they follow."""

    @property
    def listeners(self) -> int:
        return sum(map(len, self._listeners.values()))

    @property
    def has_ended(self) -> bool:
        """True once no more events come: the process stops."""
        return self._ended

    @contextlib.asynccontextmanager
    async def listening(self, scope: Scope) -> AsyncIterator[Listener]:
        """Register a listener: it is offered every event of the scope that is stored from now on, in order.

        Raises StoreUnavailable if the log cannot be read now.
        """
        listener = Listener(scope)
        key = scope.ref or scope.owner
        self._listeners.setdefault(key, set()).add(listener)
        try:
            if self._ended:
                listener.end()
            else:
                self._read_on()
                await self._until_live()
            yield listener
        finally:
            self._listeners[key].discard(listener)
            if not self._listeners[key]:
                del self._listeners[key]
            if not self._listeners and not self._ended:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._stop)

    def end(self) -> None:
        """End all listeners: the process stops."""
        self._ended = True
        for listener in self._all():
            listener.end()
        self._stop()

    def _all(self) -> list[Listener]:
        return [listener for group in self._listeners.values() for listener in group]

    async def _until_live(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._is_live.wait()
        except TimeoutError:
            raise StoreUnavailable("the log cannot be followed now") from None

    def _read_on(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._reading is None or self._reading.done():
            self._is_live.clear()
            self._reading = asyncio.create_task(self._read(), name="hub")

    def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._forget()

    def _forget(self) -> None:
        self._last = None
        self._ended_tasks.clear()
        self._logged.clear()
        self._held.clear()

    async def _read(self) -> None:
        after: int | None = None
        last = 0
        subscription = await self._connection.subscribe(LIVE_SUBJECTS, self._on_report)
        try:
            while True:
                try:
                    if after is None:
                        last = int((await api(self._connection, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
                        self._position = after = max(0, last - BEFORE)
                    following = follow(self._connection, TASKS, [TASK_SUBJECTS], after, check=self._check_last)
                    async with contextlib.aclosing(following) as batches:
                        async for positions in batches:
                            for position in positions:
                                self._deliver(position)
                                after = position.sequence
                            if not positions or after >= last:
                                self._is_live.set()
                except LogReplaced:
                    log.warning("hub.log-replaced", listeners=self.listeners)
                    self._is_live.clear()
                    self._forget()
                    after = None
                    for listener in self._all():
                        listener.lose()
                except StoreError as error:
                    log.warning("hub.retrying", reason=str(error))
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _check_last(self) -> None:
        """Raise LogReplaced if the log has not got the last event that was delivered, and has not aged it out."""
        last = self._last
        if last is None:
            return
        extent = await read_extent(self._connection, reaches=last.sequence)
        if extent.first > last.sequence:
            has_it = extent.last >= last.sequence
        else:
            has_it = extent.last >= last.sequence and await position_at(self._connection, TASKS, last.sequence) == last
        if not has_it:
            raise LogReplaced

    def _deliver(self, position: Position) -> None:
        update = event_at(position)
        if update is not None:
            self._remember_late(update)
            self._offer(update)
        self._position = position.sequence
        self._last = position
        held, self._held = self._held, deque()
        for report in held:
            self._offer_in_order(report)

    async def _on_report(self, message: Msg) -> None:
        ref = live_ref(message.subject)
        report = decode_live(message.data) if any(self._listeners_of(ref)) else None
        if report is not None:
            self._offer_in_order(LiveEvent(ref, report, len(message.data)))

    def _offer_in_order(self, update: LiveEvent) -> None:
        """Offer a report after the event it follows, unless it is late."""
        if update.report.after > self._position:
            if len(self._held) < HELD:
                self._held.append(update)
        elif update.ref not in self._ended_tasks and update.report.batch not in self._logged:
            update.position = self._position
            self._offer(update)

    def _offer(self, update: LoggedEvent | LiveEvent) -> None:
        for listener in list(self._listeners_of(update.ref)):
            listener.offer(update)

    def _listeners_of(self, ref: TaskRef) -> Iterator[Listener]:
        for key in (ref, ref.owner, None):
            yield from self._listeners.get(key, ())

    def _remember_late(self, update: LoggedEvent) -> None:
        """Remember ended tasks and logged batches, to drop late reports."""
        if update.kind in ENDING_WORDS:
            _remember(self._ended_tasks, update.ref)
        elif update.kind in LIVE_WORDS:
            with contextlib.suppress(UnreadableEvent):  # each listener raises it
                if isinstance(update.event, ProgressReported) and update.event.batch:
                    _remember(self._logged, update.event.batch)
        elif update.kind in MOVING_WORDS:
            self._ended_tasks.pop(update.ref, None)


def _remember(names: dict[K, None], name: K) -> None:
    """Add a name; drop the oldest beyond REMEMBERED."""
    if len(names) >= REMEMBERED:
        del names[next(iter(names))]
    names[name] = None
