"""When failures are the server's fault: never for one owner's choices, soon for a server that fails everything."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.scheduling.server_failures import RECENT_SECONDS, REMEMBERED, Evidence, ServerFailures, Verdict

ENOUGH = 5


def task(number: int, owner: str = "alice") -> TaskRef:
    return TaskRef(owner, f"task{number}")


class Server:
    """The attempts on a server, at a time that the test moves."""

    def __init__(self, most_failures: int = ENOUGH) -> None:
        self.judged = ServerFailures(most_failures)
        self.now = 1_000.0

    def start(self, *tasks: TaskRef) -> None:
        for each in tasks:
            self.judged.start(each, self.now)

    def end(self, verdict: Verdict, *tasks: TaskRef) -> None:
        for each in tasks:
            self.judged.end(each, verdict, self.now)

    def attempt(self, verdict: Verdict, *tasks: TaskRef, seconds: float = 0.0) -> None:
        """One attempt of each task, one after the other."""
        for each in tasks:
            self.start(each)
            self.now += seconds
            self.end(verdict, each)

    @property
    def evidence(self) -> Evidence | None:
        return self.judged.judge(self.now)


@pytest.fixture
def server() -> Server:
    return Server()


# Table


def test_a_server_that_fails_everything_is_found_out(server: Server) -> None:
    server.attempt("failure", *map(task, range(4)))
    assert server.evidence is None

    server.attempt("failure", task(4))
    assert server.evidence == Evidence(failures=5, owner="alice")


def test_failures_of_several_owners_are_no_one_owners(server: Server) -> None:
    server.attempt("failure", *(task(number, owner) for number, owner in enumerate(["alice", "bob", "alice"] * 2)))

    assert server.evidence == Evidence(failures=6, owner="")


def test_a_task_that_keeps_failing_alone_never_opens_the_circuit(server: Server) -> None:
    for verdict in ("failure", "unreached") * 100:
        server.attempt(verdict, task(1))  # type: ignore[arg-type]
        assert server.evidence is None


def test_an_end_that_says_nothing_changes_nothing(server: Server) -> None:
    server.attempt("failure", *map(task, range(4)))
    server.attempt("neutral", *map(task, range(100, 200)))
    assert server.evidence is None

    server.attempt("failure", task(4))
    assert server.evidence is not None


def test_a_success_clears_the_failures_that_started_before_it(server: Server) -> None:
    server.attempt("failure", *map(task, range(4)))
    server.start(*map(task, range(10, 14)))
    server.attempt("success", task(20))

    server.end("failure", *map(task, range(10, 14)))

    server.attempt("failure", *map(task, range(30, 39)))
    assert server.evidence is None


def test_soon_after_a_success_twice_as_many_failures_are_needed(server: Server) -> None:
    server.attempt("success", task(0))
    server.attempt("failure", *map(task, range(1, 10)))
    server.now += RECENT_SECONDS + 1
    assert server.evidence is None

    server.attempt("failure", task(10))
    assert server.evidence == Evidence(failures=10, owner="alice")


def test_long_after_a_success_as_many_are_enough_as_without_one(server: Server) -> None:
    server.attempt("success", task(0))
    server.now += RECENT_SECONDS + 1
    server.attempt("failure", *map(task, range(1, 6)))

    assert server.evidence == Evidence(failures=5, owner="alice")


def test_a_slow_success_is_recent_for_as_long_as_it_took(server: Server) -> None:
    server.attempt("success", task(0), seconds=1_000)
    server.now += 999
    server.attempt("failure", *map(task, range(1, 10)))
    assert server.evidence is None

    server.attempt("failure", task(10))
    assert server.evidence is not None


def test_an_owner_who_had_a_success_outweighs_one_whose_tasks_all_fail(server: Server) -> None:
    server.attempt("success", task(0, "bob"))
    server.attempt("failure", *(task(number, "mallory") for number in range(1_000)))

    assert server.evidence is None


def test_an_owner_whose_attempt_still_runs_outweighs_one_whose_tasks_all_fail(server: Server) -> None:
    server.attempt("failure", task(0, "mallory"))
    server.start(task(1, "bob"))
    server.now += 1
    server.attempt("failure", *(task(number, "mallory") for number in range(1_000)))

    assert server.evidence is None


def test_connections_refused_count_whoever_asked_for_them(server: Server) -> None:
    server.attempt("success", task(0, "bob"))
    server.attempt("unreached", *map(task, range(1, 11)))

    assert server.evidence == Evidence(failures=10, owner="")


def test_a_server_that_hangs_is_found_out_though_its_slots_fill_again(server: Server) -> None:
    slots = [task(number) for number in range(10)]
    server.start(*slots)
    server.now += 300
    ended = 0
    for old, new in zip(slots, map(task, range(10, 20)), strict=True):
        server.end("failure", old)
        ended += 1
        if server.evidence is not None:
            break
        server.start(new)

    assert ended == 6


def test_an_open_circuit_forgets_what_failed_and_what_still_runs(server: Server) -> None:
    server.start(*map(task, range(10)))
    server.end("failure", *map(task, range(5)))
    server.judged.forget_failures()

    server.end("failure", *map(task, range(5, 10)))

    assert server.evidence is None


def test_the_end_of_an_attempt_that_never_started_here_changes_nothing(server: Server) -> None:
    server.end("failure", *map(task, range(100)))

    assert server.evidence is None


def test_what_speaks_against_a_task_as_a_trial(server: Server) -> None:
    server.attempt("failure", task(1, "mallory"))
    server.attempt("unreached", task(2, "bob"))
    server.attempt("neutral", task(3, "carol"))

    doubts = [task(1, "mallory"), task(9, "mallory"), task(2, "bob"), task(3, "carol")]
    assert [server.judged.doubt(each) for each in doubts] == [2, 1, 0, 0]

    server.attempt("success", task(9, "mallory"))
    assert [server.judged.doubt(task(number, "mallory")) for number in (1, 9, 10)] == [2, 0, 0]


def test_what_is_remembered_is_bounded(server: Server) -> None:
    server.attempt("success", *(task(number, f"good{number}") for number in range(10 * REMEMBERED)))
    server.attempt("failure", *(task(number, f"bad{number}") for number in range(10 * REMEMBERED)))

    held = [value for value in vars(server.judged).values() if hasattr(value, "__len__")]
    assert len(held) >= 5
    assert max(map(len, held)) <= REMEMBERED


# Properties, on a simulated server


class Work(NamedTuple):
    """What one attempt comes to, and how long it takes."""

    task: TaskRef
    verdict: Verdict
    seconds: float


class Simulation:
    """A server whose slots are always full, until its circuit opens or the work is done."""

    def __init__(self, work: Iterator[Work], slots: int) -> None:
        self.server = Server()
        self.ended = 0
        self.evidence: Evidence | None = None
        running: list[tuple[float, int, Work]] = []
        order = itertools.count()
        for each in itertools.islice(work, slots):
            self._begin(running, next(order), each)
        while running and self.evidence is None:
            at, _, ended = heapq.heappop(running)
            self.server.now = at
            self.server.end(ended.verdict, ended.task)
            self.ended += 1
            if ended.verdict != "neutral":
                self.evidence = self.server.evidence
            if (following := next(work, None)) is not None:
                self._begin(running, next(order), following)

    def _begin(self, running: list[tuple[float, int, Work]], number: int, work: Work) -> None:
        self.server.start(work.task)
        heapq.heappush(running, (self.server.now + work.seconds, number, work))


def test_quick_errors_do_not_outrun_slow_successes() -> None:
    chance = random.Random(1)
    work = (
        Work(task(number), "failure", 0.001) if chance.random() < 0.05 else Work(task(number), "success", 0.2)
        for number in range(2_000)
    )

    run = Simulation(work, slots=64)

    assert (run.evidence, run.ended) == (None, 2_000)


latencies = st.sampled_from([0.0, 0.001, 0.1, 1.0, 30.0, 300.0])
slots = st.integers(1, 100)


def mixed(
    of_ten: int, owners: int, quick: Callable[[], float], slow: Callable[[], float], chance: random.Random, count: int
) -> Iterator[Work]:
    """Return work of which so many of each ten fail, after a first success."""
    yield Work(task(0), "success", 0.0)
    fails: list[int] = []
    for number in range(1, count):
        owner = f"owner{chance.randrange(owners)}"
        if number % 10 == 1:
            fails = chance.sample(range(number, number + 10), of_ten)
        if number in fails:
            yield Work(task(number, owner), "failure", quick())
        else:
            yield Work(task(number, owner), "success", slow())


@settings(max_examples=60)
@given(
    st.integers(0, 2), st.integers(1, 5), slots, st.lists(latencies, min_size=1), st.lists(latencies, min_size=1),
    st.integers(0, 2**32),
)  # fmt: skip
def test_a_server_that_fails_a_fifth_of_its_attempts_stays_closed(
    of_ten: int, owners: int, slots: int, failing: list[float], succeeding: list[float], seed: int
) -> None:
    chance = random.Random(seed)
    work = mixed(of_ten, owners, lambda: chance.choice(failing), lambda: chance.choice(succeeding), chance, 1_000)

    assert Simulation(work, slots).evidence is None


@given(slots, st.lists(latencies, min_size=1), st.integers(1, 8), st.integers(0, 200), st.integers(0, 2**32))
def test_a_server_that_begins_to_fail_everything_is_found_out(
    slots: int, seconds: list[float], owners: int, successes: int, seed: int
) -> None:
    chance = random.Random(seed)
    work = (
        Work(
            task(number, f"owner{chance.randrange(owners)}"),
            "success" if number < successes else "failure",
            chance.choice(seconds),
        )
        for number in itertools.count()
    )

    run = Simulation(work, slots)

    assert run.evidence is not None
    assert run.ended <= successes + 3 * slots + 2 * ENOUGH + 4 * owners


@given(slots, st.lists(latencies, min_size=1), latencies, st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_one_owners_poison_never_opens_a_circuit_while_anothers_work_succeeds(
    slots: int, poison: list[float], good: float, share: float, seed: int
) -> None:
    chance = random.Random(seed)

    def work() -> Iterator[Work]:
        yield Work(task(0, "bob"), "success", 0.0)
        for number in range(1, 1_000):
            if chance.random() < share:
                yield Work(task(number, "mallory"), "failure", chance.choice(poison))
            else:
                yield Work(task(number, "bob"), "success", good)

    run = Simulation(work(), slots)

    if run.evidence is not None:  # bob had nothing running and no recent success: his next task is a trial at once
        assert run.evidence.owner == "mallory"
        assert all(until < run.server.now for until in run.server.judged._successes.values())


@given(st.data(), st.lists(st.sampled_from(["success", "failure", "unreached", "neutral"]), min_size=1, max_size=30))
def test_the_order_in_which_attempts_end_does_not_matter(data: st.DataObject, verdicts: list[Verdict]) -> None:
    ends = [(task(number, f"owner{number % 3}"), verdict) for number, verdict in enumerate(verdicts)]
    found = []
    for order in (ends, data.draw(st.permutations(ends))):
        server = Server(most_failures=2)
        server.start(*(each for each, _ in ends))
        for ended, verdict in order:
            server.end(verdict, ended)
        found.append(server.evidence)

    assert found[0] == found[1]


# In numbers


def test_the_numbers_are_those_of_the_documents() -> None:
    assert (RECENT_SECONDS, REMEMBERED) == (60.0, 256)


@pytest.mark.parametrize(("failures", "is_enough"), [(4, False), (5, True), (6, True)])
def test_so_many_failures_are_enough(server: Server, failures: int, is_enough: bool) -> None:
    server.attempt("failure", *map(task, range(failures)))

    assert server.evidence == (Evidence(failures, "alice") if is_enough else None)


@pytest.mark.parametrize(("seconds", "enough"), [(0.0, 10), (60.0, 10), (60.1, 5)])
def test_within_a_minute_of_a_success_twice_as_many_failures_are_needed(
    server: Server, seconds: float, enough: int
) -> None:
    server.attempt("success", task(100))
    server.now += seconds
    found = []
    for number in range(10):
        server.attempt("failure", task(number))
        found.append(server.evidence is not None)

    assert found == [number + 1 >= enough for number in range(10)]


def test_a_success_of_two_minutes_is_recent_for_two_minutes(server: Server) -> None:
    server.attempt("success", task(100), seconds=120.0)
    server.now += 120.0
    server.attempt("failure", *map(task, range(9)))

    assert server.evidence is None


def test_the_first_failure_is_the_first_that_started(server: Server) -> None:
    server.start(task(1))
    server.attempt("success", task(100, "bob"))
    for number in range(2, 6):
        server.start(task(number))
    server.now += 61
    server.end("failure", *map(task, range(2, 6)))
    assert server.evidence is None
    server.attempt("failure", task(6))

    assert server.evidence is None  # bob's success was recent when the first of them started


def test_half_of_the_owners_is_not_more_than_half(server: Server) -> None:
    server.attempt("success", task(1, "bob"))
    server.attempt("failure", *map(task, range(20)))
    assert server.evidence is None

    server.attempt("failure", task(1, "carol"))
    assert server.evidence == Evidence(21, "")


@pytest.mark.parametrize(("later", "found"), [(60.0, None), (60.1, Evidence(20, "alice"))])
def test_an_owner_with_a_success_within_a_minute_fails_in_none(server: Server, later: float, found: object) -> None:
    server.attempt("success", task(1, "bob"))
    server.attempt("failure", *map(task, range(20)))
    server.now += later

    assert server.evidence == found


@pytest.mark.parametrize(
    ("unreached", "failed", "found"),
    [(5, 5, None), (6, 5, Evidence(11, "")), (5, 6, None)],
)
def test_more_than_half_unreached_is_the_server_whoever_had_a_success(
    server: Server, unreached: int, failed: int, found: Evidence | None
) -> None:
    server.attempt("success", task(1, "bob"))
    server.attempt("failure", *(task(number) for number in range(failed)))
    server.attempt("unreached", *(task(100 + number) for number in range(unreached)))

    assert server.evidence == found


def test_one_task_that_is_unreached_again_and_again_is_not_enough(server: Server) -> None:
    server.attempt("success", task(1, "bob"))
    server.attempt("failure", task(0))
    server.attempt("unreached", *[task(7)] * 20)
    assert server.evidence is None

    server.attempt("unreached", task(8))
    assert server.evidence == Evidence(22, "")


def test_running_attempts_that_outlasted_the_quickest_failure_count_as_not_failed(server: Server) -> None:
    running = [task(100 + number) for number in range(5)]
    server.start(task(0))
    server.start(*running)
    server.now += 2.0
    server.end("failure", task(0))
    server.attempt("failure", *map(task, range(1, 5)), seconds=2.0)
    assert server.evidence is None  # half of them survive

    server.end("neutral", running[0])
    assert server.evidence == Evidence(5, "alice")


def test_a_running_attempt_survives_once_it_lasted_as_long_as_the_quickest_failure(server: Server) -> None:
    server.attempt("failure", *map(task, range(5)), seconds=3.0)
    server.start(*(task(100 + number) for number in range(5)))

    server.now += 2.9
    assert server.evidence == Evidence(5, "alice")
    server.now = 1_018.0
    assert server.evidence is None


def test_an_attempt_that_started_before_the_first_failure_survives_nothing(server: Server) -> None:
    server.start(*(task(100 + number) for number in range(9)))
    server.attempt("failure", *map(task, range(5)), seconds=3.0)

    assert server.evidence == Evidence(5, "alice")


def test_running_attempts_of_another_owner_count_for_their_owner(server: Server) -> None:
    server.attempt("failure", *map(task, range(5)))
    server.start(task(1, "bob"))
    assert server.evidence is None

    server.attempt("failure", task(9, "carol"))
    assert server.evidence == Evidence(6, "")


def test_unreached_attempts_must_outnumber_what_survives_too(server: Server) -> None:
    server.attempt("unreached", *map(task, range(6)))
    server.start(*(task(100 + number) for number in range(6)))
    assert server.evidence is None

    server.attempt("unreached", task(7))
    assert server.evidence == Evidence(7, "")


def test_after_the_circuit_changed_only_attempts_that_start_later_count(server: Server) -> None:
    server.start(task(0))
    server.attempt("failure", *map(task, range(1, 5)))
    server.judged.forget_failures()
    server.end("failure", task(0))
    server.attempt("failure", *map(task, range(1, 5)))
    assert server.evidence is None

    server.attempt("failure", task(5, "bob"))
    assert server.evidence == Evidence(5, "")


def test_a_success_clears_the_owner_and_the_failures_before_it_only(server: Server) -> None:
    server.attempt("failure", *map(task, range(3)))
    server.start(task(100, "bob"))
    server.attempt("failure", *map(task, range(3, 13)))
    server.now += 100
    server.end("success", task(100, "bob"))

    assert server.judged._failed == {"alice": 10}
    assert server.evidence is None
    server.now += 101
    assert server.evidence == Evidence(10, "alice")


def test_the_latest_256_failures_are_remembered_and_twice_as_many_as_run_besides(server: Server) -> None:
    server.attempt("failure", *(task(number, f"owner{number}") for number in range(300)))
    assert len(server.judged._failures) == 256
    assert server.judged._failed.total() == 256
    assert "owner43" not in +server.judged._failed
    assert server.judged.doubt(task(43, "owner43")) == 0
    assert server.judged.doubt(task(44, "owner44")) == 2
    assert server.judged.doubt(task(1, "owner44")) == 1

    server.start(*(task(number, "running") for number in range(10)))
    server.attempt("failure", *(task(number) for number in range(300)))
    assert len(server.judged._failures) == 256 + 2 * 10
    server.attempt("failure", task(44, "owner44"))
    assert server.judged.doubt(task(44, "owner44")) == 2


def test_the_owner_of_the_latest_success_is_remembered_longest(server: Server) -> None:
    server.attempt("success", *(task(1, f"owner{number}") for number in range(256)))
    server.attempt("success", task(2, "owner0"))
    assert len(server.judged._successes) == 256

    server.attempt("success", task(1, "new"))

    assert list(server.judged._successes)[-2:] == ["owner0", "new"]
    assert "owner1" not in server.judged._successes
    assert len(server.judged._successes) == 256
