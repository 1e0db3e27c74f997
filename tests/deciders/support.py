"""Given (events), when (command), then (events or a refusal). A state is always folded from events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw

from taskstream.errors import Refused
from taskstream.events.envelope import Actor, Event, Recorded, Stored
from taskstream.events.server import ServerRegistered
from taskstream.events.task import (
    AttemptAccepted,
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    CancelOutcome,
    CancelReported,
    RetryPolicy,
    ReturnKind,
    StoredResult,
    TaskCancelled,
    TaskFailed,
    TaskQueued,
    TaskSubmitted,
    TaskSucceeded,
)
from taskstream.events.task_type import TypeDefined

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BY = Actor("system", "tests")

Decide = Callable[[Any, Any, datetime], Sequence[Event]]
Evolve = Callable[[Any, Recorded[Any]], Any]


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def recorded(event: Event, at: datetime = NOW) -> Recorded[Any]:
    return Recorded(id="an id", at=at, by=BY, event=event)


def stored(*events: Event, at: datetime = NOW, first: int = 1) -> list[Stored[Any]]:
    """Return events as a log would hold them, from sequence `first` on, a second apart."""
    return [Stored(first + place, recorded(event, at + seconds(place))) for place, event in enumerate(events)]


class Given:
    """A decider and the events so far."""

    def __init__(self, decide: Decide, evolve: Evolve, initial: object, events: Sequence[Event] = ()) -> None:
        self.decide = decide
        self.evolve = evolve
        self.initial = initial
        self.events = list(events)

    def __call__(self, *events: Event) -> Given:
        return Given(self.decide, self.evolve, self.initial, [*self.events, *events])

    @property
    def state(self) -> Any:
        state = self.initial
        for event in self.events:
            state = self.evolve(state, recorded(event))
        return state

    def when(self, command: Any, at: datetime = NOW) -> Outcome:
        return Outcome(self, command, at)


class Outcome:
    """What a command comes to, looked at by `then`, `is_refused` or `is_quiet`."""

    def __init__(self, given: Given, command: Any, at: datetime) -> None:
        self.given = given
        self.command = command
        self.at = at

    @property
    def events(self) -> list[Event]:
        return list(self.given.decide(self.command, self.given.state, self.at))

    def then(self, *expected: Event) -> Outcome:
        """Expect these events; return what the same command comes to after them."""
        events = self.events
        assert events == list(expected)
        return self.given(*events).when(self.command, self.at)

    def is_quiet(self) -> None:
        """Expect that it is already so."""
        assert self.events == []

    def is_refused(self, error: type[Refused], says: str | None = None) -> None:
        with pytest.raises(error, match=says) as caught:
            self.given.decide(self.command, self.given.state, self.at)
        assert type(caught.value) is error


# Events with what a test does not care about filled in.

POLICY = RetryPolicy(attempts=3, backoff_base=seconds(1), backoff_cap=seconds(30), timeout=seconds(300))
RESULT = StoredResult(inline=Raw(b'{"data":1}'), size_bytes=10)


def submitted(**more: Any) -> TaskSubmitted:
    values: dict[str, Any] = {
        "owner": "alice",
        "task_type": "chapter",
        "payload": Raw(b'{"a":1}'),
        "pool": "text",
        "priority": "normal",
        "policy": POLICY,
        "fingerprint": "f1",
    }
    return TaskSubmitted(**(values | more))


def started(attempt: int = 1, server_id: str = "s1", **more: Any) -> AttemptStarted:
    values: dict[str, Any] = {
        "attempt": attempt,
        "server_id": server_id,
        "worker_id": "w1",
        "deadline": NOW + POLICY.timeout,
        "token_digest": f"token of {attempt}",
    }
    return AttemptStarted(**(values | more))


def attempt_failed(attempt: int = 1, server_id: str = "s1", **more: Any) -> AttemptFailed:
    values: dict[str, Any] = {
        "attempt": attempt,
        "server_id": server_id,
        "kind": "error",
        "error": "the server answered 500",
        "retry_at": NOW + seconds(1),
    }
    return AttemptFailed(**(values | more))


def returned(attempt: int = 1, server_id: str = "s1") -> AttemptReturned:
    return AttemptReturned(attempt=attempt, server_id=server_id, reason="the worker is shutting down")


def turned_away(attempt: int = 1, server_id: str = "s1", kind: ReturnKind = "busy") -> AttemptReturned:
    return AttemptReturned(attempt=attempt, server_id=server_id, reason="the server answered 503", kind=kind)


def queued(*, renewed: bool = False) -> TaskQueued:
    return TaskQueued(pool="text", priority="normal", reason="again", renewed=renewed)


def succeeded(attempt: int = 1, server_id: str = "s1", **more: Any) -> TaskSucceeded:
    return TaskSucceeded(**({"attempt": attempt, "server_id": server_id, "result": RESULT} | more))


def failed(attempt: int = 1, server_id: str = "s1", **more: Any) -> TaskFailed:
    values: dict[str, Any] = {"attempt": attempt, "server_id": server_id, "kind": "failed", "error": "no such model"}
    return TaskFailed(**(values | more))


def accepted(attempt: int = 1) -> AttemptAccepted:
    return AttemptAccepted(attempt=attempt)


def cancel_reported(attempt: int = 1, outcome: CancelOutcome = "requested", **more: Any) -> CancelReported:
    return CancelReported(attempt=attempt, server_id="s1", outcome=outcome, **more)


def cancelled(attempt: int = 0, server_id: str = "") -> TaskCancelled:
    return TaskCancelled(attempt=attempt, server_id=server_id, reason="not needed")


def registered(server_id: str = "s1", **more: Any) -> ServerRegistered:
    values: dict[str, Any] = {
        "server_id": server_id,
        "name": "one",
        "provider": "tests",
        "predict_url": "http://one.example/predict",
        "health_url": "http://one.example/health",
    }
    return ServerRegistered(**(values | more))


def defined(name: str = "chapter", pool: str = "text", **more: Any) -> TypeDefined:
    return TypeDefined(name=name, pool=pool, **more)
