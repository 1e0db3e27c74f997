"""Admission: a new task is held by the last backlog report, and by submissions here since."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from taskstream.commands.owner import UNLIMITED, Allowance
from taskstream.errors import InvalidInput, QuotaExceeded, StoreError
from taskstream.events.ids import TaskRef
from taskstream.events.limits import Limits
from taskstream.events.server import ServerWentOnline
from taskstream.events.task import Plan, TaskSubmitted
from taskstream.projections.fleet import Fleet
from taskstream.scheduling.backlog_report import BacklogReport, OwnerBacklog
from taskstream.scheduling.windows import window
from taskstream.submission.admission import FIRST_OF_ALL_WINDOWS, FIRST_OF_AN_OWNER, Admission

from ..deciders.support import NOW, POLICY, defined, registered
from ..folds.test_fleet import fleet_of, positions

SECOND = timedelta(seconds=1)
WINDOW = window("default", "normal", "default", None)
SIZE = 4


class Submitter:
    """Submits to a process that has received a backlog report."""

    def __init__(
        self,
        *,
        crowd: int = 0,
        allowance: Allowance = UNLIMITED,
        fleet: Fleet | None = None,
        reports: bool = True,
    ) -> None:
        """`crowd`: tasks of the owner `crowd` in the queue, as reported. `allowance`: of every owner."""
        self.admission = Admission(fleet or Fleet(allowance))
        self.sequence = 1_000
        self.now = NOW
        self._names = itertools.count(1)
        if reports:
            self.on_report({"crowd": crowd} if crowd else {})

    def on_report(
        self,
        queued: dict[str, int],
        per_second: float = 0.0,
        as_of: int | None = None,
        held_back: dict[str, int] | None = None,
    ) -> None:
        owners = {owner: OwnerBacklog(count, {WINDOW: count}) for owner, count in queued.items()}
        report = BacklogReport(
            as_of=self.sequence if as_of is None else as_of,
            windows={"default": SIZE},
            owners=owners,
            held_back=held_back or {},
            paces={"default": per_second},
        )
        self.admission.on_report(report, self.now)

    def submit(self, owner: str, **more: Any) -> bool:
        """Submit a task; return True if it is held."""
        ref, submitted = self.take(owner, **more)
        with self.admission.in_flight([(ref, submitted)]):
            self.sequence += 1
        self.admission.record(ref, submitted, self.sequence)
        return submitted.held

    def take(self, owner: str, **more: Any) -> tuple[TaskRef, TaskSubmitted]:
        """Decide a submission, and do not store it yet."""
        ref = TaskRef(owner, f"{next(self._names):026d}")
        values: dict[str, Any] = {
            "owner": owner,
            "task_type": "default",
            "payload": Raw(b"1"),
            "pool": "default",
            "priority": "normal",
            "policy": POLICY,
            "fingerprint": "",
        }
        submitted = TaskSubmitted(**(values | more))
        return ref, self.admission.placed(ref, submitted, self.now)


def test_a_newcomer_is_not_held_by_anothers_full_window() -> None:
    submitter = Submitter(crowd=SIZE)

    assert submitter.submit("crowd")
    assert not submitter.submit("single")


@given(st.lists(st.sampled_from(["alice", "bob", "carol"]), max_size=40))
def test_each_owner_is_held_beyond_its_own_window_and_not_before(owners: list[str]) -> None:
    submitter, submitted = Submitter(), Counter[str]()

    for owner in owners:
        assert submitter.submit(owner) == (submitted[owner] >= SIZE)
        submitted[owner] += 1


def test_what_the_report_includes_is_counted_once() -> None:
    submitter = Submitter()
    for _ in range(SIZE):
        submitter.submit("alice")

    submitter.on_report({"alice": SIZE - 1})

    assert not submitter.submit("alice")
    assert submitter.submit("alice")


def test_what_has_started_since_the_report_leaves_room() -> None:
    submitter = Submitter()
    submitter.on_report({}, per_second=40.0)
    for _ in range(SIZE):
        submitter.submit("alice")
    assert submitter.submit("alice")

    submitter.now += SECOND / 20  # two have started

    assert [submitter.submit("alice") for _ in range(3)] == [False, False, True]


def test_a_window_reported_full_stays_full_until_the_next_report() -> None:
    submitter = Submitter()
    submitter.on_report({"crowd": SIZE}, per_second=1_000.0)

    submitter.now += SECOND

    assert submitter.submit("crowd")


def test_without_a_scheduler_an_owner_has_a_window_and_what_starts_in_a_moment() -> None:
    submitter = Submitter()
    submitter.on_report({}, per_second=10.0)

    submitter.now += 60 * SECOND
    held = [submitter.submit("alice") for _ in range(20)]

    assert held.index(True) == SIZE + 2


def test_submissions_in_flight_count() -> None:
    submitter = Submitter()

    with contextlib.ExitStack() as under_way:
        held = []
        for _ in range(SIZE + 2):
            ref, submitted = submitter.take("alice")
            under_way.enter_context(submitter.admission.in_flight([(ref, submitted)]))
            held.append(submitted.held)
        assert held == [False] * SIZE + [True] * 2
        assert not submitter.submit("bob")

    assert not submitter.submit("alice")  # none of them was stored


# The quota of waiting tasks


def quota(limit: int, *, reported: int = 0) -> Submitter:
    """Return a process in which alice may have `limit` tasks waiting, and has `reported` by the last report."""
    submitter = Submitter(allowance=Allowance(waiting=limit))
    submitter.on_report({"alice": reported} if reported else {})
    return submitter


def refusal(submitter: Submitter, owner: str, count: int) -> tuple[int, int, int] | None:
    """Return limit, waiting tasks and seconds of the refusal of `count` more tasks; None if they are admitted."""
    try:
        submitter.admission.check_quota(owner, count)
    except QuotaExceeded as error:
        return (error.limit, error.waiting, error.retry_after)
    return None


def test_the_quota_is_reached_and_not_passed() -> None:
    submitter = quota(10, reported=7)

    assert refusal(submitter, "alice", 3) is None
    assert refusal(submitter, "alice", 4) == (10, 7, 5)
    assert refusal(submitter, "bob", 10) is None


def test_a_quota_counts_what_was_submitted_since_the_report_held_or_not() -> None:
    submitter = quota(10, reported=SIZE)

    assert [submitter.submit("alice") for _ in range(4)] == [True] * 4
    assert [submitter.submit("bob") for _ in range(2)] == [False] * 2
    assert refusal(submitter, "alice", 2) is None
    assert refusal(submitter, "alice", 3) == (10, 8, 5)
    assert refusal(submitter, "bob", 9) == (10, 2, 5)


def test_a_task_that_the_report_includes_counts_once_towards_the_quota() -> None:
    submitter = quota(10)
    for _ in range(6):
        submitter.submit("alice")
    first = submitter.sequence - 5

    submitter.on_report({"alice": 1}, as_of=first)

    assert refusal(submitter, "alice", 4) is None
    assert refusal(submitter, "alice", 5) == (10, 6, 5)
    submitter.on_report({"alice": 6})
    assert refusal(submitter, "alice", 4) is None
    assert refusal(submitter, "alice", 5) == (10, 6, 5)
    submitter.on_report({})
    assert refusal(submitter, "alice", 10) is None
    assert (submitter.admission._waiting, submitter.admission._queued) == ({}, {})  # no owner is kept for ever


def test_more_tasks_at_a_time_than_the_quota_are_never_admitted() -> None:
    with pytest.raises(InvalidInput, match="11 tasks exceed your quota of 10 waiting tasks; submit fewer at a time"):
        quota(10).admission.check_quota("alice", 11)
    assert refusal(quota(10), "alice", 10) is None
    assert refusal(Submitter(), "alice", 1_000_000) is None


@settings(max_examples=40)
@given(st.integers(0, 12), st.lists(st.integers(1, 5), max_size=6))
def test_the_quota_is_never_passed_whatever_is_submitted(reported: int, counts: list[int]) -> None:
    submitter, waiting = quota(12, reported=reported), reported

    for count in counts:
        is_admitted = refusal(submitter, "alice", count) is None
        assert is_admitted == (waiting + count <= 12)
        if is_admitted:
            waiting += count
            for _ in range(count):
                submitter.submit("alice")


# What a report includes


def test_a_task_whose_event_the_report_includes_already_is_not_counted_again() -> None:
    submitter = quota(2)
    ref, submitted = submitter.take("alice")

    submitter.sequence += 1
    submitter.on_report({"alice": 1})
    submitter.admission.record(ref, submitted, submitter.sequence)
    assert refusal(submitter, "alice", 1) is None
    submitter.admission.record(ref, submitted, submitter.sequence + 1)

    assert refusal(submitter, "alice", 1) == (2, 2, 5)


def test_before_any_report_every_task_counts_from_the_first_on() -> None:
    submitter = Submitter(allowance=Allowance(waiting=1), reports=False)
    ref, submitted = submitter.take("alice")

    submitter.admission.record(ref, submitted, 1)

    assert refusal(submitter, "alice", 1) == (1, 1, 5)


def test_a_report_drops_what_it_includes_from_the_window_and_keeps_the_rest() -> None:
    submitter = Submitter()
    for _ in range(SIZE):
        submitter.submit("alice")

    submitter.on_report({}, as_of=submitter.sequence - 1)

    assert [submitter.submit("alice") for _ in range(SIZE)] == [False] * (SIZE - 1) + [True]


def test_held_tasks_take_no_place_in_a_window() -> None:
    submitter = Submitter()
    held = replace(submitter.take("alice")[1], held=True)

    for number in range(1, 10):
        submitter.admission.record(TaskRef("alice", f"{number:026d}"), held, submitter.sequence + number)
        with submitter.admission.in_flight([(TaskRef("alice", f"{number:026d}"), held)]):
            assert not submitter.take("alice")[1].held


# Windows


def test_a_pool_that_no_report_names_has_a_window_of_16_per_owner_and_priority() -> None:
    submitter = Submitter()

    assert [submitter.submit("alice", pool="new") for _ in range(17)] == [False] * 16 + [True]
    assert not submitter.submit("alice", pool="new", priority="low")
    assert not submitter.submit("alice", pool="new", task_type="other")
    assert not submitter.submit("bob", pool="new")


def test_without_any_report_a_first_window_is_queued() -> None:
    submitter = Submitter(reports=False)

    assert [submitter.submit("alice") for _ in range(17)] == [False] * 16 + [True]
    assert submitter.admission.held_back("default") == 0


def test_a_batch_takes_the_places_that_are_left_in_a_window() -> None:
    submitter = Submitter()
    submitter.submit("alice")
    ref, submitted = submitter.take("alice")

    held = [submitter.admission.placed(ref, submitted, NOW, {WINDOW: ahead}).held for ahead in range(5)]

    assert held == [False, False, False, True, True]


def test_a_pool_s_pace_makes_room_for_the_time_since_the_report_up_to_200_ms() -> None:
    def queued(after: timedelta) -> int:
        submitter = Submitter()
        submitter.on_report({}, per_second=100.0)
        for _ in range(40):
            submitter.submit("alice")
        submitter.now += after
        return [submitter.submit("alice") for _ in range(60)].index(True)

    assert queued(timedelta(seconds=-1)) == 0
    assert queued(timedelta(seconds=0.1)) == 10
    assert queued(timedelta(seconds=0.2)) == queued(timedelta(seconds=9)) == 20


def test_tasks_in_flight_are_not_taken_for_started_ones() -> None:
    submitter = Submitter()
    submitter.on_report({}, per_second=1_000.0)
    submitter.now += SECOND
    under_way = [submitter.take("alice") for _ in range(SIZE)]

    with submitter.admission.in_flight(under_way):
        assert submitter.submit("alice")
    assert not submitter.submit("alice")


def test_each_place_in_flight_is_given_back_also_after_an_error() -> None:
    submitter = Submitter()
    taken = [submitter.take("alice") for _ in range(SIZE)]

    with submitter.admission.in_flight(taken[:1]):
        with contextlib.suppress(StoreError), submitter.admission.in_flight(taken[1:]):
            assert submitter.take("alice")[1].held
            raise StoreError
        assert [submitter.submit("alice") for _ in range(SIZE)] == [False] * (SIZE - 1) + [True]
    assert submitter.admission._in_flight == {}  # no owner is kept for ever


def test_the_tasks_held_back_are_those_of_the_last_report() -> None:
    submitter = Submitter()
    submitter.on_report({}, held_back={"default": 7})

    assert submitter.admission.held_back("default") == 7
    assert submitter.admission.held_back("other") == 0


# What holds a task before any window


@pytest.mark.parametrize(
    ("plan", "is_held"),
    [
        (None, False),
        (Plan(prefer={"gpu": "yes"}), False),
        (Plan(depends_on=("p~alice",)), True),
        (Plan(not_before=NOW + SECOND), True),
        (Plan(not_before=NOW), False),
        (Plan(not_before=NOW + SECOND, expires_at=NOW + 9 * SECOND), True),
        (Plan(expires_at=NOW + 9 * SECOND, ends_by=NOW + 9 * SECOND), False),
        (Plan(concurrency_key="k"), True),
    ],
    ids=str,
)
def test_a_task_is_held_by_its_parents_its_start_or_its_concurrency_key(plan: Plan | None, is_held: bool) -> None:
    submitter = Submitter()
    ref, submitted = submitter.take("alice")

    assert submitter.admission.placed(ref, replace(submitted, plan=plan), NOW).held == is_held


@pytest.mark.parametrize("limits", [Limits(concurrency=5), Limits(per_second=1.0)], ids=["concurrency", "rate"])
def test_a_task_under_a_limit_of_its_owner_or_type_is_held_whatever_is_free(limits: Limits) -> None:
    assert Submitter(allowance=Allowance(limits=limits)).submit("alice")
    of_type = Submitter(fleet=fleet_of(defined("default", "default", limits=limits)))

    assert of_type.submit("alice")
    assert not of_type.submit("alice", task_type="other")


# The bulk queue


class BulkSubmitter(Submitter):
    """A process whose last report knows of bulk queues, with a server for the tasks."""

    def __init__(self, *, servers: bool = True) -> None:
        fleet = fleet_of(registered(), ServerWentOnline(server_id="s1", reason="")) if servers else Fleet()
        super().__init__(fleet=fleet, reports=False)
        self.report()

    def report(self, over: tuple[str, ...] = (), blocked: tuple[str, ...] = (), **queued: int) -> None:
        """Receive a report: the owners beyond their window, the owners with held tasks, and what is queued."""
        owners = {
            owner: OwnerBacklog(count, {WINDOW: count}, (WINDOW,) if owner in blocked else ())
            for owner, count in queued.items()
        }
        report = BacklogReport(
            as_of=self.sequence, windows={"default": SIZE}, owners=owners, over={"normal default": over} if over else {}
        )
        self.admission.on_report(report, self.now)

    def queue(self, owner: str, **more: Any) -> str:
        """Submit a task; return its queue, or `held`."""
        ref, submitted = self.take(owner, **more)
        with self.admission.in_flight([(ref, submitted)]):
            self.sequence += 1
        self.admission.record(ref, submitted, self.sequence)
        return "held" if submitted.held else "bulk" if submitted.bulk else "first"

    def queues(self, owner: str, count: int, **more: Any) -> list[str]:
        return [self.queue(owner, **more) for _ in range(count)]


def test_a_lone_owner_has_four_tasks_in_the_first_queue_and_the_rest_in_bulk() -> None:
    submitter = BulkSubmitter()

    assert submitter.queues("alice", 50) == ["first"] * FIRST_OF_AN_OWNER + ["bulk"] * (50 - FIRST_OF_AN_OWNER)
    submitter.report(over=("alice",), alice=50)
    assert submitter.queues("alice", 50) == ["bulk"] * 50
    submitter.report(alice=2)
    assert submitter.queues("alice", 3) == ["first", "first", "bulk"]


def test_beside_an_owner_beyond_its_window_another_is_held_beyond_its_own() -> None:
    submitter = BulkSubmitter()
    submitter.report(over=("alice",), alice=50)

    assert submitter.queues("bob", 6) == ["first"] * SIZE + ["held"] * 2
    assert submitter.queue("bob", priority="low") == "first"
    assert submitter.queues("bob", 6, priority="high") == ["first"] * 4 + ["bulk"] * 2
    assert submitter.queue("alice") == "bulk"


def test_of_two_owners_beyond_their_windows_neither_gets_more_into_bulk() -> None:
    submitter = BulkSubmitter()
    submitter.report(over=("alice", "bob"), alice=50, bob=50)

    assert (submitter.queue("alice"), submitter.queue("bob")) == ("held", "held")
    submitter.report(over=("alice",), alice=50, bob=1)
    assert (submitter.queue("alice"), submitter.queue("bob")) == ("bulk", "first")


def test_what_was_queued_here_since_the_report_keeps_others_out_of_bulk() -> None:
    submitter = BulkSubmitter()
    submitter.queues("alice", SIZE + 1)

    assert submitter.queues("bob", SIZE + 1)[-1] == "held"
    submitter.report(alice=SIZE, bob=SIZE)
    assert submitter.queue("bob") == "bulk"
    assert submitter.admission._over == {"normal default": {"bob": submitter.sequence}}
    submitter.report()
    assert submitter.admission._over == {}  # no owner is kept for ever


def test_an_owner_with_held_tasks_gets_none_into_bulk_before_them() -> None:
    submitter = BulkSubmitter()
    submitter.report(blocked=("alice",), alice=SIZE)

    assert submitter.queue("alice") == "held"
    assert submitter.queues("bob", 5)[-1] == "bulk"


def test_nobody_gets_into_bulk_after_an_old_report_or_one_of_an_older_version() -> None:
    submitter = BulkSubmitter()
    submitter.queues("alice", 4)
    submitter.now += 3 * SECOND
    assert submitter.queue("alice") == "bulk"
    submitter.now += SECOND / 100
    assert submitter.queue("alice") == "held"
    submitter.on_report({"alice": 4})
    assert submitter.queue("alice") == "held"


def test_large_payloads_are_held_beyond_the_window() -> None:
    submitter = BulkSubmitter()
    submitter.queues("alice", 4)

    assert submitter.queue("alice", payload=Raw(b"1" * 4097)) == "held"
    assert submitter.queue("alice", payload=Raw(b"1" * 4096)) == "bulk"


def test_tasks_that_no_server_takes_are_held_beyond_the_window() -> None:
    submitter = BulkSubmitter()
    plan = Plan(require={"gpu": "yes"})
    assert submitter.queues("alice", 5, plan=plan) == ["first"] * 4 + ["held"]
    without = BulkSubmitter(servers=False)
    assert without.queues("alice", 5)[-1] == "held"

    without.admission._fleet.apply(positions(registered(), ServerWentOnline(server_id="s1", reason="")))

    assert without.queue("alice") == "bulk"


def test_a_task_that_needs_a_grant_or_waits_for_its_time_is_never_in_bulk() -> None:
    submitter = BulkSubmitter()
    submitter.queues("alice", 10)

    assert submitter.queue("alice", plan=Plan(concurrency_key="k")) == "held"
    assert submitter.queue("alice", plan=Plan(not_before=NOW + SECOND)) == "held"


def test_a_batch_is_placed_as_single_tasks_are() -> None:
    submitter = BulkSubmitter()
    submitter.queue("alice")
    ref, submitted = submitter.take("alice")

    placed = [submitter.admission.placed(ref, submitted, NOW, {WINDOW: ahead}) for ahead in range(5)]

    assert [each.bulk for each in placed] == [False, False, False, True, True]


@pytest.mark.parametrize("over", [(), ("bob",)])
def test_types_of_their_own_bring_no_owner_more_of_the_first_queue(over: tuple[str, ...]) -> None:
    submitter = BulkSubmitter()
    submitter.report(over=over)
    many: list[dict[str, Any]] = [{"task_type": f"t{number}"} for number in range(40)]
    many += [{"plan": Plan(require={"x": str(number)})} for number in range(40)]

    queues = [submitter.queue("alice", **each) for each in many]

    assert queues == ["first"] * FIRST_OF_ALL_WINDOWS + ["bulk"] * (40 - FIRST_OF_ALL_WINDOWS) + ["held"] * 40
    assert [submitter.queue(owner) for owner in ("bob", "carol")] == ["first"] * 2
    names = {window("default", "normal", f"t{number}", None): 1 for number in range(40)}
    report = BacklogReport(as_of=submitter.sequence, windows={}, owners={"alice": OwnerBacklog(40, names)}, over={})
    submitter.admission.on_report(report, submitter.now)
    assert submitter.queue("alice", task_type="another") == "bulk"
    assert submitter.queue("alice", task_type="another", priority="high") == "first"


@given(st.integers(0, 60), st.integers(0, 60))
def test_two_who_get_many_at_once_are_held_from_the_next_report_on(of_alice: int, of_bob: int) -> None:
    """Each speaks to another process, and neither process knows of the other's tasks."""
    one, other = BulkSubmitter(), BulkSubmitter()

    assert "held" not in one.queues("alice", of_alice) + other.queues("bob", of_bob)
    over = tuple(owner for owner, count in (("alice", of_alice), ("bob", of_bob)) if count > SIZE)
    for process in (one, other):
        process.report(over=over, alice=of_alice, bob=of_bob)

    if len(over) == 2:
        assert {*one.queues("alice", 9), *other.queues("bob", 9)} == {"held"}
