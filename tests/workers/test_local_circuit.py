"""Who may try a server whose circuit is not closed, and what an attempt's end does to the circuit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.scheduling.server_failures import Evidence, Verdict
from taskstream.workers.fleet.local_circuit import KEPT_SECONDS, SETTLED_SECONDS, LocalCircuit, Shut

COOLDOWN = 15.0
BAD = TaskRef("mallory", "bad")
OTHER_BAD = TaskRef("mallory", "other")
GOOD = TaskRef("bob", "good")


class Circuit:
    """A server's circuit, at a time that the test moves, with room for ten attempts."""

    def __init__(self) -> None:
        self.local = LocalCircuit(most_failures=2, cooldown_seconds=COOLDOWN)
        self.now = 1_000.0
        self.running = 0

    def start(self, *tasks: TaskRef) -> None:
        for task in tasks:
            self.running += 1
            self.local.start(task, self.now)

    def end(self, task: TaskRef, verdict: Verdict) -> object:
        self.running -= 1
        return self.local.end(task, verdict, self.now)

    def attempt(self, task: TaskRef, verdict: Verdict) -> object:
        self.start(task)
        return self.end(task, verdict)

    def opens(self) -> None:
        """Have the circuit open on account of mallory."""
        self.attempt(BAD, "failure")
        assert self.attempt(OTHER_BAD, "failure") == Evidence(2, "mallory")

    def cools_down(self) -> None:
        """Let the cool-down pass."""
        self.now += COOLDOWN
        self.local.record(Shut(self.now))

    @property
    def free(self) -> int:
        return self.local.capacity(self.running, 10, self.now) - self.running

    def admits(self, task: TaskRef) -> bool:
        return self.local.admits_at(task, self.now) <= self.now


@pytest.fixture
def circuit() -> Circuit:
    return Circuit()


def test_a_closed_circuit_admits_all(circuit: Circuit) -> None:
    circuit.attempt(BAD, "failure")

    assert circuit.free == 10
    assert circuit.admits(BAD)


def test_a_circuit_that_opened_on_account_of_one_owner_admits_another_at_once(circuit: Circuit) -> None:
    circuit.opens()

    assert circuit.free == 1
    assert [circuit.admits(task) for task in (BAD, TaskRef("mallory", "new"), GOOD)] == [False, False, True]
    assert circuit.attempt(GOOD, "success") == "closes"
    assert circuit.free == 10
    assert circuit.admits(BAD)


def test_once_a_second_owner_s_trial_failed_all_wait_for_the_rest_of_the_cool_down(circuit: Circuit) -> None:
    circuit.opens()
    circuit.now += 5

    assert circuit.attempt(GOOD, "failure") == Evidence(1, "bob")

    assert circuit.free == 0
    assert not circuit.admits(TaskRef("carol", "1"))
    circuit.now += COOLDOWN - 5
    circuit.local.record(Shut(circuit.now))
    assert circuit.free == 1
    assert circuit.admits(TaskRef("carol", "1"))


def test_a_circuit_that_opened_for_a_refused_connection_admits_nobody(circuit: Circuit) -> None:
    circuit.attempt(BAD, "unreached")
    assert circuit.attempt(OTHER_BAD, "unreached") == Evidence(2, "")

    assert circuit.free == 0


def test_a_trial_is_kept_for_others_than_the_task_that_failed_for_a_while(circuit: Circuit) -> None:
    circuit.opens()
    circuit.cools_down()
    untried = TaskRef("mallory", "untried")

    def admitted() -> list[bool]:
        return [circuit.admits(task) for task in (GOOD, untried, BAD)]

    assert admitted() == [True, False, False]
    circuit.now += KEPT_SECONDS
    assert admitted() == [True, True, False]
    circuit.now += KEPT_SECONDS
    assert admitted() == [True, True, True]  # a lone task is the trial in the end


