"""The events of a recurring schedule.

Each event carries the full new value of what it changes, such as the counts and the next run. So the last event of each
kind is enough: a schedule that ran a million times loads as fast as a new one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from .envelope import Event

Missed = Literal["skip", "catch_up"]
"""What happens to missed runs: due while no process ran, or during a pause."""


class ScheduleSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The task to submit, and when."""

    cron: str
    """Five fields, or six with seconds first; or a name such as `@daily`."""
    time_zone: str = "UTC"
    """IANA name of the time zone of `cron`."""
    task: Raw
    """JSON text of the submission; if it had line breaks, without insignificant whitespace."""
    missed: Missed = "skip"
    catch_up: int = 1
    """With `catch_up`: how many missed runs are made up for, the latest ones."""
    name: str = ""
    description: str = ""


class Run(Struct, frozen=True, kw_only=True):
    """One run of a schedule."""

    occurrence: datetime
    """UTC. The instant that `cron` names."""
    task_id: str


class Counts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Total numbers of runs."""

    fired: int = 0
    """Runs that were due and fired."""
    skipped: int = 0
    """Missed runs that were not made up for. At most 1,000 are counted for one absence."""
    failed: int = 0
    """Fired runs whose tasks could not be submitted."""
    triggered: int = 0
    """Runs triggered by a request."""


class ScheduleCreated(Event, frozen=True, kw_only=True):
    schedule_id: str
    owner: str
    """Subject of the JWT, unchanged."""
    settings: ScheduleSettings
    next_at: datetime | None
    """UTC. When it runs next; None: never."""
    fingerprint: str = ""
    """SHA-256 of the request body, hex. A repeated Idempotency-Key must come with the same."""


class ScheduleChanged(Event, frozen=True, kw_only=True):
    """Its settings were replaced."""

    settings: ScheduleSettings
    next_at: datetime | None


class SchedulePaused(Event, frozen=True, kw_only=True):
    """It does not run until it is resumed."""

    reason: str
    next_at: datetime | None
    """The first run that the pause skips."""


class ScheduleResumed(Event, frozen=True, kw_only=True):
    next_at: datetime | None
    """In the past if runs that the pause skipped are to be caught up."""
    counts: Counts


class ScheduleFired(Event, frozen=True, kw_only=True):
    """Runs fell due. Their tasks are submitted next, with these ids."""

    runs: tuple[Run, ...]
    """Oldest first. Several if runs are caught up, or due at short intervals."""
    next_at: datetime | None
    counts: Counts


class ScheduleSkipped(Event, frozen=True, kw_only=True):
    """Missed runs were skipped."""

    next_at: datetime | None
    counts: Counts


class ScheduleFailed(Event, frozen=True, kw_only=True):
    """Tasks of fired runs could not be submitted: their type may be stricter now. The schedule continues."""

    runs: tuple[Run, ...]
    error: str
    path: str = ""
    """JSON path of the error in the submission, such as `$.payload.width`; empty: the whole submission."""
    counts: Counts


class ScheduleTriggered(Event, frozen=True, kw_only=True):
    """Its task was submitted on request."""

    task_id: str
    counts: Counts


class ScheduleDeleted(Event, frozen=True, kw_only=True):
    """It was deleted. The tasks it submitted stay."""


ScheduleEvent: TypeAlias = (
    ScheduleCreated
    | ScheduleChanged
    | SchedulePaused
    | ScheduleResumed
    | ScheduleFired
    | ScheduleSkipped
    | ScheduleFailed
    | ScheduleTriggered
    | ScheduleDeleted
)
