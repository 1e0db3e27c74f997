"""Held tasks driven by a simulated log, clock and fleet, for the tests of scheduling."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Raw

from taskstream.commands.task_holds import queue_held
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.ids import TaskRef
from taskstream.events.task import (
    AttemptFailed,
    AttemptReturned,
    AttemptStarted,
    Plan,
    Priority,
    RetryPolicy,
    StoredResult,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskHeld,
    TaskSubmitted,
    TaskSucceeded,
)
from taskstream.events.task_type import OnConflict
from taskstream.scheduling.depth import Unserved
from taskstream.scheduling.held_tasks import Due, HeldTasks
from taskstream.scheduling.limit import Bounds, LimitKey, TaskEntry

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BY = Actor("system", "tests")
POLICY = RetryPolicy(
    attempts=3, backoff_base=timedelta(seconds=1), backoff_cap=timedelta(seconds=9), timeout=timedelta(seconds=60)
)


class FixedRules:
    """Bounds by the kind of limit, or by its whole key; unbounded without either."""

    def __init__(self, bounds: Mapping[Any, Bounds] | None = None, on_conflict: OnConflict = "wait") -> None:
        self.by_name = dict(bounds or {})
        self.conflict: OnConflict = on_conflict

    def bounds(self, limit: LimitKey) -> Bounds:
        unlimited = Bounds(concurrency=1) if limit.kind == "key" else Bounds()
        return self.by_name.get((limit.kind, *limit.name), self.by_name.get(limit.kind, unlimited))

    def unserved(self, limit: LimitKey) -> Unserved:
        return "no-server"

    def on_conflict(self, task_type: str) -> OnConflict:
        return self.conflict


class Simulation:
    """Submits tasks, has them released, and starts and ends them."""

    def __init__(self, rules: FixedRules | None = None, *, ageing_seconds: float = 0.0) -> None:
        self.at = START
        self.rules = rules or FixedRules()
        self.held_tasks = HeldTasks(self.rules, ageing_seconds, began_at=self.now - 86_400)
        self.released: list[TaskRef] = []
        """Every task that was released, in order."""
        self.due: list[Due] = []
        self.log: list[tuple[TaskRef, int, Recorded[TaskEvent]]] = []
        self._sequences = itertools.count(1)
        self._names = itertools.count(1)

    @property
    def now(self) -> float:
        return self.at.timestamp()

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    def say(self, ref: TaskRef, event: TaskEvent, *, seconds_ago: float = 0.0) -> int:
        """Append an event, decided so many seconds ago, and apply it."""
        sequence = next(self._sequences)
        at = self.at - timedelta(seconds=seconds_ago)
        recorded: Recorded[TaskEvent] = Recorded(id=f"event {sequence}", at=at, by=BY, event=event)
        self.log.append((ref, sequence, recorded))
        self.held_tasks.apply(ref, sequence, recorded, self.now)
        return sequence

    def deliver_again(self, ref: TaskRef) -> None:
        """Apply all events of a task once more."""
        for of, sequence, recorded in self.log:
            if of == ref:
                self.held_tasks.apply(ref, sequence, recorded, self.now)

    def submit(
        self,
        owner: str = "alice",
        *,
        pool: str = "default",
        priority: Priority = "normal",
        task_type: str = "default",
        held: bool = True,
        **plan: Any,
    ) -> TaskRef:
        ref = TaskRef(owner, f"{next(self._names):026d}")
        event = TaskSubmitted(
            owner=owner,
            task_type=task_type,
            payload=Raw(b"1"),
            pool=pool,
            priority=priority,
            policy=POLICY,
            fingerprint="",
            held=held,
            plan=Plan(**plan) if plan else None,
        )
        self.say(ref, event)
        return ref

    def release(self, most: int = 1_000) -> list[TaskRef]:
        """Release held tasks as the scheduler does; return them in order."""
        self.due += self.held_tasks.take_due(self.now)
        chosen = self.held_tasks.release(self.now, most)
        first = next(self._sequences)
        for entry in chosen[1:]:
            del entry
            next(self._sequences)
        self.held_tasks.released(chosen, first)
        for place, entry in enumerate(chosen):
            event = queue_held(entry, entry.created_sequence)
            self.log.append((entry.ref, first + place, Recorded(id="", at=self.at, by=BY, event=event)))
        refs = [entry.ref for entry in chosen]
        self.released += refs
        return refs

    def start(self, ref: TaskRef, *, seconds_ago: float = 0.0) -> None:
        attempt = self.entry(ref).attempt + 1
        event = AttemptStarted(attempt=attempt, server_id="s", worker_id="w", deadline=self.at)
        self.say(ref, event, seconds_ago=seconds_ago)

    def succeed(self, ref: TaskRef) -> None:
        self.say(ref, TaskSucceeded(attempt=1, server_id="s", result=StoredResult(inline=Raw(b"1"), size_bytes=1)))

    def fail(self, ref: TaskRef) -> None:
        self.say(ref, TaskFailed(attempt=1, server_id="s", kind="failed", error="it broke"))

    def cancel(self, ref: TaskRef) -> None:
        self.say(ref, TaskCancelled(attempt=0, server_id="", reason="no more"))

    def fail_attempt(self, ref: TaskRef) -> None:
        event = AttemptFailed(attempt=1, server_id="s", kind="error", error="503", retry_at=self.at)
        self.say(ref, event)

    def give_back(self, ref: TaskRef) -> None:
        self.say(ref, AttemptReturned(attempt=1, server_id="s", reason="the worker ends"))

    def hold(self, ref: TaskRef) -> None:
        self.say(ref, TaskHeld(reason="it shares a limit"))

    def run(self, ref: TaskRef) -> None:
        """Start and end a task."""
        self.start(ref)
        self.succeed(ref)

    def entry(self, ref: TaskRef) -> TaskEntry:
        entry = self.held_tasks.find(ref)
        assert entry is not None, f"{ref.id} is not active"
        return entry

    def owners(self, refs: list[TaskRef]) -> Counter[str]:
        return Counter(ref.owner for ref in refs)
