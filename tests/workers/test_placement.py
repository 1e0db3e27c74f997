"""Which server gets a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.settings import Balancing
from taskstream.workers.fleet.capacity import Candidate, Capacity, ServerCapacity, policy


def candidate(server_id: str, running: int = 0, capacity: int = 10, weight: int = 1, turn: int = 0) -> Candidate:
    return Candidate(server_id, running, capacity, weight, turn)


def no_chance() -> float:
    raise AssertionError("this choice is not one of chance")


def openings(balancing: Balancing, candidates: Sequence[Candidate], chance: Any = no_chance) -> Capacity:
    found = Capacity(policy(balancing, chance))
    for each in candidates:
        found.put(ServerCapacity(candidate=each, types=(), pools=frozenset()))
    return found


def chosen(balancing: Balancing, candidates: Sequence[Candidate], chance: Any = no_chance) -> str | None:
    return openings(balancing, candidates, chance).choose("any type")


def in_turn(balancing: Balancing, candidates: Sequence[Candidate], times: int) -> list[str | None]:
    """Return whom so many choices fall on, of servers whose load stays the same."""
    found = openings(balancing, candidates)
    by_id = {each.server_id: each for each in candidates}
    sequence = []
    for turn in range(1, times + 1):
        server_id = found.choose("any type")
        assert server_id is not None
        found.put(ServerCapacity(candidate=by_id[server_id]._replace(last_choice=turn), types=(), pools=frozenset()))
        sequence.append(server_id)
    return sequence


A, B, C = candidate("a"), candidate("b"), candidate("c")


def test_the_least_loaded_is_the_one_with_the_smallest_part_of_its_capacity_in_use() -> None:
    servers = [candidate("a", 1, 2), candidate("b", 3, 10), candidate("c", 2, 4)]

    assert chosen("least-loaded", servers) == "b"


def test_equally_loaded_servers_take_turns() -> None:
    assert Counter(in_turn("least-loaded", [A, candidate("d", 5, 10), B, C], 9)) == {"a": 3, "b": 3, "c": 3}


def test_servers_of_different_size_are_equally_loaded_at_the_same_part_in_use() -> None:
    half_full = [candidate("a", 1, 2), candidate("b", 50, 100)]

    assert in_turn("least-loaded", half_full, 4) == ["a", "b", "a", "b"]


def test_in_round_robin_each_comes_in_turn_whatever_its_load() -> None:
    assert in_turn("round-robin", [A, candidate("b", 9, 10), C], 6) == ["a", "b", "c", "a", "b", "c"]


def test_in_round_robin_whoever_was_away_comes_before_those_that_had_a_turn_since() -> None:
    assert chosen("round-robin", [candidate("a", turn=7), candidate("b", turn=3), candidate("c", turn=5)]) == "b"


@pytest.mark.parametrize(
    ("chance", "server_id"),
    [(0.0, "a"), (0.0999, "a"), (0.1, "b"), (0.3999, "b"), (0.4, "c"), (0.9999, "c")],
)
def test_a_weighted_choice_is_in_proportion_to_weight(chance: float, server_id: str) -> None:
    servers = [candidate("a", weight=1), candidate("b", weight=3), candidate("c", weight=6)]

    assert chosen("weighted", servers, lambda: chance) == server_id


@pytest.mark.parametrize(("chance", "server_id"), [(0.0, "a"), (0.34, "b"), (0.67, "c"), (0.9999999999999999, "c")])
def test_a_random_choice_gives_each_the_same_chance(chance: float, server_id: str) -> None:
    assert chosen("random", [candidate("a", weight=1), candidate("b", weight=9), C], lambda: chance) == server_id


candidates: Any = st.lists(
    st.builds(candidate, st.text(max_size=3), st.integers(0, 100), st.integers(101, 200), st.integers(1, 1000)),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.server_id,
)


@pytest.mark.parametrize("balancing", get_args(Balancing))
@given(servers=candidates, chance=st.floats(0, 1, exclude_max=True))
def test_any_way_of_balancing_chooses_one_of_the_candidates(
    balancing: Balancing, servers: list[Candidate], chance: float
) -> None:
    assert chosen(balancing, servers, lambda: chance) in {each.server_id for each in servers}


@pytest.mark.parametrize("balancing", get_args(Balancing))
def test_where_there_is_no_candidate_none_is_chosen(balancing: Balancing) -> None:
    assert chosen(balancing, [], lambda: 0.5) is None
