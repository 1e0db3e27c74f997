"""What can happen to a recurring schedule.

Each event says what it changes in full: the counts so far, the next run. So the last event of each kind tells as much
as all of them, and a schedule that has run a million times is read as quickly as a new one.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from .envelope import Event

Missed = Literal["skip", "catch_up"]
"""What becomes of runs that nobody was there for, or that a pause passed over."""


class ScheduleSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is submitted, and when."""

    cron: str
    """Five fields, or six with seconds first; or a name such as `@daily`."""
    time_zone: str = "UTC"
    """A name of the IANA database: whose clock `cron` is about."""
    task: Raw
    """JSON text of the submission, byte for byte as it was sent."""
    missed: Missed = "skip"
    catch_up: int = 1
    """How many of the runs missed are made up for, the latest; for `catch_up` alone."""
    name: str = ""
    description: str = ""


class Run(Struct, frozen=True, kw_only=True):
    """One time that a schedule's task was due."""

    occurrence: datetime
    """UTC. The instant that `cron` names."""
    task_id: str


class Counts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many there have been in all."""

    fired: int = 0
    """Runs that were due and whose tasks were to be submitted."""
    skipped: int = 0
    """Runs that were missed and not made up for. Of a long absence at most 1,000 are counted."""
    failed: int = 0
    """Of those fired: their tasks could not be submitted."""
    triggered: int = 0
    """Runs that somebody asked for."""


class ScheduleCreated(Event, frozen=True, kw_only=True):
    schedule_id: str
    owner: str
    """The JWT subject, as it was."""
    settings: ScheduleSettings
    next_at: datetime | None
    """UTC. When it runs next; None: never."""
    fingerprint: str = ""
    """SHA-256 of the request body, hex: what a repeated Idempotency-Key is compared by."""


class ScheduleChanged(Event, frozen=True, kw_only=True):
    """It was given other settings, in place of all it had."""

    settings: ScheduleSettings
    next_at: datetime | None


class SchedulePaused(Event, frozen=True, kw_only=True):
    """It does not run until it is resumed."""

    reason: str
    next_at: datetime | None
    """The first run that the pause passes over."""


class ScheduleResumed(Event, frozen=True, kw_only=True):
    next_at: datetime | None
    """Before now where runs that the pause passed over are to be caught up."""
    counts: Counts


class ScheduleFired(Event, frozen=True, kw_only=True):
    """Runs fell due. Their tasks are submitted next, each under the id that is given here."""

    runs: tuple[Run, ...]
    """Oldest first; several where some are caught up, or the schedule is a very quick one."""
    next_at: datetime | None
    counts: Counts


class ScheduleSkipped(Event, frozen=True, kw_only=True):
    """Runs were missed, and none of them is made up for."""

    next_at: datetime | None
    counts: Counts


class ScheduleFailed(Event, frozen=True, kw_only=True):
    """Tasks of runs that had fired could not be submitted: their type has become stricter, say. It goes on."""

    runs: tuple[Run, ...]
    error: str
    path: str = ""
    """Where in the submission the trouble is, as in `$.payload.width`; empty: it is not about a part of it."""
    counts: Counts


class ScheduleTriggered(Event, frozen=True, kw_only=True):
    """Its task was submitted because somebody asked for it, whatever the time."""

    task_id: str
    counts: Counts


class ScheduleDeleted(Event, frozen=True, kw_only=True):
    """It is gone. The tasks it has submitted stay."""


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
