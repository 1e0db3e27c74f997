"""A task's view is due when the task has ended or has rested, and none waits for long."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as some

from taskstream.projections import unwritten
from taskstream.projections.unwritten import GATHER_SECONDS, LONGEST_SECONDS, REST_SECONDS, Unwritten
from testkit.histories import ref


@dataclass
class Events:
    """What is known of a task's events that no view reflects."""

    first: int
    first_at: float
    last_at: float
    size: int
    has_ended: bool

    def is_due(self, now: float) -> bool:
        return self.has_ended or now >= min(self.last_at + REST_SECONDS, self.first_at + LONGEST_SECONDS)


steps = some.lists(
    some.tuples(
        some.integers(0, 7), some.sampled_from([0, 1, 300]), some.booleans(), some.sampled_from([0.0, 0.3, 1.1])
    )
)


@given(steps=steps)
def test_a_view_is_due_at_its_tasks_end_or_rest_and_never_later_than_it_may_be(
    steps: list[tuple[int, int, bool, float]],
) -> None:
    tasks = Unwritten()
    model: dict[int, Events] = {}
    now = 100.0
    for sequence, (number, size, has_ended, pause) in enumerate(steps, 1):
        known = model.get(number)
        model[number] = Events(
            known.first if known else sequence,
            known.first_at if known else now,
            now,
            size + (known.size if known else 0),
            has_ended,
        )
        tasks.add(ref(number), sequence, size, now, has_ended=has_ended)
        now += pause

        first_due_at = min(
            -math.inf if one.has_ended else min(one.last_at + REST_SECONDS, one.first_at + LONGEST_SECONDS)
            for one in model.values()
        )
        assert tasks.next_at == first_due_at + GATHER_SECONDS
        due = {number for number, one in model.items() if one.is_due(now)}
        assert set(tasks.take_due(now)) == {ref(number) for number in due}
        model = {number: one for number, one in model.items() if number not in due}
        assert tasks.first_sequence == min((one.first for one in model.values()), default=None)
        assert len(tasks) == len(model)

    assert {*tasks.take_all()} == {ref(number) for number in model}
    assert (tasks.next_at, tasks.first_sequence) == (None, None)


def test_tasks_that_rest_one_after_another_are_taken_together() -> None:
    tasks = Unwritten()
    for number in range(1_000):
        tasks.add(ref(number), number + 1, 100, number / 1_000, has_ended=False)
    taken = []
    while (at := tasks.next_at) is not None:
        taken.append(len(tasks.take_due(at)))
    assert sum(taken) == 1_000
    assert len(taken) <= 1 + 1 / GATHER_SECONDS


@pytest.mark.parametrize(("most", "most_bytes"), [(10, 1_000_000), (1_000_000, 1_000)])
def test_of_too_many_tasks_or_bytes_the_oldest_are_due_at_once(
    monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    monkeypatch.setattr(unwritten, "MOST_UNWRITTEN", most)
    monkeypatch.setattr(unwritten, "MOST_UNWRITTEN_BYTES", most_bytes)
    tasks = Unwritten()
    for number in range(1, 11):
        tasks.add(ref(number), number, 100, 0.0, has_ended=False)
    assert tasks.take_due(0.0) == []

    tasks.add(ref(11), 11, 100, 0.0, has_ended=False)

    assert tasks.take_due(0.0) == [ref(number) for number in range(1, 7)]
    assert tasks.first_sequence == 7