def test_one_trial_at_a_time(circuit: Circuit) -> None:
    circuit.opens()
    circuit.cools_down()

    circuit.start(GOOD)
    assert circuit.free == 0
    assert circuit.end(GOOD, "neutral") is None
    assert circuit.free == 1


def test_a_trial_that_ends_neutrally_neither_closes_nor_opens(circuit: Circuit) -> None:
    circuit.opens()
    circuit.cools_down()

    for number in range(10):
        assert circuit.free == 1
        assert circuit.attempt(TaskRef("bob", str(number)), "neutral") is None
    assert circuit.attempt(GOOD, "success") == "closes"


def test_a_trial_that_lasts_longer_than_the_cool_down_lets_another_be_made(circuit: Circuit) -> None:
    circuit.opens()
    circuit.cools_down()
    circuit.start(GOOD)

    circuit.local.record(Shut(0.0))  # half-open, says the log
    assert circuit.free == 0
    assert circuit.local.changes_at(circuit.now) == circuit.now + COOLDOWN
    circuit.now += COOLDOWN
    assert circuit.free == 1
    assert not circuit.admits(BAD)
    assert circuit.attempt(TaskRef("carol", "quick"), "success") == "closes"
    assert circuit.end(GOOD, "failure") is None  # it began before the circuit closed


def test_what_began_before_the_circuit_opened_takes_no_trial_s_place(circuit: Circuit) -> None:
    old = [TaskRef("bob", str(number)) for number in range(5)]
    circuit.start(*old)
    circuit.opens()
    circuit.cools_down()

    assert circuit.free == 1
    assert circuit.end(old[0], "failure") is None
    assert circuit.end(old[1], "success") is None
    assert circuit.free == 1


def test_a_failed_trial_opens_the_circuit_again_on_account_of_its_owner(circuit: Circuit) -> None:
    circuit.attempt(GOOD, "failure")
    circuit.attempt(BAD, "failure")
    circuit.cools_down()
    circuit.now += 2 * KEPT_SECONDS

    assert circuit.attempt(BAD, "failure") == Evidence(1, "mallory")

    assert [circuit.admits(task) for task in (BAD, GOOD, TaskRef("carol", "1"))] == [False, False, True]


def test_a_close_that_was_not_stored_is_tried_again(circuit: Circuit) -> None:
    circuit.opens()
    circuit.cools_down()
    circuit.attempt(GOOD, "success")
    circuit.local.record(Shut(0.0))
    assert circuit.free == 10

    assert circuit.local.changes_at(circuit.now) == circuit.now + SETTLED_SECONDS
    circuit.now += SETTLED_SECONDS
    assert circuit.free == 1
    assert circuit.attempt(GOOD, "success") == "closes"


def test_an_opening_that_was_not_stored_lasts_for_a_cool_down(circuit: Circuit) -> None:
    circuit.opens()
    assert circuit.local.changes_at(circuit.now) == circuit.now + COOLDOWN

    circuit.now += COOLDOWN

    assert circuit.free == 10


ops = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.sampled_from(["success", "failure", "unreached", "neutral"])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 20.0])),
    st.tuples(st.just("record"), st.sampled_from(["closed", "half-open", "open", "open for mallory"])),
)


@given(st.lists(ops, max_size=60))
def test_whatever_happens_trials_are_few_and_no_server_stays_shut(steps: list[tuple[str, Any]]) -> None:
    circuit = Circuit()
    running: list[TaskRef] = []
    for step, value in steps:
        match step:
            case "start":
                task = TaskRef(("bob", "mallory")[value % 2], str(value))
                if circuit.free > 0 and circuit.admits(task) and task not in running:
                    circuit.start(task)
                    running.append(task)
            case "end" if running:
                circuit.end(running.pop(0), value)
            case "wait":
                circuit.now += value
            case "record":
                shut = {
                    "closed": None,
                    "half-open": Shut(0.0),
                    "open": Shut(circuit.now + COOLDOWN),
                    "open for mallory": Shut(circuit.now + COOLDOWN, "mallory"),
                }
                circuit.local.record(shut[value])
        assert circuit.local.shut(circuit.now) is None or circuit.free <= 1
        if circuit.local.shut(circuit.now) is None:
            assert circuit.free == 10 - len(running)

    for task in running:
        circuit.end(task, "neutral")
    circuit.now += COOLDOWN + 2 * KEPT_SECONDS
    for task in (BAD, GOOD):
        assert circuit.free >= 1
        assert circuit.admits(task)
    if circuit.local.shut(circuit.now) is not None:
        assert circuit.attempt(BAD, "success") == "closes"
    assert circuit.free == 10


