"""Recurring schedules as clients see them. Times are milliseconds since the epoch."""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ...commands.cron_words import clock_warnings, cron_words
from ...commands.recurrence import LONGEST_CRON, occurrences
from ...commands.schedule import Created, Failure
from ...events.schedule import Missed, Run
from ...events.task import FailureKind
from ...instants import milliseconds, optional_milliseconds
from ...projections.schedule_runs import PastRun, RunOutcome
from ...projections.task_view import Status, TaskView
from ..auth.access import WITHHELD
from .shared import Page

NEXT_RUNS = 5

Cron = Annotated[str, Meta(min_length=1, max_length=LONGEST_CRON)]
Zone = Annotated[str, Meta(min_length=1, max_length=64)]
CatchUp = Annotated[int, Meta(ge=1, le=100)]
Title = Annotated[str, Meta(max_length=128)]
Description = Annotated[str, Meta(max_length=1000)]


class ScheduleBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A recurring schedule to create."""

    cron: Cron
    """Minute, hour, day of month, month, day of week; of six, the first is seconds. Or a name such as `@daily`."""
    time_zone: Zone = "UTC"
    """Time zone of `cron`, by its IANA name, as in `Europe/Berlin`."""
    task: Raw
    """A submission in the full form, without `runAt`, `expiresAt`, `deadline` and `dependsOn`."""
    missed: Missed = "skip"
    """What to do about runs missed while the service was down or the schedule paused: skip them, or catch up."""
    catch_up: CatchUp = 1
    """How many missed runs to catch up, the latest ones. Used if `missed` is `catch_up`."""
    name: Title = ""
    description: Description = ""


class ScheduleChange(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The fields of a schedule to change; others stay."""

    cron: Cron | UnsetType = UNSET
    time_zone: Zone | UnsetType = UNSET
    task: Raw | UnsetType = UNSET
    missed: Missed | UnsetType = UNSET
    catch_up: CatchUp | UnsetType = UNSET
    name: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class ScheduledRun(Struct, kw_only=True, rename="camel"):
    """A run of a schedule."""

    due_at: int
    task_id: str


class FiredRuns(Struct, kw_only=True, rename="camel"):
    """Runs that were submitted together."""

    at: int
    """When they were submitted, which is later than they were due."""
    runs: list[ScheduledRun]


class FailedRuns(Struct, kw_only=True, rename="camel"):
    """Runs whose tasks could not be submitted."""

    at: int
    runs: list[ScheduledRun]
    error: str
    path: str | None
    """Path in `task` of what is wrong; null if no part of it is."""


class ScheduleCounts(Struct, kw_only=True, rename="camel"):
    fired: int
    """Runs that were due and submitted, or refused."""
    skipped: int
    """Runs missed and not caught up. At most 1,000 are counted for one downtime or pause."""
    failed: int
    """Those of `fired` whose tasks were refused."""
    triggered: int
    """Runs started by hand."""


class ScheduleSummary(Struct, kw_only=True, rename="camel"):
    """A recurring schedule."""

    id: str
    owner: str
    """The `sub` of the creator's token. The tasks have the same owner."""
    name: str
    description: str
    cron: str
    time_zone: str
    missed: Missed
    catch_up: int
    paused: bool
    pause_reason: str | None
    """Why it is paused; null unless it is."""
    next_at: int | None
    """The next run; null if it is paused or never runs again."""
    last_fired: FiredRuns | None
    last_failure: FailedRuns | None
    last_triggered_task_id: str | None
    counts: ScheduleCounts
    created_at: int
    updated_at: int
    """When it last ran, failed or changed."""


class ScheduleDetail(ScheduleSummary, kw_only=True, rename="camel"):
    """A recurring schedule with its task and next runs."""

    task: Raw
    """As it was created; without its `payload` if that is withheld."""
    withheld: str | UnsetType = UNSET
    """Why the payload is missing in `task`: the caller may not read it. Else missing."""
    next_runs: list[int]
    """The next five runs; none while it is paused."""
    held_reason: str | None
    """Why a run that is due waits: the store is full, or the owner over the quota of stored bytes. Null: none waits."""


class PreviewBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A cron expression to look at."""

    cron: Cron
    time_zone: Zone = "UTC"


class SchedulePreview(Struct, kw_only=True, rename="camel"):
    """When a schedule would run."""

    words: str
    """The expression in English."""
    next_runs: list[int]
    """The next five runs, fewer if there are fewer in fifty years."""
    local_times: list[str]
    """The same in the time zone, ISO 8601 with its offset."""
    warnings: list[str]
    """What happens where clocks change within 400 days, if that concerns the expression."""


class PastScheduleRun(Struct, kw_only=True, rename="camel"):
    """A run that is over for the schedule; its task may still run."""

    outcome: RunOutcome
    """`fired`: its task was submitted. `refused`: the task was refused. `missed`: no process could fire it in time.
    `skipped`: the schedule was paused. `triggered`: started by a request."""
    due_at: int | None
    """When it was due, of several the first. Null: it was triggered."""
    at: int
    """When it was recorded."""
    count: int
    """How many runs were missed or skipped together, at most 1,000 for one absence; else 1."""
    task_id: str | None
    status: Status | None
    """Of its task. Null: there is none, it is about to be submitted, it was deleted, or it is past its retention."""
    failure_kind: FailureKind | None
    error: str | None
    """Why the task was refused, or failed."""
    path: str | None
    """Path in the schedule's task of what was refused; null if no part of it is."""


