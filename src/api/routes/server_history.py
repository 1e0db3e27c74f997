"""The route of a server's history: its events as recorded, in pages, from either end."""

from __future__ import annotations

from typing import Annotated, get_args

from litestar.params import QueryParameter

from ...container import Container
from ...errors import NotFound
from ...events.codec import server_codec
from ...events.kinds import word_of
from ...events.server import ServerEvent
from ...events.subjects import history_filter, server_root
from ...streams.history_pages import newest_first, oldest_first
from ...streams.jetstream.messages import last_sequence
from ...streams.log import decode
from ...streams.topology.definitions import SERVERS
from ..auth.access import READERS_OF_ALL
from ..parameters import Before, EventLimit, EventNames, ServerId, read_choices, read_cursor, read_direction
from ..routing import RouteHandler, Routes
from ..schemas.servers import ServerEventPage, recorded_server_event

EVENT_WORDS = {event.__name__: word_of(event) for event in get_args(ServerEvent)}
EVENTS = frozenset(EVENT_WORDS)

AfterSequence = Annotated[
    str | None, QueryParameter(description="Only events after this sequence", schema_extra={"pattern": r"^\d{1,19}$"})
]


def server_history_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/servers", "Servers", roles=READERS_OF_ALL)

    @routes.get("/{server_id:str}/events", "Read a server's history", "A page of events, oldest or newest first")
    async def list_server_events(
        server_id: ServerId,
        after: AfterSequence = None,
        before: Before = None,
        event: EventNames = None,
        limit: EventLimit = 200,
    ) -> ServerEventPage:
        """Return the events of a server as recorded, oldest first, or newest first with `before`.

        It has those of all servers that were registered with this id, also after the server's removal.
        """
        is_newest_first, place = read_direction(after, before)
        start = read_cursor(after, "after") or 0
        words = sorted(EVENT_WORDS[name] for name in read_choices(event, EVENTS, "event"))
        root = server_root(server_id)
        last = await last_sequence(container.reading, SERVERS, history_filter(root))
        if not last:
            raise NotFound("server", server_id)
        filters = [f"{root}.{word}" for word in words] or [history_filter(root)]
        if is_newest_first:
            found = await newest_first(container.reading, SERVERS, filters, place or last + 1, limit)
        else:
            found = await oldest_first(container.reading, SERVERS, filters, start, limit)
        return ServerEventPage(
            server_id=server_id,
            events=[recorded_server_event(decode(server_codec, position)) for position in found.positions],
            next_after=None if is_newest_first else found.following,
            next_before=found.following if is_newest_first else None,
            total=await container.commands.servers.log.count(root),
        )

    return routes.handlers
