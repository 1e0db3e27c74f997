"""The checks of holds find each kind of broken promise, and nothing in what is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from chaos.evidence import Call, Entry, Evidence, Jump, Line, Recurring, SharedLimit
from chaos.hold_checks import HOLD_CHECKS

START = 1_800_000_000
ONE, TWO, THREE, FOUR = (f"{digit * 26}~erin" for digit in "1234")
SCHEDULE = "9" * 26 + "~erin"
LIMITS = [
    SharedLimit("owner", "erin", concurrency=2),
    SharedLimit("type", "limited", per_second=1, burst=2),
    SharedLimit("key", "keyed", concurrency=1),
]


def instant(seconds: float) -> str:
    return datetime.fromtimestamp(START + seconds, UTC).isoformat()


class Story:
    """Evidence in the making; times are seconds from the start."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.calls: list[Call] = []
        self.backends: list[Line] = []
        self.schedule: list[Line] = []
        self.jumps: list[Jump] = []
        self.catch_up: int | None = 10
        self.was_full = False

    def event(self, task: str, at: float, name: str, /, *, said_at: float | None = None, **fields: Any) -> None:
        unique, owner = task.split("~")
        recorded = {"at": instant(at if said_at is None else said_at), "event": {"type": name, **fields}}
        self.log.append(Entry(len(self.log) + 1, f"task.{owner}.{unique}.x", recorded, START + at))

    def submitted(self, task: str, at: float, task_type: str = "default", **fields: Any) -> None:
        plan = {name: fields.pop(name) for name in list(fields) if name in PLAN}
        self.event(task, at, "TaskSubmitted", task_type=task_type, payload={"mark": task[0]}, plan=plan, **fields)

    def started(self, task: str, at: float, **more: Any) -> None:
        self.event(task, at, "AttemptStarted", attempt=1, **more)

    def call(self, task: str, parents: dict[str, str]) -> None:
        self.backends.append({"what": "call", "server": "one", "task": task, "parents": parents})

    def succeeded(self, task: str, at: float) -> None:
        self.event(task, at, "TaskSucceeded")

    def failed(self, task: str, at: float, kind: str = "rejected") -> None:
        self.event(task, at, "TaskFailed", kind=kind)

    def ran(self, task: str, at: float) -> None:
        self.started(task, at)
        self.succeeded(task, at + 0.2)

    def fired(self, at: float, *seconds: int, next_at: int, fired: int, skipped: int = 0) -> None:
        """A schedule fires, for instants given in seconds from the start; each run's task is submitted."""
        runs = [{"occurrence": instant(second), "task_id": run_of(second)} for second in seconds]
        counts = {"fired": fired, "skipped": skipped}
        kind = "ScheduleFired" if runs else "ScheduleSkipped"
        event = {"type": kind, "runs": runs, "next_at": instant(next_at), "counts": counts}
        self.schedule.append({"stored_at": START + at, "event": event})
        for run in runs:
            self.submitted(run["task_id"], at, schedule=SCHEDULE)
            self.ran(run["task_id"], at)

    def sent(self, *marks: str, tasks: list[str]) -> None:
        bodies = [{"payload": {"mark": mark}} for mark in marks]
        before = {"operation": "batch", "call": "erin-0-1", "body": bodies}
        self.calls.append(Call(before, {"status": 200, "task_id": ONE, "task_ids": tasks}))

    def evidence(self) -> Evidence:
        created = {"stored_at": START, "event": {"type": "ScheduleCreated", "next_at": instant(1)}}
        return Evidence(
            calls=self.calls,
            log=self.log,
            backends=self.backends,
            shared_limits=LIMITS,
            recurring=[
                Recurring(id=SCHEDULE, every_seconds=1, catch_up=self.catch_up, events=[created, *self.schedule])
            ],
            grace_seconds=5,
            jumps=self.jumps,
            was_full=self.was_full,
        )


PLAN = ("depends_on", "on_parent_failure", "concurrency_key", "not_before", "expires_at", "ends_by")


def run_of(second: int) -> str:
    return f"{second:026d}~erin"


def found(*steps: Callable[[Story], Any]) -> set[str]:
    """Return the checks that find something wrong in a story."""
    story = Story()
    for step in steps:
        step(story)
    evidence = story.evidence()
    return {name_of(check) for check in HOLD_CHECKS if list(check(evidence))}


def name_of(check: Callable[..., Any]) -> str:
    return check.__name__.replace("_", "-")


def two_at_once(task_type: str, **plan: Any) -> Callable[[Story], None]:
    """Two tasks are submitted, and run at once."""

    def tell(story: Story) -> None:
        for task in (ONE, TWO):
            story.submitted(task, 0, task_type, **plan)
        story.started(ONE, 1)
        story.started(TWO, 1)
        story.succeeded(ONE, 2)
        story.succeeded(TWO, 2)

    return tell


