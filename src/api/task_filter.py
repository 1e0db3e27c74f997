"""Filters of tasks: one declaration for lists, bulk commands and dead letters.

The same filter selects the same tasks wherever it is used. In a query, a list is a repeated parameter.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from litestar.di import Provide
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.params import QueryParameter
from msgspec.structs import replace

from ..clock import utc_now
from ..container import Container
from ..errors import InvalidInput, NotFound
from ..events.ids import parse_batch_id, parse_schedule_id
from ..events.task import FailureKind
from ..instants import LAST_MILLISECOND, RELATIVE_PATTERN
from ..projections.dead_letters import KINDS, DeadLetterFilter
from ..projections.task_reader import ListedTasks, TaskFilter
from ..wire.fields import BATCH_ID_PATTERN, TASK_ID_PATTERN, filter_instant
from .auth.access import READERS_OF_ALL
from .auth.authenticator import Identity
from .parameters import Owner, Use, selected_owner
from .schemas.bulk import TaskSelection

EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""NATS counts nanoseconds since 1970 in 64 bits."""

CLOCK_TOLERANCE = timedelta(seconds=5)
"""Largest difference between the clock that dates submissions and that of NATS."""


def instant_parameter(name: str, description: str) -> QueryParameter:
    kinds = [
        Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=LAST_MILLISECOND),
        Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME),
        Schema(type=OpenAPIType.STRING, pattern=RELATIVE_PATTERN),
    ]
    return QueryParameter(
        name=name,
        description=f"{description}: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`, `30m`, `2d`",
        schema_extra={"any_of": kinds, "examples": ["1h", "2026-01-31T12:00:00Z", 1764547200000]},
    )


def _id(description: str, pattern: str) -> QueryParameter:
    return QueryParameter(description=description, schema_extra={"pattern": pattern})


Statuses = Annotated[list[str] | None, QueryParameter(description="One or more statuses, also comma-separated")]
Types = Annotated[list[str] | None, QueryParameter(name="type", description="One or more types")]
OfBatch = Annotated[str | None, _id("A batch's id: only its tasks", BATCH_ID_PATTERN)]
OfSchedule = Annotated[str | None, _id("A recurring schedule's id: only the tasks it submitted", TASK_ID_PATTERN)]
OfProject = Annotated[str | None, QueryParameter(description="The name of a project of the queue surface")]
CreatedAfter = Annotated[str | None, instant_parameter("createdAfter", "Submitted at or after this")]
CreatedBefore = Annotated[str | None, instant_parameter("createdBefore", "Submitted before this")]
Kinds = Annotated[list[str] | None, QueryParameter(description="One or more kinds of failure, also comma-separated")]
FailedSince = Annotated[str | None, instant_parameter("since", "Failed at or after this")]
FailedBefore = Annotated[str | None, instant_parameter("before", "Failed before this")]


def selected(
    type_: Types = None,
    batch: OfBatch = None,
    schedule: OfSchedule = None,
    project: OfProject = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    owner: Owner = None,
) -> TaskSelection:
    """Return what a query selects; a dependency of the routes that list tasks."""
    return TaskSelection(
        type=type_,
        batch=batch,
        schedule=schedule,
        project=project,
        created_after=created_after,
        created_before=created_before,
        owner=owner,
    )


SELECTED = {"selection": Provide(selected, sync_to_thread=False)}
"""Dependencies of a route that lists tasks: it takes a `selection`, and has the parameters of `selected`."""


def task_filter(
    identity: Identity, given: TaskSelection, use: Use, *, statuses: frozenset[str] = frozenset()
) -> TaskFilter:
    """Return the filter for a caller. Raises InvalidInput, and Forbidden for what others own."""
    owner = selected_owner(identity, given.owner, use)
    now = utc_now()
    schedule = ""
    if given.schedule is not None:
        try:
            ref = parse_schedule_id(given.schedule)
        except NotFound:
            raise InvalidInput("not the id of a schedule", _place("schedule", use)) from None
        owner, schedule = owner or ref.owner, ref.id
    if given.batch is not None:
        _check_batch(given.batch, owner, use)
    return TaskFilter(
        owner=owner,
        statuses=statuses,
        types=frozenset(given.type or ()),
        batch=given.batch or "",
        schedule=schedule,
        project=given.project or "",
        created_since=_within_reach(given.created_after, now, _place("createdAfter", use)),
        created_before=_within_reach(given.created_before, now, _place("createdBefore", use)),
        deleted=use == "list" and identity.has(*READERS_OF_ALL),
    )


def dead_letter_filter(
    identity: Identity,
    given: TaskSelection,
    use: Use,
    *,
    kinds: frozenset[FailureKind] = frozenset(),
    since: int | str | None = None,
    before: int | str | None = None,
) -> DeadLetterFilter:
    """Return the filter for a caller; no `kinds`: all. Raises as `task_filter` does."""
    now = utc_now()
    return DeadLetterFilter(
        tasks=replace(task_filter(identity, given, use), deleted=False),
        kinds=kinds or KINDS,
        since=_within_reach(since, now, _place("since", use)),
        before=_within_reach(before, now, _place("before", use)),
    )


def _place(name: str, use: Use) -> str:
    return name if use == "list" else f"$.filter.{name}"


def _check_batch(batch_id: str, owner: str | None, use: Use) -> None:
    try:
        ref = parse_batch_id(batch_id)
    except NotFound:
        raise InvalidInput("not the id of a batch", _place("batch", use)) from None
    if owner not in (None, ref.owner):
        raise NotFound("batch", ref.id)


def _within_reach(given: int | str | None, now: datetime, path: str) -> datetime | None:
    """Return an instant of a client, moved to the nearest one at which tasks can exist. Raises InvalidInput."""
    at = filter_instant(given, now, path)
    return None if at is None else min(max(at, EARLIEST), LATEST)


async def matching(container: Container, wanted: TaskFilter, limit: int, before: int | None) -> ListedTasks:
    """Return up to `limit` matching tasks submitted before a sequence, newest first. Raises NotFound for no batch."""
    tasks = container.tasks
    if wanted.batch:
        ref = parse_batch_id(wanted.batch)
        batch = await container.batches.find(ref)
        found = [
            listed
            for listed in await tasks.views(batch.refs, ref.owner)
            if wanted.matches(listed.view) and (before is None or listed.view.created_sequence < before)
        ]
        found.sort(key=lambda listed: listed.view.created_sequence, reverse=True)
        shown = found[:limit]
        return ListedTasks(shown, shown[-1].view.created_sequence if len(found) > limit else None)
    oldest = 0
    if wanted.created_since is not None:
        oldest = await tasks.sequence_at(wanted.created_since - CLOCK_TOLERANCE)
    if wanted.created_before is not None:
        newest = await tasks.sequence_at(wanted.created_before + CLOCK_TOLERANCE)
        before = min(before or newest, newest)
    page = await tasks.page(wanted, limit, before)
    is_last = page.cursor is None or page.cursor <= oldest
    return ListedTasks(page.tasks, None if is_last else page.cursor)
