"""Commands to many tasks at once, and what came of them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...projections.task_view import Status
from ...submission.body import TaskIdText
from ...wire.fields import BATCH_ID_PATTERN, Instant, Name

MOST_IDS = 1_000


class ManyTasks(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks that something is to be done with: by their ids or by a filter, one of the two."""

    ids: Annotated[list[TaskIdText], Meta(min_length=1, max_length=MOST_IDS)] | None = None
    dry_run: bool = False
    """Only say what would be done."""
    reason: Annotated[str, Meta(max_length=300)] = ""
    """Kept in the tasks' histories."""
    cursor: str | None = None
    """`nextCursor` of the answer before, with the same filter: goes on where that left off."""


class BulkFilter(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Which tasks are meant: those that all of this is true of. At least one thing must be said."""

    status: Annotated[list[Status], Meta(min_length=1)] | None = None
    """One of these."""
    type: Annotated[list[Name], Meta(min_length=1)] | None = None
    """One of these."""
    batch: Annotated[str, Meta(pattern=BATCH_ID_PATTERN)] | None = None
    """Id of the batch they were submitted with."""
    created_after: Instant | None = None
    """Submitted then or later. Milliseconds since the epoch or ISO 8601."""
    created_before: Instant | None = None
    """Submitted before."""
    project: Annotated[str, Meta(min_length=1)] | None = None
    """A project of the queue surface, by its name."""
    owner: Name | None = None
    """For admins: a user, or `*` for everybody. By default the caller."""


class BulkBody(ManyTasks, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Tasks, by their ids or by a filter: one of the two."""

    filter: BulkFilter | None = None


class RefusedTasks(Struct, kw_only=True):
    """Tasks for which it was refused, for one reason."""

    reason: str
    count: int
    ids: list[str]


class BulkAnswer(Struct, kw_only=True, rename="camel"):
    """What came of a command to many tasks. `matched` = `done` + `unchanged` + those refused."""

    dry_run: bool
    """Nothing was done: this is what would be."""
    matched: int
    done: int
    unchanged: int
    """Those that were so already."""
    refused: list[RefusedTasks]
    next_cursor: str | None
    """There may be more that match: pass as `cursor`, with the same filter. Null: that was all."""
