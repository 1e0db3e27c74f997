"""The explanation of why a task is held."""

from __future__ import annotations

from datetime import timedelta

import pytest

from taskstream.events.ids import TaskRef
from taskstream.explain.explanation import BlockingLimit, Explanation, decode, encode, explain
from taskstream.scheduling.limit import Bounds

from .simulation import START, FixedRules, Simulation

AS_OF = 7


def why(held_tasks: Simulation, task: TaskRef) -> Explanation:
    return explain(held_tasks.held_tasks, task, AS_OF, held_tasks.now)


def test_a_task_is_held_until_its_time() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit(not_before=START + timedelta(seconds=5))

    assert why(held_tasks, task) == Explanation(as_of=AS_OF, known="held", starts_at=START.timestamp() + 5)

    held_tasks.wait(5)
    held_tasks.release()
    assert why(held_tasks, task).known == "queued"


def test_a_task_is_held_by_the_parents_that_have_not_ended_and_its_time_as_well() -> None:
    held_tasks = Simulation()
    first, second, third = [held_tasks.submit() for _ in range(3)]
    parents = (third.id, first.id, second.id)
    child = held_tasks.submit(depends_on=parents, not_before=START + timedelta(seconds=5))
    held_tasks.release()
    held_tasks.run(first)

    found = why(held_tasks, child)

    assert found.parents == (third.id, second.id)
    assert found.starts_at == START.timestamp() + 5
    assert found.ahead is None


@pytest.mark.parametrize("kind", ["owner", "type", "key", "window"])
def test_a_task_is_held_by_the_limit_that_has_no_room(kind: str) -> None:
    held_tasks = Simulation(FixedRules({kind: Bounds(concurrency=2)}))
    tasks = [held_tasks.submit(concurrency_key="k" if kind == "key" else "") for _ in range(5)]
    held_tasks.release()

    assert [why(held_tasks, task).known for task in tasks] == ["queued"] * 2 + ["held"] * 3
    assert [why(held_tasks, task).limits for task in tasks[2:]] == [
        (BlockingLimit(kind=kind, counted=2, concurrency=2),)
    ] * 3  # type: ignore[arg-type]
    assert [why(held_tasks, task).ahead for task in tasks[2:]] == [0, 1, 2]


def test_a_limit_of_starts_says_when_it_opens() -> None:
    held_tasks = Simulation(FixedRules({"owner": Bounds(per_second=0.5, burst=1)}))
    first, second = held_tasks.submit(), held_tasks.submit()
    [released] = held_tasks.release()
    held_tasks.start(released)

    [limits] = why(held_tasks, second).limits

    assert released == first
    assert not limits.is_full
    assert limits.opens_at == pytest.approx(held_tasks.now + 2)


def test_all_limits_without_room_are_named_in_order() -> None:
    held_tasks = Simulation(FixedRules({"owner": Bounds(concurrency=1), "type": Bounds(concurrency=1)}))
    held_tasks.submit()
    held = held_tasks.submit()
    held_tasks.release()

    assert [limits.kind for limits in why(held_tasks, held).limits] == ["owner", "type"]
    assert all(limits.is_full for limits in why(held_tasks, held).limits)


def test_what_is_at_work_or_over_is_not_held() -> None:
    held_tasks = Simulation()
    task = held_tasks.submit()
    held_tasks.release()
    held_tasks.start(task)
    assert why(held_tasks, task).known == "running"

    held_tasks.fail_attempt(task)
    assert why(held_tasks, task).known == "retrying"

    held_tasks.succeed(task)
    assert why(held_tasks, task) == Explanation(as_of=AS_OF, known="not-active")


def test_to_ask_changes_nothing() -> None:
    asked, unasked = (Simulation(FixedRules({"owner": Bounds(concurrency=2)})) for _ in range(2))
    for held_tasks in (asked, unasked):
        tasks = [held_tasks.submit() for _ in range(6)]
        for _ in range(3):
            released = held_tasks.release()
            if held_tasks is asked:
                assert [why(held_tasks, task).as_of for task in tasks] == [AS_OF] * 6
            for task in released:
                held_tasks.run(task)

    assert asked.released == unasked.released


def test_an_answer_reads_as_it_was_sent() -> None:
    said = Explanation(as_of=1, known="held", limits=(BlockingLimit(kind="owner", counted=1, concurrency=1),), ahead=0)

    assert decode(encode(said)) == said
