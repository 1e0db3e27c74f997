"""What is sent to whoever listens, through whichever door: the present state first, then events as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from ..container import Container
from ..events.ids import TaskRef
from ..projections.task_view import ACTIVE
from ..push.feed import FeedItem, FeedPosition
from ..push.hub import Scope
from ..push.pushed_event import encoded
from ..push.subscription_filter import SubscriptionFilter
from .auth.access import READERS_OF_ALL, owned_ref
from .auth.authenticator import Identity
from .schemas.push import encoded_state
from .schemas.tasks import task_answer, task_summary

STREAM_TYPE = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second keeps proxies from holding events back."""


class PushMessage(NamedTuple):
    """Something to be sent."""

    place: str
    """Where a listener that breaks off goes on; empty: where it would have before."""
    data: bytes
    """JSON, an object with a `type`; empty where there is nothing but the place."""


PushMessages = AsyncIterator[PushMessage | None]
"""None: nothing came for a while."""


class EventStream:
    def __init__(self, container: Container, pause_seconds: float) -> None:
        self._container = container
        self._pause_seconds = pause_seconds

    async def of_task(self, identity: Identity, task_id: str, after: FeedPosition | None) -> PushMessages | None:
        """Return what there is to send of a task, up to its end; None if the caller has all of it.

        Raises Refused for a task that the caller may not see.
        """
        ref = owned_ref(identity, task_id, *READERS_OF_ALL)
        detail = await self._container.tasks.detail(ref, deleted=identity.has(*READERS_OF_ALL))
        sequence = detail.view.sequence
        ended = detail.view.status not in ACTIVE
        if after is not None:
            return None if ended and after.sequence >= sequence else self._of_task(ref, after)
        state = PushMessage(
            str(sequence), encoded_state(ref.id, sequence, task_answer(detail, self._container.settings).task_details)
        )
        return one_after_the_other([state], None if ended else self._of_task(ref, FeedPosition(sequence)))

    async def of_all(self, scope: Scope, choice: SubscriptionFilter, after: FeedPosition | None) -> PushMessages:
        """Return what there is to send of all tasks of a scope, for ever."""
        if after is not None:
            return self._of_all(scope, choice, after)
        sequence, current = await self._container.tasks.snapshot(scope.owner)
        states = [
            PushMessage("", encoded_state(listed.ref.id, sequence, task_summary(listed, self._container.settings)))
            for listed in reversed(current)
            if choice.has(listed.view.task_type, listed.view.project)
        ]
        # The place is reached with the last of them: who breaks off before is told all again.
        last = states.pop().data if states else b""
        return one_after_the_other(
            [*states, PushMessage(str(sequence), last)], self._of_all(scope, choice, FeedPosition(sequence))
        )

    async def _of_task(self, ref: TaskRef, after: FeedPosition) -> PushMessages:
        async for told in self._container.feeds.feed(Scope(ref=ref), after, self._pause_seconds):
            yield _message(told)
            if told is not None and told.is_end:
                return

    async def _of_all(self, scope: Scope, choice: SubscriptionFilter, after: FeedPosition) -> PushMessages:
        async for told in self._container.feeds.feed(scope, after, self._pause_seconds):
            if told is None or told.what is None or await self._container.task_attributes.wants(choice, told.what):
                yield _message(told)


def _message(told: FeedItem | None) -> PushMessage | None:
    return None if told is None else PushMessage(told.place, encoded(told.what) if told.what else b"")


async def one_after_the_other(states: list[PushMessage], events: PushMessages | None) -> PushMessages:
    """Yield the states, then the events if there are any to come."""
    for state in states:
        yield state
    if events is not None:
        async for event in events:
            yield event
