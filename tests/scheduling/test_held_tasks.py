"""A held task is queued when nothing holds it any more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskstream.commands.task_commands import CancelUnstarted, ExpireTask, FailByParent, HoldTask
from taskstream.events.ids import TaskRef
from taskstream.events.task import NO_PLAN, AttemptAccepted, AttemptStarted, TaskQueued
from taskstream.events.task_type import OnConflict
from taskstream.scheduling.backlog_report import OwnerBacklog
from taskstream.scheduling.held_tasks import AskParent, DueCommand, Reread, submitted
from taskstream.scheduling.limit import Bounds, Stage, TaskEntry

from .simulation import START, FixedRules, Simulation


@pytest.fixture
def simulation() -> Simulation:
    """Nothing has a limit, and tasks with one concurrency key run one after the other."""
    return Simulation()


def one_at_a_time(kind: str) -> Simulation:
    return Simulation(FixedRules({kind: Bounds(concurrency=1)}))


def with_type_limit(**bounds: float) -> Simulation:
    return Simulation(FixedRules({"type": Bounds(**bounds)}))  # type: ignore[arg-type]


# Nothing holds it


def test_a_task_that_was_submitted_into_the_queue_is_left_there(simulation: Simulation) -> None:
    simulation.submit(held=False)

    assert simulation.release() == []


def test_a_choice_that_was_not_stored_is_made_again_in_the_same_order(simulation: Simulation) -> None:
    tasks = [simulation.submit() for _ in range(3)]
    chosen = simulation.held_tasks.release(simulation.now, 2)

    simulation.held_tasks.put_back(chosen, simulation.now)

    assert simulation.release() == tasks


def test_an_event_that_is_delivered_again_changes_nothing() -> None:
    simulation = with_type_limit(per_second=1, burst=2)
    first, second = simulation.submit(), simulation.submit()
    simulation.release(1)
    simulation.start(first)

    simulation.deliver_again(first)

    assert simulation.release() == [second]


# Time


def test_a_task_waits_for_its_time(simulation: Simulation) -> None:
    task = simulation.submit(not_before=START + timedelta(seconds=10))
    assert simulation.release() == []
    assert simulation.held_tasks.next_at() == (START + timedelta(seconds=10)).timestamp()

    simulation.wait(10)

    assert simulation.release() == [task]


def test_a_task_whose_time_is_up_while_it_waits_is_to_be_ended() -> None:
    simulation = one_at_a_time("owner")
    simulation.submit()
    task = simulation.submit(expires_at=START + timedelta(seconds=5))
    simulation.release()
    assert simulation.due == []

    simulation.wait(5)
    simulation.release()

    assert simulation.due == [DueCommand(task, ExpireTask())]


def test_a_task_that_may_not_start_later_and_must_end_by_is_looked_at_twice(simulation: Simulation) -> None:
    task = simulation.submit(expires_at=START + timedelta(seconds=5), ends_by=START + timedelta(seconds=9))
    simulation.release()
    simulation.start(task)

    simulation.wait(5)
    simulation.release()
    simulation.wait(4)
    simulation.release()

    assert simulation.due == [DueCommand(task, ExpireTask()), DueCommand(task, ExpireTask())]


# Parents


def test_a_held_child_waits_again_for_a_parent_that_is_retried(simulation: Simulation) -> None:
    parent, other = simulation.submit(), simulation.submit()
    child = simulation.submit(depends_on=(parent.id, other.id), on_parent_failure="run")
    simulation.release()
    simulation.fail(parent)

    simulation.say(parent, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    simulation.cancel(other)

    assert simulation.release() == []
    assert simulation.due == [Reread(parent)]
    assert simulation.entry(child).parents == {parent.id}


def test_a_parent_retried_and_ended_before_it_was_entered_is_asked_about(simulation: Simulation) -> None:
    parent = simulation.submit()
    child = simulation.submit(depends_on=(parent.id, "0" * 26 + "~alice"))
    simulation.release()
    simulation.succeed(parent)
    simulation.say(parent, AttemptStarted(attempt=2, server_id="s", worker_id="w", deadline=simulation.at))
    simulation.due.clear()

    simulation.succeed(parent)
    simulation.release()

    assert simulation.due == [Reread(parent), AskParent(parent.id)]
    assert parent.id in simulation.entry(child).parents


# Limits


def test_a_task_that_waits_for_its_retry_frees_its_capacity_for_another() -> None:
    simulation = one_at_a_time("owner")
    first, second = simulation.submit(), simulation.submit()
    simulation.release()
    simulation.start(first)

    simulation.fail_attempt(first)
    assert simulation.release() == [second]
    simulation.hold(first)  # its retry came, and a worker saw that it shares a limit
    assert simulation.release() == []


def test_what_runs_without_having_been_counted_in_counts_too() -> None:
    simulation = one_at_a_time("type")
    running = simulation.submit(held=False)
    simulation.start(running)
    waiting = simulation.submit()
    assert simulation.release() == []

    simulation.succeed(running)

    assert simulation.release() == [waiting]


def test_a_limit_that_is_raised_lets_more_through() -> None:
    simulation = one_at_a_time("type")
    tasks = [simulation.submit() for _ in range(5)]
    simulation.release()

    simulation.rules.by_name["type"] = Bounds(concurrency=4)
    simulation.held_tasks.limiter.refresh(simulation.now)

    assert simulation.release() == tasks[1:4]


def test_a_limit_that_is_lowered_lets_what_runs_end() -> None:
    simulation = with_type_limit(concurrency=2)
    tasks = [simulation.submit() for _ in range(4)]
    for task in simulation.release():
        simulation.start(task)
    simulation.rules.by_name["type"] = Bounds(concurrency=1)
    simulation.held_tasks.limiter.refresh(simulation.now)

    simulation.succeed(tasks[0])
    assert simulation.release() == []
    simulation.succeed(tasks[1])

    assert simulation.release() == [tasks[2]]


def test_starts_keep_to_the_rate_after_a_burst() -> None:
    simulation = with_type_limit(per_second=2, burst=3)
    tasks = [simulation.submit() for _ in range(5)]

    assert simulation.release() == tasks[:3]
    for task in tasks[:3]:
        simulation.start(task)
    assert simulation.release() == []
    assert simulation.held_tasks.next_at() == pytest.approx(simulation.now + 0.5)
    simulation.wait(0.5)
    assert simulation.release() == [tasks[3]]


def test_what_was_granted_and_has_not_started_keeps_its_token() -> None:
    simulation = with_type_limit(per_second=1, burst=1)
    simulation.submit()
    simulation.submit()
    simulation.release()

    simulation.wait(60)

    assert simulation.release() == []


@pytest.mark.parametrize("seconds_ago", [pytest.param(5, id="stored late"), pytest.param(-60, id="by a clock ahead")])
def test_a_start_counts_from_when_it_is_seen(seconds_ago: float) -> None:
    simulation = with_type_limit(per_second=1, burst=2)
    tasks = [simulation.submit() for _ in range(4)]
    assert simulation.release() == tasks[:2]
    simulation.wait(5)

    for task in tasks[:2]:
        simulation.start(task, seconds_ago=seconds_ago)

    assert simulation.release() == []
    simulation.wait(1)
    assert simulation.release() == [tasks[2]]


def test_a_clock_that_is_put_back_does_not_stop_the_rate() -> None:
    simulation = with_type_limit(per_second=1, burst=1)
    tasks = [simulation.submit() for _ in range(2)]
    simulation.wait(60)
    assert simulation.release() == tasks[:1]
    simulation.start(tasks[0])

    simulation.wait(-60)
    assert simulation.release() == []
    simulation.wait(1)

    simulation.held_tasks.limiter.refresh(simulation.now)
    assert simulation.release() == [tasks[1]]


def test_a_book_that_has_just_begun_does_not_know_what_was_started_before() -> None:
    simulation = with_type_limit(per_second=1, burst=10)
    simulation.held_tasks.limiter.begin(simulation.now)
    tasks = [simulation.submit() for _ in range(3)]
    assert simulation.release() == []

    simulation.wait(1)

    assert simulation.release() == tasks[:1]


# Order


def test_high_priority_goes_first() -> None:
    simulation = one_at_a_time("type")
    simulation.submit("alice", priority="normal")
    low, high = simulation.submit("bob", priority="low"), simulation.submit("carol", priority="high")

    assert simulation.release(1) == [high]
    simulation.run(high)
    simulation.run(simulation.release()[0])
    assert simulation.release() == [low]


def test_low_priority_that_has_waited_long_enough_goes_first() -> None:
    simulation = Simulation(FixedRules({"type": Bounds(concurrency=1)}), ageing_seconds=60)
    low = simulation.submit("bob", priority="low")
    simulation.submit("bob", priority="low")
    simulation.run(simulation.release()[0])
    del low
    running = simulation.release()[0]
    simulation.wait(61)
    old = simulation.submit("bob", priority="low")
    simulation.wait(61)
    simulation.submit("carol", priority="high")

    simulation.run(running)

    assert simulation.release() == [old]


def test_an_owner_with_a_full_window_waits_and_no_other() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    alices = [simulation.submit("alice") for _ in range(10)]
    bobs = simulation.submit("bob")

    assert set(simulation.release()) == {*alices[:2], bobs}
    simulation.start(alices[0])
    assert simulation.release() == [alices[2]]


def test_the_window_is_counted_for_each_priority() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=1)}))
    low, _, high = (
        simulation.submit(priority="low"),
        simulation.submit(priority="low"),
        simulation.submit(priority="high"),
    )

    assert simulation.release() == [high, low]


# Concurrency keys: what happens to a new task


def test_a_newcomer_replaces_those_that_wait_and_not_the_one_that_runs() -> None:
    simulation = Simulation(FixedRules(on_conflict="replace"))
    running = simulation.submit(concurrency_key="k")
    simulation.release()
    simulation.start(running)
    old = simulation.submit(concurrency_key="k")

    new = simulation.submit(concurrency_key="k")
    simulation.release()

    assert simulation.due == [
        DueCommand(old, CancelUnstarted(reason=f"replaced by {new.id}, which has the same concurrency key"))
    ]


def test_a_newcomer_is_refused_while_another_has_its_key() -> None:
    simulation = Simulation(FixedRules(on_conflict="refuse"))
    first = simulation.submit(concurrency_key="k")
    second = simulation.submit(concurrency_key="k")
    simulation.release()

    assert simulation.due == [
        DueCommand(second, CancelUnstarted(reason=f"refused: {first.id} has the same concurrency key"))
    ]


def test_a_key_that_is_free_again_refuses_nobody() -> None:
    simulation = Simulation(FixedRules(on_conflict="refuse"))
    first = simulation.submit(concurrency_key="k")
    simulation.release()
    simulation.run(first)

    second = simulation.submit(concurrency_key="k")

    assert simulation.release() == [second]
    assert simulation.due == []


# Oddities


def test_a_task_that_is_retried_after_its_end_is_to_be_read_again(simulation: Simulation) -> None:
    task = simulation.submit()
    simulation.release()
    simulation.fail(task)

    simulation.say(task, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    simulation.release()

    assert simulation.due == [Reread(task)]


def test_a_task_that_ends_while_it_is_read_again_is_not_kept(simulation: Simulation) -> None:
    task = simulation.submit(held=False)
    simulation.fail(task)
    last = simulation.say(task, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    simulation.release()
    simulation.due.clear()  # it is read now
    as_read = TaskEntry(
        ref=task,
        sequence=last,
        created_sequence=1,
        pool="default",
        priority="normal",
        task_type="default",
        submitted_at=simulation.now,
        stage=Stage.QUEUED,
    )

    simulation.say(task, AttemptStarted(attempt=1, server_id="s", worker_id="w", deadline=simulation.at))
    simulation.succeed(task)
    simulation.held_tasks.add(as_read, simulation.now)
    simulation.release()

    assert simulation.due == [Reread(task)]
    simulation.deliver_again(task)
    assert not len(simulation.held_tasks)


def test_an_unused_grant_is_taken_back_if_its_owner_has_work_for_others() -> None:
    simulation = one_at_a_time("owner")
    stuck = simulation.submit(pool="nobody-serves-it")
    elsewhere = simulation.submit(pool="default")
    assert simulation.release() == [stuck]

    simulation.wait(20)
    found = simulation.held_tasks.stuck(simulation.now - 15)
    simulation.hold(stuck)

    assert [(due.ref, type(due.command)) for due in found] == [(stuck, HoldTask)]
    assert simulation.release() == [elsewhere]


def test_a_grant_is_left_where_nothing_else_could_start() -> None:
    simulation = one_at_a_time("owner")
    simulation.submit(pool="a")
    simulation.submit(pool="a")
    simulation.release()

    simulation.wait(20)

    assert simulation.held_tasks.stuck(simulation.now - 15) == []


def test_gates_that_nothing_passes_are_forgotten() -> None:
    simulation = with_type_limit(per_second=1, burst=1)
    task = simulation.submit("alice")
    simulation.release()
    simulation.run(task)
    simulation.held_tasks.limiter.tidy(simulation.now)
    assert len(simulation.held_tasks.limiter) == 1  # its bucket is not full again

    simulation.wait(2)
    simulation.held_tasks.limiter.tidy(simulation.now)

    assert len(simulation.held_tasks.limiter) == 0


def test_a_task_counts_towards_new_limits_after_idle_ones_were_dropped() -> None:
    simulation = Simulation(FixedRules({("owner", "alice"): Bounds(concurrency=1)}))
    simulation.run(simulation.submit("alice", held=False))
    simulation.held_tasks.limiter.tidy(simulation.now)

    simulation.start(simulation.submit("alice", held=False))
    simulation.submit("alice")

    assert simulation.release() == []
    assert len(simulation.held_tasks.limiter) == 4


def test_what_only_waits_for_its_owners_window_is_told_by_pool() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=2), ("owner", "bob"): Bounds(concurrency=1)}))
    for _ in range(5):
        simulation.submit("alice", pool="gpu")
        simulation.submit("bob")
    simulation.submit("carol", depends_on=(simulation.submit("carol").id,))
    simulation.release()

    assert simulation.held_tasks.limiter.held_back() == {"gpu": 3}


def test_what_an_owner_has_waiting_is_told() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    for _ in range(5):
        simulation.submit("alice")
    simulation.submit("bob")
    for task in simulation.release()[:1]:
        simulation.start(task)
    simulation.release()

    backlogs = simulation.held_tasks.backlogs(at_least=2)

    assert backlogs == {"alice": OwnerBacklog(4, {"normal default default ": 2}, ("normal default default ",))}


def test_a_key_is_its_owners_own() -> None:
    simulation = Simulation(FixedRules(on_conflict="refuse"))
    alices, bobs = simulation.submit("alice", concurrency_key="k"), simulation.submit("bob", concurrency_key="k")

    assert simulation.release() == [alices, bobs]
    assert simulation.due == []


def take(simulation: Simulation, ref: TaskRef) -> None:
    """Have a task taken by a report."""
    simulation.say(ref, AttemptStarted(attempt=1, server_id="s", worker_id="", deadline=simulation.at))


@pytest.mark.parametrize("bounds", [Bounds(concurrency=1), Bounds(per_second=0.1, burst=1)])
def test_a_task_taken_by_a_report_counts_towards_no_limit_of_its_type(bounds: Bounds) -> None:
    simulation = Simulation(FixedRules({"type": bounds}))
    for held in (True, False):
        take(simulation, simulation.submit("alice", held=held))
    others = simulation.submit("bob")

    assert simulation.release() == [others]


@pytest.mark.parametrize("kind", ["owner", "key"])
def test_a_task_taken_by_a_report_counts_towards_its_owners_own_limits(kind: str) -> None:
    simulation = one_at_a_time(kind)
    taken, other = (simulation.submit(concurrency_key="k") for _ in range(2))
    take(simulation, taken)

    assert simulation.release() == []
    simulation.succeed(taken)
    assert simulation.release() == [other]


def test_a_task_taken_by_a_report_counts_as_waiting(simulation: Simulation) -> None:
    taken, started = simulation.submit(), simulation.submit()
    simulation.release()
    take(simulation, taken)
    simulation.start(started)

    assert simulation.held_tasks.backlogs(1)["alice"].waiting == 1
    simulation.fail(taken)
    assert simulation.held_tasks.backlogs(1) == {}


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_what_no_server_could_take_is_counted_in_nowhere_until_one_could(kind: str) -> None:
    simulation = one_at_a_time(kind)
    nobody = ("servers", "default", "default", "gpu=none")
    simulation.rules.by_name[nobody] = Bounds(concurrency=0)
    backlogs = simulation.submit(require={"gpu": "none"})
    other = simulation.submit()

    assert simulation.release() == [other]
    simulation.run(other)
    assert simulation.release() == []
    del simulation.rules.by_name[nobody]
    simulation.held_tasks.limiter.refresh(simulation.now, "servers")
    assert simulation.release() == [backlogs]


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_a_grant_that_no_server_could_take_any_more_is_taken_back_where_others_wait(kind: str) -> None:
    simulation = one_at_a_time(kind)
    left = simulation.submit(require={"gpu": "a"})
    other = simulation.submit()
    assert simulation.release() == [left]
    simulation.rules.by_name["servers", "default", "default", "gpu=a"] = Bounds(concurrency=0)
    simulation.held_tasks.limiter.refresh(simulation.now, "servers")

    simulation.wait(20)
    found = simulation.held_tasks.stuck(simulation.now - 15)
    simulation.hold(left)

    assert [take_back.ref for take_back in found] == [left]
    assert simulation.release() == [other]


# Combinations, and whole results


def test_a_task_with_a_time_and_an_expiry_is_queued_in_between(simulation: Simulation) -> None:
    task = simulation.submit(not_before=START + timedelta(seconds=5), expires_at=START + timedelta(seconds=9))
    assert simulation.release() == []
    assert simulation.held_tasks.next_at() == simulation.now + 5

    simulation.wait(5)

    assert simulation.release() == [task]
    assert simulation.due == []
    assert simulation.held_tasks.next_at() == simulation.now + 4


@pytest.mark.parametrize("stage", ["held", "queued", "running"])
def test_a_task_expires_at_its_very_instant_and_once(simulation: Simulation, stage: str) -> None:
    task = simulation.submit(
        expires_at=START + timedelta(seconds=9), depends_on=("0" * 26 + "~bob",) * (stage == "held")
    )
    simulation.release()
    if stage == "running":
        simulation.start(task)
    simulation.due.clear()
    simulation.wait(8.999)
    simulation.release()
    assert simulation.due == []

    simulation.wait(0.001)
    simulation.release()
    assert simulation.due == [DueCommand(task, ExpireTask())]
    assert simulation.held_tasks.next_at() is None
    simulation.wait(100)
    simulation.release()
    assert simulation.due == [DueCommand(task, ExpireTask())]


def test_tasks_that_ended_before_their_times_keep_no_other_from_being_looked_at(simulation: Simulation) -> None:
    early = [simulation.submit(not_before=START + timedelta(seconds=5)) for _ in range(2)]
    late = simulation.submit(not_before=START + timedelta(seconds=5))
    for task in early:
        simulation.cancel(task)

    simulation.wait(6)

    assert simulation.release() == [late]


def test_the_next_moment_is_the_earliest_of_times_and_rates() -> None:
    simulation = with_type_limit(per_second=0.25, burst=1)
    assert simulation.held_tasks.next_at() is None
    running, _ = simulation.submit(), simulation.submit()
    simulation.release()
    simulation.start(running)
    simulation.release()
    assert simulation.held_tasks.next_at() == simulation.now + 4

    simulation.submit("bob", not_before=START + timedelta(seconds=3))
    assert simulation.held_tasks.next_at() == simulation.now + 3
    simulation.wait(3)
    simulation.release()
    simulation.submit("bob", not_before=START + timedelta(seconds=60))
    assert simulation.held_tasks.next_at() == START.timestamp() + 4


@pytest.mark.parametrize("on_failure", ["fail", "run"])
def test_a_parents_failure_ends_its_child_unless_it_is_to_run(simulation: Simulation, on_failure: str) -> None:
    parent = simulation.submit()
    child = simulation.submit(depends_on=(parent.id,), on_parent_failure=on_failure)
    simulation.release()

    simulation.fail(parent)

    assert simulation.release() == ([child] if on_failure == "run" else [])
    failure = DueCommand(child, FailByParent(parent_id=parent.id, outcome="failed"))
    assert simulation.due == ([] if on_failure == "run" else [failure])


def test_a_cancelled_parent_ends_all_its_children_and_no_others(simulation: Simulation) -> None:
    parent, other = simulation.submit(), simulation.submit()
    children = [simulation.submit(depends_on=(parent.id,), on_parent_failure=how) for how in ("fail", "run", "fail")]
    both = simulation.submit(depends_on=(parent.id, other.id), on_parent_failure="run")
    simulation.release()

    simulation.cancel(parent)

    assert simulation.release() == [children[1]]
    assert {due.ref for due in simulation.due if isinstance(due, DueCommand)} == {children[0], children[2]}
    assert simulation.entry(both).parents == {other.id}


def test_every_child_of_a_parent_is_queued_though_some_wait_for_it_no_more(simulation: Simulation) -> None:
    parent = simulation.submit()
    children = [simulation.submit(depends_on=(parent.id,)) for _ in range(3)]
    for child in children[:2]:
        simulation.entry(child).parents = frozenset()
    simulation.release()

    simulation.succeed(parent)

    assert children[2] in simulation.release()


@pytest.mark.parametrize(("renewed_after", "fails"), [(6, True), (7, False), (8, False)])
def test_only_an_end_after_its_own_retry_fails_a_child(simulation: Simulation, renewed_after: int, fails: bool) -> None:
    parent = "0" * 26 + "~alice"
    child = simulation.submit(depends_on=(parent,))
    simulation.release()
    simulation.due.clear()
    simulation.entry(child).renewed_after = renewed_after

    simulation.held_tasks.parent_ended(parent, "failed", 7, simulation.now)

    assert simulation.release() == ([] if fails else [child])
    assert simulation.due == ([DueCommand(child, FailByParent(parent_id=parent, outcome="failed"))] if fails else [])


def test_tasks_with_later_events_that_are_missing_are_read_each_once(simulation: Simulation) -> None:
    known, missing = simulation.submit(), TaskRef("bob", "1")

    simulation.held_tasks.reread_unknown([known, missing, missing])
    simulation.release()

    assert simulation.due == [Reread(missing)]


def test_a_release_takes_as_many_as_asked_for(simulation: Simulation) -> None:
    tasks = [simulation.submit() for _ in range(3)]

    assert simulation.release(0) == []
    assert simulation.release(2) == tasks[:2]


def test_a_released_task_is_granted_now_and_its_place_in_the_log_is_known(simulation: Simulation) -> None:
    tasks = [simulation.submit() for _ in range(2)]
    simulation.wait(3)

    chosen = simulation.held_tasks.release(simulation.now, 9)
    simulation.held_tasks.released(chosen, 50)

    assert [(each.ref, each.sequence) for each in chosen] == [(tasks[0], 50), (tasks[1], 51)]
    assert {(each.stage, each.granted, each.granted_at) for each in chosen} == {(Stage.QUEUED, True, simulation.now)}


def test_a_chosen_task_that_started_or_ended_meanwhile_is_not_put_back(simulation: Simulation) -> None:
    tasks = [simulation.submit() for _ in range(3)]
    chosen = simulation.held_tasks.release(simulation.now, 3)
    simulation.start(tasks[0])
    simulation.cancel(tasks[1])

    simulation.held_tasks.put_back(chosen, simulation.now)

    assert simulation.release() == [tasks[2]]
    assert simulation.entry(tasks[0]).stage is Stage.RUNNING


def test_a_returned_attempt_keeps_its_grant_and_a_retry_loses_it(simulation: Simulation) -> None:
    task = simulation.submit()
    simulation.release()
    simulation.start(task)
    assert (simulation.entry(task).attempt, simulation.entry(task).granted) == (1, True)

    simulation.wait(2)
    simulation.give_back(task)
    entry = simulation.entry(task)
    assert (entry.stage, entry.granted, entry.granted_at) == (Stage.QUEUED, True, simulation.now)

    simulation.start(task)
    simulation.fail_attempt(task)
    assert (entry.stage, entry.granted, entry.granted_at) == (Stage.RETRYING, False, 0.0)
    simulation.say(task, TaskQueued(pool="default", priority="normal", reason="its time has come", granted=True))
    assert (entry.stage, entry.granted, entry.granted_at) == (Stage.QUEUED, True, simulation.now)


def test_progress_moves_nothing(simulation: Simulation) -> None:
    task = simulation.submit()
    simulation.release()
    simulation.start(task)

    sequence = simulation.say(task, AttemptAccepted(attempt=1))

    assert (simulation.entry(task).stage, simulation.entry(task).sequence) == (Stage.RUNNING, sequence)


def test_progress_of_a_task_that_is_missing_is_no_reason_to_read_it(simulation: Simulation) -> None:
    simulation.say(TaskRef("bob", "1"), AttemptAccepted(attempt=1))
    simulation.release()

    assert simulation.due == []


def test_an_entry_has_all_that_its_submission_says(simulation: Simulation) -> None:
    ref = simulation.submit("bob", pool="gpu", priority="low", task_type="song", concurrency_key="k")
    other = simulation.submit(held=False)

    entry = simulation.entry(ref)

    found = (entry.pool, entry.priority, entry.task_type, entry.submitted_at, entry.stage, entry.plan.concurrency_key)
    assert found == ("gpu", "low", "song", START.timestamp(), Stage.HELD, "k")
    assert (entry.sequence, entry.created_sequence, simulation.entry(other).sequence) == (1, 1, 2)
    assert (simulation.entry(other).stage, simulation.entry(other).plan) == (Stage.QUEUED, NO_PLAN)


# Concurrency keys with limits above one


def key_rules(on_conflict: OnConflict, concurrency: int | None) -> Simulation:
    return Simulation(FixedRules({"key": Bounds(concurrency=concurrency)}, on_conflict=on_conflict))


def test_refuse_lets_as_many_in_as_may_run_and_refuses_each_that_comes_later() -> None:
    simulation = key_rules("refuse", 2)
    tasks = [simulation.submit(concurrency_key="k") for _ in range(4)]

    assert simulation.release() == tasks[:2]
    reason = f"refused: {tasks[0].id} has the same concurrency key"
    assert simulation.due == [DueCommand(each, CancelUnstarted(reason=reason)) for each in tasks[2:]]


def test_refuse_never_ends_what_was_queued_or_tried_before() -> None:
    simulation = key_rules("refuse", 1)
    queued = [simulation.submit(concurrency_key="k", held=False) for _ in range(2)]
    tried = simulation.submit(concurrency_key="k", held=False)
    simulation.start(tried)
    simulation.fail_attempt(tried)
    simulation.hold(tried)
    simulation.release()
    simulation.due.clear()

    new = simulation.submit(concurrency_key="k")
    simulation.release()

    assert [due.ref for due in simulation.due if isinstance(due, DueCommand)] == [new]
    assert all(simulation.held_tasks.find(each) for each in queued)


def test_replace_ends_all_that_wait_but_the_newest_and_not_those_tried_before() -> None:
    simulation = key_rules("replace", 1)
    queued = simulation.submit(concurrency_key="k", held=False)
    tried = simulation.submit(concurrency_key="k", held=False)
    simulation.start(tried)
    simulation.give_back(tried)
    simulation.release()
    simulation.due.clear()

    new = simulation.submit(concurrency_key="k")
    simulation.release()

    reason = f"replaced by {new.id}, which has the same concurrency key"
    assert simulation.due == [DueCommand(queued, CancelUnstarted(reason=reason))]


def test_wait_ends_nothing_and_tasks_without_a_key_have_no_conflict() -> None:
    for simulation, key in ((key_rules("wait", 1), "k"), (key_rules("refuse", 1), ""), (key_rules("replace", 1), "")):
        tasks = [simulation.submit(concurrency_key=key, prefer={"a": "b"}) for _ in range(3)]
        assert simulation.release() == (tasks[:1] if key else tasks)
        assert simulation.due == []


# Grants that block others


def test_a_grant_is_taken_back_with_its_reason_in_time_and_never_of_a_window() -> None:
    simulation = one_at_a_time("owner")
    stuck = simulation.submit(pool="nobody-serves-it")
    simulation.submit(pool="default")
    simulation.release()
    granted_at = simulation.now
    simulation.wait(20)

    assert simulation.held_tasks.stuck(granted_at - 0.001) == []
    reason = "no server of pool nobody-serves-it has taken it, and its owner has others waiting"
    assert simulation.held_tasks.stuck(granted_at) == [DueCommand(stuck, HoldTask(reason=reason))]


def test_a_grant_of_a_type_is_left_though_its_pool_is_busy() -> None:
    simulation = one_at_a_time("type")
    simulation.submit(pool="busy")
    simulation.submit(pool="default")
    simulation.release()
    simulation.wait(20)

    assert simulation.held_tasks.stuck(simulation.now) == []


def test_every_stuck_grant_is_found_behind_those_that_are_not() -> None:
    simulation = Simulation(FixedRules({"owner": Bounds(concurrency=4)}))
    same = simulation.submit(pool="default")
    stuck = [simulation.submit(pool="a"), simulation.submit(pool="b")]
    simulation.release()
    simulation.wait(20)
    fresh = simulation.submit(pool="c")
    simulation.release()
    simulation.submit(pool="default")
    simulation.release()

    assert [due.ref for due in simulation.held_tasks.stuck(simulation.now - 10)] == stuck
    simulation.wait(20)
    assert [due.ref for due in simulation.held_tasks.stuck(simulation.now - 10)] == [*stuck, fresh]
    assert simulation.held_tasks.find(same)


def test_a_grant_is_left_where_those_that_wait_could_start_nowhere() -> None:
    simulation = one_at_a_time("owner")
    simulation.rules.by_name["servers", "gpu", "default"] = Bounds(concurrency=1)
    simulation.submit(pool="a")
    simulation.submit(pool="gpu")
    simulation.release()
    simulation.rules.by_name["servers", "gpu", "default"] = Bounds(concurrency=0)
    simulation.held_tasks.limiter.refresh(simulation.now, "servers")
    simulation.wait(20)

    assert simulation.held_tasks.stuck(simulation.now) == []


# Backlogs, whole


def test_a_backlog_counts_queued_tasks_and_a_blocked_window_as_full() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=4)}))
    tasks = [simulation.submit("alice") for _ in range(6)]
    simulation.submit("bob", held=False)
    simulation.submit("carol", depends_on=("0" * 26 + "~carol",))
    for task in simulation.release()[:1]:
        simulation.start(task)
    window = "normal default default "

    assert simulation.held_tasks.backlogs(1) == {
        "alice": OwnerBacklog(5, {window: 4}, (window,)),
        "bob": OwnerBacklog(1, {window: 1}), "carol": OwnerBacklog(1, {}),
    }  # fmt: skip
    assert set(simulation.held_tasks.backlogs(2)) == {"alice"}
    assert set(simulation.held_tasks.backlogs(5)) == {"alice"}
    assert simulation.held_tasks.backlogs(6) == {}
    assert (len(simulation.held_tasks), simulation.held_tasks.owners_waiting) == (8, 3)
    assert simulation.entry(tasks[0]).stage is Stage.RUNNING


# Rates and rounds


def test_a_changed_rate_is_in_force_for_those_that_wait() -> None:
    simulation = with_type_limit(per_second=1, burst=1)
    tasks = [simulation.submit() for _ in range(12)]
    for task in simulation.release():
        simulation.start(task)
    simulation.rules.by_name["type"] = Bounds(per_second=10, burst=10)

    simulation.held_tasks.limiter.refresh(simulation.now, "owner")
    simulation.wait(0.5)
    assert simulation.release() == []
    simulation.held_tasks.limiter.refresh(simulation.now, "type")
    simulation.wait(0.5)

    assert simulation.release() == tasks[1:6]


def test_owners_take_turns_at_a_limit_that_they_share() -> None:
    simulation = one_at_a_time("type")
    crowd = [simulation.submit("alice") for _ in range(4)]
    others = [simulation.submit(owner) for owner in ("bob", "carol", "bob")]
    order: list[TaskRef] = []
    while released := simulation.release():
        order += released
        simulation.run(released[0])

    assert order == [crowd[0], others[0], others[1], crowd[1], others[2], crowd[2], crowd[3]]


def test_only_the_rate_that_opens_is_waited_for_and_it_opens_at_its_instant() -> None:
    simulation = with_type_limit(per_second=0.5, burst=1)
    tasks = [simulation.submit(task_type=name) for name in ("a", "b", "a", "b")]
    assert simulation.release() == tasks[:2]
    simulation.start(tasks[0])
    simulation.wait(1)
    simulation.start(tasks[1])
    assert simulation.release() == []
    assert simulation.held_tasks.next_at() == START.timestamp() + 2

    simulation.wait(0.999)
    assert simulation.release() == []
    simulation.wait(0.001)
    assert simulation.release() == [tasks[2]]
    simulation.wait(1)
    assert simulation.release() == [tasks[3]]
    assert simulation.held_tasks.next_at() is None


def test_what_a_full_window_holds_is_counted_by_pool_and_over_owners() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=1)}))
    for owner in ("alice", "bob"):
        for _ in range(3):
            simulation.submit(owner, pool="gpu")
        simulation.submit(owner)
    simulation.release()

    assert simulation.held_tasks.limiter.held_back() == {"gpu": 4}


def test_a_choice_that_was_put_back_is_held_and_not_granted(simulation: Simulation) -> None:
    simulation.submit()
    [chosen] = simulation.held_tasks.release(simulation.now, 1)

    simulation.held_tasks.put_back([chosen], simulation.now)

    assert (chosen.stage, chosen.granted, chosen.granted_at, simulation.held_tasks.held) == (Stage.HELD, False, 0.0, 1)


def test_a_child_waits_again_for_a_parent_that_is_read_after_its_retry(simulation: Simulation) -> None:
    parent = simulation.submit()
    other = simulation.submit()
    child = simulation.submit(depends_on=(parent.id, other.id))
    simulation.release()
    simulation.succeed(parent)
    as_read = submitted(parent, 1, simulation.log[0][2].event, START)  # type: ignore[arg-type]

    simulation.held_tasks.add(as_read, simulation.now)

    assert simulation.entry(child).parents == {parent.id, other.id}


def test_an_end_that_a_child_does_not_wait_for_any_more_fails_it_not(simulation: Simulation) -> None:
    parent, other = simulation.submit(), simulation.submit()
    child = simulation.submit(depends_on=(parent.id, other.id))
    simulation.release()
    simulation.succeed(parent)

    simulation.held_tasks.parent_ended(parent.id, "failed", 99, simulation.now)
    simulation.release()

    assert simulation.due == []
    assert simulation.entry(child).parents == {other.id}


def test_a_grant_that_no_server_could_take_is_left_if_nobody_waits() -> None:
    simulation = one_at_a_time("owner")
    simulation.submit(require={"gpu": "a"})
    simulation.release()
    simulation.rules.by_name["servers", "default", "default", "gpu=a"] = Bounds(concurrency=0)
    simulation.held_tasks.limiter.refresh(simulation.now, "servers")
    simulation.wait(20)

    assert simulation.held_tasks.stuck(simulation.now) == []


def test_owners_beyond_their_windows_are_told_by_pool_and_priority_two_at_most() -> None:
    simulation = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    for owner, count in (("alice", 2), ("bob", 3), ("carol", 4), ("dan", 5)):
        tasks = [simulation.submit(owner, held=False) for _ in range(count)]
    for _ in range(3):
        simulation.submit("alice", priority="low", held=False)
        simulation.submit("alice", pool="a pool", task_type="song", held=False)
    for _ in range(9):
        simulation.submit("erin", pool="held")

    assert simulation.held_tasks.over() == {
        "normal default": ("bob", "carol"),
        "low default": ("alice",),
        "normal a pool": ("alice",),
    }
    for task in tasks[:3]:
        simulation.start(task)
    for ref in [entry.ref for entry in simulation.held_tasks._entries.values() if entry.ref.owner in ("bob", "carol")]:
        simulation.cancel(ref)
    assert "normal default" not in simulation.held_tasks.over()
