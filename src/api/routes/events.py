"""Routes of server-sent events: the events of a task or an owner as they happen (WHATWG HTML, 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, get_args

import structlog
from litestar import Response, Router
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
from ..routing import Routes

log = structlog.get_logger(__name__)

BEGINNING = b"retry: 1000\n\n"
"""A browser reconnects after this many milliseconds."""
HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0
EVENTS = frozenset(event.__name__ for event in get_args(TaskEvent))

LastEventId = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", description="The last id received; the stream resumes after it"),
]
After = Annotated[
    str | None,
    QueryParameter(name="after", description="Like `Last-Event-ID`, without headers; the header wins"),
]
Token = Annotated[
    str | None,
    QueryParameter(name="token", description="A token of POST /api/stream-tokens"),
]


async def _sent(messages: PushMessages) -> AsyncIterator[bytes]:
    """Yield messages as blocks of a stream. A failing store ends the stream; the client reconnects and resumes."""
    yield BEGINNING
    try:
        async for message in messages:
            yield HEARTBEAT if message is None else _event(message)
    except StoreError as error:
        log.warning("stream.broken", reason=str(error))


def _event(message: PushMessage) -> bytes:
    """Return a message as a block of a stream. Its JSON has no line breaks. Clients keep an id that comes alone."""
    data = b"data: %b\n" % message.data if message.data else b""
    event_id = b"id: %b\n" % message.event_id.encode() if message.event_id else b""
    return b"%b%b\n" % (event_id, data)


def stream(messages: PushMessages | None) -> Response[None] | Stream:
    """Return messages as server-sent events; a 204, which ends an EventSource for good, if there are none left."""
    if messages is None:
        return Response(None, status_code=204)
    return Stream(_sent(messages), media_type=STREAM_TYPE, headers=STREAM_HEADERS)


def read_after(header: str | None, query: str | None) -> FeedPosition | None:
    """Return the position to resume after, None to begin with the present state. Raises InvalidInput."""
    text = header or query
    try:
        return FeedPosition.parse(text) if text else None
    except ValueError:
        raise InvalidInput("not the id of an event; send the last id received, unchanged", "Last-Event-ID") from None


def push_router(container: Container, tokens: StreamTokens) -> Router:
    routes = Routes("/", "Push")
    pushed = EventStream(container, HEARTBEAT_SECONDS)

    @routes.get("/task/{task_id:str}/stream", "Stream a task's events", "Server-sent events", media_type=STREAM_TYPE)
    async def stream_task(
        request: ApiRequest,
        task_id: TaskId,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send the present state of a task, then its events as they happen. Ends after the last event of the task.

        Each `data` is JSON with a `type`: `state`, then the names of events. The `id` is the event's position in
        the log: a client that reconnects with the last one resumes after it. A 204 means that nothing follows.
        """
        return stream(await pushed.of_task(request.user, task_id, read_after(last_event_id, after)))

    @routes.get("/tasks/stream", "Stream the events of all tasks", "Server-sent events", media_type=STREAM_TYPE)
    async def stream_tasks(
        request: ApiRequest,
        type_: Types = None,
        event: Annotated[list[str] | None, QueryParameter(description="One or more names of events")] = None,
        owner: Owner = None,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send the present state of each task that has not ended, then the events of all tasks, new ones included."""
        choice = SubscriptionFilter(types=frozenset(type_ or []), events=read_choices(event, EVENTS, "event"))
        scope = Scope(owner=listed_owner(request, owner))
        return stream(await pushed.of_all(scope, choice, read_after(last_event_id, after)))

    @routes.post("/stream-tokens", "Get a token for streams", "A token and when it expires", never={503})
    async def make_stream_token(request: ApiRequest) -> StreamToken:
        """Return a token for `?token=` of a stream, because EventSource and WebSocket of browsers send no headers."""
        return tokens.make(request.user)

    return routes.router()
