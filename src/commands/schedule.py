"""Deciders of a recurring schedule, over its history or over the last event of each kind.

      ScheduleCreated           SchedulePaused
Uncreated ─────► Created: runs ─────────────────► Created: paused
                  ▲ │ ▲ │  ◄───────────────────── │
    ScheduleFired │ │ │ │     ScheduleResumed     │  ScheduleDeleted
  ScheduleSkipped └─┘ └─┘                         └──────────────────► Deleted
                        ScheduleFailed, ScheduleTriggered, ScheduleChanged (paused, too)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

from msgspec import Raw, Struct
from msgspec.structs import replace

from ..errors import IdempotencyConflict, NotFound, RuleBroken
from ..events import schedule as events
from ..events.envelope import Recorded
from ..events.ids import ScheduleRef, run_ref
from ..events.schedule import Counts, Missed, Run, ScheduleCreated, ScheduleEvent, ScheduleSettings
from .recurrence import first_from, latest, next_after, upto

MOST_AT_ONCE = 100
"""Most runs that fire together; further due runs fire right after."""


class Uncreated(Struct, frozen=True, tag="uncreated"):
    """Never created."""


class DeletedSchedule(Struct, frozen=True, kw_only=True, tag="deleted"):
    schedule_id: str


class Failure(Struct, frozen=True, kw_only=True):
    """Why tasks could not be submitted."""

    at: datetime
    runs: tuple[Run, ...]
    error: str
    path: str


class Created(Struct, frozen=True, kw_only=True, tag="created"):
    """Created; running or paused."""

    schedule_id: str
    owner: str
    settings: ScheduleSettings
    fingerprint: str
    created_at: datetime
    changed_at: datetime
    """When its last event happened."""
    paused: bool = False
    pause_reason: str = ""
    next_at: datetime | None
    """UTC. The first run that is not handled yet; None: none."""
    counts: Counts = Counts()
    fired: tuple[Run, ...] = ()
    """The runs that fired last."""
    fired_at: datetime | None = None
    unsettled: bool = False
    """True while it is not known whether the tasks of the last runs were submitted."""
    failure: Failure | None = None
    """The last one."""
    skipped_at: datetime | None = None
    """When due runs were last found to be missed, of which none was caught up."""
    triggered: str = ""
    """The last task that was triggered by a request."""
    triggered_at: datetime | None = None


ScheduleState: TypeAlias = Uncreated | DeletedSchedule | Created

UNCREATED = Uncreated()


class CreateSchedule(Struct, frozen=True, kw_only=True):
    schedule_id: str
    owner: str
    settings: ScheduleSettings
    """Checked by `recurrence.check`."""
    fingerprint: str
    repeatable: bool
    """True with an Idempotency-Key: the same body again returns the same schedule."""


class ChangeSchedule(Struct, frozen=True, kw_only=True):
    """None: unchanged."""

    cron: str | None = None
    time_zone: str | None = None
    task: Raw | None = None
    missed: Missed | None = None
    catch_up: int | None = None
    name: str | None = None
    description: str | None = None


class PauseSchedule(Struct, frozen=True, kw_only=True):
    reason: str


class ResumeSchedule(Struct, frozen=True):
    """Resume a paused schedule."""


class FireSchedule(Struct, frozen=True, kw_only=True):
    """Fire the runs that are due."""

    ref: ScheduleRef
    grace: timedelta
    """How late a run may fire without counting as missed."""
    due_at: datetime | None = None
    """An instant that has passed by NATS' clock, whatever ours says; None: our clock decides."""
    settled: tuple[Run, ...] = ()
    """The runs that fired last, if their tasks are known to be submitted; nothing more fires before that."""


class RecordFailure(Struct, frozen=True, kw_only=True):
    """Record that tasks of the last runs could not be submitted."""

    runs: tuple[Run, ...]
    error: str
    path: str = ""


class TriggerSchedule(Struct, frozen=True, kw_only=True):
    """Record that its task was submitted on request."""

    task_id: str


class DeleteSchedule(Struct, frozen=True):
    """Delete it."""


ScheduleCommand: TypeAlias = (
    CreateSchedule
    | ChangeSchedule
    | PauseSchedule
    | ResumeSchedule
    | FireSchedule
    | RecordFailure
    | TriggerSchedule
    | DeleteSchedule
)


def decide(command: ScheduleCommand, state: ScheduleState, now: datetime) -> Sequence[ScheduleEvent]:
    """Return the events of a command; none if it is done already.

    Raises NotFound if there is no such schedule.
    """
    if isinstance(command, CreateSchedule):
        return create(command, state, now)
    if not isinstance(state, Created):
        raise NotFound("schedule", state.schedule_id if isinstance(state, DeletedSchedule) else "")
    match command:
        case ChangeSchedule():
            return change(command, state, now)
        case PauseSchedule():
            return [] if state.paused else [events.SchedulePaused(reason=command.reason, next_at=state.next_at)]
        case ResumeSchedule():
            return resume(state, now)
        case FireSchedule():
            return fire(command, state, now)
        case RecordFailure():
            return record_failure(command, state)
        case TriggerSchedule():
            if state.triggered == command.task_id:
                return []
            counts = replace(state.counts, triggered=state.counts.triggered + 1)
            return [events.ScheduleTriggered(task_id=command.task_id, counts=counts)]
        case DeleteSchedule():
            return [events.ScheduleDeleted()]
        case _:
            assert_never(command)


