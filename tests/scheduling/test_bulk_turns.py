"""First and bulk queue of a pool and priority: owners share evenly, single tasks start soon, and nobody starves."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.scheduling.bulk_turns import LONGEST_ROUND, MOST_OWED, BulkTurns

HEAVY = "heavy"


class Lane:
    """Both queues as one worker serves them. The first queue has owners, the bulk queue a backlog of HEAVY."""

    def __init__(self, bulk: int = 1_000_000) -> None:
        self.turns = BulkTurns()
        self.first: deque[str] = deque()
        self.bulk = bulk
        self.started: list[str] = []

    def serve(self, free: int) -> None:
        """Start tasks until no slot is free or nothing waits, as a dispatcher does."""
        while free and (self.first or self.bulk):
            before = free
            in_order = [self._serve_first, self._serve_bulk]
            if self.bulk and self.turns.is_bulks(first_has_more=bool(self.first)):
                in_order.reverse()
            for serve in in_order:
                free -= serve(free)
            assert free < before, "a slot is idle while something waits"

    def _serve_first(self, free: int) -> int:
        most = min(self.turns.most_of_first(free, bulk_has_more=self.bulk > 0), len(self.first))
        if not self.bulk:
            self.turns.bulk_is_empty()
        for _ in range(most):
            owner = self.first.popleft()
            if self.bulk:
                self.turns.took_first(owner)
            self.started.append(owner)
        return most

    def _serve_bulk(self, free: int) -> int:
        most = min(self.turns.most_of_bulk(free, first_has_more=bool(self.first)), self.bulk)
        self.turns.took_bulk(most)
        self.bulk -= most
        self.started += [HEAVY] * most
        return most


def refilled(lane: Lane, owners: Iterator[str], slots: list[int], length: int) -> None:
    """Serve with so many free slots at a time; the first queue always has `length` tasks of these owners, in order."""
    for free in slots:
        while len(lane.first) < length:
            lane.first.append(next(owners))
        lane.serve(free)


some_slots = st.lists(st.integers(1, 12), min_size=40, max_size=60)


@settings(max_examples=40)
@given(st.integers(1, 5), some_slots)
def test_each_owner_with_a_backlog_has_the_same_share(others: int, slots: list[int]) -> None:
    lane = Lane()
    names = [f"owner {number}" for number in range(others)]
    refilled(lane, itertools.cycle(names), slots, length=24)

    counts = Counter(lane.started)
    shares = [counts[name] for name in [HEAVY, *names]]
    assert max(shares) - min(shares) <= max(slots) + 3, counts


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=400, max_size=400), some_slots)
def test_the_bulk_queue_gets_at_least_a_fair_share_whatever_comes_first(owners: list[str], slots: list[int]) -> None:
    lane = Lane()
    refilled(lane, itertools.cycle(owners), slots, length=24)

    counts = Counter(lane.started)
    assert counts[HEAVY] + max(slots) >= len(lane.started) / 4
    assert counts[HEAVY] <= len(lane.started) / 2 + max(slots)


@settings(max_examples=40)
@given(some_slots)
def test_a_stream_of_new_owners_neither_starves_bulk_nor_waits_for_it(slots: list[int]) -> None:
    lane = Lane()
    refilled(lane, (f"owner {number}" for number in itertools.count()), slots, length=24)

    counts = Counter(lane.started)
    expected = len(lane.started) / (LONGEST_ROUND + 1)
    assert abs(counts[HEAVY] - expected) <= 2


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(0, 4))
def test_a_single_task_beside_a_backlog_starts_with_the_next_free_slots(slots: int, of_heavy: int) -> None:
    lane = Lane()
    lane.first.extend([HEAVY] * of_heavy)  # the first tasks of the owner with many
    lane.first.append("single")

    while "single" not in lane.started:
        lane.serve(slots)

    # Behind those first tasks, and a task of bulk for each of them but one.
    assert lane.started.index("single") <= 2 * of_heavy


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=60))
def test_no_slot_is_idle_and_nothing_waits_without_end(arrivals: list[tuple[int, int, int]]) -> None:
    lane, submitted = Lane(bulk=0), 0
    for of_first, of_bulk, free in arrivals:
        lane.first.extend(f"owner {number}" for number in range(of_first))
        lane.bulk += of_bulk
        submitted += of_first + of_bulk
        lane.serve(free)
    lane.serve(submitted + 1)

    assert len(lane.started) == submitted


def test_a_crowd_of_a_thousand_and_one_with_a_backlog_all_progress() -> None:
    lane = Lane()
    crowd = [f"owner {number}" for number in range(1_000)]
    random.Random(1).shuffle(crowd)
    lane.first.extend(crowd)

    while lane.first:
        lane.serve(3)

    counts = Counter(lane.started)
    assert all(counts[owner] == 1 for owner in crowd)
    assert counts[HEAVY] >= 1_000 // LONGEST_ROUND


def test_turns_in_numbers() -> None:
    turns = BulkTurns()
    assert [turns.most_of_first(most, bulk_has_more=True) for most in (1, 2, 5)] == [1, 1, 3]
    assert turns.most_of_first(5, bulk_has_more=False) == 5
    assert turns.most_of_bulk(5, first_has_more=True) == 0
    assert turns.most_of_bulk(5, first_has_more=False) == 5
    assert (turns.is_bulks(first_has_more=True), turns.is_bulks(first_has_more=False)) == (False, True)

    for owner in ("a", "b", "a", "a"):
        turns.took_first(owner)
    assert (turns.owed, turns.most_of_first(5, bulk_has_more=True), turns.most_of_bulk(5, first_has_more=True)) == (
        2,
        0,
        2,
    )
    assert turns.is_bulks(first_has_more=True)
    turns.took_bulk(1)
    assert turns.owed == 1
    turns.took_bulk(7)
    assert turns.owed == 0
    for _ in range(3 * MOST_OWED):
        turns.took_first("a")
    assert turns.owed == MOST_OWED
    turns.bulk_is_empty()
    assert turns.owed == 0
    turns.took_first("a")
    assert turns.owed == 0
