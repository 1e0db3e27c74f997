"""How many tasks each server has, and whether it may get another."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskstream.events.envelope import Event
from taskstream.events.ids import TaskRef
from taskstream.events.server import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    MaintenanceEnded,
    MaintenanceStarted,
    ServerRemoved,
    ServerWentOffline,
    ServerWentOnline,
)
from taskstream.projections.heartbeats import BusyServer
from taskstream.runtime import metrics
from taskstream.scheduling.asks import AskMessage
from taskstream.workers.fleet import slots as slots_module
from taskstream.workers.fleet.capacity import Capacity, ServerCapacity, policy
from taskstream.workers.fleet.slots import Slots

from ..deciders.support import NOW, defined, registered, seconds
from ..folds.test_fleet import Fleet, positions

CHANGES: dict[str, Event] = {
    "half": CircuitHalfOpened(server_id="s1"),
    "close": CircuitClosed(server_id="s1", reason=""),
    "offline": ServerWentOffline(server_id="s1", reason=""),
    "online": ServerWentOnline(server_id="s1", reason=""),
}
TASKS = [TaskRef("alice", f"task{number}") for number in range(9)]


class Worker:
    """One worker's slots, with a fleet and a clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fleet = Fleet()
        self.now: datetime = NOW
        self.elapsed = 100.0
        self.in_force = True
        self.slots = Slots(
            self.fleet, policy("least-loaded", lambda: 0.5), lambda: self.now, lambda: self.in_force, chance=lambda: 0.0
        )
        monkeypatch.setattr(slots_module, "time", SimpleNamespace(monotonic=lambda: self.elapsed))

    def happens(self, *events: Event) -> None:
        self.fleet.apply(positions(*events, first=self.fleet.sequence + 1))

    def serves(self, server_id: str = "s1", *, most: int = 3, types: tuple[str, ...] = (), running: int = 0) -> None:
        """Have the worker speak for a server that is online."""
        self.happens(
            registered(server_id, max_concurrent=most, types=types), ServerWentOnline(server_id=server_id, reason="")
        )
        self.slots.add(server_id, TASKS[:running])

    def turn_away(self, server_id: str, retry_after: timedelta | None = None) -> None:
        """Have a server answer a call that it is busy."""
        self.slots.begin(server_id, TASKS[0])
        self.slots.refuse(server_id, TASKS[0], retry_after)
        self.slots.end(server_id, TASKS[0])

    def refresh(self) -> None:
        """Have everything computed anew that depends on the clock."""
        self.slots.set_accepting("s1", accepting=False)
        self.slots.set_accepting("s1", accepting=True)

    def later(self, duration: timedelta) -> None:
        self.now += duration
        self.elapsed += duration.total_seconds()

    def has_room(self) -> bool:
        return self.slots.choose("any type") is not None

    def taken(self) -> list[str | None]:
        """Give a task to each server that has one chosen for it, until one comes again; return them."""
        found: list[str | None] = []
        while (server_id := self.slots.choose("any type")) not in [None, *found]:
            assert server_id is not None
            self.slots.begin(server_id, TASKS[len(found)])
            found.append(server_id)
        for server_id, ref in zip(found, TASKS, strict=False):
            self.slots.end(str(server_id), ref)
        return found


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


# Room


def test_calls_that_begin_and_end_between_two_questions_are_computed_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.serves(most=3)
    computed: list[int] = []
    put = Capacity.put

    def count(capacity: Capacity, server: ServerCapacity) -> None:
        computed.append(server.free_slots)
        put(capacity, server)

    monkeypatch.setattr(Capacity, "put", count)
    worker.slots.begin("s1", TASKS[0])
    worker.slots.begin("s1", TASKS[1])
    worker.slots.end("s1", TASKS[0])

    assert (worker.slots.free("default"), worker.slots.free("default")) == (2, 2)
    assert computed == [2]


def test_the_gauge_of_what_runs_follows_calls_until_the_server_is_given_away(worker: Worker) -> None:
    def running() -> float | None:
        return metrics.REGISTRY.get_sample_value("taskstream_attempts_running", {"server": "s1"})

    worker.serves(running=1)
    worker.slots.begin("s1", TASKS[2])
    assert running() == 2

    worker.slots.end("s1", TASKS[2])
    assert running() == 1

    worker.slots.drop("s1")
    assert running() == 0


