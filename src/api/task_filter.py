"""Filters of tasks: one declaration for lists, counts, bulk commands and dead letters.

The same filter selects the same tasks wherever it is used. In a query, a list is a repeated parameter, and labels and
searchable fields are parameters of their own: `label.region=eu`, `payload.customer=acme`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, cast, get_args

from litestar import Request
from litestar.di import Provide
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Schema
from litestar.params import QueryParameter
from msgspec.structs import replace

from ..clock import utc_now
from ..errors import Forbidden, InvalidInput, NotFound
from ..events.ids import owner_token, parse_batch_id, parse_schedule_id
from ..events.task import PRIORITIES, FailureKind
from ..index import facts
from ..index.facts import Hold
from ..index.query import Key, Sort, Span, TaskQuery, read_cursor
from ..instants import DURATION_PATTERN, LAST_MILLISECOND, RELATIVE_PATTERN, iso, parse_instant
from ..projections.dead_letters import KINDS
from ..projections.task_view import Status
from ..wire.fields import BATCH_ID_PATTERN, ID_PREFIX_PATTERN, TASK_ID_PATTERN, filter_duration, filter_instant
from .auth.access import READERS_OF_ALL, WITHHELD
from .auth.authenticator import Identity
from .auth.narrowing import within
from .parameters import Owner, Use, bad_cursor, read_choices, selected_owner, split_names
from .query import NAMED_PARAMETERS
from .schemas.bulk import MOST_NAMED, DeadLettersFilter, TaskSelection

EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Instants of filters are moved into these: arithmetic with them cannot overflow."""
TIMES = ("since", "before", "after")
"""Ends of the names of fields that are instants."""
_RELATIVE = re.compile(RELATIVE_PATTERN)
Selection = TypeVar("Selection", bound=TaskSelection)
STATUSES: frozenset[Status] = frozenset(get_args(Status))
HOLDS: frozenset[Hold] = frozenset(get_args(Hold))
FAILURES: frozenset[FailureKind] = frozenset(get_args(FailureKind))
LABEL, PAYLOAD = "label.", "payload."
"""Beginnings of the parameters that name a label, or a searchable field."""
FILTERED = {NAMED_PARAMETERS: (LABEL, PAYLOAD)}
"""`opt` of a route that takes SELECTED."""


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


def _text(description: str, pattern: str = "", name: str | None = None) -> QueryParameter:
    return QueryParameter(name=name, description=description, schema_extra={"pattern": pattern} if pattern else None)


def _list(name: str, description: str) -> QueryParameter:
    return QueryParameter(name=name, description=description)


Statuses = Annotated[list[str] | None, QueryParameter(description="One or more statuses, also comma-separated")]
Types = Annotated[list[str] | None, _list("type", "One or more types, also comma-separated")]
Pools = Annotated[list[str] | None, _list("pool", "One or more pools, also comma-separated")]
Servers = Annotated[list[str] | None, _list("server", "Servers that run the task, or ran it last; empty: none has")]
Priorities = Annotated[list[str] | None, _list("priority", "One or more priorities, also comma-separated")]
Kinds = Annotated[list[str] | None, _list("kind", "One or more kinds of failure, also comma-separated")]
Holds = Annotated[
    list[str] | None,
    _list("hold", "What waiting tasks wait for, also comma-separated: parents, time, limit, retry, server-busy"),
]
OfBatch = Annotated[str | None, _text("A batch's id: only its tasks", BATCH_ID_PATTERN)]
OfSchedule = Annotated[str | None, _text("A recurring schedule's id: only the tasks it submitted", TASK_ID_PATTERN)]
OfProject = Annotated[str | None, _text("The name of a project of the queue surface")]
ErrorText = Annotated[str | None, _text("A part of the error; the case of the letters A to Z does not matter")]
Shape = Annotated[str | None, _text("Fingerprint of the error, from `GET /api/errors`")]
Attempts = Annotated[int, QueryParameter(ge=0, le=1_000_000, description="The last attempt has this number, or higher")]
OfKey = Annotated[str | None, _text("Concurrency key", name="key")]
IdPrefix = Annotated[str | None, _text("Beginning of the task's id", ID_PREFIX_PATTERN, name="id")]
MinRun = Annotated[
    str | None,
    _text(
        "From the first start to the end, or until now: seconds, or as in `90s`, `5m`, `1h`",
        DURATION_PATTERN,
        name="minRun",
    ),
]
CreatedAfter = Annotated[str | None, instant_parameter("createdAfter", "Submitted at or after this")]
CreatedSince = Annotated[str | None, instant_parameter("createdSince", "The same as `createdAfter`")]
CreatedBefore = Annotated[str | None, instant_parameter("createdBefore", "Submitted before this")]
StartedSince = Annotated[str | None, instant_parameter("startedSince", "First started at or after this")]
StartedBefore = Annotated[str | None, instant_parameter("startedBefore", "First started before this")]
EndedSince = Annotated[str | None, instant_parameter("endedSince", "Ended at or after this")]
EndedBefore = Annotated[str | None, instant_parameter("endedBefore", "Ended before this")]
UpdatedSince = Annotated[str | None, instant_parameter("updatedSince", "Last changed at or after this")]
UpdatedBefore = Annotated[str | None, instant_parameter("updatedBefore", "Last changed before this")]
FailedSince = Annotated[str | None, instant_parameter("since", "Failed at or after this")]
FailedBefore = Annotated[str | None, instant_parameter("before", "Failed before this")]


