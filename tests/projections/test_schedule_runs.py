"""The runs of a schedule, read backwards: whatever the pages, each run comes once and says what came of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.commands import schedule
from taskstream.commands.schedule import (
    ChangeSchedule,
    Created,
    CreateSchedule,
    FireSchedule,
    PauseSchedule,
    RecordFailure,
    ResumeSchedule,
    TriggerSchedule,
)
from taskstream.events.envelope import Actor, Recorded, Stored
from taskstream.events.ids import ScheduleRef
from taskstream.events.schedule import ScheduleEvent, ScheduleSettings
from taskstream.projections.schedule_runs import BackwardRuns, PastRun

REF = ScheduleRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRV")
START = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = timedelta(seconds=60)


class Clock:
    """A schedule that runs every minute, driven by hand."""

    def __init__(self, *, catch_up: int = 0) -> None:
        self.now = START
        self.events: list[Stored[ScheduleEvent]] = []
        self.state: schedule.ScheduleState = schedule.UNCREATED
        settings = ScheduleSettings(
            cron="* * * * *", task=Raw(b"{}"), missed="catch_up" if catch_up else "skip", catch_up=catch_up or 1
        )
        self.do(CreateSchedule(schedule_id=REF.id, owner="alice", settings=settings, fingerprint="", repeatable=False))

    def do(self, command: schedule.ScheduleCommand) -> None:
        for event in schedule.decide(command, self.state, self.now):
            recorded = Recorded(id="", at=self.now, by=Actor("system", "tests"), event=event)
            self.events.append(Stored(3 * len(self.events) + 5, recorded))
            self.state = schedule.evolve(self.state, recorded)

    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    def fire(self, *, refused: int = 0) -> None:
        assert isinstance(self.state, Created)
        self.do(FireSchedule(ref=REF, grace=GRACE, settled=self.state.fired))
        if refused and self.state.unsettled:
            self.do(RecordFailure(runs=self.state.fired[:refused], error="too wide", path="$.task.payload"))

    def pages(self, limit: int) -> list[list[PastRun]]:
        """Read all pages as `read_runs` does."""
        pages, rest = [], self.events[::-1]
        while rest:
            found = BackwardRuns()
            while rest:
                found.look(rest[0].recorded.event)
                if len(found.runs) >= limit and not found.is_open:
                    break
                found.add(rest.pop(0))
            pages.append(found.runs)
        return pages


def test_a_run_says_what_came_of_it() -> None:
    clock = Clock()
    clock.wait(1)
    clock.fire()
    clock.wait(1)
    clock.fire(refused=1)
    clock.wait(5)
    clock.fire()
    clock.do(TriggerSchedule(task_id="by-hand"))
    clock.do(PauseSchedule(reason=""))
    clock.wait(10)
    clock.do(ResumeSchedule())

    ((*runs,),) = clock.pages(100)

    assert [(run.outcome, run.count) for run in runs] == [
        ("skipped", 9),
        ("triggered", 1),
        ("fired", 1),
        ("fired", 1),
        ("missed", 3),
        ("refused", 1),
        ("fired", 1),
    ]
    assert (runs[0].due_at, runs[4].due_at) == (START + timedelta(minutes=8), START + timedelta(minutes=3))
    assert (runs[5].error, runs[5].path) == ("too wide", "$.task.payload")
    assert runs[1].task_id == "by-hand"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("fire"), st.integers(1, 400), st.integers(0, 2)),
        st.tuples(st.just("pause"), st.integers(1, 300), st.just(0)),
        st.tuples(st.just("trigger"), st.just(0), st.just(0)),
        st.tuples(st.just("rename"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@given(steps, st.integers(0, 3), st.sampled_from([1, 2, 5, 1000]))
def test_in_pages_of_any_size_each_run_comes_once_and_the_counts_agree(
    steps: list[tuple[str, int, int]], catch_up: int, limit: int
) -> None:
    clock = Clock(catch_up=catch_up)
    for number, (step, minutes, refused) in enumerate(steps):
        clock.wait(minutes)
        match step:
            case "fire":
                clock.fire(refused=refused)
            case "pause":
                clock.do(PauseSchedule(reason=""))
                clock.wait(minutes)
                clock.do(ResumeSchedule())
            case "trigger":
                clock.do(TriggerSchedule(task_id=f"t{number}"))
            case "rename":
                clock.do(ChangeSchedule(name=f"n{number}"))

    runs = [run for page in clock.pages(limit) for run in page]

    assert isinstance(clock.state, Created)
    counts = clock.state.counts
    assert sum(run.outcome in ("fired", "refused") for run in runs) == counts.fired
    assert sum(run.outcome == "refused" for run in runs) == counts.failed
    assert sum(run.outcome == "triggered" for run in runs) == counts.triggered
    assert sum(run.count for run in runs if run.outcome in ("missed", "skipped")) == counts.skipped
    tasks = [run.task_id for run in runs if run.task_id]
    assert len(tasks) == len(set(tasks))
    assert [run.at for run in runs] == sorted((run.at for run in runs), reverse=True)


@pytest.mark.parametrize("limit", [1, 3])
def test_pages_together_are_the_whole(limit: int) -> None:
    clock = Clock()
    for minutes in (1, 4, 1, 7):
        clock.wait(minutes)
        clock.fire(refused=1)

    (whole,) = clock.pages(1_000)

    assert [run for page in clock.pages(limit) for run in page] == whole
