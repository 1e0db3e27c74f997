"""What may be done with a recurring schedule, and what comes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from taskstream.commands import schedule
from taskstream.commands.recurrence import upto
from taskstream.commands.schedule import (
    MOST_AT_ONCE,
    UNCREATED,
    ChangeSchedule,
    Created,
    CreateSchedule,
    DeleteSchedule,
    FireSchedule,
    PauseSchedule,
    RecordFailure,
    ResumeSchedule,
    ScheduleCommand,
    TriggerSchedule,
)
from taskstream.errors import IdempotencyConflict, NotFound, RuleBroken
from taskstream.events.codec import schedule_codec
from taskstream.events.envelope import Recorded
from taskstream.events.ids import ScheduleRef, run_ref
from taskstream.events.schedule import (
    Counts,
    Run,
    ScheduleChanged,
    ScheduleCreated,
    ScheduleDeleted,
    ScheduleEvent,
    ScheduleFailed,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSettings,
    ScheduleSkipped,
    ScheduleTriggered,
)

from .support import NOW, Given, recorded, seconds

given = Given(schedule.decide, schedule.evolve, UNCREATED)
REF = ScheduleRef("alice", "0" * 26)
HOURLY = ScheduleSettings(cron="0 * * * *", task=Raw(b'{"payload":1}'))
PATIENT = replace(HOURLY, missed="catch_up", catch_up=3)
GRACE = timedelta(minutes=1)


def hour(number: int) -> datetime:
    """Return a full hour of the day; the tests' NOW is a little after the third."""
    return NOW.replace(hour=0, minute=0, second=0) + timedelta(hours=number)


def created(settings: ScheduleSettings = HOURLY) -> ScheduleCreated:
    return ScheduleCreated(schedule_id=REF.id, owner="alice", settings=settings, next_at=hour(4), fingerprint="f")


def create(**more: Any) -> CreateSchedule:
    values = {"schedule_id": REF.id, "owner": "alice", "settings": HOURLY, "fingerprint": "f", "repeatable": True}
    return CreateSchedule(**(values | more))


def fire(**more: Any) -> FireSchedule:
    return FireSchedule(ref=REF, grace=GRACE, **more)


def runs(*hours: int) -> tuple[Run, ...]:
    return tuple(Run(occurrence=hour(number), task_id=run_ref(REF, hour(number)).id) for number in hours)


def fired(*hours: int, **counts: int) -> ScheduleFired:
    return ScheduleFired(runs=runs(*hours), next_at=hour(hours[-1] + 1), counts=Counts(**counts))


# Created, and not twice


def test_it_is_created_with_its_next_run() -> None:
    given.when(create()).then(created()).is_quiet()


def test_the_same_key_with_another_body_is_refused() -> None:
    given(created()).when(create(fingerprint="g")).is_refused(IdempotencyConflict)


def test_the_key_of_a_deleted_one_is_spent() -> None:
    given(created(), ScheduleDeleted()).when(create()).is_refused(RuleBroken, "has been deleted")


def test_it_is_created_with_every_field_and_once_also_without_a_key() -> None:
    zoned = replace(HOURLY, cron="30 6 * * *", time_zone="Europe/Berlin", name="n", description="d")
    again = create(settings=zoned, owner="bob", fingerprint="g", repeatable=False)

    expected = ScheduleCreated(
        schedule_id=REF.id,
        owner="bob",
        settings=zoned,
        next_at=NOW.replace(hour=5, minute=30, second=0),
        fingerprint="g",
    )
    given.when(again).then(expected).is_quiet()
    given(created()).when(again).is_quiet()


def test_one_that_is_never_due_again_has_no_next_run() -> None:
    last = replace(created(), next_at=None)

    given(last).when(fire(), at=hour(9)).is_quiet()
    paused = given(last, SchedulePaused(reason="r", next_at=None))
    paused.when(ResumeSchedule(), at=hour(9)).then(ScheduleResumed(next_at=None, counts=Counts()))


def test_it_is_deleted_once() -> None:
    given(created()).when(DeleteSchedule()).then(ScheduleDeleted()).is_refused(NotFound)


# When it fires


def test_it_fires_when_it_is_due_and_once() -> None:
    given(created()).when(fire(), at=hour(4)).then(fired(4, fired=1)).is_quiet()
    given(created()).when(fire(), at=hour(4) - seconds(0.001)).is_quiet()


def test_the_timer_is_believed_where_our_clock_is_behind() -> None:
    given(created()).when(fire(due_at=hour(4)), at=hour(3)).then(fired(4, fired=1))


def test_a_stale_timer_changes_nothing() -> None:
    given(created(), fired(4, fired=1)).when(fire(due_at=hour(4), settled=runs(4)), at=hour(4)).is_quiet()


