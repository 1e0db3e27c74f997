"""Commands for many tasks at once, dead letters among them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from ...events.task import FailureKind, Priority
from ...index.dead_letters import DeadLetterGroup, DeadLetterGroups
from ...index.facts import Hold
from ...instants import from_microseconds, iso
from ...projections.dead_letters import DeadLetterKind
from ...projections.task_view import Status
from ...submission.body import TaskIdText
from ...wire.fields import BATCH_ID_PATTERN, ID_PREFIX_PATTERN, TASK_ID_PATTERN, FilterDuration, FilterInstant, Name
from .shared import Page
from .tasks import TaskSummary

MOST_IDS = 1_000
MOST_NAMED = 8
"""Labels, or searchable fields, of one filter."""
ShortText = Annotated[str, Meta(min_length=1, max_length=600)]
Text = Annotated[str, Meta(max_length=256)]


class ManyTasks(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks to command, by ids or by a filter: exactly one of the two."""

    ids: Annotated[list[TaskIdText], Meta(min_length=1, max_length=MOST_IDS)] | None = None
    dry_run: bool = False
    """Change nothing, and return what would change."""
    reason: Annotated[str, Meta(max_length=300)] = ""
    """Recorded in the history of each task."""
    cursor: str | None = None
    """`nextCursor` of the previous answer, to continue with the same filter."""


