"""Whose turn it is among queues: strict priority, with ageing, over simulated arrivals."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.task import PRIORITIES, Priority
from taskstream.scheduling.turns import Line, turns

AGEING = 10.0


class Handed(NamedTuple):
    """A task that was handed out."""

    priority: Priority
    arrived: int
    round: int


def simulated(arrivals: dict[Priority, list[int]], rounds: int, room: int, ageing: float = AGEING) -> list[Handed]:
    """Return what is handed out, in order, of tasks that arrive at these rounds; each round has room for so many."""
    coming = {priority: deque(sorted(times)) for priority, times in arrivals.items()}
    handed: list[Handed] = []
    owed: set[str] = set()
    for now in range(rounds):
        waiting = {priority: queue for priority, queue in coming.items() if queue and queue[0] <= now}
        lines = [Line("pool", priority, float(now - queue[0])) for priority, queue in waiting.items()]
        order, owed, left = turns(lines, ageing, owed), set(), room
        for turn in order:
            priority = lines[turn.place].priority
            queue = coming[priority]
            most = min(left, 1) if turn.by_age else left
            while most and queue and queue[0] <= now:
                handed.append(Handed(priority, queue.popleft(), now))
                most, left = most - 1, left - 1
                if turn.by_age:
                    owed = {"pool"}
    return handed


some = st.lists(st.integers(0, 30), max_size=15)
arrivals = st.fixed_dictionaries({"low": some, "high": some, "normal": some})


@given(arrivals, st.integers(1, 3))
def test_without_ageing_nothing_goes_before_what_is_of_higher_priority(
    arrived: dict[Priority, list[int]], room: int
) -> None:
    handed = simulated(arrived, 100, room, ageing=0)

    assert len(handed) == sum(map(len, arrived.values()))
    for place, one in enumerate(handed):
        for later in handed[place + 1 :]:
            if later.arrived <= one.round:
                assert PRIORITIES.index(later.priority) >= PRIORITIES.index(one.priority)


@given(arrivals, st.integers(1, 3))
def test_what_has_not_waited_too_long_goes_before_nothing_of_higher_priority(
    arrived: dict[Priority, list[int]], room: int
) -> None:
    handed = simulated(arrived, 100, room)

    for place, one in enumerate(handed):
        for later in handed[place + 1 :]:
            if later.arrived <= one.round and one.round - one.arrived <= AGEING:
                assert PRIORITIES.index(later.priority) >= PRIORITIES.index(one.priority)


@given(some, some, st.integers(1, 3))
def test_no_task_waits_much_longer_than_the_setting_whatever_else_there_is(
    normal: list[int], low: list[int], room: int
) -> None:
    flood = [0] * 400
    handed = simulated({"high": flood, "normal": normal, "low": low}, 120, room)

    for priority, arrived in (("normal", normal), ("low", low)):
        times = [one for one in handed if one.priority == priority]
        assert len(times) == len(arrived)
        for one in times:
            older = sum(at <= one.arrived for at in [*normal, *low])
            assert one.round <= one.arrived + AGEING + 2 * older + 1


@given(st.integers(1, 3))
def test_what_has_aged_takes_at_most_every_other_slot(room: int) -> None:
    handed = simulated({"high": [0] * 300, "low": [0] * 300}, 100, room)

    after = [one for one in handed if one.round > AGEING]
    high = sum(one.priority == "high" for one in after)
    assert high >= len(after) // 2
    assert high < len(after)


def test_a_turn_by_age_is_for_one_task_and_the_oldest_comes_first() -> None:
    lines = [Line("a", "high", 99.0), Line("a", "normal", 11.0), Line("b", "low", 30.0), Line("a", "low", 5.0)]

    order = turns(lines, AGEING)

    assert [(turn.place, turn.by_age) for turn in order] == [
        (2, True), (1, True), (0, False), (1, False), (2, False), (3, False),
    ]  # fmt: skip


def test_a_pool_whose_room_age_took_has_a_round_in_strict_order() -> None:
    lines = [Line("a", "high", 1.0), Line("a", "low", 30.0), Line("b", "low", 20.0)]

    assert [turn.place for turn in turns(lines, AGEING, owed={"a"}) if turn.by_age] == [2]