def test_nothing_fires_before_what_fired_last_is_settled() -> None:
    given(created(), fired(4, fired=1)).when(fire(), at=hour(5)).is_quiet()
    given(created(), fired(4, fired=1)).when(fire(settled=runs(4)), at=hour(5)).then(fired(5, fired=2))


def test_a_run_that_is_late_within_the_grace_fires() -> None:
    given(created()).when(fire(), at=hour(4) + GRACE).then(fired(4, fired=1))


def test_runs_missed_are_skipped() -> None:
    skipped = ScheduleSkipped(next_at=hour(7), counts=Counts(skipped=3))

    given(created()).when(fire(), at=hour(6) + timedelta(minutes=2)).then(skipped).is_quiet()
    given(created()).when(fire(), at=hour(6)).then(fired(6, fired=1, skipped=2))


def test_or_the_latest_of_them_are_caught_up() -> None:
    given(created(PATIENT)).when(fire(), at=hour(6) + timedelta(minutes=2)).then(fired(4, 5, 6, fired=3)).is_quiet()
    given(created(PATIENT)).when(fire(), at=hour(9)).then(fired(6, 7, 8, 9, fired=4, skipped=2))
    one = replace(PATIENT, catch_up=1)
    given(created(one)).when(fire(), at=hour(9) + timedelta(minutes=2)).then(fired(9, fired=1, skipped=5))


def test_of_very_many_only_so_many_fire_at_once_and_the_others_after_them() -> None:
    quick = ScheduleSettings(cron="* * * * * *", task=HOURLY.task)
    begun = given(replace(created(quick), next_at=NOW))
    late = NOW + seconds(149)

    def all_at(after: Given, grace: timedelta) -> list[int]:
        found = []
        while events := after.when(
            FireSchedule(ref=REF, grace=grace, settled=getattr(after.state, "fired", ())), at=late
        ).events:
            [event] = events
            assert isinstance(event, ScheduleFired)
            found.append(len(event.runs))
            after = after(*events)
        return found

    assert all_at(begun, timedelta(hours=1)) == [MOST_AT_ONCE, 50]
    patient = given(replace(created(replace(quick, missed="catch_up", catch_up=100)), next_at=NOW))
    assert all_at(patient, seconds(9.5)) == [MOST_AT_ONCE, 10]


def test_no_run_fires_a_microsecond_early() -> None:
    quick = ScheduleSettings(cron="* * * * * *", task=HOURLY.task)
    begun = given(replace(created(quick), next_at=NOW))

    [event] = begun.when(fire(), at=NOW + seconds(1) - timedelta(microseconds=1)).events

    assert isinstance(event, ScheduleFired)
    assert ([run.occurrence for run in event.runs], event.next_at) == ([NOW], NOW + seconds(1))


# Paused and resumed

PAUSED = SchedulePaused(reason="by alice", next_at=hour(4))


def test_a_paused_one_does_not_fire() -> None:
    paused = given(created()).when(PauseSchedule(reason="by alice")).then(PAUSED)

    paused.is_quiet()
    paused.given.when(fire(), at=hour(9)).is_quiet()


def test_what_a_pause_passed_over_is_skipped() -> None:
    resumed = ScheduleResumed(next_at=hour(7), counts=Counts(skipped=3))

    given(created(), PAUSED).when(ResumeSchedule(), at=hour(6) + seconds(1)).then(resumed).is_quiet()
    given(created(), PAUSED).when(ResumeSchedule(), at=hour(3)).then(ScheduleResumed(next_at=hour(4), counts=Counts()))


def test_or_it_is_caught_up() -> None:
    resumed = ScheduleResumed(next_at=hour(6), counts=Counts(skipped=2))
    after = given(created(PATIENT), PAUSED).when(ResumeSchedule(), at=hour(8) + seconds(90)).then(resumed)

    after.is_quiet()
    after.given.when(fire(), at=hour(8) + seconds(90)).then(fired(6, 7, 8, fired=3, skipped=2))
    few = ScheduleResumed(next_at=hour(4), counts=Counts())
    given(created(PATIENT), PAUSED).when(ResumeSchedule(), at=hour(5) + seconds(90)).then(few)


def test_no_more_are_caught_up_where_the_pause_was_shorter_than_the_grace() -> None:
    resumed = ScheduleResumed(next_at=hour(6), counts=Counts(skipped=2))
    after = given(created(PATIENT), PAUSED).when(ResumeSchedule(), at=hour(8) + seconds(90)).then(resumed)

    patient = FireSchedule(ref=REF, grace=timedelta(days=1))
    after.given.when(patient, at=hour(9)).then(fired(6, 7, 8, 9, fired=4, skipped=2))


def test_a_resumed_one_that_is_due_at_this_instant_is_neither_missed_nor_late() -> None:
    after = given(created(), PAUSED).when(ResumeSchedule(), at=hour(4))

    fresh = after.then(ScheduleResumed(next_at=hour(4), counts=Counts()))
    fresh.given.when(fire(), at=hour(4)).then(fired(4, fired=1))