class ScheduleRunPage(Page, kw_only=True, rename="camel"):
    """Runs of a schedule, the last one first."""

    runs: list[PastScheduleRun]


class SchedulePage(Page, kw_only=True, rename="camel"):
    """Schedules by id: newest first, except those made with an Idempotency-Key, whose ids are not by time."""

    schedules: list[ScheduleSummary]


class ScheduleRun(Struct, kw_only=True, rename="camel"):
    """A run started by hand."""

    id: str
    task_id: str
    success: bool = True


def preview(cron: str, time_zone: str, now: datetime) -> SchedulePreview:
    """Return when a checked expression runs."""
    runs = list(itertools.islice(occurrences(cron, time_zone, now), NEXT_RUNS))
    zone = zoneinfo.ZoneInfo(time_zone)
    return SchedulePreview(
        words=cron_words(cron),
        next_runs=[milliseconds(run) for run in runs],
        local_times=[run.astimezone(zone).isoformat() for run in runs],
        warnings=clock_warnings(cron, time_zone, now),
    )


def past_run(run: PastRun, view: TaskView | None) -> PastScheduleRun:
    """Return a run as clients see it. `view`: of its task, if there is one."""
    return PastScheduleRun(
        outcome=run.outcome,
        due_at=optional_milliseconds(run.due_at),
        at=milliseconds(run.at),
        count=run.count,
        task_id=run.task_id or None,
        status=view.status if view is not None else None,
        failure_kind=view.failure if view is not None else None,
        error=run.error or (view.error if view is not None and view.status == "FAILED" else "") or None,
        path=run.path or None,
    )


def schedule_summary(schedule: Created) -> ScheduleSummary:
    return ScheduleSummary(**_summary(schedule))


def schedule_detail(
    schedule: Created, now: datetime, held: str | None = None, *, bodies: bool = True
) -> ScheduleDetail:
    """Return a schedule. `held`: why its runs wait, if any is due. Without `bodies`, its payload is withheld."""
    settings = schedule.settings
    runs: list[datetime] = []
    if schedule.next_at is not None and not schedule.paused:
        following = occurrences(settings.cron, settings.time_zone, max(now, schedule.next_at))
        first = [schedule.next_at] if schedule.next_at > now else []
        runs = [*first, *itertools.islice(following, NEXT_RUNS - len(first))]
    is_due = schedule.next_at is not None and not schedule.paused and schedule.next_at <= now
    return ScheduleDetail(
        **_summary(schedule),
        task=schedule.settings.task if bodies else _without_payload(schedule.settings.task),
        withheld=UNSET if bodies else WITHHELD,
        next_runs=[milliseconds(run) for run in runs],
        held_reason=held if is_due else None,
    )


def _without_payload(task: Raw) -> Raw:
    fields = msgspec.json.decode(task, type=dict[str, Raw])
    fields.pop("payload", None)
    return Raw(msgspec.json.encode(fields))


def _summary(schedule: Created) -> dict[str, Any]:
    settings = schedule.settings
    return {
        "id": schedule.schedule_id,
        "owner": schedule.owner,
        "name": settings.name,
        "description": settings.description,
        "cron": settings.cron,
        "time_zone": settings.time_zone,
        "missed": settings.missed,
        "catch_up": settings.catch_up,
        "paused": schedule.paused,
        "pause_reason": schedule.pause_reason if schedule.paused else None,
        "next_at": None if schedule.paused else optional_milliseconds(schedule.next_at),
        "last_fired": _fired(schedule),
        "last_failure": _failed(schedule.failure) if schedule.failure else None,
        "last_triggered_task_id": schedule.triggered or None,
        "counts": msgspec.convert(schedule.counts, ScheduleCounts, from_attributes=True),
        "created_at": milliseconds(schedule.created_at),
        "updated_at": milliseconds(schedule.changed_at),
    }


def _fired(schedule: Created) -> FiredRuns | None:
    if schedule.fired_at is None:
        return None
    return FiredRuns(at=milliseconds(schedule.fired_at), runs=_runs(schedule.fired))


def _failed(failure: Failure) -> FailedRuns:
    return FailedRuns(
        at=milliseconds(failure.at), runs=_runs(failure.runs), error=failure.error, path=failure.path or None
    )


def _runs(runs: Sequence[Run]) -> list[ScheduledRun]:
    return [ScheduledRun(due_at=milliseconds(run.occurrence), task_id=run.task_id) for run in runs]
