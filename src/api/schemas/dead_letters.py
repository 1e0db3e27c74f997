"""Dead letters as clients see them. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...projections.dead_letters import DeadLetterKind
from ...wire.fields import Instant, Name
from .bulk import ManyTasks
from .tasks import TaskSummary


class DeadLetterPage(Struct, kw_only=True, rename="camel"):
    """Dead letters; those that failed first come first. Their `failureKind` is how the last attempt failed."""

    dead_letters: list[TaskSummary]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last. A page may be short and still have one."""


class DeadLettersFilter(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Which dead letters are meant: those that all of this is true of; all, where nothing is said."""

    type: Annotated[list[Name], Meta(min_length=1)] | None = None
    """One of these."""
    kind: Annotated[list[DeadLetterKind], Meta(min_length=1)] | None = None
    """One of these."""
    since: Instant | None = None
    """Failed then or later. Milliseconds since the epoch or ISO 8601."""
    before: Instant | None = None
    """Failed before."""
    owner: Name | None = None
    """For admins: a user, or `*` for everybody. By default the caller."""


class DeadLettersBody(ManyTasks, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Dead letters, by their ids or by a filter: one of the two."""

    filter: DeadLettersFilter | None = None