def test_a_worker_that_takes_over_a_half_open_circuit_makes_a_trial_at_once(circuit: Circuit) -> None:
    circuit.running = 3  # the former holder's, among them its trial
    circuit.local.record(Shut(0.0))

    assert circuit.free == 1
    assert circuit.admits(BAD)
    assert circuit.attempt(BAD, "success") == "closes"


def test_a_worker_that_takes_over_an_open_circuit_keeps_to_what_the_log_says(circuit: Circuit) -> None:
    circuit.local.record(Shut(circuit.now + 5, "mallory"))

    assert [circuit.admits(task) for task in (BAD, GOOD)] == [False, True]
    circuit.now += 5
    assert [circuit.admits(task) for task in (BAD, GOOD)] == [False, True]
    circuit.now += KEPT_SECONDS
    assert circuit.admits(BAD)


# In numbers


def test_the_numbers_are_those_of_the_documents() -> None:
    assert (KEPT_SECONDS, SETTLED_SECONDS) == (0.5, 1.0)


def test_a_circuit_begins_closed_whatever_the_time() -> None:
    local = LocalCircuit(most_failures=2, cooldown_seconds=COOLDOWN)

    local.record(Shut(0.0))
    assert local.shut(0.0) == Shut(0.0)
    assert LocalCircuit(2, COOLDOWN).shut(0.0) is None
    assert LocalCircuit(2, COOLDOWN).changes_at(0.0) is None


def test_a_half_open_circuit_has_one_attempt_more_than_runs_within_its_limit(
    circuit: Circuit,
) -> None:
    circuit.local.record(Shut(circuit.now))

    assert [circuit.local.capacity(running, 3, circuit.now) for running in range(5)] == [1, 2, 3, 3, 3]
    circuit.local.start(GOOD, circuit.now)
    assert [circuit.local.capacity(running, 3, circuit.now) for running in range(5)] == [0, 1, 2, 3, 3]
    assert circuit.local.capacity(1, 3, circuit.now + COOLDOWN - 0.001) == 1
    assert circuit.local.capacity(1, 3, circuit.now + COOLDOWN) == 2


def test_a_trial_has_its_place_from_its_start_to_its_end(circuit: Circuit) -> None:
    circuit.local.record(Shut(circuit.now))
    now = circuit.now

    circuit.local.start(GOOD, now)
    assert circuit.local.changes_at(now) == now + COOLDOWN
    assert circuit.local.changes_at(now + COOLDOWN) is None
    circuit.local.end(GOOD, "neutral", now + 1)
    assert circuit.local.changes_at(now + 1) is None


def test_an_open_circuit_changes_when_it_is_to_be_tried(circuit: Circuit) -> None:
    circuit.local.record(Shut(circuit.now + 7))
    now = circuit.now

    assert circuit.local.capacity(0, 3, now + 6.999) == 0
    assert circuit.local.capacity(0, 3, now + 7) == 1
    assert circuit.local.changes_at(now) == now + 7
    assert circuit.local.changes_at(now + 7) is None
    assert [circuit.local.admits_at(GOOD, at) for at in (now, now + 7, now + 8)] == [now + 7, now + 7, now + 8]


