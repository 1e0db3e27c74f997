"""Whatever arrives, starts and ends in whatever order: limits hold, owners share, and all that can run does."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.events.task import PRIORITIES, Priority
from taskstream.scheduling.limit import Bounds

from .simulation import FixedRules, Simulation

OWNERS = ["alice", "bob", "carol"]
TYPES = ["image", "text"]
KEYS = ["", "", "k", "l"]
ACTIONS = ["start", "end", "fail", "give back", "cancel", "cancel held", "hold again"]
limits = st.none() | st.integers(1, 4)
arrivals = st.tuples(*map(st.sampled_from, (OWNERS, PRIORITIES, TYPES, KEYS)))
actions = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), arrivals),
        actions,
        actions,
        st.tuples(st.just("release"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.floats(0.01, 3)),
    ),
    min_size=10,
    max_size=80,
)


class Fleet:
    """What runs and waits, counted by the test itself."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.names: dict[TaskRef, tuple[str, str, str]] = {}
        """Owner, type and key of each task."""
        self.queued: list[TaskRef] = []
        self.running: list[TaskRef] = []
        self.retrying: list[TaskRef] = []
        self.held: list[TaskRef] = []
        self.starts: dict[str, list[float]] = defaultdict(list)

    def submit(self, owner: str, priority: Priority, task_type: str, key: str) -> None:
        plan = {"concurrency_key": key} if key else {}
        ref = self.simulation.submit(owner, priority=priority, task_type=task_type, **plan)
        self.names[ref] = owner, task_type, key
        self.held.append(ref)

    def release(self, most: int) -> list[TaskRef]:
        released = self.simulation.release(most)
        self.queued += released
        for ref in released:
            self.held.remove(ref)  # fails if it was queued before, or cancelled
        return released

    def do(self, step: str, number: int) -> None:
        sources = {"start": self.queued, "cancel": self.queued, "cancel held": self.held, "hold again": self.retrying}
        source = sources.get(step, self.running)
        if not source:
            return
        ref = source.pop(number % len(source))
        match step:
            case "start":
                self.simulation.start(ref)
                self.running.append(ref)
                self.starts[self.names[ref][1]].append(self.simulation.now)
            case "end":
                self.simulation.succeed(ref)
            case "fail":
                self.simulation.fail_attempt(ref)
                self.retrying.append(ref)
            case "give back":
                self.simulation.give_back(ref)
                self.queued.append(ref)
            case "cancel" | "cancel held":
                self.simulation.cancel(ref)
            case "hold again":
                self.simulation.hold(ref)
                self.held.append(ref)

    def counted(self) -> Counter[tuple[str, ...]]:
        found: Counter[tuple[str, ...]] = Counter()
        for ref in self.queued + self.running:
            owner, task_type, key = self.names[ref]
            found.update([("owner", owner), ("type", task_type)])
            if key:
                found[("key", owner, task_type, key)] += 1
        return found


def play(fleet: Fleet, what: list[tuple[str, object]]) -> None:
    for step, argument in what:
        match step:
            case "submit":
                fleet.submit(*argument)  # type: ignore[misc]
            case "release":
                fleet.release(argument)  # type: ignore[arg-type]
            case "wait":
                fleet.simulation.wait(argument)  # type: ignore[arg-type]
            case _:
                fleet.do(step, argument)  # type: ignore[arg-type]


def fleet_with(owner: int | None, task_type: int | None, key: int, window: int | None = None) -> Fleet:
    bounds = {"owner": Bounds(owner), "type": Bounds(task_type), "key": Bounds(key), "window": Bounds(window)}
    return Fleet(Simulation(FixedRules(bounds)))


@settings(max_examples=300)
@given(owner=limits, task_type=limits, key=st.integers(1, 3), what=steps)
def test_no_limit_is_ever_exceeded(
    owner: int | None, task_type: int | None, key: int, what: list[tuple[str, object]]
) -> None:
    fleet = fleet_with(owner, task_type, key)
    most = {"owner": owner, "type": task_type, "key": key}

    for step in what:
        play(fleet, [step, ("release", 1_000)])
        for name, count in fleet.counted().items():
            limit = most[name[0]]
            assert limit is None or count <= limit, f"{count} of {name}"


@settings(max_examples=200)
@given(owner=limits, task_type=limits, key=st.integers(1, 3), window=limits, what=steps)
def test_everything_held_is_queued_in_the_end(
    owner: int | None, task_type: int | None, key: int, window: int | None, what: list[tuple[str, object]]
) -> None:
    fleet = fleet_with(owner, task_type, key, window)
    play(fleet, what)

    while fleet.held or fleet.queued or fleet.running or fleet.retrying:
        before = len(fleet.held), len(fleet.queued), len(fleet.running), len(fleet.retrying)
        fleet.do("hold again", 0)
        fleet.release(5)
        fleet.do("start", 0)
        fleet.do("end", 0)
        assert before != (len(fleet.held), len(fleet.queued), len(fleet.running), len(fleet.retrying)), "nothing moves"

    assert len(fleet.simulation.held_tasks) == 0


@settings(max_examples=200)
@given(owner=limits, task_type=limits, key=st.integers(1, 3), what=steps)
def test_what_has_room_is_never_left_waiting(
    owner: int | None, task_type: int | None, key: int, what: list[tuple[str, object]]
) -> None:
    fleet = fleet_with(owner, task_type, key)
    play(fleet, what)
    fleet.release(1_000)

    counted = fleet.counted()
    for ref in fleet.held:
        name, kind, named = fleet.names[ref]
        full = [
            owner is not None and counted[("owner", name)] >= owner,
            task_type is not None and counted[("type", kind)] >= task_type,
            bool(named) and counted[("key", name, kind, named)] >= key,
        ]
        assert any(full), f"{ref.id} waits for nothing"


@given(per_second=st.integers(1, 5), burst=st.integers(1, 5), pauses=st.lists(st.floats(0, 2), max_size=15))
def test_starts_never_exceed_their_rate(per_second: int, burst: int, pauses: list[float]) -> None:
    fleet = Fleet(Simulation(FixedRules({"type": Bounds(None, per_second, burst)})))
    play(fleet, [("submit", ("alice", "normal", "image", ""))] * 80)
    for pause in pauses:
        play(fleet, [("wait", pause), ("release", 1_000), *[("start", 0)] * 80])

    for starts in fleet.starts.values():
        for first, since in enumerate(starts):
            for last, until in enumerate(starts[first:], first):
                assert last - first + 1 <= burst + (until - since) * per_second + 1e-6


@settings(max_examples=100)
@given(crowd=st.integers(1, 300), slots=st.integers(1, 5))
def test_one_owners_crowd_delays_anothers_task_by_no_more_than_a_turn(crowd: int, slots: int) -> None:
    fleet = fleet_with(None, slots, 1)
    for _ in range(crowd):
        fleet.submit("alice", "normal", "image", "")
    fleet.release(1_000)
    fleet.submit("bob", "normal", "image", "")
    bobs = next(ref for ref in fleet.held if ref.owner == "bob") if crowd + 1 > slots else None

    turns = 0
    while bobs in fleet.held:
        fleet.do("start", 0)
        fleet.do("end", 0)
        fleet.release(1)
        turns += 1

    assert turns <= 2
