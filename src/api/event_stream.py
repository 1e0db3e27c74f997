"""Event streams: the state of a task, a batch or all tasks, then their events, for SSE and WebSocket.

Each message carries the id to resume after. A client that resumes there misses nothing and receives nothing twice. The
states at the start carry it only on the last of them: a client that disconnects before receives all states again.

A stream that resumes says first up to where it has `reached`. If the id is not in this log, it says `reset` and starts
with the states. If events after the id are past the retention, it says which: `gap`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ..container import Container
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS, word_of
from ..events.task import TaskDeleted
from ..projections.batches import Batch, progress
from ..projections.task_view import ACTIVE
from ..push.feed import FeedItem, FeedPosition, Start
from ..push.hub import LoggedEvent, Scope
from ..push.pushed_event import encoded
from ..push.subscription_filter import SubscriptionFilter
from .auth.access import READERS_OF_ALL, owned_batch, owned_ref
from .auth.authenticator import Identity
from .schemas.batches import batch_summary, encoded_batch
from .schemas.tasks import encoded_state, task_answer, task_summary

REACHED = b'{"type":"reached"}'
"""Everything up to the id was sent."""
RESET = b'{"type":"reset"}'
"""The id of the client is not in this log."""


class PushMessage(NamedTuple):
    """A message to a client."""

    event_id: str
    """The id to resume after; empty: unchanged."""
    data: bytes
    """A JSON object with a `type`."""


PushMessages = AsyncIterator[PushMessage | None]
"""None: nothing came for the length of the pause, and a heartbeat is due."""


class EventStream:
    """The streams of one transport. `pause_seconds`: after how long without a message a stream yields None.

    `after` is the id that the client resumes after, None or empty to start with the state.
    """

    def __init__(self, container: Container, pause_seconds: float) -> None:
        self._container = container
        self._pause_seconds = pause_seconds

    async def of_task(self, identity: Identity, task_id: str, after: str | None) -> PushMessages | None:
        """Return the messages about a task, up to its end; None if the client has them all.

        Raises NotFound for a task the caller may not see.
        """
        ref = owned_ref(identity, task_id, *READERS_OF_ALL)
        async with self._container.starts.turn(identity.subject):
            start = await self._container.feeds.start(after)
            detail = await self._container.tasks.detail(ref, deleted=identity.has(*READERS_OF_ALL))
        sequence = detail.view.sequence
        has_ended = detail.view.status not in ACTIVE
        if place := start.resumed:
            return (
                None if has_ended and place.sequence >= sequence else _chain([], place, self._task_events(ref, place))
            )
        details = task_answer(detail, self._container.settings).task_details
        place = start.at(sequence)
        events = None if has_ended else self._task_events(ref, place)
        return _chain(_states(start, [encoded_state(ref.id, sequence, details)]), place, events)

    async def of_all(
        self, identity: Identity, scope: Scope, choice: SubscriptionFilter, after: str | None
    ) -> PushMessages:
        """Return the messages about all tasks of a scope that pass a filter. They do not end.

        They start with the states of the tasks that have not ended, oldest first.
        """
        async with self._container.starts.turn(identity.subject):
            start = await self._container.feeds.start(after)
            if place := start.resumed:
                return _chain([], place, self._all_events(scope, choice, place))
            sequence, current = await self._container.tasks.snapshot(scope.owner)
        states = [
            encoded_state(listed.ref.id, sequence, task_summary(listed, self._container.settings))
            for listed in reversed(current)
            if choice.has(listed.view.task_type, listed.view.project)
        ]
        place = start.at(max(sequence, start.extent.first - 1))  # what is past the retention is no gap in the states
        return _chain(_states(start, states), place, self._all_events(scope, choice, place))

    async def of_batch(self, identity: Identity, batch_id: str, after: str | None) -> PushMessages | None:
        """Return the messages about a batch, up to the end of its last task; None if the client has them all.

        They start with the batch and the state of each task. Raises NotFound for a batch the caller may not see.
        """
        ref = owned_batch(identity, batch_id, *READERS_OF_ALL)
        async with self._container.starts.turn(identity.subject):
            batch = await self._container.batches.find(ref)
            start = await self._container.feeds.start(after)
            tasks = await self._container.batches.tasks(batch, deleted=identity.has(*READERS_OF_ALL))
        last = max(listed.view.sequence for listed in tasks)
        running = {listed.ref for listed in tasks if listed.view.status in ACTIVE}
        if place := start.resumed:
            if not running and place.sequence >= last:
                return None
            return _chain([], place, self._batch_events(batch, place, running, last))
        sent = {ref: view.sequence for ref, view in tasks}
        place = start.at(start.extent.last)
        events = self._batch_events(batch, place, running, last, sent) if running else None
        states = [
            encoded_state(listed.ref.id, listed.view.sequence, task_summary(listed, self._container.settings))
            for listed in tasks
        ]
        return _chain(_states(start, [encoded_batch(batch_summary(batch, progress(tasks))), *states]), place, events)

    async def _task_events(self, ref: TaskRef, after: FeedPosition) -> PushMessages:
        async for item in self._container.feeds.feed(Scope(ref=ref), after, self._pause_seconds):
            yield None if item is None else PushMessage(str(item.place), _data(item))
            if item is not None and item.is_end:
                return

    async def _all_events(self, scope: Scope, choice: SubscriptionFilter, after: FeedPosition) -> PushMessages:
        pace = _Pace(self._pause_seconds, after)
        async for item in self._container.feeds.feed(scope, after, self._pause_seconds):
            if item is None or item.what is None or await self._container.task_attributes.wants(choice, item.what):
                yield pace.said(item)
            elif pace.is_due:
                yield pace.said(None)

    async def _batch_events(
        self,
        batch: Batch,
        after: FeedPosition,
        running: set[TaskRef],
        last: int,
        sent: dict[TaskRef, int] | None = None,
    ) -> PushMessages:
        """Yield the events of a batch until the feed is at `last` and no task is `running`, then the batch again.

        `sent`: sequences up to which the states already sent reflect each task; they may be beyond `after`.
        """
        sent = sent or {}
        refs = frozenset(batch.refs)
        pace = _Pace(self._pause_seconds, after)
        async for item in self._container.feeds.feed(Scope(owner=batch.ref.owner), after, self._pause_seconds):
            what = item.what if item is not None else None
            if what is None:
                if item is None or item.gap is None or item.gap.last >= batch.sequence:
                    yield pace.said(item)
                continue
            if what.ref not in refs or (isinstance(what, LoggedEvent) and what.sequence <= sent.get(what.ref, 0)):
                if pace.is_due:
                    yield pace.said(None)
                continue
            if isinstance(what, LoggedEvent) and what.kind in ENDING_WORDS:
                running.discard(what.ref)
            elif isinstance(what, LoggedEvent) and what.kind != word_of(TaskDeleted):
                running.add(what.ref)
            yield pace.said(item)
            if not running and after.sequence >= last:
                tasks = await self._container.batches.tasks(batch, deleted=True)
                yield PushMessage("", encoded_batch(batch_summary(batch, progress(tasks))))
                return


class _Pace:
    """The time of a stream's last message. A stream whose filter passes no events sends its position often enough.

    `place` moves on with the feed. A client that is told where it is need not read the log again from its last event.
    """

    def __init__(self, pause_seconds: float, place: FeedPosition) -> None:
        self._pause_seconds = pause_seconds
        self._place = place
        self._said = str(place)
        self._now = asyncio.get_running_loop().time
        self._at = self._now()

    @property
    def is_due(self) -> bool:
        return self._now() - self._at >= self._pause_seconds

    def said(self, item: FeedItem | None) -> PushMessage | None:
        """Return the message for an item; for None, the position if it has moved."""
        self._at = self._now()
        place = str(self._place)
        if item is None and place == self._said:
            return None
        self._said = place
        return PushMessage(place, REACHED if item is None else _data(item))


def _data(item: FeedItem) -> bytes:
    if item.gap is not None:
        return b'{"type":"gap","from":%d,"to":%d}' % item.gap
    return encoded(item.what) if item.what else REACHED


def _states(start: Start, states: Sequence[bytes]) -> list[bytes]:
    """Return the messages before the events of a stream that does not resume."""
    return [*([RESET] if start.is_foreign else []), *states]


async def _chain(states: Sequence[bytes], place: FeedPosition, events: PushMessages | None) -> PushMessages:
    """Yield the states, the id with the last of them, then the events if more can come.

    Without a state after the `reset`, the id comes with a message of its own.
    """
    *earlier, last = states if states and states[-1] != RESET else [*states, REACHED]
    for state in earlier:
        yield PushMessage("", state)
    yield PushMessage(str(place), last)
    if events is not None:
        async for event in events:
            yield event