def test_counts_pass_through_every_event() -> None:
    counts = Counts(fired=1, skipped=2, failed=3, triggered=4)
    begun = given(created(), ScheduleFired(runs=runs(3), next_at=hour(4), counts=counts))
    settled = fire(settled=runs(3))

    begun.when(settled, at=hour(4)).then(fired(4, fired=2, skipped=2, failed=3, triggered=4))
    begun.when(settled, at=hour(4) + timedelta(minutes=2)).then(
        ScheduleSkipped(next_at=hour(5), counts=replace(counts, skipped=3))
    )
    begun.when(TriggerSchedule(task_id="t")).then(ScheduleTriggered(task_id="t", counts=replace(counts, triggered=5)))
    note = RecordFailure(runs=runs(3), error="e", path="$.p")
    begun.when(note).then(ScheduleFailed(runs=runs(3), error="e", path="$.p", counts=replace(counts, failed=4)))
    paused = begun(PAUSED)
    paused.when(ResumeSchedule(), at=hour(3)).then(ScheduleResumed(next_at=hour(4), counts=counts))
    paused.when(ResumeSchedule(), at=hour(5) + seconds(1)).then(
        ScheduleResumed(next_at=hour(6), counts=replace(counts, skipped=4))
    )
    patient = given(created(PATIENT), fired(3, fired=1), PAUSED)
    patient.when(ResumeSchedule(), at=hour(5) + seconds(1)).then(
        ScheduleResumed(next_at=hour(4), counts=Counts(fired=1))
    )


def test_a_pause_keeps_the_run_that_is_due_next() -> None:
    begun = given(created(), fired(4, fired=1))

    begun.when(PauseSchedule(reason="by alice")).then(SchedulePaused(reason="by alice", next_at=hour(5)))


def test_only_a_failure_of_the_runs_that_fired_last_is_recorded_whole() -> None:
    begun = given(created(PATIENT), fired(4, 5, fired=2))
    counts = Counts(fired=2, failed=2)

    begun.when(RecordFailure(runs=runs(4, 6), error="e")).is_quiet()
    given(created()).when(RecordFailure(runs=(), error="e")).is_quiet()
    begun.when(RecordFailure(runs=runs(4, 5), error="e")).then(
        ScheduleFailed(runs=runs(4, 5), error="e", counts=counts)
    ).is_quiet()


def test_it_fires_a_hundred_runs_at_once_and_no_more() -> None:
    assert MOST_AT_ONCE == 100


# Changed, asked for, failed, deleted


def test_another_expression_counts_from_now() -> None:
    daily = replace(HOURLY, cron="@daily")

    given(created()).when(ChangeSchedule(cron="@daily")).then(
        ScheduleChanged(settings=daily, next_at=hour(24))
    ).is_quiet()


@pytest.mark.parametrize(
    "changes",
    [
        {"time_zone": "Asia/Tokyo"},
        {"missed": "catch_up", "catch_up": 7},
        {"name": "n", "description": "d"},
        {"task": Raw(b"{}")},
    ],
    ids=" ".join,
)
def test_only_what_is_named_changes(changes: dict[str, Any]) -> None:
    expected = ScheduleChanged(settings=replace(HOURLY, **changes), next_at=hour(4))

    given(created()).when(ChangeSchedule(**changes)).then(expected).is_quiet()


def test_another_zone_counts_from_now() -> None:
    daily = replace(HOURLY, cron="0 12 * * *")
    tokyo = replace(daily, time_zone="Asia/Tokyo")
    before = replace(created(daily), next_at=hour(12))

    given(before).when(ChangeSchedule(time_zone="Asia/Tokyo"), at=hour(2)).then(
        ScheduleChanged(settings=tokyo, next_at=hour(3))
    )


def test_what_else_changes_leaves_the_next_run_as_it_is() -> None:
    other = replace(HOURLY, task=Raw(b'{"payload":2}'), name="n")

    change = ChangeSchedule(task=Raw(b'{"payload":2}'), name="n")
    given(created()).when(change, at=hour(9)).then(ScheduleChanged(settings=other, next_at=hour(4))).is_quiet()


def test_a_run_that_somebody_asked_for_is_counted_once_and_moves_nothing() -> None:
    triggered = ScheduleTriggered(task_id="t1", counts=Counts(triggered=1))

    after = given(created(), PAUSED).when(TriggerSchedule(task_id="t1")).then(triggered)
    after.is_quiet()
    assert after.given.state.next_at == hour(4)


