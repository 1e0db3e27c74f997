"""A held task is queued when nothing holds it any more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskstream.commands.task_commands import CancelUnstarted, ExpireTask, FailByParent, HoldTask
from taskstream.events.task import AttemptStarted, TaskQueued
from taskstream.scheduling.backlog_report import OwnerBacklog
from taskstream.scheduling.held_tasks import AskParent, DueCommand, Reread
from taskstream.scheduling.limit import Bounds, Stage, TaskEntry

from .simulation import START, FixedRules, Simulation


def one_at_a_time(kind: str) -> Simulation:
    return Simulation(FixedRules({kind: Bounds(concurrency=1)}))


# Nothing holds it


def test_a_task_that_nothing_holds_is_queued_at_once() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit()

    assert held_tasks.release() == [task]


def test_a_task_is_queued_once() -> None:
    held_tasks = Simulation()
    held_tasks.submit()
    held_tasks.release()

    assert held_tasks.release() == []


def test_a_task_that_was_submitted_into_the_queue_is_left_there() -> None:
    held_tasks = Simulation()
    held_tasks.submit(held=False)

    assert held_tasks.release() == []


def test_a_task_cancelled_while_held_is_not_queued() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit()
    held_tasks.cancel(task)

    assert held_tasks.release() == []
    assert len(held_tasks.held_tasks) == 0


def test_a_task_that_is_held_again_is_queued_again() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit(held=False)
    held_tasks.hold(task)

    assert held_tasks.release() == [task]


def test_a_choice_that_was_not_stored_is_made_again_in_the_same_order() -> None:
    held_tasks = Simulation()
    tasks = [held_tasks.submit() for _ in range(3)]
    chosen = held_tasks.held_tasks.release(held_tasks.now, 2)

    held_tasks.held_tasks.put_back(chosen, held_tasks.now)

    assert held_tasks.release() == tasks


def test_an_event_that_comes_again_changes_nothing() -> None:
    held_tasks = one_at_a_time("owner")
    tasks = [held_tasks.submit() for _ in range(3)]
    held_tasks.release()
    held_tasks.start(tasks[0])

    for again in list(held_tasks.log):
        held_tasks.held_tasks.apply(*again, held_tasks.now)

    assert held_tasks.release() == []


# Time


def test_a_task_waits_for_its_time() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit(not_before=START + timedelta(seconds=10))
    assert held_tasks.release() == []
    assert held_tasks.held_tasks.next_at() == (START + timedelta(seconds=10)).timestamp()

    held_tasks.wait(10)

    assert held_tasks.release() == [task]


def test_a_task_whose_time_is_up_while_it_waits_is_to_be_ended() -> None:
    held_tasks = one_at_a_time("owner")
    held_tasks.submit()
    task = held_tasks.submit(expires_at=START + timedelta(seconds=5))
    held_tasks.release()
    assert held_tasks.due == []

    held_tasks.wait(5)
    held_tasks.release()

    assert held_tasks.due == [DueCommand(task, ExpireTask())]


def test_a_task_that_may_not_start_later_and_must_end_by_is_looked_at_twice() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit(expires_at=START + timedelta(seconds=5), ends_by=START + timedelta(seconds=9))
    held_tasks.release()
    held_tasks.start(task)

    held_tasks.wait(5)
    held_tasks.release()
    held_tasks.wait(4)
    held_tasks.release()

    assert held_tasks.due == [DueCommand(task, ExpireTask()), DueCommand(task, ExpireTask())]


# Parents


def test_a_task_waits_for_all_its_parents() -> None:
    held_tasks = Simulation()
    mother, father = held_tasks.submit(), held_tasks.submit()
    child = held_tasks.submit(depends_on=(mother.id, father.id))
    assert held_tasks.release() == [mother, father]

    held_tasks.run(mother)
    assert held_tasks.release() == []
    held_tasks.run(father)

    assert held_tasks.release() == [child]
    assert held_tasks.due == []


def test_a_child_is_told_of_a_parent_that_did_not_succeed() -> None:
    held_tasks = Simulation()
    parent = held_tasks.submit()
    child = held_tasks.submit(depends_on=(parent.id,))
    held_tasks.release()

    held_tasks.fail(parent)

    assert held_tasks.release() == []
    assert held_tasks.due == [DueCommand(child, FailByParent(parent_id=parent.id, outcome="failed"))]


def test_a_child_that_runs_anyway_waits_only_for_the_end() -> None:
    held_tasks = Simulation()
    parent = held_tasks.submit()
    child = held_tasks.submit(depends_on=(parent.id,), on_parent_failure="run")
    held_tasks.release()

    held_tasks.cancel(parent)

    assert held_tasks.release() == [child]


def test_a_held_child_waits_again_for_a_parent_that_is_retried() -> None:
    held_tasks = Simulation()
    parent, other = held_tasks.submit(), held_tasks.submit()
    child = held_tasks.submit(depends_on=(parent.id, other.id), on_parent_failure="run")
    held_tasks.release()
    held_tasks.fail(parent)

    held_tasks.say(parent, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    held_tasks.cancel(other)

    assert held_tasks.release() == []
    assert held_tasks.due == [Reread(parent)]
    assert held_tasks.entry(child).parents == {parent.id}


def test_a_parent_retried_and_ended_before_it_was_entered_is_asked_about() -> None:
    held_tasks = Simulation()
    parent = held_tasks.submit()
    child = held_tasks.submit(depends_on=(parent.id, "0" * 26 + "~alice"))
    held_tasks.release()
    held_tasks.succeed(parent)
    held_tasks.say(parent, AttemptStarted(attempt=2, server_id="s", worker_id="w", deadline=held_tasks.at))
    held_tasks.due.clear()

    held_tasks.succeed(parent)
    held_tasks.release()

    assert held_tasks.due == [Reread(parent), AskParent(parent.id)]
    assert parent.id in held_tasks.entry(child).parents


def test_a_parent_that_is_not_in_the_book_is_asked_about() -> None:
    held_tasks = Simulation()
    gone = "0" * 26 + "~alice"
    child = held_tasks.submit(depends_on=(gone,))
    assert held_tasks.release() == []
    assert held_tasks.due == [AskParent(gone)]

    held_tasks.held_tasks.parent_ended(gone, "succeeded", 1, held_tasks.now)

    assert held_tasks.release() == [child]


# Limits


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_no_more_run_at_once_than_the_limit(kind: str) -> None:
    held_tasks = one_at_a_time(kind)
    first, second = held_tasks.submit(), held_tasks.submit()
    assert held_tasks.release() == [first]
    held_tasks.start(first)
    assert held_tasks.release() == []

    held_tasks.succeed(first)

    assert held_tasks.release() == [second]


def test_tasks_with_one_key_run_one_after_the_other_and_others_beside_them() -> None:
    held_tasks = Simulation()
    first, second = held_tasks.submit(concurrency_key="k"), held_tasks.submit(concurrency_key="k")
    other = held_tasks.submit(concurrency_key="l")

    assert held_tasks.release() == [first, other]
    held_tasks.run(first)
    assert held_tasks.release() == [second]


def test_a_task_that_waits_for_its_retry_leaves_its_room_to_another() -> None:
    held_tasks = one_at_a_time("owner")
    first, second = held_tasks.submit(), held_tasks.submit()
    held_tasks.release()
    held_tasks.start(first)

    held_tasks.fail_attempt(first)
    assert held_tasks.release() == [second]
    held_tasks.hold(first)  # its retry came, and a worker saw that it shares a limit
    assert held_tasks.release() == []
    held_tasks.run(second)

    assert held_tasks.release() == [first]


def test_a_task_that_its_worker_gave_back_keeps_its_room() -> None:
    held_tasks = one_at_a_time("owner")
    first, _ = held_tasks.submit(), held_tasks.submit()
    held_tasks.release()
    held_tasks.start(first)

    held_tasks.give_back(first)

    assert held_tasks.release() == []


def test_what_runs_without_having_been_counted_in_counts_too() -> None:
    held_tasks = one_at_a_time("type")
    running = held_tasks.submit(held=False)
    held_tasks.start(running)
    waiting = held_tasks.submit()
    assert held_tasks.release() == []

    held_tasks.succeed(running)

    assert held_tasks.release() == [waiting]


def test_a_limit_that_is_raised_lets_more_through() -> None:
    held_tasks = one_at_a_time("type")
    tasks = [held_tasks.submit() for _ in range(5)]
    held_tasks.release()

    held_tasks.rules.by_name["type"] = Bounds(concurrency=4)
    held_tasks.held_tasks.limiter.refresh(held_tasks.now)

    assert held_tasks.release() == tasks[1:4]


def test_a_limit_that_is_lowered_lets_what_runs_end() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(concurrency=2)}))
    tasks = [held_tasks.submit() for _ in range(4)]
    for task in held_tasks.release():
        held_tasks.start(task)
    held_tasks.rules.by_name["type"] = Bounds(concurrency=1)
    held_tasks.held_tasks.limiter.refresh(held_tasks.now)

    held_tasks.succeed(tasks[0])
    assert held_tasks.release() == []
    held_tasks.succeed(tasks[1])

    assert held_tasks.release() == [tasks[2]]


def test_starts_keep_to_the_rate_after_a_burst() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(per_second=2, burst=3)}))
    tasks = [held_tasks.submit() for _ in range(5)]

    assert held_tasks.release() == tasks[:3]
    for task in tasks[:3]:
        held_tasks.start(task)
    assert held_tasks.release() == []
    assert held_tasks.held_tasks.next_at() == pytest.approx(held_tasks.now + 0.5)
    held_tasks.wait(0.5)
    assert held_tasks.release() == [tasks[3]]


def test_what_was_granted_and_has_not_started_keeps_its_token() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(per_second=1, burst=1)}))
    held_tasks.submit()
    held_tasks.submit()
    held_tasks.release()

    held_tasks.wait(60)

    assert held_tasks.release() == []


@pytest.mark.parametrize("seconds_ago", [pytest.param(5, id="stored late"), pytest.param(-60, id="by a clock ahead")])
def test_a_start_counts_from_when_it_is_seen(seconds_ago: float) -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(per_second=1, burst=2)}))
    tasks = [held_tasks.submit() for _ in range(4)]
    assert held_tasks.release() == tasks[:2]
    held_tasks.wait(5)

    for task in tasks[:2]:
        held_tasks.start(task, seconds_ago=seconds_ago)

    assert held_tasks.release() == []
    held_tasks.wait(1)
    assert held_tasks.release() == [tasks[2]]


def test_a_clock_that_is_put_back_does_not_stop_the_rate() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(per_second=1, burst=1)}))
    tasks = [held_tasks.submit() for _ in range(2)]
    held_tasks.wait(60)
    assert held_tasks.release() == tasks[:1]
    held_tasks.start(tasks[0])

    held_tasks.wait(-60)
    assert held_tasks.release() == []
    held_tasks.wait(1)

    held_tasks.held_tasks.limiter.refresh(held_tasks.now)
    assert held_tasks.release() == [tasks[1]]


def test_a_book_that_has_just_begun_does_not_know_what_was_started_before() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(per_second=1, burst=10)}))
    held_tasks.held_tasks.limiter.begin(held_tasks.now)
    tasks = [held_tasks.submit() for _ in range(3)]
    assert held_tasks.release() == []

    held_tasks.wait(1)

    assert held_tasks.release() == tasks[:1]


# Order


def test_high_priority_goes_first() -> None:
    held_tasks = one_at_a_time("type")
    held_tasks.submit("alice", priority="normal")
    low, high = held_tasks.submit("bob", priority="low"), held_tasks.submit("carol", priority="high")

    assert held_tasks.release(1) == [high]
    held_tasks.run(high)
    held_tasks.run(held_tasks.release()[0])
    assert held_tasks.release() == [low]


def test_low_priority_that_has_waited_long_enough_goes_first() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(concurrency=1)}), ageing_seconds=60)
    low = held_tasks.submit("bob", priority="low")
    held_tasks.submit("bob", priority="low")
    held_tasks.run(held_tasks.release()[0])
    del low
    running = held_tasks.release()[0]
    held_tasks.wait(61)
    old = held_tasks.submit("bob", priority="low")
    held_tasks.wait(61)
    held_tasks.submit("carol", priority="high")

    held_tasks.run(running)

    assert held_tasks.release() == [old]


def test_owners_take_turns() -> None:
    held_tasks = one_at_a_time("type")
    for _ in range(100):
        held_tasks.submit("alice")
    bobs = held_tasks.submit("bob")

    order = []
    for _ in range(4):
        (task,) = held_tasks.release()
        order.append(task)
        held_tasks.run(task)

    assert bobs in order[:2]


def test_an_owner_with_a_full_window_waits_and_no_other() -> None:
    held_tasks = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    alices = [held_tasks.submit("alice") for _ in range(10)]
    bobs = held_tasks.submit("bob")

    assert set(held_tasks.release()) == {*alices[:2], bobs}
    held_tasks.start(alices[0])
    assert held_tasks.release() == [alices[2]]


def test_the_window_is_counted_for_each_priority() -> None:
    held_tasks = Simulation(FixedRules({"window": Bounds(concurrency=1)}))
    low, _, high = (
        held_tasks.submit(priority="low"),
        held_tasks.submit(priority="low"),
        held_tasks.submit(priority="high"),
    )

    assert held_tasks.release() == [high, low]


# Concurrency keys: what happens to a new task


def test_a_newcomer_replaces_those_that_wait_and_not_the_one_that_runs() -> None:
    held_tasks = Simulation(FixedRules(on_conflict="replace"))
    running = held_tasks.submit(concurrency_key="k")
    held_tasks.release()
    held_tasks.start(running)
    old = held_tasks.submit(concurrency_key="k")

    new = held_tasks.submit(concurrency_key="k")
    held_tasks.release()

    assert held_tasks.due == [
        DueCommand(old, CancelUnstarted(reason=f"replaced by {new.id}, which has the same concurrency key"))
    ]


def test_a_newcomer_is_refused_while_another_has_its_key() -> None:
    held_tasks = Simulation(FixedRules(on_conflict="refuse"))
    first = held_tasks.submit(concurrency_key="k")
    second = held_tasks.submit(concurrency_key="k")
    held_tasks.release()

    assert held_tasks.due == [
        DueCommand(second, CancelUnstarted(reason=f"refused: {first.id} has the same concurrency key"))
    ]


def test_a_key_that_is_free_again_refuses_nobody() -> None:
    held_tasks = Simulation(FixedRules(on_conflict="refuse"))
    first = held_tasks.submit(concurrency_key="k")
    held_tasks.release()
    held_tasks.run(first)

    second = held_tasks.submit(concurrency_key="k")

    assert held_tasks.release() == [second]
    assert held_tasks.due == []


# Oddities


def test_a_task_that_is_retried_after_its_end_is_to_be_read_again() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit()
    held_tasks.release()
    held_tasks.fail(task)

    held_tasks.say(task, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    held_tasks.release()

    assert held_tasks.due == [Reread(task)]


def test_a_task_that_ends_while_it_is_read_again_is_not_kept() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit(held=False)
    held_tasks.fail(task)
    last = held_tasks.say(task, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    held_tasks.release()
    held_tasks.due.clear()  # it is read now
    as_read = TaskEntry(
        ref=task,
        sequence=last,
        created_sequence=1,
        pool="default",
        priority="normal",
        task_type="default",
        submitted_at=held_tasks.now,
        stage=Stage.QUEUED,
    )

    held_tasks.say(task, AttemptStarted(attempt=1, server_id="s", worker_id="w", deadline=held_tasks.at))
    held_tasks.succeed(task)
    held_tasks.held_tasks.add(as_read, held_tasks.now)
    held_tasks.release()

    assert held_tasks.due == [Reread(task)]
    held_tasks.tell_again(task)
    assert not len(held_tasks.held_tasks)


def test_an_unused_grant_is_taken_back_if_its_owner_has_work_for_others() -> None:
    held_tasks = one_at_a_time("owner")
    stuck = held_tasks.submit(pool="nobody-serves-it")
    elsewhere = held_tasks.submit(pool="default")
    assert held_tasks.release() == [stuck]

    held_tasks.wait(20)
    found = held_tasks.held_tasks.stuck(held_tasks.now - 15)
    held_tasks.hold(stuck)

    assert [(due.ref, type(due.command)) for due in found] == [(stuck, HoldTask)]
    assert held_tasks.release() == [elsewhere]


def test_a_grant_is_left_where_nothing_else_could_start() -> None:
    held_tasks = one_at_a_time("owner")
    held_tasks.submit(pool="a")
    held_tasks.submit(pool="a")
    held_tasks.release()

    held_tasks.wait(20)

    assert held_tasks.held_tasks.stuck(held_tasks.now - 15) == []


def test_gates_that_nothing_passes_are_forgotten() -> None:
    held_tasks = Simulation(FixedRules({"type": Bounds(per_second=1, burst=1)}))
    task = held_tasks.submit("alice")
    held_tasks.release()
    held_tasks.run(task)
    held_tasks.held_tasks.limiter.tidy(held_tasks.now)
    assert len(held_tasks.held_tasks.limiter) == 1  # its bucket is not full again

    held_tasks.wait(2)
    held_tasks.held_tasks.limiter.tidy(held_tasks.now)

    assert len(held_tasks.held_tasks.limiter) == 0


def test_what_only_waits_for_its_owners_window_is_told_by_pool() -> None:
    held_tasks = Simulation(FixedRules({"window": Bounds(concurrency=2), ("owner", "bob"): Bounds(concurrency=1)}))
    for _ in range(5):
        held_tasks.submit("alice", pool="gpu")
        held_tasks.submit("bob")
    held_tasks.submit("carol", depends_on=(held_tasks.submit("carol").id,))
    held_tasks.release()

    assert held_tasks.held_tasks.limiter.held_back() == {"gpu": 3}


def test_what_an_owner_has_waiting_is_told() -> None:
    held_tasks = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    for _ in range(5):
        held_tasks.submit("alice")
    held_tasks.submit("bob")
    for task in held_tasks.release()[:1]:
        held_tasks.start(task)
    held_tasks.release()

    backlogs = held_tasks.held_tasks.backlogs(at_least=2)

    assert backlogs == {"alice": OwnerBacklog(4, {"normal default default ": 2})}


def test_a_key_is_its_owners_own() -> None:
    held_tasks = Simulation(FixedRules(on_conflict="refuse"))
    alices, bobs = held_tasks.submit("alice", concurrency_key="k"), held_tasks.submit("bob", concurrency_key="k")

    assert held_tasks.release() == [alices, bobs]
    assert held_tasks.due == []


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_what_no_server_could_take_is_counted_in_nowhere_until_one_could(kind: str) -> None:
    held_tasks = one_at_a_time(kind)
    nobody = ("servers", "default", "default", "gpu=none")
    held_tasks.rules.by_name[nobody] = Bounds(concurrency=0)
    backlogs = held_tasks.submit(require={"gpu": "none"})
    other = held_tasks.submit()

    assert held_tasks.release() == [other]
    held_tasks.run(other)
    assert held_tasks.release() == []
    del held_tasks.rules.by_name[nobody]
    held_tasks.held_tasks.limiter.refresh(held_tasks.now, "servers")
    assert held_tasks.release() == [backlogs]


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_a_grant_that_no_server_could_take_any_more_is_taken_back_where_others_wait(kind: str) -> None:
    held_tasks = one_at_a_time(kind)
    left = held_tasks.submit(require={"gpu": "a"})
    other = held_tasks.submit()
    assert held_tasks.release() == [left]
    held_tasks.rules.by_name["servers", "default", "default", "gpu=a"] = Bounds(concurrency=0)
    held_tasks.held_tasks.limiter.refresh(held_tasks.now, "servers")

    held_tasks.wait(20)
    found = held_tasks.held_tasks.stuck(held_tasks.now - 15)
    held_tasks.hold(left)

    assert [take_back.ref for take_back in found] == [left]
    assert held_tasks.release() == [other]
