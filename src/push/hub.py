"""The fan-out of the log within a process: one reader of the stream, any number of listeners, no consumer for each.

Listeners are found by what they want: a task, a batch, an owner, or a choice among an owner's events. So an event costs
one look-up of each, however many others listen. The latest events are kept, so a listener that begins near the end of
the log reads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import TypeVar

import nats.errors
import structlog
from nats.aio.msg import Msg

from ..errors import StoreError, StoreUnavailable, UnreadableEvent
from ..events.ids import BatchRef, TaskRef, batch_of
from ..events.kinds import ENDING_WORDS, LIVE_WORDS, MOVING_WORDS
from ..events.subjects import LIVE_SUBJECTS, SCHEDULER_FENCE, live_ref
from ..events.task import ProgressReported
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.messages import Position
from ..streams.tail import LogReplaced, Tail
from ..streams.topology.definitions import TASKS
from .listeners import FilteredListeners, Listener, Scope, WaitingBytes
from .live import decode as decode_live
from .subscription_filter import EVERYTHING, TaskAttributeReader
from .updates import LiveEvent, LoggedEvent, event_at

log = structlog.get_logger(__name__)

K = TypeVar("K")

RECENT_LENGTH = 2_000
"""Delivered events that are kept, for listeners that begin, or that catch up after an overflow."""
RECENT_BYTES = 16 * 1024 * 1024
"""Likewise, in bytes."""
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


class Hub:
    """Reads the stream while there are listeners; one for each process that pushes."""

    def __init__(self, connection: Connection, tail: Tail, attributes: TaskAttributeReader) -> None:
        """`tail`: of the TASKS log."""
        self._connection = connection
        self._tail = tail
        self._attributes = attributes
        self._waiting = WaitingBytes()
        self._all: set[Listener] = set()
        self._of_task: dict[TaskRef, set[Listener]] = {}
        self._of_batch: dict[BatchRef, set[Listener]] = {}
        self._of_owner: dict[str | None, set[Listener]] = {}
        """By owner token, and (None) of everything."""
        self._filtered: dict[str | None, FilteredListeners] = {}
        """Likewise, the listeners that choose among the events."""
        self._recent: deque[LoggedEvent] = deque()
        self._recent_bytes = 0
        self._recent_after: int | None = None
        """Sequence after which `_recent` has every event that was delivered; None: the log is not followed."""
        self._reading: asyncio.Task[None] | None = None
        self._is_live = asyncio.Event()
        self._idle: asyncio.TimerHandle | None = None
        self._ended = False
        self._end_watchers: list[Callable[[], None]] = []
        self._ended_tasks: dict[TaskRef, None] = {}
        """Tasks that ended lately; their late reports are dropped."""
        self._logged: dict[str, None] = {}
        """Batches that the log has had lately; their late reports are dropped."""
        self._position = 0
        """Sequence of the last event that was delivered."""
        self._held: deque[LiveEvent] = deque()
        """Reports that came before the event they follow."""

    @property
    def listeners(self) -> int:
        return len(self._all)

    @property
    def has_ended(self) -> bool:
        """True once no more events come: the process stops."""
        return self._ended

    @property
    def position(self) -> int:
        """Sequence of the last event that was delivered; 0: the log is not followed now."""
        return self._position if self._is_live.is_set() else 0

    @property
    def waiting_bytes(self) -> int:
        """Size of the events in all queues, each counted once."""
        return self._waiting.size_bytes

    def recent(self, scope: Scope, after: int, most: int) -> list[LoggedEvent] | None:
        """Return up to `most` events of a scope after a sequence, of those delivered; None: not all are kept.

        `choice` is not compared. A listener of the scope gets all later ones.
        """
        if self._recent_after is None or after < self._recent_after:
            return None
        found: list[LoggedEvent] = []
        for update in reversed(self._recent):
            if update.sequence <= after:
                break
            if scope.has(update.ref):
                found.append(update)
        return found[: -most - 1 : -1]

    @contextlib.asynccontextmanager
    async def listening(self, scope: Scope) -> AsyncIterator[Listener]:
        """Register a listener: it is offered every event of the scope that is stored from now on, in order.

        Raises StoreUnavailable if the log cannot be read now.
        """
        with self._registered(scope) as listener:
            if self._ended:
                listener.end()
            else:
                self._read_on()
                await self._until_live()
            yield listener

    @contextlib.contextmanager
    def _registered(self, scope: Scope) -> Iterator[Listener]:
        if scope.choice != EVERYTHING:
            filtered = self._filtered.get(scope.owner)
            if filtered is None:
                filtered = FilteredListeners(scope.owner, self._attributes, self._waiting, lambda: self.position)
                self._filtered[scope.owner] = filtered
            listener = Listener(scope, self._waiting, filtered.position)
            filtered.add(listener)
        else:
            filtered = None
            listener = Listener(scope, self._waiting, lambda: self.position)
            self._group_of(scope).add(listener)
        self._all.add(listener)
        self._waiting.join(listener)
        try:
            yield listener
        finally:
            self._all.discard(listener)
            self._waiting.leave(listener)
            if filtered is None:
                self._leave(scope, listener)
            elif filtered.discard(listener) and self._filtered.get(scope.owner) is filtered:
                del self._filtered[scope.owner]
            if not self._all and not self._ended:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._stop)

    def _group_of(self, scope: Scope) -> set[Listener]:
        if scope.ref is not None:
            return self._of_task.setdefault(scope.ref, set())
        if scope.batch is not None:
            return self._of_batch.setdefault(scope.batch, set())
        return self._of_owner.setdefault(scope.owner, set())

    def _leave(self, scope: Scope, listener: Listener) -> None:
        group = self._group_of(scope)
        group.discard(listener)
        if group:
            return
        if scope.ref is not None:
            del self._of_task[scope.ref]
        elif scope.batch is not None:
            del self._of_batch[scope.batch]
        else:
            del self._of_owner[scope.owner]

    def watch_end(self, ended: Callable[[], None]) -> None:
        """Call `ended` when the process stops. It must not raise."""
        self._end_watchers.append(ended)

    def end(self) -> None:
        """End all listeners: the process stops."""
        self._ended = True
        for ended in self._end_watchers:
            ended()
        for listener in self._all:
            listener.end()
        self._stop()

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
        self._is_live.clear()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._forget()

    def _forget(self) -> None:
        self._keep_from(None)
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
                        state = (await api(self._connection, f"STREAM.INFO.{TASKS}"))["state"]
                        last = int(state["last_seq"])
                        self._position = after = max(0, last - BEFORE)
                        self._keep_from(max(after, int(state["first_seq"]) - 1))
                    async with contextlib.aclosing(self._tail.follow(after)) as batches:
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
                    for filtered in self._filtered.values():  # listeners of the new log get new ones
                        filtered.close()
                    self._filtered.clear()
                    for listener in self._all:
                        listener.lose()
                except StoreError as error:
                    log.warning("hub.retrying", reason=str(error))
                await asyncio.sleep(PAUSE_SECONDS)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def _deliver(self, position: Position) -> None:
        update = event_at(position) if position.subject != SCHEDULER_FENCE else None
        if update is not None:
            self._remember_late(update)
            self._keep(update)
            self._offer(update)
        self._position = position.sequence
        held, self._held = self._held, deque()
        for report in held:
            self._offer_in_order(report)

    async def _on_report(self, message: Msg) -> None:
        ref = live_ref(message.subject)
        report = decode_live(message.data) if any(map(len, self._groups_of(ref))) else None
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
        for group in self._groups_of(update.ref):
            for listener in group:
                listener.offer(update)
        self._waiting.relieve()

    def _groups_of(self, ref: TaskRef) -> Iterator[Collection[Listener]]:
        yield self._of_task.get(ref, ())
        if self._of_batch:
            yield self._of_batch.get(batch_of(ref), ())
        for owner in (ref.owner, None):
            yield self._of_owner.get(owner, ())
            if (filtered := self._filtered.get(owner)) is not None:
                yield [filtered.feed]

    def _keep(self, update: LoggedEvent) -> None:
        self._recent.append(update)
        self._recent_bytes += update.size_bytes
        while len(self._recent) > RECENT_LENGTH or self._recent_bytes > RECENT_BYTES:
            oldest = self._recent.popleft()
            self._recent_bytes -= oldest.size_bytes
            self._recent_after = oldest.sequence

    def _keep_from(self, sequence: int | None) -> None:
        """Forget the events that were kept; those after a sequence come next, None: none do."""
        self._recent.clear()
        self._recent_bytes = 0
        self._recent_after = sequence

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
