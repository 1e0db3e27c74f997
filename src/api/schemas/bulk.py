"""Commands for many tasks at once, dead letters among them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...projections.dead_letters import DeadLetterKind
from ...projections.task_view import Status
from ...submission.body import TaskIdText
from ...wire.fields import BATCH_ID_PATTERN, TASK_ID_PATTERN, FilterInstant, Name
from .shared import Page
from .tasks import TaskSummary

MOST_IDS = 1_000


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
    """Tasks that match every field given."""

    type: Annotated[list[Name], Meta(min_length=1)] | None = None
    """Any of these."""
    batch: Annotated[str, Meta(pattern=BATCH_ID_PATTERN)] | None = None
    """Id of their batch."""
    schedule: Annotated[str, Meta(pattern=TASK_ID_PATTERN)] | None = None
    """Id of the recurring schedule that submitted them."""
    project: Annotated[str, Meta(min_length=1)] | None = None
    """The name of a project of the queue surface."""
    created_after: FilterInstant | None = None
    """Submitted at or after this: ISO 8601, milliseconds since the epoch, or a time ago, as in `1h`."""
    created_before: FilterInstant | None = None
    """Submitted before this."""
    owner: Name | None = None
    """A user. Others than the caller: admins only, in lists also auditors, who may name all with `*`. They see
    everybody's by default, and must name the owner of what they change."""


class BulkFilter(TaskSelection, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks that match every field given. At least one field besides `owner` is required."""

    status: Annotated[list[Status], Meta(min_length=1)] | None = None
    """Any of these."""


class DeadLettersFilter(TaskSelection, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Dead letters that match every field given; an empty filter matches all."""

    kind: Annotated[list[DeadLetterKind], Meta(min_length=1)] | None = None
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


class DeadLettersBody(ManyTasks, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Dead letters, by ids or by a filter: exactly one of the two."""

    filter: DeadLettersFilter | None = None
