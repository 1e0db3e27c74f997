"""A held task is queued when nothing holds it any more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskstream.events.task import AttemptStarted, TaskQueued
from taskstream.scheduling.due import AskParent, Cancel, Expire, FailChild, Reread, TakeBack
from taskstream.scheduling.limit import Bounds, Entry, Stage

from .simulation import START, FixedRules, Simulation


def one_at_a_time(kind: str) -> Simulation:
    return Simulation(FixedRules({kind: Bounds(concurrency=1)}))


# Nothing holds it


def test_a_task_that_nothing_holds_is_queued_at_once() -> None:
    book = Simulation()
    task = book.submit()

    assert book.release() == [task]


def test_a_task_is_queued_once() -> None:
    book = Simulation()
    book.submit()
    book.release()

    assert book.release() == []


def test_a_task_that_was_submitted_into_the_queue_is_left_there() -> None:
    book = Simulation()
    book.submit(held=False)

    assert book.release() == []


def test_a_task_cancelled_while_held_is_not_queued() -> None:
    book = Simulation()
    task = book.submit()
    book.cancel(task)

    assert book.release() == []
    assert len(book.book) == 0


def test_a_task_that_is_held_again_is_queued_again() -> None:
    book = Simulation()
    task = book.submit(held=False)
    book.hold(task)

    assert book.release() == [task]


def test_a_choice_that_was_not_stored_is_made_again_in_the_same_order() -> None:
    book = Simulation()
    tasks = [book.submit() for _ in range(3)]
    chosen = book.book.release(book.now, 2)

    book.book.put_back(chosen, book.now)

    assert book.release() == tasks


def test_an_event_that_comes_again_changes_nothing() -> None:
    book = one_at_a_time("owner")
    tasks = [book.submit() for _ in range(3)]
    book.release()
    book.start(tasks[0])

    for again in list(book.log):
        book.book.fold(*again, book.now)

    assert book.release() == []


# Time


def test_a_task_waits_for_its_time() -> None:
    book = Simulation()
    task = book.submit(not_before=START + timedelta(seconds=10))
    assert book.release() == []
    assert book.book.next_at() == (START + timedelta(seconds=10)).timestamp()

    book.wait(10)

    assert book.release() == [task]


def test_a_task_whose_time_is_up_while_it_waits_is_to_be_ended() -> None:
    book = one_at_a_time("owner")
    book.submit()
    task = book.submit(expires_at=START + timedelta(seconds=5))
    book.release()
    assert book.due == []

    book.wait(5)
    book.release()

    assert book.due == [Expire(task)]


def test_a_task_that_may_not_start_later_and_must_end_by_is_looked_at_twice() -> None:
    book = Simulation()
    task = book.submit(expires_at=START + timedelta(seconds=5), ends_by=START + timedelta(seconds=9))
    book.release()
    book.start(task)

    book.wait(5)
    book.release()
    book.wait(4)
    book.release()

    assert book.due == [Expire(task), Expire(task)]


# Parents


def test_a_task_waits_for_all_its_parents() -> None:
    book = Simulation()
    mother, father = book.submit(), book.submit()
    child = book.submit(depends_on=(mother.id, father.id))
    assert book.release() == [mother, father]

    book.run(mother)
    assert book.release() == []
    book.run(father)

    assert book.release() == [child]
    assert book.due == []


def test_a_child_is_told_of_a_parent_that_did_not_succeed() -> None:
    book = Simulation()
    parent = book.submit()
    child = book.submit(depends_on=(parent.id,))
    book.release()

    book.fail(parent)

    assert book.release() == []
    assert book.due == [FailChild(child, parent.id, "failed")]


def test_a_child_that_runs_anyway_waits_only_for_the_end() -> None:
    book = Simulation()
    parent = book.submit()
    child = book.submit(depends_on=(parent.id,), on_parent_failure="run")
    book.release()

    book.cancel(parent)

    assert book.release() == [child]


def test_a_held_child_waits_again_for_a_parent_that_is_retried() -> None:
    book = Simulation()
    parent, other = book.submit(), book.submit()
    child = book.submit(depends_on=(parent.id, other.id), on_parent_failure="run")
    book.release()
    book.fail(parent)

    book.say(parent, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    book.cancel(other)

    assert book.release() == []
    assert book.due == [Reread(parent)]
    assert book.entry(child).parents == {parent.id}


def test_a_parent_that_was_retried_and_has_ended_before_it_could_be_entered_is_asked_about() -> None:
    book = Simulation()
    parent = book.submit()
    child = book.submit(depends_on=(parent.id, "0" * 26 + "~alice"))
    book.release()
    book.succeed(parent)
    book.say(parent, AttemptStarted(attempt=2, server_id="s", worker_id="w", deadline=book.at))
    book.due.clear()

    book.succeed(parent)
    book.release()

    assert book.due == [Reread(parent), AskParent(parent.id)]
    assert parent.id in book.entry(child).parents


def test_a_parent_that_is_not_in_the_book_is_asked_about() -> None:
    book = Simulation()
    gone = "0" * 26 + "~alice"
    child = book.submit(depends_on=(gone,))
    assert book.release() == []
    assert book.due == [AskParent(gone)]

    book.book.parent_ended(gone, "succeeded", 1, book.now)

    assert book.release() == [child]


# Limits


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_no_more_run_at_once_than_the_limit(kind: str) -> None:
    book = one_at_a_time(kind)
    first, second = book.submit(), book.submit()
    assert book.release() == [first]
    book.start(first)
    assert book.release() == []

    book.succeed(first)

    assert book.release() == [second]


def test_tasks_with_one_key_run_one_after_the_other_and_others_beside_them() -> None:
    book = Simulation()
    first, second = book.submit(concurrency_key="k"), book.submit(concurrency_key="k")
    other = book.submit(concurrency_key="l")

    assert book.release() == [first, other]
    book.run(first)
    assert book.release() == [second]


def test_a_task_that_waits_for_its_retry_leaves_its_room_to_another() -> None:
    book = one_at_a_time("owner")
    first, second = book.submit(), book.submit()
    book.release()
    book.start(first)

    book.fail_attempt(first)
    assert book.release() == [second]
    book.hold(first)  # its retry came, and a worker saw that it shares a limit
    assert book.release() == []
    book.run(second)

    assert book.release() == [first]


def test_a_task_that_its_worker_gave_back_keeps_its_room() -> None:
    book = one_at_a_time("owner")
    first, _ = book.submit(), book.submit()
    book.release()
    book.start(first)

    book.give_back(first)

    assert book.release() == []


def test_what_runs_without_having_been_counted_in_counts_too() -> None:
    book = one_at_a_time("type")
    running = book.submit(held=False)
    book.start(running)
    waiting = book.submit()
    assert book.release() == []

    book.succeed(running)

    assert book.release() == [waiting]


def test_a_limit_that_is_raised_lets_more_through() -> None:
    book = one_at_a_time("type")
    tasks = [book.submit() for _ in range(5)]
    book.release()

    book.rules.by_name["type"] = Bounds(concurrency=4)
    book.book.room.refresh(book.now)

    assert book.release() == tasks[1:4]


def test_a_limit_that_is_lowered_lets_what_runs_end() -> None:
    book = Simulation(FixedRules({"type": Bounds(concurrency=2)}))
    tasks = [book.submit() for _ in range(4)]
    for task in book.release():
        book.start(task)
    book.rules.by_name["type"] = Bounds(concurrency=1)
    book.book.room.refresh(book.now)

    book.succeed(tasks[0])
    assert book.release() == []
    book.succeed(tasks[1])

    assert book.release() == [tasks[2]]


def test_starts_keep_to_the_rate_after_a_burst() -> None:
    book = Simulation(FixedRules({"type": Bounds(per_second=2, burst=3)}))
    tasks = [book.submit() for _ in range(5)]

    assert book.release() == tasks[:3]
    for task in tasks[:3]:
        book.start(task)
    assert book.release() == []
    assert book.book.next_at() == pytest.approx(book.now + 0.5)
    book.wait(0.5)
    assert book.release() == [tasks[3]]


def test_what_was_granted_and_has_not_started_keeps_its_token() -> None:
    book = Simulation(FixedRules({"type": Bounds(per_second=1, burst=1)}))
    book.submit()
    book.submit()
    book.release()

    book.wait(60)

    assert book.release() == []


@pytest.mark.parametrize("seconds_ago", [pytest.param(5, id="stored late"), pytest.param(-60, id="by a clock ahead")])
def test_a_start_counts_from_when_it_is_seen(seconds_ago: float) -> None:
    book = Simulation(FixedRules({"type": Bounds(per_second=1, burst=2)}))
    tasks = [book.submit() for _ in range(4)]
    assert book.release() == tasks[:2]
    book.wait(5)

    for task in tasks[:2]:
        book.start(task, seconds_ago=seconds_ago)

    assert book.release() == []
    book.wait(1)
    assert book.release() == [tasks[2]]


def test_a_clock_that_is_put_back_does_not_stop_the_rate() -> None:
    book = Simulation(FixedRules({"type": Bounds(per_second=1, burst=1)}))
    tasks = [book.submit() for _ in range(2)]
    book.wait(60)
    assert book.release() == tasks[:1]
    book.start(tasks[0])

    book.wait(-60)
    assert book.release() == []
    book.wait(1)

    book.book.room.refresh(book.now)
    assert book.release() == [tasks[1]]


def test_a_book_that_has_just_begun_does_not_know_what_was_started_before() -> None:
    book = Simulation(FixedRules({"type": Bounds(per_second=1, burst=10)}))
    book.book.room.begin(book.now)
    tasks = [book.submit() for _ in range(3)]
    assert book.release() == []

    book.wait(1)

    assert book.release() == tasks[:1]


# Order


def test_high_priority_goes_first() -> None:
    book = one_at_a_time("type")
    book.submit("alice", priority="normal")
    low, high = book.submit("bob", priority="low"), book.submit("carol", priority="high")

    assert book.release(1) == [high]
    book.run(high)
    book.run(book.release()[0])
    assert book.release() == [low]


def test_low_priority_that_has_waited_long_enough_goes_first() -> None:
    book = Simulation(FixedRules({"type": Bounds(concurrency=1)}), ageing_seconds=60)
    low = book.submit("bob", priority="low")
    book.submit("bob", priority="low")
    book.run(book.release()[0])
    del low
    running = book.release()[0]
    book.wait(61)
    old = book.submit("bob", priority="low")
    book.wait(61)
    book.submit("carol", priority="high")

    book.run(running)

    assert book.release() == [old]


def test_owners_take_turns() -> None:
    book = one_at_a_time("type")
    for _ in range(100):
        book.submit("alice")
    bobs = book.submit("bob")

    order = []
    for _ in range(4):
        (task,) = book.release()
        order.append(task)
        book.run(task)

    assert bobs in order[:2]


def test_an_owner_with_a_full_window_waits_and_no_other() -> None:
    book = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    alices = [book.submit("alice") for _ in range(10)]
    bobs = book.submit("bob")

    assert set(book.release()) == {*alices[:2], bobs}
    book.start(alices[0])
    assert book.release() == [alices[2]]


def test_the_window_is_counted_for_each_priority() -> None:
    book = Simulation(FixedRules({"window": Bounds(concurrency=1)}))
    low, _, high = (
        book.submit(priority="low"),
        book.submit(priority="low"),
        book.submit(priority="high"),
    )

    assert book.release() == [high, low]


# Keys: what a newcomer does


def test_a_newcomer_replaces_those_that_wait_and_not_the_one_that_runs() -> None:
    book = Simulation(FixedRules(on_conflict="replace"))
    running = book.submit(concurrency_key="k")
    book.release()
    book.start(running)
    old = book.submit(concurrency_key="k")

    new = book.submit(concurrency_key="k")
    book.release()

    assert book.due == [Cancel(old, f"replaced by {new.id}, which has the same concurrency key")]


def test_a_newcomer_is_refused_while_another_has_its_key() -> None:
    book = Simulation(FixedRules(on_conflict="refuse"))
    first = book.submit(concurrency_key="k")
    second = book.submit(concurrency_key="k")
    book.release()

    assert book.due == [Cancel(second, f"refused: {first.id} has the same concurrency key")]


def test_a_key_that_is_free_again_refuses_nobody() -> None:
    book = Simulation(FixedRules(on_conflict="refuse"))
    first = book.submit(concurrency_key="k")
    book.release()
    book.run(first)

    second = book.submit(concurrency_key="k")

    assert book.release() == [second]
    assert book.due == []


# Oddities


def test_a_task_that_is_retried_after_its_end_is_to_be_read_again() -> None:
    book = Simulation()
    task = book.submit()
    book.release()
    book.fail(task)

    book.say(task, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    book.release()

    assert book.due == [Reread(task)]


def test_a_task_that_ends_while_it_is_read_again_is_not_kept() -> None:
    book = Simulation()
    task = book.submit(held=False)
    book.fail(task)
    last = book.say(task, TaskQueued(pool="default", priority="normal", reason="by hand", renewed=True))
    book.release()
    book.due.clear()  # it is read now
    as_read = Entry(
        ref=task,
        sequence=last,
        created_sequence=1,
        pool="default",
        priority="normal",
        task_type="default",
        submitted_at=book.now,
        stage=Stage.QUEUED,
    )

    book.say(task, AttemptStarted(attempt=1, server_id="s", worker_id="w", deadline=book.at))
    book.succeed(task)
    book.book.add(as_read, book.now)
    book.release()

    assert book.due == [Reread(task)]
    book.tell_again(task)
    assert not len(book.book)


def test_a_grant_that_no_server_takes_is_taken_back_where_its_owner_has_work_for_others() -> None:
    book = one_at_a_time("owner")
    stuck = book.submit(pool="nobody-serves-it")
    elsewhere = book.submit(pool="default")
    assert book.release() == [stuck]

    book.wait(20)
    found = book.book.stuck(book.now - 15)
    book.hold(stuck)

    assert [(take_back.ref, type(take_back)) for take_back in found] == [(stuck, TakeBack)]
    assert book.release() == [elsewhere]


def test_a_grant_is_left_where_nothing_else_could_start() -> None:
    book = one_at_a_time("owner")
    book.submit(pool="a")
    book.submit(pool="a")
    book.release()

    book.wait(20)

    assert book.book.stuck(book.now - 15) == []


def test_gates_that_nothing_passes_are_forgotten() -> None:
    book = Simulation(FixedRules({"type": Bounds(per_second=1, burst=1)}))
    task = book.submit("alice")
    book.release()
    book.run(task)
    book.book.room.tidy(book.now)
    assert len(book.book.room) == 1  # its bucket is not full again

    book.wait(2)
    book.book.room.tidy(book.now)

    assert len(book.book.room) == 0


def test_what_only_waits_for_its_owners_window_is_told_by_pool() -> None:
    book = Simulation(FixedRules({"window": Bounds(concurrency=2), ("owner", "bob"): Bounds(concurrency=1)}))
    for _ in range(5):
        book.submit("alice", pool="gpu")
        book.submit("bob")
    book.submit("carol", depends_on=(book.submit("carol").id,))
    book.release()

    assert book.book.room.held_back() == {"gpu": 3}


def test_what_an_owner_has_waiting_is_told() -> None:
    book = Simulation(FixedRules({"window": Bounds(concurrency=2)}))
    for _ in range(5):
        book.submit("alice")
    book.submit("bob")
    for task in book.release()[:1]:
        book.start(task)
    book.release()

    waits = book.book.waits(at_least=2)

    assert waits == {"alice": (4, {"normal default default ": 2})}


def test_a_key_is_its_owners_own() -> None:
    book = Simulation(FixedRules(on_conflict="refuse"))
    alices, bobs = book.submit("alice", concurrency_key="k"), book.submit("bob", concurrency_key="k")

    assert book.release() == [alices, bobs]
    assert book.due == []


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_what_no_server_could_take_is_counted_in_nowhere_until_one_could(kind: str) -> None:
    book = one_at_a_time(kind)
    nobody = ("servers", "default", "default", "gpu=none")
    book.rules.by_name[nobody] = Bounds(concurrency=0)
    waits = book.submit(require={"gpu": "none"})
    other = book.submit()

    assert book.release() == [other]
    book.run(other)
    assert book.release() == []
    del book.rules.by_name[nobody]
    book.book.room.refresh(book.now, "servers")
    assert book.release() == [waits]


@pytest.mark.parametrize("kind", ["owner", "type"])
def test_a_grant_that_no_server_could_take_any_more_is_taken_back_where_others_wait(kind: str) -> None:
    book = one_at_a_time(kind)
    left = book.submit(require={"gpu": "a"})
    other = book.submit()
    assert book.release() == [left]
    book.rules.by_name["servers", "default", "default", "gpu=a"] = Bounds(concurrency=0)
    book.book.room.refresh(book.now, "servers")

    book.wait(20)
    found = book.book.stuck(book.now - 15)
    book.hold(left)

    assert [take_back.ref for take_back in found] == [left]
    assert book.release() == [other]