def three_starts(second: float, third: float) -> Callable[[Story], None]:
    def tell(story: Story) -> None:
        for task, at in ((ONE, 1.0), (TWO, second), (THREE, third)):
            story.submitted(task, 0, "limited")
            story.ran(task, at)

    return tell


def family(choice: str, parent_ends: str, child: Callable[[Story], Any]) -> Callable[[Story], None]:
    """A parent and its child, what becomes of the parent, and then of the child."""

    def tell(story: Story) -> None:
        story.submitted(ONE, 0)
        story.submitted(TWO, 0, depends_on=[ONE], on_parent_failure=choice)
        story.started(ONE, 1)
        getattr(story, parent_ends)(ONE, 2)
        child(story)

    return tell


def child_runs(story: Story) -> None:
    story.ran(TWO, 3)


def child_fails(story: Story) -> None:
    story.failed(TWO, 3, "parent_failed")


def child_is_skipped(story: Story) -> None:
    story.event(TWO, 3, "TaskCancelled", reason=f"skipped: {ONE}, on which it depends, failed")


def child_is_cancelled(story: Story) -> None:
    story.event(TWO, 3, "TaskCancelled", reason="cancelled by its owner")


def timed(at: float, said_at: float | None = None, **plan: Any) -> Callable[[Story], None]:
    """A task with a plan starts."""

    def tell(story: Story) -> None:
        story.submitted(ONE, 0, **plan)
        story.started(ONE, at, said_at=said_at)
        story.succeeded(ONE, at + 0.1)

    return tell


def late(at: float, kind: str, **plan: Any) -> Callable[[Story], None]:
    """A task with a plan is given up."""

    def tell(story: Story) -> None:
        story.submitted(ONE, 0, **plan)
        story.failed(ONE, at, kind)

    return tell


def jump(begins: float, ends: float, ahead: float) -> Callable[[Story], None]:
    return lambda story: story.jumps.append(Jump("worker-1", START + begins, START + ends, ahead))


def batch(count: int, *, acknowledged: bool, tasks: tuple[str, ...] = (ONE, TWO)) -> Callable[[Story], None]:
    """A batch of two, of which so many are there."""

    def tell(story: Story) -> None:
        for task in (ONE, TWO)[:count]:
            story.submitted(task, 0, batch=ONE, batch_size=2)
        if acknowledged:
            story.sent("1", "2", tasks=list(tasks))

    return tell


def fires(*seconds: int, at: float = 1.01, next_at: int = 2, **counts: int) -> Callable[[Story], None]:
    return lambda story: story.fired(at, *seconds, next_at=next_at, **({"fired": len(seconds)} | counts))


def skips(story: Story) -> None:
    story.catch_up = None


def untold(story: Story) -> None:
    family("fail", "succeeded", child_runs)(story)
    story.call(TWO, {})


def told(story: Story) -> None:
    family("fail", "succeeded", child_runs)(story)
    story.call(TWO, {ONE: "FINISHED"})


def started_before_its_parent_ended(story: Story) -> None:
    story.submitted(ONE, 0)
    story.submitted(TWO, 0, depends_on=[ONE])
    story.started(ONE, 1)
    story.started(TWO, 1.5)
    story.succeeded(ONE, 2)
    story.succeeded(TWO, 3)


def task_of_no_run(story: Story) -> None:
    fires(1)(story)
    story.submitted(run_of(7), 7, schedule=SCHEDULE)


def run_without_a_task(story: Story) -> None:
    fires(1)(story)
    story.log = []


def third_of_an_owner(story: Story) -> None:
    for task in (ONE, TWO, THREE):
        story.submitted(task, 0)
        story.started(task, 1)


def killed_and_not_given_up(story: Story) -> None:
    """The worker of ONE was killed; TWO starts before the log says that ONE's attempt is over."""
    for task in (ONE, TWO):
        story.submitted(task, 0, "keyed", concurrency_key="k")
    story.started(ONE, 1)
    story.started(TWO, 5)
    story.event(ONE, 6, "AttemptFailed", attempt=1, kind="worker_lost")