def test_a_server_has_room_for_as_many_as_it_takes_at_once(worker: Worker) -> None:
    worker.serves(most=3)

    rooms = []
    for ref in TASKS[:3]:
        rooms.append(worker.slots.free("default"))
        worker.slots.begin("s1", ref)

    assert rooms == [3, 2, 1]
    assert worker.slots.free("default") == 0
    assert not worker.has_room()


def test_a_call_that_ends_makes_room(worker: Worker) -> None:
    worker.serves(most=1)
    worker.slots.begin("s1", TASKS[0])

    worker.slots.freed.clear()
    worker.slots.end("s1", TASKS[0])

    assert worker.has_room()
    assert worker.slots.freed.is_set()


def test_a_server_is_chosen_by_how_loaded_it_is(worker: Worker) -> None:
    worker.serves("s1", most=3, running=1)
    worker.serves("gpu 1", most=4, running=1)

    assert worker.slots.choose("any type") == "gpu 1"
    worker.slots.begin("gpu 1", TASKS[5])
    assert worker.slots.choose("any type") == "s1"
    assert (worker.slots.running("gpu 1"), worker.slots.running("s1"), worker.slots.running("s2")) == (2, 1, 0)


def test_servers_that_are_equally_loaded_take_turns(worker: Worker) -> None:
    worker.serves("s1")
    worker.serves("s2")

    chosen = []
    for ref in TASKS[:4]:
        server_id = worker.slots.choose("any type")
        assert server_id is not None
        worker.slots.begin(server_id, ref)
        worker.slots.end(server_id, ref)
        chosen.append(server_id)

    assert chosen == ["s1", "s2", "s1", "s2"]


def test_what_runs_on_a_server_already_takes_room(worker: Worker) -> None:
    worker.serves(most=3, running=2)

    assert worker.slots.free("default") == 1


def test_room_is_counted_over_all_servers_of_a_pool(worker: Worker) -> None:
    worker.happens(defined("chapter", "text"), defined("clip", "video"))
    worker.serves("s1", most=3, types=("chapter",))
    worker.serves("s2", most=4, types=("chapter", "clip"))

    assert {pool: worker.slots.free(pool) for pool in ("text", "video", "default", "other")} == {
        "text": 7,
        "video": 4,
        "default": 7,
        "other": 0,
    }


def test_a_type_that_gets_another_pool_takes_its_room_along(worker: Worker) -> None:
    worker.happens(defined("chapter", "text"))
    worker.serves("s1", most=3, types=("chapter",))

    worker.happens(defined("chapter", "slow"))

    assert {pool: worker.slots.free(pool) for pool in ("text", "slow")} == {"text": 3, "slow": 3}


def test_a_server_that_is_registered_anew_serves_what_it_says_now(worker: Worker) -> None:
    worker.serves("s1", types=("chapter",))

    worker.happens(registered("s1", types=("clip",)))

    assert worker.slots.choose("chapter") is None
    assert worker.slots.choose("clip") == "s1"


def test_a_limit_that_is_lowered_below_what_runs_leaves_no_room(worker: Worker) -> None:
    worker.serves(most=3, running=3)

    worker.happens(registered("s1", max_concurrent=1))

    assert worker.slots.free("default") == 0


# Calls that go on elsewhere


def test_a_call_whose_server_goes_on_with_the_task_keeps_its_room(worker: Worker) -> None:
    worker.serves(most=1)
    worker.slots.begin("s1", TASKS[0])
    worker.slots.end("s1", TASKS[0], continues=True)

    assert not worker.has_room()
    assert worker.slots.is_idle("s1")

    worker.slots.ended_elsewhere("s1", TASKS[0])

    assert worker.has_room()


def test_the_end_of_a_task_that_is_not_known_here_changes_nothing(worker: Worker) -> None:
    worker.serves(most=3)
    worker.slots.begin("s1", TASKS[0])

    worker.slots.ended_elsewhere("s1", TASKS[0])
    worker.slots.ended_elsewhere("s2", TASKS[0])

    assert worker.slots.running("s1") == 1


def test_a_task_both_called_here_and_found_running_counts_once(worker: Worker) -> None:
    worker.serves(most=3, running=1)

    worker.slots.begin("s1", TASKS[0])

    assert worker.slots.running("s1") == 1


def test_a_second_message_of_a_task_that_runs_leaves_its_room_alone(worker: Worker) -> None:
    worker.serves(most=2)
    worker.slots.begin("s1", TASKS[0])
    worker.slots.end("s1", TASKS[0], continues=True)

    worker.slots.begin("s1", TASKS[0])
    worker.slots.withdraw("s1", TASKS[0])

    assert worker.slots.running("s1") == 1


