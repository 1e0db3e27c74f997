"""Admission: a new task is held by the last backlog report, and by submissions here since."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from taskstream.events.ids import TaskRef
from taskstream.events.task import TaskSubmitted
from taskstream.projections.fleet import Fleet
from taskstream.scheduling.backlog_report import BacklogReport, OwnerBacklog
from taskstream.scheduling.windows import window
from taskstream.submission.admission import Admission

from ..deciders.support import NOW, POLICY

SECOND = timedelta(seconds=1)
WINDOW = window("default", "normal", "default", None)
SIZE = 4


class Submitter:
    """Submits to a process that has received a backlog report."""

    def __init__(self, *, crowd: int = 0) -> None:
        """`crowd`: tasks of the owner `crowd` in the queue, as reported."""
        self.admission = Admission(Fleet())
        self.sequence = 1_000
        self.now = NOW
        self._names = itertools.count(1)
        self.on_report({"crowd": crowd} if crowd else {})

    def on_report(self, queued: dict[str, int], per_second: float = 0.0) -> None:
        owners = {owner: OwnerBacklog(count, {WINDOW: count}) for owner, count in queued.items()}
        report = BacklogReport(
            as_of=self.sequence, windows={"default": SIZE}, owners=owners, paces={"default": per_second}
        )
        self.admission.on_report(report, self.now)

    def submit(self, owner: str) -> bool:
        """Submit a task; return True if it is held."""
        ref, submitted = self.take(owner)
        with self.admission.in_flight([(ref, submitted)]):
            self.sequence += 1
        self.admission.record(ref, submitted, self.sequence)
        return submitted.held

    def take(self, owner: str) -> tuple[TaskRef, TaskSubmitted]:
        """Decide a submission, and do not store it yet."""
        ref = TaskRef(owner, f"{next(self._names):026d}")
        submitted = TaskSubmitted(
            owner=owner,
            task_type="default",
            payload=Raw(b"1"),
            pool="default",
            priority="normal",
            policy=POLICY,
            fingerprint="",
        )
        return ref, replace(submitted, held=self.admission.is_held(ref, submitted, self.now))


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
