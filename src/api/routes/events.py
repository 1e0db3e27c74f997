"""Server-sent events: a task's or an owner's events, as they come (WHATWG HTML, 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, get_args

import structlog
from litestar import Response, Router, get, post
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from ...container import Container
from ...errors import InvalidInput, StoreError
from ...events.task import TaskEvent
from ...push.feed import FeedPosition
from ...push.hub import Scope
from ...push.subscription_filter import SubscriptionFilter
from ..auth.access import ApiRequest
from ..auth.stream_tokens import StreamToken, StreamTokens
from ..event_stream import STREAM_HEADERS, STREAM_TYPE, EventStream, PushMessage, PushMessages
from ..parameters import Owner, TaskId, Types, listed_owner, read_choices
from ..problems import answers

log = structlog.get_logger(__name__)

BEGINNING = b"retry: 1000\n\n"
"""Milliseconds after which a browser connects again."""
HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0
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


async def _sent(messages: PushMessages) -> AsyncIterator[bytes]:
    """Yield messages as a stream has them. A store that fails ends it, and the client comes again for the rest."""
    yield BEGINNING
    try:
        async for message in messages:
            yield HEARTBEAT if message is None else _event(message)
    except StoreError as error:
        log.warning("stream.broken", reason=str(error))


def _event(message: PushMessage) -> bytes:
    """Return a message as a stream has it; JSON of ours has no line breaks. An id alone is kept by the client."""
    data = b"data: %b\n" % message.data if message.data else b""
    event_id = b"id: %b\n" % message.event_id.encode() if message.event_id else b""
    return b"%b%b\n" % (event_id, data)


def stream(messages: PushMessages | None) -> Response[None] | Stream:
    """Return messages as server-sent events; a 204, which ends an EventSource for good, if there are none left."""
    if messages is None:
        return Response(None, status_code=204)
    return Stream(_sent(messages), media_type=STREAM_TYPE, headers=STREAM_HEADERS)


def read_after(header: str | None, query: str | None) -> FeedPosition | None:
    """Return the place to resume after, None to begin with the present state."""
    text = header or query
    try:
        return FeedPosition.parse(text) if text else None
    except ValueError:
        raise InvalidInput(
            "this is no id of an event; send the last one received as it came", "Last-Event-ID"
        ) from None


def push_router(container: Container, tokens: StreamTokens) -> Router:
    """Return the routes."""
    pushed = EventStream(container, HEARTBEAT_SECONDS)

    @get(
        "/task/{task_id:str}/stream",
        media_type=STREAM_TYPE,
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
        return stream(await pushed.of_task(request.user, task_id, read_after(last_event_id, after)))

    @get(
        "/tasks/stream",
        media_type=STREAM_TYPE,
        responses=answers(400, 401, 403, 503),
        response_description="Server-sent events",
        summary="Follow all tasks",
    )
    async def stream_tasks(
        request: ApiRequest,
        type_: Types = None,
        event: Annotated[list[str] | None, QueryParameter(description="One or more names of events")] = None,
        owner: Owner = None,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send each task that has not ended as it is, then every event of every task, also of new ones."""
        choice = SubscriptionFilter(types=frozenset(type_ or []), events=read_choices(event, EVENTS, "event"))
        scope = Scope(owner=listed_owner(request, owner))
        return stream(await pushed.of_all(scope, choice, read_after(last_event_id, after)))

    @post(
        "/stream-tokens",
        status_code=200,
        responses=answers(400, 401, 403),
        response_description="A token and its end",
        summary="Get a token for streams",
    )
    async def make_stream_token(request: ApiRequest) -> StreamToken:
        """Return a token for `?token=` of a stream: browsers' EventSource and WebSocket cannot send headers."""
        return tokens.make(request.user)

    return Router(path="/", route_handlers=[stream_task, stream_tasks, make_stream_token], tags=["Push"])
