"""Event streams: the state of a task, a batch or all tasks, then their events, for SSE and WebSocket.

Each message carries the id to resume after. A client that resumes there misses nothing and receives nothing twice. The
states at the start carry it only on the last of them: a client that disconnects before receives all states again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ..container import Container
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS, word_of
from ..events.task import TaskDeleted
from ..projections.batches import Batch, progress
from ..projections.task_view import ACTIVE
from ..push.feed import FeedItem, FeedPosition
from ..push.hub import LoggedEvent, Scope
from ..push.pushed_event import encoded
from ..push.subscription_filter import SubscriptionFilter
from ..streams.jetstream.messages import last_sequence
from ..streams.topology.definitions import TASKS
from .auth.access import READERS_OF_ALL, owned_batch, owned_ref
from .auth.authenticator import Identity
from .schemas.batches import batch_summary, encoded_batch
from .schemas.tasks import encoded_state, task_answer, task_summary

STREAM_TYPE = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""`X-Accel-Buffering` keeps proxies such as nginx from delaying events."""


class PushMessage(NamedTuple):
    """A message to a client."""

    event_id: str
    """The id to resume after; empty: unchanged."""
    data: bytes
    """A JSON object with a `type`; empty if only the id has moved."""


PushMessages = AsyncIterator[PushMessage | None]
"""None: nothing came for the length of the pause, and a heartbeat is due."""


class EventStream:
    """The streams of one transport. `pause_seconds`: after how long without an event a stream yields None."""

    def __init__(self, container: Container, pause_seconds: float) -> None:
        self._container = container
        self._pause_seconds = pause_seconds

    async def of_task(self, identity: Identity, task_id: str, after: FeedPosition | None) -> PushMessages | None:
        """Return the messages about a task, up to its end; None if the client has them all.

        `after`: where to resume; None: start with the state. Raises NotFound for a task the caller may not see.
        """
        ref = owned_ref(identity, task_id, *READERS_OF_ALL)
        detail = await self._container.tasks.detail(ref, deleted=identity.has(*READERS_OF_ALL))
        sequence = detail.view.sequence
        has_ended = detail.view.status not in ACTIVE
        if after is not None:
            return None if has_ended and after.sequence >= sequence else self._task_events(ref, after)
        details = task_answer(detail, self._container.settings).task_details
        state = encoded_state(ref.id, sequence, details)
        return _chain([state], str(sequence), None if has_ended else self._task_events(ref, FeedPosition(sequence)))

    async def of_all(self, scope: Scope, choice: SubscriptionFilter, after: FeedPosition | None) -> PushMessages:
        """Return the messages about all tasks of a scope that pass a filter. They do not end.

        `after`: where to resume; None: start with the states of the tasks that have not ended, oldest first.
        """
        if after is not None:
            return self._all_events(scope, choice, after)
        sequence, current = await self._container.tasks.snapshot(scope.owner)
        states = [
            encoded_state(listed.ref.id, sequence, task_summary(listed, self._container.settings))
            for listed in reversed(current)
            if choice.has(listed.view.task_type, listed.view.project)
        ]
        return _chain(states, str(sequence), self._all_events(scope, choice, FeedPosition(sequence)))

    async def of_batch(self, identity: Identity, batch_id: str, after: FeedPosition | None) -> PushMessages | None:
        """Return the messages about a batch, up to the end of its last task; None if the client has them all.

        `after`: where to resume; None: start with the batch and the state of each task. Raises NotFound for a batch the
        caller may not see.
        """
        batch = await self._container.batches.find(owned_batch(identity, batch_id, *READERS_OF_ALL))
        sequence = await last_sequence(self._container.reading, TASKS, ">")
        tasks = await self._container.batches.tasks(batch, deleted=identity.has(*READERS_OF_ALL))
        last = max(listed.view.sequence for listed in tasks)
        running = {listed.ref for listed in tasks if listed.view.status in ACTIVE}
        if after is not None:
            return None if not running and after.sequence >= last else self._batch_events(batch, after, running, last)
        sent = {ref: view.sequence for ref, view in tasks}
        events = self._batch_events(batch, FeedPosition(sequence), running, last, sent) if running else None
        states = [
            encoded_state(listed.ref.id, listed.view.sequence, task_summary(listed, self._container.settings))
            for listed in tasks
        ]
        return _chain([encoded_batch(batch_summary(batch, progress(tasks))), *states], str(sequence), events)

    async def _task_events(self, ref: TaskRef, after: FeedPosition) -> PushMessages:
        async for item in self._container.feeds.feed(Scope(ref=ref), after, self._pause_seconds):
            yield _message(item)
            if item is not None and item.is_end:
                return

    async def _all_events(self, scope: Scope, choice: SubscriptionFilter, after: FeedPosition) -> PushMessages:
        async for item in self._container.feeds.feed(scope, after, self._pause_seconds):
            if item is None or item.what is None or await self._container.task_attributes.wants(choice, item.what):
                yield _message(item)

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
        async for item in self._container.feeds.feed(Scope(owner=batch.ref.owner), after, self._pause_seconds):
            what = item.what if item is not None else None
            if what is None:
                yield _message(item)
                continue
            if what.ref not in refs or (isinstance(what, LoggedEvent) and what.sequence <= sent.get(what.ref, 0)):
                continue
            if isinstance(what, LoggedEvent) and what.kind in ENDING_WORDS:
                running.discard(what.ref)
            elif isinstance(what, LoggedEvent) and what.kind != word_of(TaskDeleted):
                running.add(what.ref)
            yield _message(item)
            if not running and after.sequence >= last:
                tasks = await self._container.batches.tasks(batch, deleted=True)
                yield PushMessage("", encoded_batch(batch_summary(batch, progress(tasks))))
                return


def _message(item: FeedItem | None) -> PushMessage | None:
    return None if item is None else PushMessage(item.place, encoded(item.what) if item.what else b"")


async def _chain(states: Sequence[bytes], event_id: str, events: PushMessages | None) -> PushMessages:
    """Yield the states, the id with the last of them, then the events if more can come."""
    *earlier, last = states or [b""]
    for state in earlier:
        yield PushMessage("", state)
    yield PushMessage(event_id, last)
    if events is not None:
        async for event in events:
            yield event
