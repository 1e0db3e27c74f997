"""The route of live topics: one stream for everything that a page shows."""

from __future__ import annotations

from typing import Annotated

from litestar.params import QueryParameter
from litestar.response import Stream

from ...container import Container
from ..auth.access import STREAM_TOKENS, ApiRequest, take_place
from ..auth.narrowing import STREAM, narrows
from ..live.streams import LiveStreams
from ..live.topics import read_topics
from ..routing import RouteHandler, Routes
from ..sse import STREAM_TYPE, event_stream
from .events import After, LastEventId, Token

Topics = Annotated[
    list[str] | None,
    QueryParameter(
        name="topic",
        description="`stats`, `alarms`, `fleet`, `tasks:<query of GET /api/tasks>`, `task:<id>` or "
        "`log:<query of GET /api/log>`, percent-encoded; 1 to 20 of them",
    ),
]


def live_routes(container: Container, streams: LiveStreams) -> list[RouteHandler]:
    routes = Routes("/", "Push")

    @routes.get(
        "/live",
        "Stream what a page shows",
        "Server-sent events",
        fails={404, 429},
        media_type=STREAM_TYPE,
        takes=STREAM_TOKENS,
        opt=narrows(STREAM),
    )
    async def stream_live(
        request: ApiRequest,
        topics: Topics = None,
        last_event_id: LastEventId = None,
        after: After = None,
        token: Token = None,  # noqa: ARG001 - read by the middleware
    ) -> Stream:
        """Send several topics over one stream: numbers, alarms, the fleet, rows of tasks, a task's events, log lines.

        Each `data` is JSON with a `topic` and a `type`. A topic sends at most four times a second, thin rows without
        bodies, and `more` counts what it left out. A client that reconnects with the last `id` resumes the topics that
        have a position; `reset` says that too much happened meanwhile. Ignore other types.
        """
        wanted = read_topics(topics or [])
        for _ in wanted:
            take_place(request, container.open_streams)
        return event_stream(await streams.open(request.user, wanted, last_event_id or after), request.user)

    return routes.handlers
