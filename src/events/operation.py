"""The events of an operation: one command for the many tasks that a filter finds, page by page.

Each event carries the full new value of what it changes, and the log keeps the last one of each kind.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from .envelope import NULL, Event

OperationAction = Literal["cancel", "retry", "delete", "discard"]
"""What the tasks are told; `discard`: delete, of dead letters only."""


class RefusalCount(Struct, frozen=True, kw_only=True):
    """How many tasks refused the command for one reason."""

    reason: str
    count: int


class OperationCounts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of the command for the tasks so far."""

    done: int = 0
    unchanged: int = 0
    """Tasks that were already so."""
    refused: tuple[RefusalCount, ...] = ()


class OperationStarted(Event, frozen=True, kw_only=True):
    """An operation was started. It gives its command in the name of the owner."""

    operation_id: str
    owner: str
    """Subject of the JWT, unchanged."""
    is_admin: bool = False
    """The owner may command the tasks of others."""
    action: OperationAction
    dead_letters: bool = False
    """Only dead letters, whatever else the filter says."""
    filter: Raw = NULL
    """JSON of a filter as the API takes it, its times fixed; null: `ids` instead."""
    ids: tuple[str, ...] = ()
    reason: str = ""
    """Recorded in the history of each task."""
    dry_run: bool = False
    """Nothing changes: the counts are of what would."""
    as_of: int
    """Sequence of the TASKS log. Only tasks that were submitted until then are looked at."""
    total: int = 0
    """How many tasks matched at the start."""
    total_capped: bool = False
    """There were more than `total`."""
    fingerprint: str = ""
    """Of the request, with an Idempotency-Key."""


class OperationAdvanced(Event, frozen=True, kw_only=True):
    """A page of tasks was commanded, and the next one was found."""

    page: int
    """Number of the page that was found, from 1."""
    counts: OperationCounts
    """Of all pages before this one."""
    ids: tuple[str, ...] = ()
    """The tasks of the page, which have the command or are about to get it."""
    cursor: str = ""
    """Where the page after this one begins; empty: at the beginning."""
    is_last: bool = False
    """No page comes after this one."""


class OperationPaused(Event, frozen=True, kw_only=True):
    """No further page begins until it is resumed."""

    reason: str = ""


class OperationResumed(Event, frozen=True, kw_only=True):
    """It goes on with the next page."""


class OperationStopped(Event, frozen=True, kw_only=True):
    """No further page begins any more. The counts of a page that had begun follow, in OperationAdvanced."""

    reason: str = ""


class OperationFinished(Event, frozen=True, kw_only=True):
    """All matching tasks have been commanded."""

    counts: OperationCounts


class OperationFailed(Event, frozen=True, kw_only=True):
    """It cannot go on."""

    error: str
    counts: OperationCounts


OperationEvent: TypeAlias = (
    OperationStarted
    | OperationAdvanced
    | OperationPaused
    | OperationResumed
    | OperationStopped
    | OperationFinished
    | OperationFailed
)
