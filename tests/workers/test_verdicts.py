"""What the verdict of an answer does: to the slots of its server, its circuit, its heartbeat, and the log."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from msgspec.structs import replace

from taskstream.backends.dialects.dialect import Accepted, Answer, Busy, Completed, Failed, FailedByBackend, Unsent
from taskstream.commands.server import CircuitIsHalfOpen, CircuitIsOpen, CloseCircuit, OpenCircuit, Present
from taskstream.commands.task_state import Processing, TaskFacts, TaskState, Unknown
from taskstream.errors import RuleBroken
from taskstream.events.envelope import Actor, Recorded, Stored
from taskstream.events.ids import TaskRef
from taskstream.events.server import CircuitClosed, CircuitOpened
from taskstream.events.task import Plan, RetryPolicy
from taskstream.scheduling.server_failures import Evidence
from taskstream.workers.fleet.circuit_breaker import CircuitBreaker, Consequence
from taskstream.workers.fleet.local_circuit import CircuitChange

from ..deciders.support import NOW, defined, registered

WORKER = Actor("system", "worker")
REF = TaskRef("alice", "1")
SERVER = Present(settings=registered("gpu"), registered_at=NOW, changed_at=NOW, online=True, status_reason="")
MINUTE = timedelta(seconds=60)


class Parts:
    """The parts that a circuit breaker talks to. Each notes what it is told."""

    def __init__(self, *, change: CircuitChange = None, assigned: bool = True) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.change = change
        self.assigned = assigned
        self.appended: list[Stored[Any]] = []
        self.refuses: Exception | None = None
        self.definition: Any = None
        container: Any = SimpleNamespace(
            settings=SimpleNamespace(circuit_cooldown=15.0, attempt_timeout=60.0),
            commands=SimpleNamespace(servers=self),
            fleet=SimpleNamespace(definition=lambda task_type: self.definition if task_type == "song" else None),
            heartbeats=self,
        )
        slots: Any = self
        self.breaker = CircuitBreaker(container, slots, WORKER)

    def refuse(self, *args: Any) -> None:
        self.told.append(("refuse", *args))

    def rest(self, *args: Any) -> None:
        self.told.append(("rest", *args))

    def take(self, *args: Any) -> None:
        self.told.append(("take", *args))

    def judge(self, *args: Any) -> CircuitChange:
        self.told.append(("judge", *args))
        return self.change

    def is_assigned(self, server_id: str) -> bool:
        assert server_id == "gpu"
        return self.assigned

    async def note(self, server_id: str) -> None:
        self.told.append(("note", server_id))

    async def handle(self, server_id: str, command: Any, by: Actor) -> Any:
        self.told.append((server_id, command, by))
        if self.refuses is not None:
            raise self.refuses
        return SimpleNamespace(appended=self.appended)

    def count(self, answer: Answer, server: Present = SERVER, state: TaskState | None = None) -> Consequence:
        return self.breaker.count(server, REF, "song", state if state is not None else processing(), answer)


def processing(timeout: timedelta = MINUTE, ends_by: Any = None) -> Processing:
    policy = RetryPolicy(attempts=3, backoff_base=MINUTE, backoff_cap=MINUTE, timeout=timeout)
    facts = TaskFacts(
        owner="alice",
        task_type="song",
        pool="default",
        priority="normal",
        policy=policy,
        fingerprint="",
        submitted_at=NOW,
        plan=Plan(ends_by=ends_by),
        attempt=1,
    )
    return Processing(
        facts=facts,
        server_id="gpu",
        worker_id="w",
        deadline=NOW + MINUTE,
        token_digest="",
        granted=False,
        accepted=False,
    )


JUDGED = ("judge", "gpu", REF)
TAKEN = ("take", "gpu", REF)


@pytest.mark.parametrize(
    ("answer", "told", "is_alive", "error"),
    [
        (Completed(b"{}"), [TAKEN, (*JUDGED, "success")], True, ""),
        (FailedByBackend(b"{}", "no"), [TAKEN, (*JUDGED, "success")], True, ""),
        (Accepted(None), [TAKEN, (*JUDGED, "success")], True, ""),
        (Busy(error="full", retry_after=MINUTE), [("refuse", "gpu", REF, MINUTE), (*JUDGED, "neutral")], True, ""),
        (Unsent(error="no socket"), [("rest", "gpu"), (*JUDGED, "neutral")], False, ""),
        (Failed(kind="unreachable", error="gone", is_unreached=True), [(*JUDGED, "unreached")], False, "gone"),
        (Failed(kind="unreachable", error="cut"), [(*JUDGED, "failure")], False, "cut"),
        (Failed(kind="error", error="500"), [TAKEN, (*JUDGED, "failure")], False, "500"),
        (Failed(kind="error", error="ours", is_neutral=True), [TAKEN, (*JUDGED, "neutral")], False, "ours"),
        (Failed(kind="timeout", error="60 s"), [TAKEN, (*JUDGED, "failure")], False, "60 s"),
        (Failed(kind="rejected", error="400"), [TAKEN, (*JUDGED, "success")], True, "400"),
        (Failed(kind="bad-answer", error="no JSON"), [TAKEN, (*JUDGED, "neutral")], False, "no JSON"),
    ],
    ids=repr,
)
def test_an_answer_has_its_whole_effect(answer: Answer, told: list[Any], is_alive: bool, error: str) -> None:
    parts = Parts(change="closes")

    assert parts.count(answer) == Consequence(is_alive=is_alive, change="closes", error=error)
    assert parts.told == told


@pytest.mark.parametrize(
    ("state", "allowed", "verdict"),
    [
        (processing(), None, "failure"),
        (processing(MINUTE / 2), None, "neutral"),
        (processing(MINUTE / 2), MINUTE / 2, "failure"),
        (processing(), 2 * MINUTE, "neutral"),
        (processing(3 * MINUTE), 2 * MINUTE, "failure"),
        (processing(ends_by=NOW + MINUTE), None, "neutral"),
        (processing(ends_by=NOW + 2 * MINUTE), None, "failure"),
        (Unknown(), None, "neutral"),
    ],
    ids=[
        "default",
        "shorter",
        "of the type",
        "shorter than the type's",
        "longer",
        "deadline",
        "later deadline",
        "gone",
    ],
)
@pytest.mark.parametrize("is_defined", [True, False])
def test_a_timeout_counts_if_the_attempt_had_the_time_of_its_type(
    state: TaskState, allowed: timedelta | None, verdict: str, is_defined: bool
) -> None:
    parts = Parts()
    parts.definition = defined("song", timeout=allowed) if allowed or is_defined else None

    parts.count(Failed(kind="timeout", error="too long"), state=state)

    assert parts.told[-1] == (*JUDGED, verdict)


def test_the_time_of_an_attempt_matters_for_timeouts_only() -> None:
    parts = Parts()

    parts.count(Failed(kind="error", error="500"), state=processing(MINUTE / 2))

    assert parts.told[-1] == (*JUDGED, "failure")


@pytest.mark.parametrize("circuit", [CircuitIsHalfOpen(failures=3), CircuitIsOpen(until=NOW, failures=3)])
@pytest.mark.parametrize(
    ("answer", "change"),
    [
        (Completed(b"{}"), "closes"),
        (Failed(kind="error", error="500"), Evidence(1, "alice")),
        (Failed(kind="unreachable", error="gone", is_unreached=True), Evidence(1, "")),
        (Busy(error="full"), None),
    ],
    ids=repr,
)
def test_a_trial_on_a_server_that_was_handed_over_decides(circuit: Any, answer: Answer, change: Any) -> None:
    parts = Parts(change=Evidence(9, "nobody"), assigned=False)

    assert parts.count(answer, replace(SERVER, circuit=circuit)).change == change


@pytest.mark.parametrize("answer", [Completed(b"{}"), Failed(kind="error", error="500")], ids=repr)
def test_other_attempts_on_a_server_that_was_handed_over_change_nothing(answer: Answer) -> None:
    assert Parts(change="closes", assigned=False).count(answer).change is None


# Recording


async def test_a_server_that_is_alive_is_noted_and_one_that_is_not_is_left_alone() -> None:
    parts = Parts()
    await parts.breaker.update(SERVER, Consequence(is_alive=False, change=None))
    assert parts.told == []

    await parts.breaker.update(SERVER, Consequence(is_alive=True, change=None))
    assert parts.told == [("note", "gpu")]


async def test_a_circuit_closes_in_the_name_of_the_worker() -> None:
    parts = Parts()
    parts.appended = [stored(CircuitClosed(server_id="gpu", reason="an attempt succeeded"))]

    with structlog.testing.capture_logs() as lines:
        await parts.breaker.update(SERVER, Consequence(is_alive=False, change="closes"))

    assert parts.told == [("gpu", CloseCircuit(reason="an attempt succeeded"), WORKER)]
    assert [(line["event"], line["reason"]) for line in lines] == [("circuit-breaker.closed", "an attempt succeeded")]


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        (1, "a trial failed because it broke"),
        (2, "2 attempts failed since the last success, the last because it broke"),
        (5, "5 attempts failed since the last success, the last because it broke"),
    ],
)
async def test_a_circuit_opens_with_reason_time_and_owner(failures: int, reason: str) -> None:
    parts = Parts()
    opened = CircuitOpened(server_id="gpu", reason=reason, failures=failures, until=NOW, owner="alice")
    parts.appended = [stored(opened)]

    with structlog.testing.capture_logs() as lines:
        change = Evidence(failures, "alice")
        await parts.breaker.update(SERVER, Consequence(is_alive=False, change=change, error="it broke"))

    opening = OpenCircuit(reason=reason, cooldown=timedelta(seconds=15), owner="alice")
    assert parts.told == [("gpu", opening, WORKER)]
    assert [(line["event"], line["reason"], line["owner"]) for line in lines] == [
        ("circuit-breaker.opened", reason, "alice")
    ]


async def test_a_change_that_is_refused_is_logged_and_no_error() -> None:
    parts = Parts()
    parts.refuses = RuleBroken("it was removed")

    with structlog.testing.capture_logs() as lines:
        await parts.breaker.update(SERVER, Consequence(is_alive=False, change="closes"))

    assert [line["event"] for line in lines] == ["circuit-breaker.unchanged"]


def stored(event: Any) -> Stored[Any]:
    return Stored(sequence=1, recorded=Recorded(id="1", at=NOW, by=WORKER, event=event))
