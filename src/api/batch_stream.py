"""What is sent to whoever follows a batch: how it is now, then each event of its tasks, then how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ..container import Container
from ..events.ids import TaskRef
from ..events.kinds import ENDING_WORDS, word_of
from ..events.task import TaskDeleted
from ..projections.batches import Batch, progress
from ..projections.task_reader import Listed
from ..projections.task_view import ACTIVE
from ..push.feed import FeedPosition
from ..push.hub import Scope, Update
from ..push.pushed_event import encoded
from ..streams.jetstream.messages import last_sequence
from ..streams.topology.definitions import TASKS
from .auth.access import READERS_OF_ALL, owned_batch
from .auth.authenticator import Identity
from .event_stream import PushMessage, PushMessages, one_after_the_other
from .schemas.batches import batch_summary, encoded_batch
from .schemas.push import encoded_state
from .schemas.tasks import task_summary


class BatchEventStream:
    def __init__(self, container: Container, pause_seconds: float) -> None:
        self._container = container
        self._pause_seconds = pause_seconds

    async def of_batch(self, identity: Identity, batch_id: str, after: FeedPosition | None) -> PushMessages | None:
        """Return what there is to send of a batch, up to the end of its last task; None if the caller has all of it.

        With no place to go on after, the batch and each of its tasks as they are come first. Raises Refused for a
        batch that the caller may not see.
        """
        batch = await self._container.batches.find(owned_batch(identity, batch_id, *READERS_OF_ALL))
        sequence = await last_sequence(self._container.reading, TASKS, ">")
        tasks = await self._container.batches.tasks(batch, deleted=identity.has(*READERS_OF_ALL))
        last = max(listed.view.sequence for listed in tasks)
        running = {listed.ref for listed in tasks if listed.view.status in ACTIVE}
        if after is not None:
            return None if not running and after.sequence >= last else self._events(batch, after, running, last)
        told = {ref: view.sequence for ref, view in tasks}
        events = self._events(batch, FeedPosition(sequence), running, last, told) if running else None
        return one_after_the_other(self._states(batch, tasks, sequence), events)

    def _states(self, batch: Batch, tasks: Sequence[Listed], sequence: int) -> list[PushMessage]:
        summary = encoded_batch(batch_summary(batch, progress(tasks)))
        states = [
            encoded_state(listed.ref.id, listed.view.sequence, task_summary(listed, self._container.settings))
            for listed in tasks
        ]
        # The place is reached with the last of them: who breaks off before is told all again.
        return [PushMessage("", data) for data in [summary, *states[:-1]]] + [PushMessage(str(sequence), states[-1])]

    async def _events(
        self,
        batch: Batch,
        after: FeedPosition,
        running: set[TaskRef],
        last: int,
        told: dict[TaskRef, int] | None = None,
    ) -> AsyncIterator[PushMessage | None]:
        """Yield the events of the batch after a place, until none of its tasks is `running`, at `last` or later.

        `told`: up to which sequence a task has been told; it may be beyond that place.
        """
        told = told or {}
        refs = frozenset(batch.refs)
        async for news in self._container.feeds.feed(Scope(owner=batch.ref.owner), after, self._pause_seconds):
            what = news.what if news is not None else None
            if news is None or what is None:
                yield None if news is None else PushMessage(news.place, b"")
                continue
            if what.ref not in refs or (isinstance(what, Update) and what.sequence <= told.get(what.ref, 0)):
                continue
            if isinstance(what, Update) and what.kind in ENDING_WORDS:
                running.discard(what.ref)
            elif isinstance(what, Update) and what.kind != word_of(TaskDeleted):
                running.add(what.ref)
            yield PushMessage(news.place, encoded(what))
            if not running and after.sequence >= last:
                tasks = await self._container.batches.tasks(batch, deleted=True)
                yield PushMessage("", encoded_batch(batch_summary(batch, progress(tasks))))
                return
