"""Commands for many tasks at once, by ids or by a filter. The work of one request is bounded."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial

from litestar import Router

from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound
from ...events.ids import TaskRef, owner_token, parse_batch_id
from ...projections.task_reader import TaskFilter
from ...wire.fields import instant
from ..auth.access import ApiRequest
from ..auth.authenticator import Identity
from ..bodies import read_as
from ..routing import Routes
from ..schemas.bulk import BulkAnswer, BulkBody, BulkFilter
from ..task_actions import TaskAction, command_many

MOST_MATCHED = 1_000
"""Tasks that one request changes. If more match, the answer has a cursor."""
LONGEST_SEARCH_SECONDS = 3.0
"""How long one request searches for matching tasks. Then the answer has a cursor."""
CLOCK_TOLERANCE = timedelta(seconds=5)
"""Largest difference between the clock that dates submissions and that of NATS."""
EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""NATS counts nanoseconds since 1970 in 64 bits."""
ALL_OWNERS = "*"
COUNTS = "How many tasks changed, and why the others did not"


def task_filter(identity: Identity, given: BulkFilter) -> TaskFilter:
    """Return the filter for a caller. Raises InvalidInput for an empty one, Forbidden for others' tasks."""
    if given == BulkFilter(owner=given.owner):
        raise InvalidInput("the filter is empty; give a status, type, batch, project or time", "$.filter")
    return TaskFilter(
        owner=commanded_owner(identity, given.owner),
        statuses=frozenset(given.status or ()),
        types=frozenset(given.type or ()),
        batch=given.batch or "",
        project=given.project or "",
        created_since=within_reach(given.created_after, "$.filter.createdAfter"),
        created_before=within_reach(given.created_before, "$.filter.createdBefore"),
    )


def within_reach(given: int | datetime | None, path: str) -> datetime | None:
    """Return an instant of a client, moved to the nearest one at which tasks can exist. Raises InvalidInput."""
    at = instant(given, path)
    return None if at is None else min(max(at, EARLIEST), LATEST)


def commanded_owner(identity: Identity, owner: str | None) -> str | None:
    """Return the token of the owner whose tasks a filter selects, None for all owners'. Raises Forbidden."""
    own = owner_token(identity.subject)
    if owner is None:
        return own
    if identity.has("admin"):
        return None if owner == ALL_OWNERS else owner_token(owner)
    if owner_token(owner) != own:
        raise Forbidden("only admins change other users' tasks; leave out `owner` for your own")
    return own


async def find_tasks(container: Container, filter_: TaskFilter, before: int | None) -> tuple[list[TaskRef], int | None]:
    """Return matching tasks submitted before a sequence, newest first, and the sequence to continue before."""
    tasks = container.tasks
    if filter_.batch:
        batch_ref = parse_batch_id(filter_.batch)
        if filter_.owner not in (None, batch_ref.owner):
            raise NotFound("batch", batch_ref.id)
        batch = await container.batches.find(batch_ref)
        listed = await tasks.views(batch.refs, batch_ref.owner)
        return [ref for ref, view in listed if filter_.matches(view)], None
    oldest = 0
    if filter_.created_since is not None:
        oldest = await tasks.sequence_at(filter_.created_since - CLOCK_TOLERANCE)
    if filter_.created_before is not None:
        newest = await tasks.sequence_at(filter_.created_before + CLOCK_TOLERANCE)
        before = min(before or newest, newest)
    found: list[TaskRef] = []
    give_up_at = time.monotonic() + LONGEST_SEARCH_SECONDS
    while True:
        page = await tasks.page(filter_, MOST_MATCHED - len(found), before)
        found.extend(listed.ref for listed in page.tasks)
        before = page.cursor
        if before is None or before <= oldest:
            return found, None
        if len(found) >= MOST_MATCHED or time.monotonic() > give_up_at:
            return found, before


def bulk_router(container: Container) -> Router:
    routes = Routes("/", "Bulk")

    async def command(request: ApiRequest, action: TaskAction) -> BulkAnswer:
        body = await read_as(request, BulkBody, container.settings.max_json_depth)
        find = None if body.filter is None else partial(find_tasks, container, task_filter(request.user, body.filter))
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

    return routes.router()
