"""Commands for many tasks at once, by ids or by a filter. The work of one request is bounded."""

from __future__ import annotations

import time
from functools import partial

from ...container import Container
from ...errors import InvalidInput
from ...events.ids import TaskRef, owner_token, parse_batch_id
from ...index.query import TaskQuery
from ..auth.access import ApiRequest
from ..auth.authenticator import Identity
from ..bodies import read_as
from ..routing import RouteHandler, Routes
from ..schemas.bulk import BulkAnswer, BulkBody, BulkFilter
from ..task_actions import TaskAction, command_many
from ..task_filter import filters_nothing, read_place, task_filter

MOST_MATCHED = 1_000
"""Tasks that one request changes. If more match, the answer has a cursor."""
LONGEST_SEARCH_SECONDS = 3.0
"""How long one request searches for matching tasks. Then the answer has a cursor."""
COUNTS = "How many tasks changed, and why the others did not"


def bulk_filter(identity: Identity, given: BulkFilter) -> TaskQuery:
    """Return the filter for a caller. Raises InvalidInput for an empty one, Forbidden for others' tasks."""
    if filters_nothing(given):
        raise InvalidInput("the filter is empty; give a status, type, batch, schedule, project or time", "$.filter")
    return task_filter(identity, given, "command")


async def find_tasks(
    container: Container, wanted: TaskQuery, user: str, cursor: str | None
) -> tuple[list[TaskRef], str | None]:
    """Return matching tasks, MOST_MATCHED at most, in the order of the query, and where to continue.

    Raises NotFound for a batch that does not exist.
    """
    await check_batch(container, wanted)
    found: list[TaskRef] = []
    give_up_at = time.monotonic() + LONGEST_SEARCH_SECONDS
    while True:
        place = read_place(wanted, cursor, "$.cursor")
        page = await container.lists.page(wanted, MOST_MATCHED - len(found), place, user=user)
        found.extend(listed.ref for listed in page.tasks)
        cursor = page.cursor
        if cursor is None or len(found) >= MOST_MATCHED or time.monotonic() > give_up_at:
            return found, cursor


async def check_batch(container: Container, wanted: TaskQuery) -> None:
    """Raise NotFound if a query is for a batch that does not exist."""
    if wanted.batch:
        await container.batches.find(parse_batch_id(wanted.batch))


def bulk_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Bulk")

    async def command(request: ApiRequest, action: TaskAction) -> BulkAnswer:
        body = await read_as(request, BulkBody, container.settings.max_json_depth)
        find = None
        if body.filter is not None:
            user = owner_token(request.user.subject)
            find = partial(find_tasks, container, bulk_filter(request.user, body.filter), user)
        return await command_many(container, request, action, body, find)

    @routes.post("/tasks/cancel", "Cancel many tasks", COUNTS, body=BulkBody, fails={404}, needs_body=True)
    async def cancel_tasks(request: ApiRequest) -> BulkAnswer:
        """End the tasks that have not ended: up to 1,000 by ids, or those that match a filter.

        With `dryRun`, nothing changes and the answer says what would. If the answer has a `nextCursor`, more tasks
        match: send it as `cursor`.
        """
        return await command(request, "cancel")

    @routes.post("/tasks/retry", "Retry many tasks", COUNTS, body=BulkBody, fails={404}, needs_body=True)
    async def retry_tasks(request: ApiRequest) -> BulkAnswer:
        """Queue failed and cancelled tasks again, each with all its attempts. The body is as for cancelling."""
        return await command(request, "retry")

    @routes.post("/tasks/delete", "Delete many tasks", COUNTS, body=BulkBody, fails={404}, needs_body=True)
    async def delete_tasks(request: ApiRequest) -> BulkAnswer:
        """Remove tasks from every list, and cancel those that have not ended. The body is as for cancelling."""
        return await command(request, "delete")

    return routes.handlers
