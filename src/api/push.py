"""Server-sent events: a task's or an owner's events, as they come (WHATWG HTML, 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, get_args

import structlog
from litestar import Response, Router, get, post
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from ..core import Core
from ..errors import InvalidInput, StoreError
from ..events.ids import TaskRef
from ..events.task import TaskEvent
from ..projections.task_view import ACTIVE
from ..push.facts import Choice
from ..push.feed import is_end
from ..push.hub import Scope
from .access import READERS_OF_ALL, ApiRequest, owned_ref
from .problems import answers
from .push_shapes import StreamToken, encoded, encoded_state
from .stream_tokens import StreamTokens
from .task_shapes import task_answer, task_summary
from .tasks import TaskId, listed_owner

log = structlog.get_logger(__name__)

MEDIA_TYPE = "text/event-stream"
BEGINNING = b"retry: 1000\n\n"
"""Milliseconds after which a browser connects again."""
HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second keeps proxies from holding events back."""
EVENTS = frozenset(event.__name__ for event in get_args(TaskEvent))

LastEventId = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", description="The last id that was received: what came after it follows"),
]
After = Annotated[
    str | None, QueryParameter(name="after", description="The same, where the header cannot be set; the header wins")
]
Token = Annotated[
    str | None, QueryParameter(name="token", description="Of POST /api/stream-tokens, where no header can be set")
]


class Push:
    """What the routes do, apart from HTTP."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def task(self, request: ApiRequest, task_id: str, after: int | None) -> Response[None] | Stream:
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        detail = await self.core.tasks.detail(ref, deleted=request.user.has(*READERS_OF_ALL))
        ended = detail.view.status not in ACTIVE
        if ended and after is not None and after >= detail.view.sequence:
            return Response(None, status_code=204)  # tells a browser to stop
        if after is not None:
            return _stream(self._events_of(ref, after))
        details = task_answer(detail, self.core.settings).task_details
        state = _event(detail.view.sequence, encoded_state(ref.id, detail.view.sequence, details))
        return _stream(_with_state([state], None if ended else self._events_of(ref, detail.view.sequence)))

    async def tasks(self, request: ApiRequest, owner: str | None, choice: Choice, after: int | None) -> Stream:
        scope = Scope(owner=listed_owner(request, owner))
        if after is not None:
            return _stream(self._events(scope, choice, after))
        sequence, current = await self.core.tasks.snapshot(scope.owner)
        states = [
            _event(sequence, encoded_state(listed.ref.id, sequence, task_summary(listed, self.core.settings)))
            for listed in reversed(current)
            if not choice.types or listed.view.task_type in choice.types
        ]
        return _stream(_with_state(states, self._events(scope, choice, sequence)))

    async def _events_of(self, ref: TaskRef, after: int) -> AsyncIterator[bytes]:
        """Yield a task's events after a sequence; the last is one that ends it."""
        async for update in self.core.feeds.feed(Scope(ref=ref), after, HEARTBEAT_SECONDS):
            yield HEARTBEAT if update is None else _event(update.sequence, encoded(update))
            if update is not None and is_end(update):
                return

    async def _events(self, scope: Scope, choice: Choice, after: int) -> AsyncIterator[bytes]:
        async for update in self.core.feeds.feed(scope, after, HEARTBEAT_SECONDS):
            if update is None:
                yield HEARTBEAT
            elif await self.core.chooser.wants(choice, update):
                yield _event(update.sequence, encoded(update))


def _event(sequence: int, data: bytes) -> bytes:
    """Return an event as a stream has it; JSON of ours has no line breaks."""
    return b"id: %d\ndata: %b\n\n" % (sequence, data)


async def _with_state(states: list[bytes], events: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    for state in states:
        yield state
    if events is not None:
        async for event in events:
            yield event


def _stream(events: AsyncIterator[bytes]) -> Stream:
    return Stream(_until_broken(events), media_type=MEDIA_TYPE, headers=HEADERS)


async def _until_broken(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what there is; a store that fails ends the stream, and the client comes again for the rest."""
    yield BEGINNING
    try:
        async for event in events:
            yield event
    except StoreError as error:
        log.warning("stream.broken", reason=str(error))


def read_after(header: str | None, query: str | None) -> int | None:
    """Return the sequence to resume after, None to begin with the present state."""
    text = header or query
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise InvalidInput("this is no id of an event; send the last one received as it came", "Last-Event-ID")
    return int(text)


def checked_events(events: list[str]) -> frozenset[str]:
    wanted = frozenset(part for event in events for part in event.split(",") if part)
    if unknown := wanted - EVENTS:
        raise InvalidInput(f"{min(unknown)!r} is no event; they are {', '.join(sorted(EVENTS))}", "event")
    return wanted


def push_router(core: Core, tokens: StreamTokens) -> Router:
    """Return the routes."""
    push = Push(core)

    @get(
        "/task/{task_id:str}/stream",
        media_type=MEDIA_TYPE,
        responses=answers(400, 401, 403, 404, 503),
        response_description="Server-sent events",
        summary="Follow a task",
    )
    async def stream_task(
        request: ApiRequest,
        task_id: TaskId,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send the task as it is, then each of its events as it happens; ends after the one that ends the task.

        Each `data` is JSON with a `type`: `state`, then the names of events. The `id` is the event's place in the log:
        after a break, what followed the last one is sent. A 204 says that there is nothing left.
        """
        return await push.task(request, task_id, read_after(last_event_id, after))

    @get(
        "/tasks/stream",
        media_type=MEDIA_TYPE,
        responses=answers(400, 401, 403, 503),
        response_description="Server-sent events",
        summary="Follow all tasks",
    )
    async def stream_tasks(
        request: ApiRequest,
        type_: Annotated[list[str] | None, QueryParameter(name="type", description="One or more types")] = None,
        event: Annotated[list[str] | None, QueryParameter(description="One or more names of events")] = None,
        owner: Annotated[
            str | None, QueryParameter(description="A user; for admins and auditors, whose default is all")
        ] = None,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Stream:
        """Send each task that has not ended as it is, then every event of every task, also of new ones."""
        choice = Choice(types=frozenset(type_ or []), events=checked_events(event or []))
        return await push.tasks(request, owner, choice, read_after(last_event_id, after))

    @post(
        "/stream-tokens",
        status_code=200,
        responses=answers(400, 401, 403),
        response_description="A token and its end",
        summary="Get a token for streams",
    )
    async def make_stream_token(request: ApiRequest) -> StreamToken:
        """Return a token for `?token=` of a stream: browsers' EventSource and WebSocket cannot send headers."""
        token, expires = tokens.make(request.user)
        return StreamToken(token=token, expires_at=int(expires * 1000))

    return Router(path="/", route_handlers=[stream_task, stream_tasks, make_stream_token], tags=["Push"])
