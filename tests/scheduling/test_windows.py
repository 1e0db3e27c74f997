"""Windows are small enough to serve a new owner soon, and large enough that no slot is idle for want of a task."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.events.task import MODEL, Plan
from taskstream.scheduling.limit import Bounds
from taskstream.scheduling.windows import (
    HANDOVER_SECONDS,
    LONGEST_ROUND_SECONDS,
    SMALLEST_WINDOW,
    Windows,
    labels,
    window,
)

from .simulation import FixedRules, Simulation

OBSERVED_SECONDS = 0.5
SETTLED_SECONDS = 2.0
POOL = "default"
CROWD = 200


class Pool:
    """Slots that take tasks out of a queue, which the scheduler fills; each step takes its time."""

    def __init__(self, slots: int, call_seconds: float, store_seconds: float, spread: float, seed: int) -> None:
        """`store_seconds`: how long it takes to store something and to have it read. `spread`: by how much of them, up
        or down, both times differ by chance.
        """
        self.slot_seconds = store_seconds + call_seconds
        """For how long a task has a slot, on average."""
        self.round_seconds = 2 * store_seconds + HANDOVER_SECONDS
        self.windows = Windows()
        self.rules = FixedRules()
        self.simulation = Simulation(self.rules)
        self.slots = slots
        self.free = slots
        self.queue: deque[TaskRef] = deque()
        self.started: list[TaskRef] = []
        self.idle_seconds = 0.0
        """Of all slots together."""
        self._spread = spread
        self._call_seconds = call_seconds
        self._store_seconds = store_seconds
        self._chance = random.Random(seed)
        self._started = 0
        self._releasing = False
        self._began = self.simulation.now
        self._tiebreak = itertools.count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._observe()

    @property
    def now(self) -> float:
        return self.simulation.now - self._began

    def crowd(self) -> None:
        """Have very many tasks of one owner wait: for each that ends there is another."""
        for _ in range(CROWD):
            self.simulation.submit("crowd")
        self._act()

    def submit(self, owner: str) -> TaskRef:
        """Submit a task that nothing holds: its owner has nothing waiting."""
        ref = self.simulation.submit(owner, held=False)
        self._arrive([ref])
        return ref

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            at, _, do = heapq.heappop(self._later)
            self.idle_seconds += (at - self.now) * self.free
            self.simulation.wait(at - self.now)
            do()

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now + seconds, next(self._tiebreak), do))

    def _observe(self) -> None:
        self.windows.observe({POOL: self.slots}, {POOL: self._started}, OBSERVED_SECONDS)
        self._started = 0
        self.rules.by_name["window"] = Bounds(self.windows.sizes[POOL])
        self.simulation.held_tasks.limiter.refresh(self.simulation.now, "window")
        self._after(OBSERVED_SECONDS, self._observe)
        self._act()

    def _act(self) -> None:
        """Release what there is room for, unless a release is under way."""
        if self._releasing or not (released := self.simulation.release(400)):
            return
        self._releasing = True

        store_seconds = self._by_chance(self._store_seconds)

        def stored() -> None:
            self._releasing = False
            self.windows.stored(store_seconds)
            self._after(HANDOVER_SECONDS, lambda: self._arrive(released))
            self._act()

        self._after(store_seconds, stored)

    def _arrive(self, refs: list[TaskRef]) -> None:
        self.queue += refs
        self._fill()

    def _fill(self) -> None:
        while self.free and self.queue:
            self._start(self.queue.popleft())

    def _start(self, ref: TaskRef) -> None:
        self.free -= 1
        self.started.append(ref)

        def claimed() -> None:
            self._started += 1
            self.simulation.start(ref)
            self._act()

        def answered() -> None:
            self.free += 1
            self.simulation.succeed(ref)
            self.simulation.submit("crowd")
            self._fill()

        store_seconds = self._by_chance(self._store_seconds)
        self._after(store_seconds, claimed)
        self._after(store_seconds + self._by_chance(self._call_seconds), answered)

    def _by_chance(self, seconds: float) -> float:
        return seconds * self._chance.uniform(1 - self._spread, 1 + self._spread)


pools = st.builds(
    Pool,
    slots=st.integers(1, 12),
    call_seconds=st.floats(0.02, 1.0),
    store_seconds=st.floats(0.001, 0.03),
    spread=st.sampled_from([0.0, 0.1, 0.8]),
    seed=st.integers(0, 9),
)


@settings(max_examples=20)
@given(pools, st.floats(0, 1))
def test_a_newcomer_starts_after_one_task_for_each_slot_and_two_round_trips(pool: Pool, moment: float) -> None:
    pool.crowd()
    pool.run(lambda: pool.now > SETTLED_SECONDS + moment)
    started = len(pool.started)

    single = pool.submit("single")
    pool.run(lambda: single in pool.started)

    in_two_rounds = 2 * pool.round_seconds * pool.slots / pool.slot_seconds
    assert len(pool.started) - 1 - started <= max(pool.slots, SMALLEST_WINDOW) + 2 + 1.5 * in_two_rounds


@settings(max_examples=20)
@given(pools)
def test_slots_are_not_idle_while_many_wait(pool: Pool) -> None:
    pool.crowd()
    pool.run(lambda: pool.now > SETTLED_SECONDS)
    before = pool.idle_seconds

    pool.run(lambda: pool.now > SETTLED_SECONDS + 1.0)

    assert pool.idle_seconds - before <= 0.03 * pool.slots


def test_a_window_has_a_task_for_each_slot_and_at_least_some() -> None:
    windows = Windows()

    windows.observe({"none": 0, "small": 1, "large": 100}, {}, 0.5)

    assert windows.sizes == {"none": SMALLEST_WINDOW, "small": SMALLEST_WINDOW, "large": 100}


def test_a_window_grows_with_what_starts_while_releases_are_stored() -> None:
    windows = Windows()
    for _ in range(20):
        windows.observe({POOL: 1}, {POOL: 500}, 0.5)
    before = windows.sizes[POOL]

    for _ in range(20):
        windows.stored(0.02)
    windows.observe({POOL: 1}, {POOL: 500}, 0.5)

    assert windows.sizes[POOL] == pytest.approx(1 + 2 * 1000 * (2 * 0.02 + HANDOVER_SECONDS), rel=0.05)
    assert before < windows.sizes[POOL]


def test_a_stall_of_the_store_does_not_let_a_crowd_in() -> None:
    windows = Windows()
    for _ in range(20):
        windows.stored(5.0)
        windows.observe({POOL: 1}, {POOL: 500}, 0.5)

    assert windows.sizes[POOL] <= 1 + 2 * 1000 * LONGEST_ROUND_SECONDS + 1


def test_a_window_has_four_tasks_at_least_and_one_for_each_slot() -> None:
    windows = Windows()

    windows.observe({"none": 0, "five": 5}, {"busy": 1}, 0.5)

    assert windows.sizes == {"none": 4, "five": 5, "busy": 4}


def test_the_pace_of_a_pool_halves_each_second_without_starts() -> None:
    windows = Windows()
    windows.observe({"a": 1, "b": 1}, {"a": 100, "b": 3}, 1.0)
    assert windows.paces() == {"a": 50.0, "b": 1.5}

    windows.observe({"a": 1, "b": 1}, {}, 1.0)
    assert windows.paces() == {"a": 25.0}

    windows.observe({"a": 1, "b": 1}, {"a": 4, "b": 1}, 2.0)
    assert windows.paces() == {"a": 7.8}


def test_a_pool_that_starts_one_a_second_has_a_pace() -> None:
    windows = Windows()

    windows.observe({}, {"a": 2}, 1.0)

    assert windows.paces() == {"a": 1.0}


def test_the_size_of_a_window_is_its_slots_and_twice_the_starts_of_a_round_trip() -> None:
    windows = Windows()
    windows.observe({"a": 10, "idle": 10}, {"a": 2_000}, 1.0)
    assert windows.sizes == {"a": 10 + 2 * 1_000 * 0.01, "idle": 10}

    windows.stored(0.03)  # a sample of 65 ms, of which a fifth counts
    windows.observe({"a": 10}, {"a": 1_000}, 1.0)
    assert windows.sizes == {"a": 10 + 2 * 1_000 * (0.8 * 0.01 + 0.2 * 0.065)}

    for _ in range(100):
        windows.stored(0.0)
    windows.observe({"a": 10}, {"a": 1_000}, 1.0)
    assert windows.sizes == {"a": 10 + 2 * 1_000 * 0.01 + 1}  # rounded up

    for _ in range(100):
        windows.stored(9.0)
    windows.observe({"a": 10}, {"a": 1_000}, 1.0)
    assert windows.sizes == {"a": 10 + 2 * 1_000 * 0.075}


def test_a_window_is_named_by_everything_that_decides_which_servers_take_its_tasks() -> None:
    plan = Plan(require={"gpu": "a100", "disk": "ssd"})

    assert window("pool", "low", "song", plan) == "low pool song disk=ssd,gpu=a100"
    assert window("pool", "high", "song", None) == "high pool song "
    assert labels(plan) == ["disk=ssd", "gpu=a100"]
    assert window("pool", "low", "song", Plan(model="llama")) == f"low pool song {MODEL}=llama"
    assert window("pool", "low", "song", Plan(project="p")) == "low pool song "
    assert labels(None) == []


def test_a_pool_that_starts_nothing_any_more_is_forgotten() -> None:
    """Pools come and go with the types that name them."""
    windows = Windows()
    for number in range(100):
        windows.observe({"stays": 3}, {f"pool {number}": 5, "stays": 1}, 60.0)

    assert len(windows.sizes) < 50
    assert windows.sizes["stays"] > 3


def test_the_pace_of_a_pool_without_starts_falls_until_it_is_forgotten() -> None:
    windows = Windows()
    windows.observe({"a": 2}, {"a": 100}, 1.0)
    before = windows.sizes["a"]
    for _ in range(100):
        windows.observe({"a": 2}, {}, 60.0)

    assert windows.sizes == {"a": SMALLEST_WINDOW}
    assert before >= windows.sizes["a"]
    assert windows.paces() == {}