def test_the_later_of_the_log_and_the_own_decision_holds(circuit: Circuit) -> None:
    circuit.opens()
    opened = circuit.now

    assert circuit.local.shut(opened) == Shut(opened + COOLDOWN, "mallory")
    circuit.local.record(Shut(opened + 40, "bob"))
    assert circuit.local.shut(opened) == Shut(opened + 40, "mallory")
    circuit.local.record(Shut(opened + 4, "bob"))
    assert circuit.local.shut(opened) == Shut(opened + COOLDOWN, "mallory")
    assert circuit.local.shut(opened + COOLDOWN) == Shut(opened + 4, "bob")


def test_a_closed_circuit_ignores_the_log_for_a_second(circuit: Circuit) -> None:
    circuit.local.record(Shut(circuit.now))
    circuit.attempt(GOOD, "success")
    closed = circuit.now

    assert circuit.local.shut(closed + 0.999) is None
    assert circuit.local.changes_at(closed + 0.5) == closed + 1
    assert circuit.local.shut(closed + 1) == Shut(closed)
    circuit.local.record(None)
    assert circuit.local.changes_at(closed + 1) is None


def test_a_failed_trial_before_the_end_of_the_cool_down_does_not_make_it_longer(circuit: Circuit) -> None:
    circuit.opens()
    opened = circuit.now
    circuit.now += 5
    assert circuit.attempt(TaskRef("mallory", "third"), "failure") == Evidence(1, "mallory")
    assert circuit.local.shut(circuit.now) == Shut(opened + COOLDOWN, "mallory")

    circuit.now += 1
    assert circuit.attempt(GOOD, "unreached") == Evidence(1, "")
    assert circuit.local.shut(circuit.now) == Shut(opened + COOLDOWN, "")


def test_a_failed_trial_at_the_end_of_the_cool_down_begins_another(circuit: Circuit) -> None:
    circuit.local.record(Shut(circuit.now))

    assert circuit.attempt(GOOD, "failure") == Evidence(1, "bob")
    assert circuit.local.shut(circuit.now) == Shut(circuit.now + COOLDOWN, "bob")


def test_failures_from_before_a_close_open_no_circuit(circuit: Circuit) -> None:
    circuit.attempt(BAD, "failure")
    circuit.local.record(Shut(circuit.now))
    circuit.attempt(GOOD, "success")
    circuit.local.record(None)

    assert circuit.attempt(OTHER_BAD, "failure") is None


def test_what_speaks_against_a_task_delays_it_as_a_trial_by_half_a_second_each(circuit: Circuit) -> None:
    circuit.opens()
    shut = circuit.local.shut(circuit.now)
    assert shut is not None
    tasks = [BAD, TaskRef("mallory", "new"), GOOD]

    assert [circuit.local.doubt(task, circuit.now) for task in tasks] == [2, 1, 0]
    found = [circuit.local.admits_at(task, circuit.now) for task in tasks]
    assert found == [shut.until + 1.0, shut.until + 0.5, circuit.now]
    circuit.local.record(None)
    assert [circuit.local.doubt(task, shut.until) for task in tasks] == [2, 1, 0]
    assert circuit.local.admits_at(BAD, shut.until) == shut.until


def test_an_owner_that_the_log_names_is_in_doubt_and_no_other(circuit: Circuit) -> None:
    circuit.local.record(Shut(circuit.now + 5, "mallory"))

    assert [circuit.local.doubt(task, circuit.now) for task in (BAD, GOOD)] == [1, 0]
    assert circuit.local.admits_at(BAD, circuit.now) == circuit.now + 5.5
    assert circuit.local.admits_at(GOOD, circuit.now) == circuit.now


def test_a_doubtful_task_waits_for_the_end_of_the_trial_before_it(circuit: Circuit) -> None:
    circuit.attempt(BAD, "failure")
    circuit.local.record(Shut(circuit.now))
    circuit.now += 3
    now = circuit.now
    circuit.local.start(GOOD, now)
    assert circuit.local.admits_at(BAD, now) == now + COOLDOWN + 1.0

    circuit.local.end(GOOD, "neutral", now + 2)
    assert circuit.local.admits_at(BAD, now + 2) == now + 2 + 1.0
