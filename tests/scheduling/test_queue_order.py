"""The order of queues: strict priority, with ageing, over simulated arrivals."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.events.task import PRIORITIES, Priority
from taskstream.scheduling.queue_order import PASSED_OVER, Ahead, ReadyQueue, in_queue_order, must_wait, tasks_to_take

AGEING = 10.0


class Handed(NamedTuple):
    """A task that was handed out."""

    priority: Priority
    arrived: int
    round: int


def simulated(arrivals: dict[Priority, list[int]], rounds: int, slots: int, ageing: float = AGEING) -> list[Handed]:
    """Return what is handed out, in order, of tasks that arrive at these rounds; each round has room for so many."""
    coming = {priority: deque(sorted(times)) for priority, times in arrivals.items()}
    handed: list[Handed] = []
    owed: set[str] = set()
    for now in range(rounds):
        waiting = {priority: queue for priority, queue in coming.items() if queue and queue[0] <= now}
        queues = [ReadyQueue("pool", priority, float(now - queue[0])) for priority, queue in waiting.items()]
        order, owed, left = in_queue_order(queues, ageing, owed), set(), slots
        for visit in order:
            priority = queues[visit.queue_index].priority
            queue = coming[priority]
            most = min(left, 1) if visit.by_age else left
            while most and queue and queue[0] <= now:
                handed.append(Handed(priority, queue.popleft(), now))
                most, left = most - 1, left - 1
                if visit.by_age:
                    owed = {"pool"}
    return handed


some = st.lists(st.integers(0, 30), max_size=15)
arrivals = st.fixed_dictionaries({"low": some, "high": some, "normal": some})


@given(arrivals, st.integers(1, 3))
def test_without_ageing_nothing_goes_before_what_is_of_higher_priority(
    arrived: dict[Priority, list[int]], slots: int
) -> None:
    handed = simulated(arrived, 100, slots, ageing=0)

    assert len(handed) == sum(map(len, arrived.values()))
    for place, one in enumerate(handed):
        for later in handed[place + 1 :]:
            if later.arrived <= one.round:
                assert PRIORITIES.index(later.priority) >= PRIORITIES.index(one.priority)


@given(arrivals, st.integers(1, 3))
def test_what_has_not_waited_too_long_goes_before_nothing_of_higher_priority(
    arrived: dict[Priority, list[int]], slots: int
) -> None:
    handed = simulated(arrived, 100, slots)

    for place, one in enumerate(handed):
        for later in handed[place + 1 :]:
            if later.arrived <= one.round and one.round - one.arrived <= AGEING:
                assert PRIORITIES.index(later.priority) >= PRIORITIES.index(one.priority)


@given(some, some, st.integers(1, 3))
def test_no_task_waits_much_longer_than_the_setting_whatever_else_there_is(
    normal: list[int], low: list[int], slots: int
) -> None:
    flood = [0] * 400
    handed = simulated({"high": flood, "normal": normal, "low": low}, 120, slots)

    for priority, arrived in (("normal", normal), ("low", low)):
        times = [one for one in handed if one.priority == priority]
        assert len(times) == len(arrived)
        for one in times:
            older = sum(at <= one.arrived for at in [*normal, *low])
            assert one.round <= one.arrived + AGEING + 2 * older + 1


@given(st.integers(1, 3))
def test_what_has_aged_takes_at_most_every_other_slot(slots: int) -> None:
    handed = simulated({"high": [0] * 300, "low": [0] * 300}, 100, slots)

    after = [one for one in handed if one.round > AGEING]
    high = sum(one.priority == "high" for one in after)
    assert high >= len(after) // 2
    assert high < len(after)


def test_a_turn_by_age_is_for_one_task_and_the_oldest_comes_first() -> None:
    queues = [
        ReadyQueue("a", "high", 99.0),
        ReadyQueue("a", "normal", 11.0),
        ReadyQueue("b", "low", 30.0),
        ReadyQueue("a", "low", 5.0),
    ]

    order = in_queue_order(queues, AGEING)

    assert [(visit.queue_index, visit.by_age) for visit in order] == [
        (2, True), (1, True), (0, False), (1, False), (2, False), (3, False),
    ]  # fmt: skip


def test_a_pool_whose_room_age_took_has_a_round_in_strict_order() -> None:
    queues = [ReadyQueue("a", "high", 1.0), ReadyQueue("a", "low", 30.0), ReadyQueue("b", "low", 20.0)]

    assert [visit.queue_index for visit in in_queue_order(queues, AGEING, owed={"a"}) if visit.by_age] == [2]


# Queues of a pool, some of whose tasks no server can take


class Waits(NamedTuple):
    """A task in a queue."""

    arrived: int
    able: bool
    """Some server can take it when there is room."""


class Queue:
    def __init__(self, priority: Priority, tasks: list[Waits]) -> None:
        self.priority = priority
        self.in_vain = 0
        self.coming = deque(sorted(tasks))
        self.waiting: deque[Waits] = deque()
        """What was given back comes first."""
        self.away: deque[tuple[int, Waits]] = deque()
        """Those given back for some rounds, and when they come again."""

    def arrive(self, now: int) -> None:
        while self.away and self.away[0][0] <= now:
            self.waiting.appendleft(self.away.popleft()[1])
        while self.coming and self.coming[0].arrived <= now:
            self.waiting.append(self.coming.popleft())

    @property
    def ahead(self) -> Ahead:
        return Ahead(bool(self.waiting), self.in_vain)


class Started(NamedTuple):
    priority: Priority
    passed_over: int
    """Tasks of higher priority in the queues that could have been started."""


AWAY_ROUNDS = 5
"""How long a task is away that was given back; one of a queue comes back in a round."""


def served(tasks: dict[Priority, list[Waits]], slots: list[list[int]]) -> tuple[list[Started], int]:
    """Return what starts, in order, and in how many rounds nothing did though something could have.

    `slots`: for each round, how many become free before each queue has its turn; those after the last round: one each.
    """
    queues = [Queue(priority, tasks[priority]) for priority in PRIORITIES]
    started: list[Started] = []
    free = idle = now = 0
    while any(each.able for queue in queues for each in [*queue.coming, *queue.waiting]):
        before = len(started)
        for queue in queues:
            queue.arrive(now)
        could = any(each.able for queue in queues for each in queue.waiting)
        for place, queue in enumerate(queues):
            free += slots[now][place] if now < len(slots) else place == 0 and free == 0
            higher = queues[:place]
            if must_wait(each.ahead for each in higher):
                continue
            taken = [
                queue.waiting.popleft() for _ in range(min(tasks_to_take(free, queue.in_vain), len(queue.waiting)))
            ]
            back = []
            for task in taken:
                if not task.able:
                    last = queue.away[-1][0] if queue.away else 0
                    queue.away.append((max(now + AWAY_ROUNDS, last + 1), task))
                    queue.in_vain += 1
                elif free:
                    free -= 1
                    started.append(Started(queue.priority, sum(each.able for one in higher for each in one.waiting)))
                    for one in queues:
                        one.in_vain = 0
                else:
                    back.append(task)
            queue.waiting.extendleft(reversed(back))
        idle += could and free > 0 and len(started) == before
        now += 1
        assert now < 5_000, "something waits for ever"
    return started, idle


able = st.lists(st.builds(Waits, st.integers(0, 30), st.just(True)), max_size=30)
unable = st.lists(st.builds(Waits, st.integers(0, 30), st.just(False)), max_size=PASSED_OVER - 1)
freed = st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), max_size=40)


def all_priorities(lists: st.SearchStrategy[list[Waits]]) -> st.SearchStrategy[dict[Priority, list[Waits]]]:
    return st.fixed_dictionaries({"high": lists, "normal": lists, "low": lists})


@given(all_priorities(able), all_priorities(unable), freed)
def test_nothing_starts_while_a_higher_task_that_could_start_waits(
    tasks: dict[Priority, list[Waits]], others: dict[Priority, list[Waits]], slots: list[list[int]]
) -> None:
    started, _ = served({priority: [*tasks[priority], *others[priority]] for priority in PRIORITIES}, slots)

    assert len(started) == sum(map(len, tasks.values()))
    assert [each for each in started if each.passed_over] == []


@given(all_priorities(able), st.integers(0, 2_000), st.integers(0, 300), freed)
@example({"high": [], "normal": [], "low": [Waits(0, able=True)] * 30}, 2_000, 0, [])
def test_what_nothing_can_take_keeps_no_slot_idle_for_long(
    tasks: dict[Priority, list[Waits]], high: int, normal: int, slots: list[list[int]]
) -> None:
    stuck = {"high": [Waits(0, False)] * high, "normal": [Waits(0, False)] * normal, "low": []}

    started, idle = served({priority: [*stuck[priority], *tasks[priority]] for priority in PRIORITIES}, slots)

    assert len(started) == sum(map(len, tasks.values()))
    looks = 2 * 7  # for either queue: 1, 1, 2, 4, 8, 16 tasks, and once more
    behind = 2 * (high + normal) // PASSED_OVER  # those that could start and come after all of these
    assert idle <= looks * (len(started) + 1) + behind


# Bounds, in numbers


def test_the_highest_priority_never_ages_and_no_ageing_serves_none_for_its_age() -> None:
    queues = [ReadyQueue("a", "high", 99.0), ReadyQueue("a", "normal", 10.0), ReadyQueue("a", "low", 10.5)]

    assert [visit for visit in in_queue_order(queues, 10.0) if visit.by_age] == [(2, True)]
    assert [visit for visit in in_queue_order(queues, 0.0) if visit.by_age] == []
    assert [visit for visit in in_queue_order(queues, 0.5) if visit.by_age] == [(2, True), (1, True)]


def test_queues_that_were_given_low_first_are_served_high_first() -> None:
    queues = [ReadyQueue("a", "low", 0.0), ReadyQueue("a", "normal", 0.0), ReadyQueue("a", "high", 0.0)]

    assert in_queue_order(queues, AGEING) == [(2, False), (1, False), (0, False)]


def test_a_lower_queue_is_served_after_32_tasks_of_a_higher_one_in_vain() -> None:
    assert PASSED_OVER == 32
    assert must_wait([Ahead(may_have_more=True, in_vain=31)])
    assert not must_wait([Ahead(may_have_more=True, in_vain=32)])
    assert not must_wait([Ahead(may_have_more=False, in_vain=0)])


def test_one_task_is_taken_for_each_slot_and_as_many_again_after_tasks_in_vain() -> None:
    assert [tasks_to_take(0, 5), tasks_to_take(1, 0), tasks_to_take(3, 2), tasks_to_take(1, 5)] == [0, 1, 3, 5]
    assert [tasks_to_take(1, 99), tasks_to_take(40, 99), tasks_to_take(-1, 9)] == [32, 40, 0]
