"""Event streams: the state of a task, a batch or all tasks, then their events, for SSE and WebSocket.

Each message carries the id to resume after. A client that resumes there misses nothing and receives nothing twice. The
states at the start carry it only on the last of them: a client that disconnects before receives all states again.

A stream that resumes says first up to where it has `reached`. If the id is not in this log, it says `reset` and starts
with the states. If events after the id are past the retention, it says which: `gap`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ..container import Container
from ..events.ids import TaskRef, owner_token
from ..events.kinds import ENDING_WORDS, FOLLOWING_WORDS
from ..index.query import TaskQuery
from ..projections.batches import Batch, progress
from ..projections.task_view import ACTIVE, Listed
from ..push.feed import FeedItem, FeedPosition, Start
from ..push.listeners import Scope
from ..push.pushed_event import encoded, encoded_without_bodies
from ..push.updates import LoggedEvent
from ..vault.result_links import ResultLinks
from .auth.access import READERS_OF_ALL, owned_batch, owned_ref, reads_bodies
from .auth.authenticator import Identity
from .auth.narrowing import TypeReach, within
from .schemas.batches import batch_summary, encoded_batch
from .schemas.tasks import encoded_state, pushed_details, task_summary

REACHED = b'{"type":"reached"}'
"""Everything up to the id was sent."""
MORE = b'{"type":"more"}'
"""More tasks have not ended than states follow."""
STATES_AT_ONCE = 100
"""States that are read at a time, when the client has read those before."""
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
        self._reach = TypeReach(container.task_attributes, container.lists)

    async def of_task(self, identity: Identity, task_id: str, after: str | None) -> PushMessages | None:
        """Return the messages about a task, up to its end; None if the client has them all.

        Raises NotFound for a task the caller may not see.
        """
        ref = owned_ref(identity, task_id, *READERS_OF_ALL)
        await self._reach.check_task(identity, ref)
        async with self._container.starts.turn(identity.subject):
            start = await self._container.feeds.start(after)
            detail = await self._container.tasks.detail(ref, deleted=identity.has(*READERS_OF_ALL))
        sequence = detail.view.sequence
        has_ended = detail.view.status not in ACTIVE
        if place := start.resumed:
            # What follows the end is not waited for: the outcome of a cancellation, a deletion.
            has_all = has_ended and place.sequence >= (detail.view.ended_sequence or sequence)
            return None if has_all else _resumed(place, self._task_events(identity, ref, place))
        bodies = reads_bodies(identity, ref.owner)
        details = pushed_details(detail, self._container.settings, self._container.links, bodies=bodies)
        # The task was read after the extent.
        place = start.at(sequence if has_ended else max(sequence, start.extent.last))
        events = None if has_ended else self._task_events(identity, ref, place)
        return _begun(start, [], _each(encoded_state(ref.id, sequence, details)), place, events)

    async def of_all(self, identity: Identity, scope: Scope, after: str | None) -> PushMessages:
        """Return the messages about all tasks of a scope. They do not end.

        They start with the states of the newest MOST_STATES tasks that have not ended, oldest first.
        """
        if identity.types is not None:
            scope = replace(scope, choice=replace(scope.choice, types=within(identity, scope.choice.types, "type")))
        start = await self._container.feeds.start(after)
        if place := start.resumed:
            return _resumed(place, self._all_events(identity, scope, place))
        wanted = TaskQuery(owner=scope.owner, types=scope.choice.types, project=scope.choice.project)
        newest = await self._container.snapshots.get(wanted)
        place = start.at(start.extent.last)  # the tasks were read after the extent
        states = self._states(identity, newest.tasks[::-1], place.sequence)
        notes = [MORE] if newest.cursor is not None else []
        return _begun(start, notes, states, place, self._all_events(identity, scope, place))

    async def of_batch(self, identity: Identity, batch_id: str, after: str | None) -> PushMessages | None:
        """Return the messages about a batch, up to the end of its last task; None if the client has them all.

        They start with the batch and the state of each task. Raises NotFound for a batch the caller may not see.
        """
        ref = owned_batch(identity, batch_id, *READERS_OF_ALL)
        await self._reach.check_batch(identity, ref)
        start = await self._container.feeds.start(after)
        batch, tasks = await self._container.batch_snapshots.get((ref, identity.has(*READERS_OF_ALL)))
        last = max(listed.view.sequence for listed in tasks)
        running = {listed.ref for listed in tasks if listed.view.status in ACTIVE}
        if place := start.resumed:
            if not running and place.sequence >= last:
                return None
            return _resumed(place, self._batch_events(identity, batch, place, running, last))
        sent = {ref: view.sequence for ref, view in tasks}
        place = start.at(start.extent.last)
        events = self._batch_events(identity, batch, place, running, last, sent) if running else None
        states = self._states(identity, tasks)
        return _begun(start, [encoded_batch(batch_summary(batch, progress(tasks)))], states, place, events)

    def _states(self, identity: Identity, tasks: Sequence[Listed], sequence: int | None = None) -> AsyncIterator[bytes]:
        """Return the states of tasks, in order; `sequence`: up to where they reflect the log, None: as each view says.

        All but the first are read again when the client comes to them: a slow client keeps few of them in memory.
        """
        return self._pieces(identity, tasks[:STATES_AT_ONCE], [ref for ref, _ in tasks[STATES_AT_ONCE:]], sequence)

    async def _pieces(
        self,
        identity: Identity,
        piece: Sequence[Listed],
        rest: Sequence[TaskRef],
        sequence: int | None,
    ) -> AsyncIterator[bytes]:
        while piece or rest:
            for ref, view in piece:
                summary = task_summary(Listed(ref, view), self._container.settings)
                yield encoded_state(ref.id, sequence or view.sequence, summary)
            refs, rest = rest[:STATES_AT_ONCE], rest[STATES_AT_ONCE:]
            if refs:
                async with self._container.starts.turn(identity.subject):
                    piece = await self._container.lists.views(refs, user=owner_token(identity.subject))
            else:
                piece = []

    async def _task_events(self, identity: Identity, ref: TaskRef, after: FeedPosition) -> PushMessages:
        async for item in self._container.feeds.feed(Scope(ref=ref), after, self._pause_seconds, in_log=True):
            yield None if item is None else PushMessage(str(item.place), _data(item, self._container.links, identity))
            if item is not None and item.is_end:
                return

    async def _all_events(self, identity: Identity, scope: Scope, after: FeedPosition) -> PushMessages:
        told = _Told(after, self._container.links, identity)
        async for item in self._container.feeds.feed(scope, after, self._pause_seconds, in_log=True):
            yield told.message(item)

    async def _batch_events(
        self,
        identity: Identity,
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
        told = _Told(after, self._container.links, identity)
        async for item in self._container.feeds.feed(Scope(batch=batch.ref), after, self._pause_seconds, in_log=True):
            what = item.what if item is not None else None
            if what is None:
                if item is None or item.gap is None or item.gap.last >= batch.sequence:
                    yield told.message(item)
                continue
            if what.ref not in refs or (isinstance(what, LoggedEvent) and what.sequence <= sent.get(what.ref, 0)):
                continue
            if isinstance(what, LoggedEvent) and what.kind in ENDING_WORDS:
                running.discard(what.ref)
            elif isinstance(what, LoggedEvent) and what.kind not in FOLLOWING_WORDS:
                running.add(what.ref)
            yield told.message(item)
            if not running and after.sequence >= last:
                tasks = await self._container.lists.of_batch(batch.ref, deleted=True, user=batch.ref.owner)
                yield PushMessage("", encoded_batch(batch_summary(batch, progress(tasks))))
                return


async def _each(*states: bytes) -> AsyncIterator[bytes]:
    for state in states:
        yield state


class _Told:
    """The position that a stream's last message told. Where nothing is sent, it is told again once it has moved.

    `place` moves on with the feed. A client that is told where it is need not read the log again from its last event.
    """

    def __init__(self, place: FeedPosition, links: ResultLinks, identity: Identity) -> None:
        self._links = links
        self._identity = identity
        self._place = place
        self._last = str(place)

    def message(self, item: FeedItem | None) -> PushMessage | None:
        """Return the message for an item; for None, the position if it has moved."""
        place = str(self._place)
        if item is None and place == self._last:
            return None
        self._last = place
        return PushMessage(place, REACHED if item is None else _data(item, self._links, self._identity))


def _data(item: FeedItem, links: ResultLinks, identity: Identity) -> bytes:
    if item.gap is not None:
        return b'{"type":"gap","from":%d,"to":%d}' % item.gap
    if item.what is None:
        return REACHED
    if not reads_bodies(identity, item.what.ref.owner):
        return encoded_without_bodies(item.what)
    return encoded(item.what, links)


async def _resumed(place: FeedPosition, events: PushMessages) -> PushMessages:
    """Yield the position that a stream resumes at, then the events."""
    yield PushMessage(str(place), REACHED)
    async for event in events:
        yield event


async def _begun(
    start: Start, notes: Sequence[bytes], states: AsyncIterator[bytes], place: FeedPosition, events: PushMessages | None
) -> PushMessages:
    """Yield the start of a stream that does not resume, then the events if more can come.

    The id comes with the last state; if there is none, with a message of its own.
    """
    for note in [RESET, *notes] if start.is_foreign else notes:
        yield PushMessage("", note)
    last = REACHED
    async for state in states:
        if last is not REACHED:
            yield PushMessage("", last)
        last = state
    yield PushMessage(str(place), last)
    if events is not None:
        async for event in events:
            yield event
