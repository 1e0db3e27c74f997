"""What is sent to whoever listens, through whichever door: the present state first, then events as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from ..container import Core
from ..events.ids import TaskRef
from ..projections.task_view import ACTIVE
from ..push.feed import Place, Told
from ..push.hub import Scope
from ..push.pushed_event import encoded
from ..push.subscription_filter import Choice
from .auth.access import READERS_OF_ALL, owned_ref
from .auth.authenticator import Identity
from .schemas.push import encoded_state
from .schemas.tasks import task_answer, task_summary

STREAM_TYPE = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second keeps proxies from holding events back."""


class Message(NamedTuple):
    """Something to be sent."""

    place: str
    """Where a listener that breaks off goes on; empty: where it would have before."""
    data: bytes
    """JSON, an object with a `type`; empty where there is nothing but the place."""


Messages = AsyncIterator[Message | None]
"""None: nothing came for a while."""


class Pushed:
    def __init__(self, core: Core, pause_seconds: float) -> None:
        self._core = core
        self._pause_seconds = pause_seconds

    async def of_task(self, identity: Identity, task_id: str, after: Place | None) -> Messages | None:
        """Return what there is to send of a task, up to its end; None if the caller has all of it.

        Raises Refused for a task that the caller may not see.
        """
        ref = owned_ref(identity, task_id, *READERS_OF_ALL)
        detail = await self._core.tasks.detail(ref, deleted=identity.has(*READERS_OF_ALL))
        sequence = detail.view.sequence
        ended = detail.view.status not in ACTIVE
        if after is not None:
            return None if ended and after.sequence >= sequence else self._of_task(ref, after)
        state = Message(
            str(sequence), encoded_state(ref.id, sequence, task_answer(detail, self._core.settings).task_details)
        )
        return one_after_the_other([state], None if ended else self._of_task(ref, Place(sequence)))

    async def of_all(self, scope: Scope, choice: Choice, after: Place | None) -> Messages:
        """Return what there is to send of all tasks of a scope, for ever."""
        if after is not None:
            return self._of_all(scope, choice, after)
        sequence, current = await self._core.tasks.snapshot(scope.owner)
        states = [
            Message("", encoded_state(listed.ref.id, sequence, task_summary(listed, self._core.settings)))
            for listed in reversed(current)
            if choice.has(listed.view.task_type, listed.view.project)
        ]
        # The place is reached with the last of them: who breaks off before is told all again.
        last = states.pop().data if states else b""
        return one_after_the_other(
            [*states, Message(str(sequence), last)], self._of_all(scope, choice, Place(sequence))
        )

    async def _of_task(self, ref: TaskRef, after: Place) -> Messages:
        async for told in self._core.feeds.feed(Scope(ref=ref), after, self._pause_seconds):
            yield _message(told)
            if told is not None and told.is_end:
                return

    async def _of_all(self, scope: Scope, choice: Choice, after: Place) -> Messages:
        async for told in self._core.feeds.feed(scope, after, self._pause_seconds):
            if told is None or told.what is None or await self._core.chooser.wants(choice, told.what):
                yield _message(told)


def _message(told: Told | None) -> Message | None:
    return None if told is None else Message(told.place, encoded(told.what) if told.what else b"")


async def one_after_the_other(states: list[Message], events: Messages | None) -> Messages:
    """Yield the states, then the events if there are any to come."""
    for state in states:
        yield state
    if events is not None:
        async for event in events:
            yield event