class TaskSelection(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks that match every field given. Of a list, any value."""

    status: Annotated[list[Status], Meta(min_length=1)] | None = None
    type: Annotated[list[Name], Meta(min_length=1)] | None = None
    pool: Annotated[list[Name], Meta(min_length=1)] | None = None
    server: Annotated[list[Name], Meta(min_length=1)] | None = None
    """Ids of the servers that run them, or ran them last."""
    priority: Annotated[list[Priority], Meta(min_length=1)] | None = None
    kind: Annotated[list[FailureKind], Meta(min_length=1)] | None = None
    """`failureKind` of the tasks."""
    hold: Annotated[list[Hold], Meta(min_length=1)] | None = None
    """What waiting tasks wait for, as far as their own histories say."""
    labels: Annotated[dict[ShortText, Text], Meta(max_length=MOST_NAMED)] = {}
    """Labels that they require or prefer."""
    payload: Annotated[dict[ShortText, Text], Meta(max_length=MOST_NAMED)] = {}
    """Values of searchable fields: `{"customer": "acme"}` for `$.customer` of the type's `indexed`."""
    error: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """A part of the error; upper and lower case of the letters A to Z are the same."""
    shape: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """Fingerprint of the error, from `GET /api/errors`."""
    attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Their last attempt has this number or a higher one."""
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    """Their concurrency key."""
    id: Annotated[str, Meta(pattern=ID_PREFIX_PATTERN)] | None = None
    """Beginning of their ids."""
    min_run: FilterDuration | None = None
    """From the first start to the end, of running tasks until now: seconds, or as in `90s`, `5m`, `1h`."""
    batch: Annotated[str, Meta(pattern=BATCH_ID_PATTERN)] | None = None
    """Id of their batch."""
    schedule: Annotated[str, Meta(pattern=TASK_ID_PATTERN)] | None = None
    """Id of the recurring schedule that submitted them."""
    project: Annotated[str, Meta(min_length=1)] | None = None
    """The name of a project of the queue surface."""
    created_after: FilterInstant | None = None
    """Submitted at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`."""
    created_since: FilterInstant | None = None
    """The same as `createdAfter`."""
    created_before: FilterInstant | None = None
    """Submitted before this."""
    started_since: FilterInstant | None = None
    """First started at or after this."""
    started_before: FilterInstant | None = None
    ended_since: FilterInstant | None = None
    """Ended at or after this."""
    ended_before: FilterInstant | None = None
    updated_since: FilterInstant | None = None
    """Last changed at or after this."""
    updated_before: FilterInstant | None = None
    owner: Name | None = None
    """A user. Others than the caller: admins only, in lists also auditors, who may name all with `*`. They see
    everybody's by default, and must name the owner of what they change."""


class BulkFilter(TaskSelection, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks that match every field given. At least one field besides `owner` is required."""


class DeadLettersFilter(TaskSelection, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Dead letters that match every field given; an empty filter matches all."""

    kind: Annotated[list[DeadLetterKind], Meta(min_length=1)] | None = None  # type: ignore[assignment]
    """Any of these."""
    since: FilterInstant | None = None
    """Failed at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`."""
    before: FilterInstant | None = None
    """Failed before this."""


class BulkBody(ManyTasks, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks, by ids or by a filter: exactly one of the two."""

    filter: BulkFilter | None = None


class RefusedTasks(Struct, kw_only=True):
    """Tasks that refused the command for the same reason."""

    reason: str
    count: int
    ids: list[str]


class BulkAnswer(Page, kw_only=True, rename="camel"):
    """The outcome of a command for many tasks. `matched` is the sum of `done`, `unchanged` and the refused ones.

    With a `nextCursor` more tasks may match: send it as `cursor` with the same filter.
    """

    dry_run: bool
    """True if nothing changed: these are the counts of what would."""
    matched: int
    done: int
    unchanged: int
    """Tasks the command did not change: they were already so."""
    refused: list[RefusedTasks]


class DeadLetterPage(Page, kw_only=True, rename="camel"):
    """Dead letters, the earliest failure first. `failureKind` is how the last attempt failed."""

    dead_letters: list[TaskSummary]


class DeadLetterExample(Struct, kw_only=True, rename="camel"):
    """A dead letter of a group."""

    task_id: str
    error: str


class DeadLetterGroupInfo(Struct, kw_only=True, rename="camel"):
    """Dead letters with the same error, of one type, or of one server."""

    value: str
    """The fingerprint (filter `shape`), the type or the server, as the list of dead letters is filtered by it. An empty
    server: it was on none."""
    kind: DeadLetterKind | None
    """The kind of failure; null: there are several."""
    shape: str | None
    """The text of the errors, with placeholders such as `<n>` for what differs; null: they are not grouped by error."""
    count: int
    first: str
    """When the first of them failed."""
    last: str
    kinds: dict[DeadLetterKind, int]
    types: dict[str, int]
    """The 20 with the most; so are servers."""
    servers: dict[str, int]
    trend: list[int]
    """Failures in each step."""
    example: DeadLetterExample
    """The one that failed last."""


class DeadLetterGroupsAnswer(Struct, kw_only=True, rename="camel"):
    """Dead letters in groups, the largest first."""

    groups: list[DeadLetterGroupInfo]
    """At most 200."""
    more: bool
    """True: there are more groups."""
    count: int
    """Dead letters of all groups."""
    capped: bool
    """True: there are more; only the last ones, 10,000 at most, are counted."""
    since: str
    """When the first step of the trends begins; the last one is not over."""
    step: int
    """Seconds."""
    as_of: int
    """Sequence of the log that the groups reflect."""


class DeadLettersBody(ManyTasks, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Dead letters, by ids or by a filter: exactly one of the two."""

    filter: DeadLettersFilter | None = None


MOST_GROUPS = 200
MOST_NAMES = 20


def dead_letter_groups(found: DeadLetterGroups, *, by_error: bool) -> DeadLetterGroupsAnswer:
    return DeadLetterGroupsAnswer(
        groups=[_group(group, by_error=by_error) for group in found.groups[:MOST_GROUPS]],
        more=len(found.groups) > MOST_GROUPS,
        count=found.count,
        capped=found.capped,
        since=iso(found.start),
        step=int(found.step.total_seconds()),
        as_of=found.sequence,
    )


def _group(group: DeadLetterGroup, *, by_error: bool) -> DeadLetterGroupInfo:
    kinds: dict[Any, int] = dict(group.kinds.most_common())
    return DeadLetterGroupInfo(
        value=group.value,
        kind=next(iter(kinds)) if len(kinds) == 1 else None,
        shape=group.shape if by_error else None,
        count=group.count,
        first=iso(from_microseconds(group.first)),
        last=iso(from_microseconds(group.last)),
        kinds=kinds,
        types=dict(group.types.most_common(MOST_NAMES)),
        servers=dict(group.servers.most_common(MOST_NAMES)),
        trend=group.trend,
        example=DeadLetterExample(task_id=group.example_task, error=group.example_text),
    )