def test_what_runs_elsewhere_is_told_as_it_was_known_by_a_time(worker: Worker) -> None:
    worker.serves(running=2)
    now = worker.elapsed

    assert worker.slots.running_elsewhere("s1", now - 1) == frozenset()
    assert worker.slots.running_elsewhere("s1", now + 1) == frozenset(TASKS[:2])
    assert worker.slots.running_elsewhere("s2", now + 1) == frozenset()


# When nothing is sent


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        (ServerWentOffline(server_id="s1", reason=""), ServerWentOnline(server_id="s1", reason="")),
        (MaintenanceStarted(server_id="s1"), MaintenanceEnded(server_id="s1")),
        (
            CircuitOpened(server_id="s1", reason="", until=NOW + seconds(15), failures=1),
            CircuitClosed(server_id="s1", reason=""),
        ),
    ],
    ids=["offline", "maintenance", "open circuit"],
)
def test_a_server_that_may_not_have_work_has_no_room_until_that_is_over(worker: Worker, bad: Any, good: Any) -> None:
    worker.serves()

    worker.happens(bad)
    assert not worker.has_room()
    assert worker.slots.free("default") == 0

    worker.happens(good)
    assert worker.has_room()


def test_a_new_server_has_no_room_before_its_first_check(worker: Worker) -> None:
    worker.happens(registered("s1"))
    worker.slots.add("s1", [])

    assert not worker.has_room()


def test_a_removed_server_has_no_room(worker: Worker) -> None:
    worker.serves()

    worker.happens(ServerRemoved(server_id="s1", reason=""))

    assert not worker.has_room()


def test_nothing_is_sent_while_leases_are_not_in_force(worker: Worker) -> None:
    worker.serves()

    worker.in_force = False

    assert not worker.has_room()
    assert worker.slots.free("default") == 0
    assert not worker.slots.serves("default")


def test_a_busy_server_is_left_alone_for_as_long_as_it_asked(worker: Worker) -> None:
    worker.serves("s1")
    worker.serves("s2")

    worker.turn_away("s1", seconds(7))

    assert worker.taken() == ["s2"]
    worker.later(seconds(6.9))
    assert worker.taken() == ["s2"]
    worker.later(seconds(0.2))
    assert worker.taken() == ["s1", "s2"]


def test_a_busy_server_is_sent_as_many_as_it_was_running(worker: Worker) -> None:
    worker.serves(most=9)
    for ref in TASKS[:4]:
        worker.slots.begin("s1", ref)
    worker.slots.refuse("s1", TASKS[3], None)
    worker.slots.end("s1", TASKS[3])

    worker.later(seconds(0.3))
    assert worker.slots.free("default") == 0
    worker.slots.end("s1", TASKS[0])
    assert worker.slots.free("default") == 1


def test_a_server_whose_requests_cannot_be_sent_rests_and_is_not_busy(worker: Worker) -> None:
    worker.serves(most=9)

    worker.slots.rest("s1")

    assert not worker.has_room()
    assert worker.slots.busy_news() == {}
    worker.later(seconds(0.3))
    assert worker.slots.free("default") == 9


def test_what_is_assumed_of_a_busy_server_is_news_once(worker: Worker) -> None:
    worker.serves()
    worker.turn_away("s1", seconds(7))

    assert worker.slots.busy_news() == {"s1": BusyServer(seen_at=NOW, since=NOW, next_try_at=NOW + seconds(7), limit=1)}
    assert worker.slots.busy_news() == {}
    worker.later(seconds(7))
    for _ in range(2):
        worker.slots.begin("s1", TASKS[0])
        worker.slots.take("s1", TASKS[0])
        worker.slots.end("s1", TASKS[0])
    assert worker.slots.busy_news() == {"s1": None}


def test_the_next_worker_of_a_busy_server_goes_on_where_the_last_one_was(worker: Worker) -> None:
    worker.serves(most=9)
    busy = BusyServer(seen_at=NOW, since=NOW - seconds(9), next_try_at=NOW + seconds(7), limit=2)

    worker.slots.add("s1", [], busy)

    assert not worker.has_room()
    assert worker.slots.next_change_in() == pytest.approx(7)
    worker.later(seconds(7))
    assert worker.slots.free("default") == 2