def selected(  # noqa: PLR0913, PLR0917 - one parameter per filter
    request: Request[Any, Any, Any],
    status: Statuses = None,
    type_: Types = None,
    pool: Pools = None,
    server: Servers = None,
    priority: Priorities = None,
    kind: Kinds = None,
    hold: Holds = None,
    batch: OfBatch = None,
    schedule: OfSchedule = None,
    project: OfProject = None,
    error: ErrorText = None,
    shape: Shape = None,
    attempts: Attempts = 0,
    key: OfKey = None,
    id_: IdPrefix = None,
    min_run: MinRun = None,
    created_after: CreatedAfter = None,
    created_since: CreatedSince = None,
    created_before: CreatedBefore = None,
    started_since: StartedSince = None,
    started_before: StartedBefore = None,
    ended_since: EndedSince = None,
    ended_before: EndedBefore = None,
    updated_since: UpdatedSince = None,
    updated_before: UpdatedBefore = None,
    owner: Owner = None,
) -> TaskSelection:
    """Return what a query selects; a dependency of the routes that list tasks."""
    return TaskSelection(
        status=_chosen(status, STATUSES, "status"),
        type=None if type_ is None else sorted(split_names(type_)),
        pool=None if pool is None else sorted(split_names(pool)),
        server=server,
        priority=_chosen(priority, frozenset(PRIORITIES), "priority"),
        kind=_chosen(kind, FAILURES, "kind"),
        hold=_chosen(hold, HOLDS, "hold"),
        labels=_named(request, LABEL),
        payload=_named(request, PAYLOAD),
        batch=batch,
        schedule=schedule,
        project=project,
        error=error,
        shape=shape,
        attempts=attempts,
        key=key,
        id=id_,
        min_run=min_run,
        created_after=created_after,
        created_since=created_since,
        created_before=created_before,
        started_since=started_since,
        started_before=started_before,
        ended_since=ended_since,
        ended_before=ended_before,
        updated_since=updated_since,
        updated_before=updated_before,
        owner=owner,
    )


SELECTED = {"selection": Provide(selected, sync_to_thread=False)}
"""Dependencies of a route that lists tasks: it takes a `selection`, and has the parameters of `selected`."""


def _chosen(given: list[str] | None, allowed: frozenset[Any], name: str) -> list[Any] | None:
    return sorted(read_choices(given, allowed, name)) or None


def _named(request: Request[Any, Any, Any], beginning: str) -> dict[str, str]:
    """Return the parameters that begin so, without the beginning. Raises InvalidInput."""
    found = {
        name.removeprefix(beginning): value
        for name, value in cast(Iterable[tuple[str, str]], request.query_params.multi_items())
        if name.startswith(beginning)
    }
    if len(found) > MOST_NAMED:
        raise InvalidInput(f"{len(found)} such parameters; send {MOST_NAMED} at most", f"{beginning}*")
    return found


