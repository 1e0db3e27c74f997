"""The route of the log: what happened, in order, and who did it."""

from __future__ import annotations

from typing import Annotated

from litestar.params import QueryParameter

from ...clock import utc_now
from ...errors import InvalidInput
from ...projections.log_entries import LOG_NAMES
from ..auth.access import ApiRequest
from ..log_query import LogPages, entry_filter
from ..routing import RouteHandler, Routes
from ..schemas.log import LogAnswer, log_answer
from ..task_filter import instant_parameter

Logs = Annotated[
    list[str] | None,
    QueryParameter(name="log", description=f"One or more of {', '.join(LOG_NAMES)}; default: all"),
]
Events = Annotated[list[str] | None, QueryParameter(description="One or more names of events, such as `TaskFailed`")]
ActorText = Annotated[
    str | None,
    QueryParameter(description="Who did it: an id, `<kind>:<id>` or `<kind>:`, as in `worker:`, `user:alice`"),
]
SubjectText = Annotated[
    str | None,
    QueryParameter(description="What it is about: `<kind>:<id>` or `<kind>:`, as in `server:gpu-3`, `pool:`"),
]
Since = Annotated[str | None, instant_parameter("since", "Happened at or after this")]
Until = Annotated[str | None, instant_parameter("until", "Happened before this")]
_PLACE = "a cursor, an entry as in `tasks:48812`, or an instant"


def log_routes(pages: LogPages) -> list[RouteHandler]:
    routes = Routes("/", "Log")

    @routes.get("/log", "Read the log", "A page of entries, newest first, or oldest first with `after`")
    async def read_log(
        request: ApiRequest,
        logs: Logs = None,
        event: Events = None,
        actor: ActorText = None,
        subject: SubjectText = None,
        since: Since = None,
        until: Until = None,
        before: Annotated[str | None, QueryParameter(description=f"Newest first: before {_PLACE}")] = None,
        after: Annotated[str | None, QueryParameter(description=f"Oldest first: after {_PLACE}")] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=500, description="Most entries on a page")] = 100,
    ) -> LogAnswer:
        """Return what happened to tasks, servers, types, pools, limits, schedules, webhooks, operations and keys.

        Each entry says when, to what, by whom, and what caused it. Payloads, results and output are left out, with
        their sizes. A page searches at most 5,000 messages or 16 MiB: with a filter that few entries match it may be
        short, and `nextBefore` or `nextAfter` goes on. Admins and auditors see everything, others what is theirs.
        """
        if before and after:
            raise InvalidInput("give `before` or `after`, not both", "after")
        now = utc_now()
        wanted = entry_filter(
            request.user, now, logs=logs, event=event, actor=actor, subject=subject, since=since, until=until
        )
        page = await pages.read(
            request.user,
            wanted,
            limit,
            now,
            before=await pages.place(before, now, "before"),
            after=await pages.place(after, now, "after"),
        )
        return log_answer(page)

    return routes.handlers