def test_a_failure_is_noted_once_and_it_goes_on() -> None:
    begun = given(created(), fired(4, fired=1))
    note = RecordFailure(runs=runs(4), error="too strict", path="$.payload")
    failed = ScheduleFailed(runs=runs(4), error="too strict", path="$.payload", counts=Counts(fired=1, failed=1))

    after = begun.when(note).then(failed)
    after.is_quiet()
    after.given.when(fire(), at=hour(5)).then(fired(5, fired=2, failed=1))
    begun.when(RecordFailure(runs=runs(3), error="of another")).is_quiet()


COMMANDS: list[ScheduleCommand] = [
    ChangeSchedule(name="n"),
    PauseSchedule(reason="r"),
    ResumeSchedule(),
    fire(),
    RecordFailure(runs=(), error="e"),
    TriggerSchedule(task_id="t"),
    DeleteSchedule(),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_there_is_not_does_nothing(command: ScheduleCommand) -> None:
    given.when(command).is_refused(NotFound)
    given(created(), ScheduleDeleted()).when(command).is_refused(NotFound)


# A simulated day


class Day:
    """A schedule, the workers that come by late or not at all, and somebody who pauses it."""

    def __init__(self, settings: ScheduleSettings, begin: datetime) -> None:
        self.now = begin
        self.history: list[Recorded[ScheduleEvent]] = []
        self.do(create(settings=settings))

    @property
    def state(self) -> Created:
        state: Any = UNCREATED
        for entry in self.history:
            state = schedule.evolve(state, entry)
        assert isinstance(state, Created)
        return state

    def do(self, command: ScheduleCommand) -> None:
        state = self.state if self.history else UNCREATED
        for event in schedule.decide(command, state, self.now):
            # As it comes from the log.
            self.history.append(schedule_codec.decode(schedule_codec.encode(recorded(event, self.now))))

    def attend(self) -> None:
        """Do what a worker does when a timer fires, which may be late, twice, or somebody else's."""
        for _ in range(2):
            self.do(FireSchedule(ref=REF, grace=GRACE, settled=self.state.fired))

    @property
    def occurrences(self) -> list[datetime]:
        """What fired, in order."""
        events = [entry.event for entry in self.history]
        return [run.occurrence for event in events if isinstance(event, ScheduleFired) for run in event.runs]

    def read_by_last_of_each_kind(self) -> Created:
        last = {type(entry.event): (place, entry) for place, entry in enumerate(self.history)}
        state: Any = UNCREATED
        for _, entry in sorted(last.values(), key=lambda pair: pair[0]):
            state = schedule.evolve(state, entry)
        assert isinstance(state, Created)
        return state


CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 7, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 10, 31, 12, tzinfo=UTC)),
    ("UTC", datetime(2026, 6, 1, tzinfo=UTC)),
]
CRONS = ["*/20 * * * *", "30 2 * * *", "0 1-4 * * *", "17 * * * *", "0 */2 * * *", "5,35 0-3 * * 0"]
late = st.one_of(st.just(0.0), st.floats(0, 59), st.floats(60, 40_000))
steps = st.lists(
    st.tuples(late, st.sampled_from(["", "", "", "pause", "resume", "trigger", "fail", "change"])), max_size=25
)


@hypothesis_settings(max_examples=150)
@hypothesis_given(st.sampled_from(CHANGES), st.sampled_from(CRONS), st.sampled_from([0, 1, 100]), steps)
def test_each_run_of_a_day_fires_or_is_skipped_and_none_twice(
    where: tuple[str, datetime], cron: str, catch_up: int, steps: list[tuple[float, str]]
) -> None:
    zone, begin = where
    more: dict[str, Any] = {"missed": "catch_up", "catch_up": catch_up} if catch_up else {}
    day = Day(ScheduleSettings(cron=cron, time_zone=zone, task=HOURLY.task, **more), begin)
    first = day.state.next_at
    assert first is not None
    for number, (lateness, what) in enumerate(steps):
        due = day.state.next_at
        assert due is not None
        day.now = max(day.now, due) + seconds(lateness)
        match what:
            case "pause":
                day.do(PauseSchedule(reason="r"))
            case "resume":
                day.do(ResumeSchedule())
            case "trigger":
                day.do(TriggerSchedule(task_id=f"t{number}"))
            case "fail":
                day.do(RecordFailure(runs=day.state.fired, error="e"))
            case "change":
                day.do(ChangeSchedule(name=f"n{number}"))
        day.attend()
        assert day.read_by_last_of_each_kind() == day.state
    day.do(ResumeSchedule())
    day.attend()

    wanted = upto(cron, zone, first, day.state.next_at or day.now, 100_000)
    found = day.occurrences
    assert set(found) <= set(wanted)
    assert found == sorted(set(found))
    assert len(found) + day.state.counts.skipped == len(wanted)
    assert day.state.counts.fired == len(found)
    assert len({run_ref(REF, at) for at in found}) == len(found)
    if catch_up == 100 and len(wanted) <= 100:
        assert found == wanted