def task_filter(identity: Identity, given: TaskSelection, use: Use) -> TaskQuery:
    """Return the filter for a caller. Raises InvalidInput, and Forbidden for what others own."""
    owner = selected_owner(identity, given.owner, use)
    if given.payload and owner != owner_token(identity.subject) and not identity.payloads:
        raise Forbidden(WITHHELD)  # a filter by a value shows which tasks have it
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
    if given.created_after is not None and given.created_since is not None:
        raise InvalidInput("means the same as `createdAfter`; send one of them", _place("createdSince", use))

    def span(name: str, since: int | str | None, before: int | str | None, word: str = "Since") -> Span:
        return Span(
            within_reach(since, now, _place(f"{name}{word}", use)),
            within_reach(before, now, _place(f"{name}Before", use)),
        )

    is_after = given.created_since is None
    created = given.created_after if is_after else given.created_since
    return TaskQuery(
        owner=owner,
        statuses=frozenset(given.status or ()),
        types=within(identity, frozenset(given.type or ()), _place("type", use)),
        pools=frozenset(given.pool or ()),
        servers=frozenset(given.server or ()),
        priorities=frozenset(given.priority or ()),
        failures=frozenset(given.kind or ()),
        holds=frozenset(given.hold or ()),
        attributes=frozenset(
            [facts.label(name, value) for name, value in given.labels.items()]
            + [facts.payload(name, value) for name, value in given.payload.items()]
        ),
        batch=given.batch or "",
        schedule=schedule,
        project=given.project or "",
        concurrency_key=given.key or "",
        error=given.error or "",
        shape=given.shape or "",
        attempts=given.attempts,
        id_prefix=given.id or "",
        min_run=filter_duration(given.min_run, _place("minRun", use)),
        now=None if given.min_run is None else now,
        created=span("created", created, given.created_before, "After" if is_after else "Since"),
        started=span("started", given.started_since, given.started_before),
        ended=span("ended", given.ended_since, given.ended_before),
        updated=span("updated", given.updated_since, given.updated_before),
        deleted=use == "list" and identity.has(*READERS_OF_ALL),
    )


def dead_letter_filter(
    identity: Identity,
    given: TaskSelection,
    use: Use,
    *,
    since: int | str | None = None,
    before: int | str | None = None,
) -> TaskQuery:
    """Return the filter for a caller, in the order of the failures. Raises as `task_filter` does.

    `since` and `before` are other names of `endedSince` and `endedBefore`; the narrower bounds count.
    """
    now = utc_now()
    wanted = task_filter(identity, given, use)
    if wanted.statuses - {"FAILED"}:
        raise InvalidInput("the status of every dead letter is FAILED; leave it out", _place("status", use))
    if unknown := wanted.failures - KINDS:
        raise InvalidInput(f"{min(unknown)!r} is not one of {', '.join(sorted(KINDS))}", _place("kind", use))
    failed = Span(within_reach(since, now, _place("since", use)), within_reach(before, now, _place("before", use)))
    latest = [at for at in (wanted.ended.since, failed.since) if at is not None]
    earliest = [at for at in (wanted.ended.before, failed.before) if at is not None]
    return replace(
        wanted,
        statuses=frozenset({"FAILED"}),
        failures=wanted.failures or KINDS,
        ended=Span(max(latest, default=None), min(earliest, default=None)),
        deleted=False,
        sort="ended",
        descending=False,
    )


def fixed(given: Selection, now: datetime) -> Selection:
    """Return a filter that selects the same later: with instants in the place of times ago."""
    times = {
        name: iso(parse_instant(value, now))
        for name in given.__struct_fields__
        if isinstance(value := getattr(given, name), str) and name.endswith(TIMES) and _RELATIVE.fullmatch(value)
    }
    return replace(given, **times)


def sorted_by(query: TaskQuery, sort: str) -> TaskQuery:
    """Return the query in an order: `-ended` for the last end first. Raises InvalidInput."""
    name = sort.removeprefix("-")
    if name not in get_args(Sort):
        raise InvalidInput(f"must be one of {', '.join(get_args(Sort))}; `-` before it reverses the order", "sort")
    return replace(query, sort=cast(Sort, name), descending=sort != name)


def read_place(query: TaskQuery, cursor: str | None, path: str = "cursor") -> Key | None:
    """Return the place that a page starts after, None for the first page. Raises InvalidInput.

    `path`: where the cursor was given, as in `$.cursor`.
    """
    if not cursor:
        return None
    try:
        return read_cursor(query, cursor)
    except ValueError:
        raise bad_cursor(path, "of a list in this order") from None


def filters_nothing(given: DeadLettersFilter | TaskSelection) -> bool:
    """Return True for a filter that names nothing but an owner."""
    return given == type(given)(owner=given.owner)


def _place(name: str, use: Use) -> str:
    return name if use == "list" else f"$.filter.{name}"


def _check_batch(batch_id: str, owner: str | None, use: Use) -> None:
    try:
        ref = parse_batch_id(batch_id)
    except NotFound:
        raise InvalidInput("not the id of a batch", _place("batch", use)) from None
    if owner not in (None, ref.owner):
        raise NotFound("batch", ref.id)


def within_reach(given: int | str | None, now: datetime, path: str) -> datetime | None:
    """Return an instant of a client, moved to the nearest one at which tasks can exist. Raises InvalidInput."""
    at = filter_instant(given, now, path)
    return None if at is None else min(max(at, EARLIEST), LATEST)