Steps = tuple[Callable[[Story], Any], ...]
VIOLATIONS: list[tuple[str, str, Steps]] = [
    ("shared-limits-are-kept", "two of one key", (two_at_once("keyed", concurrency_key="k"),)),
    ("shared-limits-are-kept", "three of an owner", (third_of_an_owner,)),
    ("shared-limits-are-kept", "one that was killed still counts", (killed_and_not_given_up,)),
    ("rates-are-kept", "three where two may", (three_starts(1.1, 1.5),)),
    ("children-follow-their-parents", "a child that was too early", (started_before_its_parent_ended,)),
    ("children-follow-their-parents", "a server that was not told", (untold,)),
    ("dags-end-as-predicted", "run in spite of a failure", (family("fail", "failed", child_runs),)),
    ("dags-end-as-predicted", "skipped instead of failed", (family("fail", "failed", child_is_skipped),)),
    ("dags-end-as-predicted", "failed instead of skipped", (family("skip", "failed", child_fails),)),
    ("dags-end-as-predicted", "failed instead of run", (family("run", "failed", child_fails),)),
    ("dags-end-as-predicted", "failed for nothing", (family("fail", "succeeded", child_fails),)),
    ("times-are-kept", "before its time", (timed(1, not_before=instant(2)),)),
    (
        "times-are-kept",
        "before its time, with a clock ahead by less",
        (timed(1, not_before=instant(2)), jump(0, 1, 0.5)),
    ),
    ("times-are-kept", "after it expired", (timed(3, expires_at=instant(2)),)),
    ("times-are-kept", "after its deadline", (timed(3, ends_by=instant(3)),)),
    ("times-are-kept", "ended long after its deadline", (late(40, "deadline", ends_by=instant(3)),)),
    ("times-are-kept", "expired too early", (late(1, "expired", expires_at=instant(3)),)),
    ("times-are-kept", "expired without an instant", (late(1, "expired"),)),
    ("batches-are-whole", "half of a batch", (batch(1, acknowledged=False),)),
    ("batches-are-whole", "in another order", (batch(2, acknowledged=True, tasks=(TWO, ONE)),)),
    (
        "batches-are-whole",
        "half of one that was acknowledged, with a full disk",
        (batch(1, acknowledged=True), lambda story: setattr(story, "was_full", True)),
    ),
    ("schedules-fire-once", "fired twice", (fires(1), fires(1, fired=2))),
    ("schedules-fire-once", "twice at once", (fires(1, 1),)),
    ("schedules-fire-once", "too early", (fires(1, 2, next_at=3),)),
    ("schedules-fire-once", "passed over", (fires(1, 3, at=3.1, next_at=4, skipped=1),)),
    ("schedules-fire-once", "skipped in time", (skips, fires(at=3.1, next_at=3, skipped=2))),
    ("schedules-fire-once", "wrong counts", (fires(1, fired=2),)),
    ("schedules-fire-once", "a run without a task", (run_without_a_task,)),
    ("schedules-fire-once", "a task without a run", (task_of_no_run,)),
]

GOOD: list[tuple[str, Steps]] = [
    ("keys are of their type", (two_at_once("other", concurrency_key="k"),)),
    ("a rate in the long run", (three_starts(1.1, 2.0),)),
    ("a rate while a clock jumps", (three_starts(1.1, 1.5), jump(1.2, 9, 30))),
    ("a child that runs", (told,)),
    ("a child that fails", (family("fail", "failed", child_fails),)),
    ("a child that is skipped", (family("skip", "failed", child_is_skipped),)),
    ("a child that runs all the same", (family("run", "failed", child_runs),)),
    ("a child that its owner cancels", (family("fail", "succeeded", child_is_cancelled),)),
    ("in time", (timed(2, not_before=instant(2), expires_at=instant(3), ends_by=instant(4)),)),
    ("before its time, by a clock that is ahead", (timed(1, not_before=instant(2)), jump(0, 1, 2))),
    ("stored after it expired", (timed(2.2, said_at=1.9, expires_at=instant(2)),)),
    ("expired", (late(3.1, "expired", expires_at=instant(3)),)),
    ("a whole batch", (batch(2, acknowledged=True),)),
    (
        "half of a batch, with a full disk",
        (batch(1, acknowledged=False), lambda story: setattr(story, "was_full", True)),
    ),
    ("a schedule that fires", (fires(1), fires(2, at=2.01, next_at=3, fired=2))),
    ("a schedule that catches up", (fires(1, 2, 3, at=9.5, next_at=4),)),
    ("a schedule that skips", (skips, fires(8, 9, at=13.5, next_at=10, skipped=7))),
]


@pytest.mark.parametrize(("name", "what", "steps"), VIOLATIONS, ids=[f"{name}: {what}" for name, what, _ in VIOLATIONS])
def test_it_catches(name: str, what: str, steps: Steps) -> None:
    assert name in found(*steps), what


@pytest.mark.parametrize(("what", "steps"), GOOD, ids=[what for what, _ in GOOD])
def test_nothing_is_found_where_all_is_as_it_should_be(what: str, steps: Steps) -> None:
    assert found(*steps) == set(), what


def test_a_start_that_was_given_back_at_a_shutdown_may_be_made_again() -> None:
    def tell(story: Story) -> None:
        for task in (ONE, TWO):
            story.submitted(task, 0, "limited")
            story.started(task, 1)
        story.event(ONE, 1.1, "AttemptReturned", attempt=1)
        story.started(ONE, 1.2)

    assert found(tell) == set()


def test_every_check_has_been_seen_to_catch_something() -> None:
    assert {name for name, _, _ in VIOLATIONS} == set(map(name_of, HOLD_CHECKS))
