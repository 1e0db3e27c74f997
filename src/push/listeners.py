"""Listeners: what they want, their bounded queues, and those that choose among the events of an owner.

When a queue overflows, its listener reads on from the log at its own pace; others are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import structlog
from msgspec import Struct

from ..events.ids import BatchRef, TaskRef, batch_of
from ..events.subjects import history_filter, task_root, tasks_filter
from .subscription_filter import EVERYTHING, SubscriptionFilter, TaskAttributeReader
from .updates import LiveEvent, LoggedEvent

log = structlog.get_logger(__name__)

QUEUE_LENGTH = 512
"""Events that wait for one listener before it has to read them from the log."""
QUEUE_BYTES = 8 * 1024 * 1024
"""Likewise, in bytes."""
ALL_QUEUES_BYTES = 64 * 1024 * 1024
"""Events that wait for all listeners of a hub together, each event counted once. Above it the largest queues are
emptied."""


class Scope(Struct, frozen=True, kw_only=True):
    """The tasks whose events a listener gets: one task, a batch's, one owner's, or (all None) all."""

    ref: TaskRef | None = None
    batch: BatchRef | None = None
    """Tasks whose ids could be in this batch; an id does not show whether its task is."""
    owner: str | None = None
    """Owner token."""
    choice: SubscriptionFilter = EVERYTHING
    """Which events of an owner's tasks, or of all."""

    @property
    def subject(self) -> str:
        """The filter of the events in the stream that contains these."""
        if self.ref is not None:
            return history_filter(task_root(self.ref))
        return tasks_filter(self.batch.owner if self.batch is not None else self.owner)

    def has(self, ref: TaskRef) -> bool:
        """Return True if a task is in the scope; `choice` is not compared."""
        if self.ref is not None:
            return ref == self.ref
        if self.batch is not None:
            return batch_of(ref) == self.batch
        return self.owner in (None, ref.owner)


class WaitingBytes:
    """The size of the events in all queues of a process. An event in several queues is in memory once."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._listeners: set[Listener] = set()

    def join(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        listener.clear()
        self._listeners.discard(listener)

    def add(self, update: LoggedEvent | LiveEvent) -> None:
        self.size_bytes += 0 if update.queues else update.size_bytes
        update.queues += 1

    def remove(self, update: LoggedEvent | LiveEvent) -> None:
        update.queues -= 1
        self.size_bytes -= 0 if update.queues else update.size_bytes

    def relieve(self) -> None:
        """Empty the largest queues until all together are within ALL_QUEUES_BYTES; their listeners read the log."""
        if self.size_bytes <= ALL_QUEUES_BYTES:
            return
        largest = sorted(self._listeners, key=lambda listener: listener.waiting_bytes, reverse=True)
        emptied = 0
        for listener in largest:
            if self.size_bytes <= ALL_QUEUES_BYTES:
                break
            listener.overflow()
            emptied += 1
        log.debug("hub.relieved", listeners=emptied)


class Listener:
    """The queue of one listener."""

    def __init__(self, scope: Scope, waiting: WaitingBytes, position: Callable[[], int]) -> None:
        self.scope = scope
        self.overflowed = False
        """Events were dropped since `clear`: read them from the log."""
        self.ended = False
        """Nothing more comes: the process stops."""
        self.is_lost = False
        """Nothing more comes: NATS has another log now, in which positions of this one mean nothing."""
        self.position = position
        """Returns a sequence. If the queue is empty and has not overflowed, no event up to there is still to come."""
        self._waiting = waiting
        self._queue: deque[LoggedEvent | LiveEvent] = deque()
        self.waiting_bytes = 0
        self._news = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """True if nothing waits, and nothing was dropped."""
        return not self._queue and not self.overflowed

    def offer(self, update: LoggedEvent | LiveEvent) -> None:
        if self.overflowed:
            return
        if len(self._queue) >= QUEUE_LENGTH or self.waiting_bytes > QUEUE_BYTES:
            self.overflowed = True
        else:
            self._queue.append(update)
            self.waiting_bytes += update.size_bytes
            self._waiting.add(update)
        self._news.set()

    def overflow(self) -> None:
        """Drop what waits: the listener reads it from the log."""
        self.clear()
        self.overflowed = True
        self._news.set()

    def end(self) -> None:
        self.ended = True
        self._news.set()

    def lose(self) -> None:
        self.is_lost = True
        self._news.set()

    def clear(self) -> None:
        """Empty the queue, and end an overflow."""
        for update in self._queue:
            self._waiting.remove(update)
        self._queue.clear()
        self.waiting_bytes = 0
        self.overflowed = False

    async def next(self, timeout_seconds: float | None) -> LoggedEvent | LiveEvent | None:
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
        self.waiting_bytes -= update.size_bytes
        self._waiting.remove(update)
        return update


class FilteredListeners:
    """The listeners of one owner token (None: of everybody) that choose among the events.

    An event's task is looked up once for all of them. Each distinct choice is compared with the event once, and choices
    of other projects not at all. The order of the events is kept.
    """

    def __init__(
        self, owner: str | None, attributes: TaskAttributeReader, waiting: WaitingBytes, position: Callable[[], int]
    ) -> None:
        self._attributes = attributes
        self._waiting = waiting
        self._hub_position = position
        self.feed = Listener(Scope(owner=owner), waiting, position)
        """Takes the events of the owner from the hub."""
        self._members: dict[str, dict[SubscriptionFilter, set[Listener]]] = {}
        """By the project of the choice, then by the choice."""
        self._is_routing = False
        waiting.join(self.feed)
        self._task = asyncio.create_task(self._route(), name="hub-filters")

    def position(self) -> int:
        """Return a sequence up to which every event was offered to those who want it; 0: not known now."""
        return self._hub_position() if self.feed.is_idle and not self._is_routing else 0

    def add(self, listener: Listener) -> None:
        choice = listener.scope.choice
        self._members.setdefault(choice.project, {}).setdefault(choice, set()).add(listener)

    def discard(self, listener: Listener) -> bool:
        """Remove a listener; return True if none is left: then this has ended."""
        choice = listener.scope.choice
        choices = self._members[choice.project]
        choices[choice].discard(listener)
        if not choices[choice]:
            del choices[choice]
        if not choices:
            del self._members[choice.project]
        if not self._members:
            self.close()
        return not self._members

    def close(self) -> None:
        """Offer nothing more."""
        self._task.cancel()
        self._waiting.leave(self.feed)

    async def _route(self) -> None:
        while True:
            self._is_routing = False
            update = await self.feed.next(None)
            self._is_routing = True
            if update is not None:
                try:
                    await self._offer(update)
                except Exception as error:  # each reads the log, and meets it there
                    log.warning("hub.filters-failed", reason=repr(error))
                    self._overflow()
            elif self.feed.overflowed:
                self.feed.clear()
                self._overflow()

    async def _offer(self, update: LoggedEvent | LiveEvent) -> None:
        task = None
        if any(choice.needs_task for choices in self._members.values() for choice in choices):
            task = await self._attributes.of(update)
        for project in dict.fromkeys(["", task.project if task else ""]):
            for choice, members in list(self._members.get(project, {}).items()):
                if choice.selects(update, task):
                    for listener in list(members):
                        listener.offer(update)
        self._waiting.relieve()

    def _overflow(self) -> None:
        for choices in self._members.values():
            for members in choices.values():
                for listener in members:
                    listener.overflow()
