"""Routes of server-sent events: the events of a task or an owner as they happen (WHATWG HTML, 9.2)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, get_args

import structlog
from litestar import Response
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from ...container import Container
from ...errors import StoreError
from ...events.task import TaskEvent
from ...push.listeners import Scope
from ...push.subscription_filter import SubscriptionFilter
from ..auth.access import STREAM_TOKENS, ApiRequest, take_place
from ..auth.authenticator import Identity
from ..auth.narrowing import CALLER, STREAM, TASK, narrows
from ..auth.stream_tokens import StreamToken, StreamTokens
from ..event_stream import EventStream, PushMessages
from ..parameters import Owner, TaskId, read_choices, selected_owner
from ..routing import RouteHandler, Routes
from ..sse import HEARTBEAT, STREAM_TYPE, block, event_stream
from ..task_filter import Types

log = structlog.get_logger(__name__)

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


async def _sent(messages: PushMessages) -> AsyncGenerator[bytes, None]:
    """Yield messages as blocks of a stream. A failing store ends the stream; the client reconnects and resumes."""
    is_first = True
    try:
        async for message in messages:
            if message is None:
                yield HEARTBEAT
            else:
                yield block(message.data, message.event_id, is_first=is_first)
                is_first = False
    except StoreError as error:
        log.warning("stream.broken", reason=str(error))


def stream(messages: PushMessages | None, user: Identity) -> Response[None] | Stream:
    """Return messages as server-sent events; a 204, which ends an EventSource for good, if there are none left."""
    if messages is None:
        return Response(None, status_code=204)
    return event_stream(_sent(messages), user)


def push_routes(container: Container, tokens: StreamTokens) -> list[RouteHandler]:
    routes = Routes("/", "Push")
    pushed = EventStream(container, HEARTBEAT_SECONDS)

    @routes.get(
        "/task/{task_id:str}/stream",
        "Stream a task's events",
        "Server-sent events",
        fails={429},
        media_type=STREAM_TYPE,
        takes=STREAM_TOKENS,
        opt=narrows(TASK),
    )
    async def stream_task(
        request: ApiRequest,
        task_id: TaskId,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Response[None] | Stream:
        """Send the present state of a task, then its events as they happen. Ends after the last event of the task.

        Each `data` is JSON with a `type`: `state`, then the names of events. A client that reconnects with the last
        `id` resumes after it: then the first types are `reached`, and `gap` if events are past the retention, or
        `reset` if the id is not in this log. Ignore other types. A 204 means that nothing follows. When the token
        expires, the last type is `expired`.
        """
        take_place(request, container.open_streams)
        return stream(await pushed.of_task(request.user, task_id, last_event_id or after), request.user)

    @routes.get(
        "/tasks/stream",
        "Stream the events of all tasks",
        "Server-sent events",
        fails={429},
        media_type=STREAM_TYPE,
        takes=STREAM_TOKENS,
        opt=narrows(STREAM),
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
        """Send the present state of each task that has not ended, then the events of all tasks, new ones included.

        It resumes like the stream of a task.
        """
        choice = SubscriptionFilter(types=frozenset(type_ or []), events=read_choices(event, EVENTS, "event"))
        scope = Scope(owner=selected_owner(request.user, owner, "list"), choice=choice)
        take_place(request, container.open_streams)
        return stream(await pushed.of_all(request.user, scope, last_event_id or after), request.user)

    @routes.post(
        "/stream-tokens", "Get a token for streams", "A token and when it expires", never={503}, opt=narrows(CALLER)
    )
    async def make_stream_token(request: ApiRequest) -> StreamToken:
        """Return a token for `?token=` of a stream, because EventSource and WebSocket of browsers send no headers."""
        return tokens.make(request.user)

    return routes.handlers