def create(command: CreateSchedule, state: ScheduleState, now: datetime) -> Sequence[ScheduleEvent]:
    if isinstance(state, DeletedSchedule):
        raise RuleBroken("the schedule that this Idempotency-Key made has been deleted; use a new key for a new one")
    if isinstance(state, Created):
        if command.repeatable and state.fingerprint != command.fingerprint:
            raise IdempotencyConflict
        return []  # without a key the id is new each time: our own, stored although its answer was lost
    settings = command.settings
    return [
        ScheduleCreated(
            schedule_id=command.schedule_id,
            owner=command.owner,
            settings=settings,
            next_at=next_after(settings.cron, settings.time_zone, now),
            fingerprint=command.fingerprint,
        )
    ]


def change(command: ChangeSchedule, state: Created, now: datetime) -> Sequence[ScheduleEvent]:
    given = {name: getattr(command, name) for name in command.__struct_fields__}
    settings = replace(state.settings, **{name: value for name, value in given.items() if value is not None})
    if settings == state.settings:
        return []
    same_times = (settings.cron, settings.time_zone) == (state.settings.cron, state.settings.time_zone)
    next_at = state.next_at if same_times else next_after(settings.cron, settings.time_zone, now)
    return [events.ScheduleChanged(settings=settings, next_at=next_at)]


def resume(state: Created, now: datetime) -> Sequence[ScheduleEvent]:
    """Runs during a pause count as missed, however short it was."""
    if not state.paused:
        return []
    if state.next_at is None or state.next_at > now:
        return [events.ScheduleResumed(next_at=state.next_at, counts=state.counts)]
    cron, time_zone = state.settings.cron, state.settings.time_zone
    caught_up, missed = latest(cron, time_zone, state.next_at, now, _most_caught_up(state.settings))
    counts = replace(state.counts, skipped=state.counts.skipped + missed - len(caught_up))
    return [
        events.ScheduleResumed(next_at=caught_up[0] if caught_up else first_from(cron, time_zone, now), counts=counts)
    ]


def fire(command: FireSchedule, state: Created, now: datetime) -> Sequence[ScheduleEvent]:
    """Fire the runs that are due.

    A run that is late by at most `grace` fires. A later one was missed: with `catch_up` the latest of these fire, and
    the others are skipped.
    """
    now = max(now, command.due_at or now)
    if state.paused or state.next_at is None or state.next_at > now:
        return []
    if state.unsettled and state.fired != command.settled:
        return []  # somebody has fired meanwhile, and sees to it
    settings = state.settings
    cron, time_zone = settings.cron, settings.time_zone
    in_time_from = now - command.grace
    caught_up: list[datetime] = []
    missed = 0
    first: datetime | None = state.next_at
    if state.next_at < in_time_from:
        caught_up, missed = latest(cron, time_zone, state.next_at, in_time_from, _most_caught_up(settings))
        first = first_from(cron, time_zone, in_time_from)
    end = now + timedelta(microseconds=1)
    in_time = upto(cron, time_zone, first, end, MOST_AT_ONCE) if first is not None else []
    due = [*caught_up, *in_time][:MOST_AT_ONCE]
    counts = replace(
        state.counts,
        fired=state.counts.fired + len(due),
        skipped=state.counts.skipped + missed - len(caught_up),
    )
    next_at = next_after(cron, time_zone, due[-1] if due else now)
    if not due:
        return [events.ScheduleSkipped(next_at=next_at, counts=counts)]
    runs = tuple(Run(occurrence=at, task_id=run_ref(command.ref, at).id) for at in due)
    return [events.ScheduleFired(runs=runs, next_at=next_at, counts=counts)]


def _most_caught_up(settings: ScheduleSettings) -> int:
    return settings.catch_up if settings.missed == "catch_up" else 0


def record_failure(command: RecordFailure, state: Created) -> Sequence[ScheduleEvent]:
    if not state.unsettled or not set(command.runs) <= set(state.fired):
        return []
    counts = replace(state.counts, failed=state.counts.failed + len(command.runs))
    return [events.ScheduleFailed(runs=command.runs, error=command.error, path=command.path, counts=counts)]


def evolve(state: ScheduleState, recorded: Recorded[ScheduleEvent]) -> ScheduleState:
    """Return the state after one more event.

    Each event is folded whatever the others said: where only the last one of each kind is read, some are missing.
    """
    event = recorded.event
    if isinstance(event, ScheduleCreated):
        return Created(
            schedule_id=event.schedule_id,
            owner=event.owner,
            settings=event.settings,
            fingerprint=event.fingerprint,
            created_at=recorded.at,
            changed_at=recorded.at,
            next_at=event.next_at,
        )
    if not isinstance(state, Created):
        return state
    state = replace(state, changed_at=recorded.at)
    match event:
        case events.ScheduleChanged():
            return replace(state, settings=event.settings, next_at=event.next_at)
        case events.SchedulePaused():
            return replace(state, paused=True, pause_reason=event.reason, next_at=event.next_at)
        case events.ScheduleResumed():
            return replace(state, paused=False, pause_reason="", next_at=event.next_at, counts=event.counts)
        case events.ScheduleFired():
            return replace(
                state,
                fired=event.runs,
                fired_at=recorded.at,
                unsettled=True,
                next_at=event.next_at,
                counts=event.counts,
            )
        case events.ScheduleSkipped():
            return replace(state, next_at=event.next_at, counts=event.counts, skipped_at=recorded.at)
        case events.ScheduleFailed():
            failure = Failure(at=recorded.at, runs=event.runs, error=event.error, path=event.path)
            return replace(state, failure=failure, unsettled=False, counts=event.counts)
        case events.ScheduleTriggered():
            return replace(state, triggered=event.task_id, triggered_at=recorded.at, counts=event.counts)
        case events.ScheduleDeleted():
            return DeletedSchedule(schedule_id=state.schedule_id)
        case _:
            assert_never(event)