def test_tasks_of_an_owner_whose_tasks_alone_are_refused_are_not_sent(worker: Worker) -> None:
    worker.serves()
    bobs = TaskRef("bob", "one")
    for refused in (TASKS[0], bobs, TASKS[1]):
        worker.slots.begin("s1", refused)
        if refused is bobs:
            worker.slots.take("s1", bobs)
        else:
            worker.slots.refuse("s1", refused, seconds(10))
        worker.slots.end("s1", refused)
        worker.later(seconds(11))

    worker.slots.begin("s1", TASKS[2])
    worker.slots.refuse("s1", TASKS[2], seconds(10))
    worker.slots.end("s1", TASKS[2])

    assert worker.slots.choose("any type", ref=TASKS[3]) is None
    assert worker.slots.rests_in(TASKS[3], "any type", {}) == pytest.approx(10)
    assert worker.slots.choose("any type", ref=bobs) == "s1"


# No wake-up is missed: the dispatcher waits no longer than `next_change_in` without news

happenings = st.lists(
    st.tuples(
        st.sampled_from(["begin", "refuse", "fail", "take", "rest", "open", "half", "close", "offline", "online"]),
        st.sampled_from([None, seconds(0), seconds(1.5), seconds(40)]),
        st.sampled_from([0.0, 0.0004, 0.3, 20.0]),
    ),
    max_size=25,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings)
def test_no_slot_becomes_free_without_news_before_the_instant_that_was_announced(
    monkeypatch: pytest.MonkeyPatch, story: list[tuple[str, timedelta | None, float]]
) -> None:
    worker = Worker(monkeypatch)
    worker.serves(most=4)
    calls: list[TaskRef] = []
    for number, (what, pause, later) in enumerate(story):
        if what == "begin" and worker.has_room():
            calls.append(TaskRef("alice", f"t{number}"))
            worker.slots.begin("s1", calls[-1])
        elif what in ("refuse", "take", "fail", "rest") and calls:
            ref = calls.pop(0)
            match what:
                case "refuse":
                    worker.slots.refuse("s1", ref, pause)
                case "take":
                    worker.slots.take("s1", ref)
                case "rest":
                    worker.slots.rest("s1")
            worker.slots.judge("s1", ref, "failure" if what == "fail" else "neutral")
            worker.slots.end("s1", ref)
        elif what == "open":
            until = worker.now + (pause or seconds(1))
            worker.happens(CircuitOpened(server_id="s1", reason="", until=until, failures=1))
        elif what in CHANGES:
            worker.happens(CHANGES[what])
        free, change_in = worker.slots.free("default"), worker.slots.next_change_in()
        before = min(later, change_in * 0.999)
        worker.later(timedelta(seconds=before))
        worker.refresh()
        assert worker.slots.free("default") <= free, "without news nothing was free before the announced instant"
        worker.later(timedelta(seconds=later - before))

    # Whatever happened: if nothing else does, the server is sent tasks again, if the log says that it may be.
    worker.happens(CHANGES["online"], CHANGES["close"])
    for _ in range(60):
        if worker.slots.free("default") or calls:
            break
        change_in = worker.slots.next_change_in()
        assert change_in < math.inf, "it would never be looked at again"
        worker.later(timedelta(seconds=change_in + 0.001))
    assert worker.slots.free("default") or calls


def test_an_end_of_a_pause_is_news_whoever_finds_it(worker: Worker) -> None:
    """Found between the last round of the dispatcher and its wait, it would be missed."""
    worker.serves()
    worker.turn_away("s1", seconds(1))
    worker.slots.freed.clear()

    worker.later(seconds(1))
    worker.slots.next_change_in()

    assert worker.slots.freed.is_set()


