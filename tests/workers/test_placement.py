"""Which server gets a task."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.settings import Balancing
from taskstream.workers.placement import Candidate, chooser


def candidate(server_id: str, running: int = 0, capacity: int = 10, weight: int = 1) -> Candidate:
    return Candidate(server_id, running, capacity, weight)


def no_chance() -> float:
    raise AssertionError("this choice is not one of chance")


A, B, C = candidate("a"), candidate("b"), candidate("c")


def test_the_least_loaded_is_the_one_with_the_smallest_part_of_its_capacity_in_use() -> None:
    choose = chooser("least-loaded", no_chance)

    assert choose([candidate("a", 1, 2), candidate("b", 3, 10), candidate("c", 2, 4)]).server_id == "b"


def test_equally_loaded_servers_take_turns() -> None:
    choose = chooser("least-loaded", no_chance)
    busy = candidate("d", 5, 10)

    assert Counter(choose([A, busy, B, C]).server_id for _ in range(9)) == {"a": 3, "b": 3, "c": 3}


def test_servers_of_different_size_are_equally_loaded_at_the_same_part_in_use() -> None:
    choose = chooser("least-loaded", no_chance)
    half_full = [candidate("a", 1, 2), candidate("b", 50, 100)]

    assert {choose(half_full).server_id for _ in range(2)} == {"a", "b"}


def test_in_round_robin_each_comes_in_turn_whatever_its_load() -> None:
    choose = chooser("round-robin", no_chance)

    chosen = [choose([A, candidate("b", 9, 10), C]).server_id for _ in range(6)]

    assert chosen == ["a", "b", "c", "a", "b", "c"]


def test_round_robin_goes_on_when_servers_come_and_go() -> None:
    choose = chooser("round-robin", no_chance)

    assert [choose([A, B, C][:size]).server_id for size in (3, 3, 1, 2, 3)] == ["a", "b", "a", "b", "b"]


@pytest.mark.parametrize(
    ("chance", "server_id"),
    [(0.0, "a"), (0.0999, "a"), (0.1, "b"), (0.3999, "b"), (0.4, "c"), (0.9999, "c")],
)
def test_a_weighted_choice_is_in_proportion_to_weight(chance: float, server_id: str) -> None:
    choose = chooser("weighted", lambda: chance)

    assert choose([candidate("a", weight=1), candidate("b", weight=3), candidate("c", weight=6)]).server_id == server_id


@pytest.mark.parametrize(("chance", "server_id"), [(0.0, "a"), (0.34, "b"), (0.67, "c"), (0.9999999999999999, "c")])
def test_a_random_choice_gives_each_the_same_chance(chance: float, server_id: str) -> None:
    assert chooser("random", lambda: chance)([A, B, C]).server_id == server_id


candidates: Any = st.lists(
    st.builds(candidate, st.text(max_size=3), st.integers(0, 100), st.integers(1, 100), st.integers(1, 1000)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("balancing", get_args(Balancing))
@given(rounds=st.lists(candidates, min_size=1, max_size=5), chance=st.floats(0, 1, exclude_max=True))
def test_any_way_of_balancing_chooses_one_of_the_candidates(
    balancing: Balancing, rounds: list[list[Candidate]], chance: float
) -> None:
    choose = chooser(balancing, lambda: chance)

    for each in rounds:
        assert choose(each) in each
