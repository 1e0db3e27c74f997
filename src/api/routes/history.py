"""The route of a task's history: its events as recorded, in pages, from either end."""

from __future__ import annotations

from typing import Annotated

from litestar.params import QueryParameter

from ...container import Container
from ...events.kinds import TASK_EVENTS
from ..auth.access import READERS_OF_ALL, ApiRequest, owned_ref, reads_bodies
from ..auth.narrowing import TASK, narrows
from ..parameters import Before, Bodies, EventLimit, EventNames, TaskId, read_choices, read_direction
from ..routing import RouteHandler, Routes
from ..schemas.tasks import EventPage, recorded_event

EVENT_WORDS = {event.__name__: kind.word for event, kind in TASK_EVENTS.items()}
EVENTS = frozenset(EVENT_WORDS)


def history_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Tasks")

    @routes.get(
        "/task/{task_id:str}/events",
        "Read a task's history",
        "A page of events, oldest or newest first",
        opt=narrows(TASK),
    )
    async def list_events(
        request: ApiRequest,
        task_id: TaskId,
        after: Annotated[
            str | None, QueryParameter(description="Only events after this sequence, or after the id of a pushed event")
        ] = None,
        before: Before = None,
        event: EventNames = None,
        bodies: Bodies = True,
        limit: EventLimit = 200,
    ) -> EventPage:
        """Return the events of a task as recorded, oldest first, or newest first with `before`.

        A page with large events may be short: it ends after 8 MiB. With `bodies=false`, and for callers who may not
        read payloads of others, payloads, results, output, log lines, `data` and `custom_data` are left out, and
        `sizes` has their sizes. If `after` is not in this log, because an older one was restored, `reset` is true and
        the page is the first.
        """
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        words = {EVENT_WORDS[name] for name in read_choices(event, EVENTS, "event")}
        reads_all = request.user.has(*READERS_OF_ALL)
        shows_bodies = bodies and reads_bodies(request.user, ref.owner)
        is_newest_first, place = read_direction(after, before)
        following: int | None = None
        preceding: int | None = None
        start = None
        if is_newest_first:
            events, preceding = await container.tasks.newest_page(ref, place, limit, words=words, deleted=reads_all)
        else:
            start = await container.feeds.start(after) if after else None
            reached = start.resumed.sequence if start and start.resumed else 0
            events, following = await container.tasks.history_page(ref, reached, limit, words=words, deleted=reads_all)
        return EventPage(
            task_id=task_id,
            events=[recorded_event(ref, stored, container.links, bodies=shows_bodies) for stored in events],
            next_after=following,
            next_before=preceding,
            total=await container.tasks.count_events(ref),
            reset=start is not None and start.is_foreign,
        )

    return routes.handlers