async def test_a_pause_ends_with_a_look_though_the_loop_wakes_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop counts whole milliseconds: a wait may end before the instant. Then the rest is waited for."""
    worker = Worker(monkeypatch)
    worker.serves()
    worker.turn_away("s1", seconds(1))

    worker.elapsed += 0.9995  # the wake-up came half a millisecond early

    assert not worker.has_room()
    assert 0 < worker.slots.next_change_in() < 0.001
    worker.elapsed += 0.001
    assert worker.has_room()


# Circuit


OPENED = CircuitOpened(server_id="s1", reason="", until=NOW + seconds(15), failures=1)


def test_an_open_circuit_whose_time_is_up_gives_one_task_to_try(worker: Worker) -> None:
    worker.serves(most=10)
    worker.happens(OPENED)

    worker.later(seconds(15))

    assert worker.slots.free("default") == 1
    worker.slots.begin("s1", TASKS[0])
    assert worker.slots.free("default") == 0


def test_a_half_open_circuit_gives_one_task_at_a_time(worker: Worker) -> None:
    worker.serves(most=10)
    worker.happens(OPENED, CircuitHalfOpened(server_id="s1"))

    assert worker.slots.free("default") == 1
    worker.slots.begin("s1", TASKS[0])
    assert worker.slots.free("default") == 0
    worker.slots.end("s1", TASKS[0])
    assert worker.slots.free("default") == 1


def test_a_circuit_that_closed_gives_all_the_room_again(worker: Worker) -> None:
    worker.serves(most=10)

    worker.happens(OPENED, CircuitHalfOpened(server_id="s1"), CircuitClosed(server_id="s1", reason=""))

    assert worker.slots.free("default") == 10


# Handing over


def test_a_server_that_is_being_handed_over_gets_nothing_new(worker: Worker) -> None:
    worker.serves()
    worker.slots.begin("s1", TASKS[0])

    worker.slots.set_accepting("s1", accepting=False)

    assert not worker.has_room()
    assert not worker.slots.is_idle("s1")
    worker.slots.end("s1", TASKS[0])
    assert worker.slots.is_idle("s1")
    assert not worker.has_room()


def test_a_server_that_stays_after_all_gets_work_again(worker: Worker) -> None:
    worker.serves()
    worker.slots.set_accepting("s1", accepting=False)
    worker.slots.freed.clear()

    worker.slots.set_accepting("s1", accepting=True)

    assert worker.has_room()
    assert worker.slots.freed.is_set()


def test_a_server_that_was_handed_over_is_not_assigned_here(worker: Worker) -> None:
    worker.serves("s1")
    worker.serves("gpu 1")

    worker.slots.drop("s1")

    assert [worker.slots.is_assigned(server_id) for server_id in ("s1", "gpu 1")] == [False, True]
    assert worker.taken() == ["gpu 1"]


def test_what_ends_after_the_handover_is_none_of_this_workers_business(worker: Worker) -> None:
    worker.serves()
    worker.slots.begin("s1", TASKS[0])
    worker.slots.drop("s1")

    worker.slots.end("s1", TASKS[0], continues=True)
    worker.slots.ended_elsewhere("s1", TASKS[0])
    worker.slots.set_accepting("s1", accepting=True)
    worker.slots.drop("s1")

    assert worker.slots.running("s1") == 0
    assert worker.slots.running_elsewhere("s1", math.inf) == frozenset()


def test_a_server_taken_back_begins_with_a_clean_sheet(worker: Worker) -> None:
    worker.serves()
    worker.slots.begin("s1", TASKS[0])
    worker.slots.set_accepting("s1", accepting=False)

    worker.slots.add("s1", [TASKS[1]])

    assert worker.slots.running("s1") == 1
    assert worker.has_room()


def test_a_pulled_server_has_as_many_free_slots_as_its_pullers_ask_for(worker: Worker) -> None:
    worker.happens(registered("s1", predict_url="", mode="pull", max_concurrent=2))
    worker.happens(ServerWentOnline(server_id="s1", reason=""))
    worker.slots.add("s1", [])
    ask = AskMessage(id="a", wants=3, lives_seconds=6.0)
    assert (worker.slots.free("default"), worker.slots.choose("clip")) == (0, None)

    worker.slots.ask("s1", ask, "inbox")

    assert (worker.slots.free("default"), worker.slots.choose("clip")) == (2, "s1")
    taken = worker.slots.reserve_ask("s1", "clip", {})
    assert taken is not None
    worker.slots.begin("s1", TASKS[0])
    assert worker.slots.free("default") == 1
    worker.slots.end_ask("s1", taken, "unused")
    worker.slots.withdraw("s1", TASKS[0])
    assert worker.slots.free("default") == 2
    worker.elapsed += 7
    worker.slots.forget_silent_asks()
    assert (worker.slots.free("default"), worker.slots.choose("clip")) == (0, None)


def test_a_task_is_not_sent_to_a_pulled_server_of_which_nobody_asks_for_its_type(worker: Worker) -> None:
    worker.happens(registered("s1", predict_url="", mode="pull", types=("clip", "resize")))
    worker.happens(ServerWentOnline(server_id="s1", reason=""))
    worker.slots.add("s1", [])

    worker.slots.ask("s1", AskMessage(id="a", wants=1, lives_seconds=6.0, types=("resize",)), "inbox")
    worker.slots.ask("s1", AskMessage(id="b", wants=1, lives_seconds=6.0, labels={}), "inbox")

    assert worker.slots.choose("resize") == "s1"
    assert worker.slots.choose("clip", require={"gpu": "a100"}) is None
    assert worker.slots.choose("clip") == "s1"
