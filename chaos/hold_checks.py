"""Checks of holds: limits, parents, times, batches, recurring schedules.

What counts is the order of the log, and the time at which NATS stored an event. Where a task waits for an instant, the
clocks of our processes decide that it has come: a check forgives by how much the worst of them was wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from graphlib import TopologicalSorter
from typing import Any

from msgspec import Struct

from testkit.dags import Node, predicted, will_run

from .evidence import ATTEMPT_OVER, FINAL, TASKSTREAM, Entry, Evidence, Finding, Line, Recurring, SharedLimit

OUTCOMES = {"TaskSucceeded": "succeeded", "TaskFailed": "failed", "TaskCancelled": "cancelled"}
STATUSES = {"TaskSucceeded": "FINISHED", "TaskFailed": "FAILED", "TaskCancelled": "CANCELLED"}
CLOCK_SECONDS = 0.1
"""A process reads its clock a moment before NATS stores what it decides."""
LATEST_SECONDS = 30.0
"""A schedule fires no later than so long after it is due, whatever is killed, if no clock is wrong."""
IN_FLIGHT_SECONDS = 15.0
"""An event may be decided so long before NATS stores it, where the way there is cut."""


class Held(Struct):
    """What the log says of a task, as far as holds go."""

    id: str
    submitted: Entry
    starts: list[Entry]
    ends: list[Entry]

    @property
    def event(self) -> Line:
        return self.submitted.event

    @property
    def plan(self) -> Line:
        return self.event.get("plan") or {}

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(self.plan.get("depends_on", ()))

    @property
    def end(self) -> Line | None:
        """How it ended first; None: it has not."""
        return self.ends[0].event if self.ends else None

    @property
    def is_given(self) -> bool:
        """Whether it ended for a reason outside of the tasks it depends on and of its own work, or has not ended."""
        if self.end is None or self.end["type"] == "TaskSucceeded":
            return self.end is None
        if self.end["type"] == "TaskCancelled":
            return not str(self.end.get("reason", "")).startswith("skipped: ")
        return self.end["kind"] in ("expired", "deadline")

    def shares(self, limit: SharedLimit) -> str | None:
        """Return what it shares a limit with others by, None if it is not under the limit."""
        task_type = self.event["task_type"]
        match limit.kind:
            case "owner":
                return self.submitted.owner if self.submitted.owner == limit.name else None
            case "type":
                return task_type if task_type == limit.name else None
            case "key":
                key = self.plan.get("concurrency_key")
                return f"{self.submitted.owner} {key}" if key and task_type == limit.name else None


def _tasks(evidence: Evidence) -> dict[str, Held]:
    tasks: dict[str, Held] = {}
    for entry in evidence.log:
        kind = entry.type
        if kind == "TaskSubmitted":
            tasks.setdefault(entry.task, Held(entry.task, entry, [], []))
        elif (task := tasks.get(entry.task)) is not None:
            if kind == "AttemptStarted":
                task.starts.append(entry)
            elif kind in FINAL:
                task.ends.append(entry)
    return tasks


# Limits


def shared_limits_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """At no place of the log do more attempts of an owner, a type or a key run than their limit.

    An attempt whose worker was killed runs until the log says that it is over.
    """
    tasks = _tasks(evidence)
    for limit in evidence.shared_limits:
        running: dict[str, set[str]] = defaultdict(set)
        for entry in evidence.log if limit.concurrency is not None else ():
            kind = entry.type
            name = tasks[entry.task].shares(limit) if entry.task in tasks else None
            if name is None:
                continue
            if kind == "AttemptStarted":
                running[name].add(entry.task)
                if len(running[name]) > (limit.concurrency or 0):
                    others = ", ".join(sorted(running[name] - {entry.task}))
                    yield (
                        f"{limit} ({name}) has {len(running[name])} running at {entry.sequence}, with {others}",
                        entry.task,
                    )
            elif kind in ATTEMPT_OVER:
                running[name].discard(entry.task)


def rates_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """Within any stretch of t seconds no more attempts of an owner or a type start than burst + rate * t.

    One that a worker gave back at its shutdown may start again. While a clock jumps, as much more is forgiven as the
    scheduler may believe to have passed, once for each jump.
    """
    tasks = _tasks(evidence)
    for limit in evidence.shared_limits:
        if limit.per_second is None:
            continue
        starts: dict[str, list[Entry]] = defaultdict(list)
        returned: set[str] = set()
        for entry in evidence.log:
            name = tasks[entry.task].shares(limit) if entry.task in tasks else None
            if name is None:
                continue
            if entry.type == "AttemptReturned":
                returned.add(entry.task)
            elif entry.type == "AttemptStarted" and entry.task in returned:
                returned.discard(entry.task)
            elif entry.type == "AttemptStarted":
                starts[name].append(entry)
        for name, entries in starts.items():
            yield from _too_many(evidence, limit, name, entries)


def _too_many(evidence: Evidence, limit: SharedLimit, name: str, starts: Sequence[Entry]) -> Iterator[Finding]:
    rate = limit.per_second or 0.0
    for first, since in enumerate(starts):
        for last in range(first + limit.burst, len(starts)):
            begins, ends = since.stored_at, starts[last].stored_at
            jumps = [jump for jump in evidence.jumps if jump.begins <= ends and begins <= jump.ends]
            forgiven = sum(min(limit.burst, rate * abs(jump.ahead)) for jump in jumps)
            count = last - first + 1
            if count > limit.burst + rate * (ends - begins + CLOCK_SECONDS) + forgiven:
                yield (
                    f"{limit} ({name}) started {count} in {ends - begins:.3f} s, at {since.sequence} and after",
                    since.task,
                )
                return


# Parents


def children_follow_their_parents(evidence: Evidence) -> Iterator[Finding]:
    """A task starts after all that it depends on have ended, and its server receives the outcome of each."""
    tasks = _tasks(evidence)
    for task in tasks.values():
        for parent in (tasks[parent] for parent in task.parents if parent in tasks):
            if task.starts and (not parent.ends or parent.ends[0].sequence > task.starts[0].sequence):
                yield f"started at {task.starts[0].sequence}, before {parent.id} had ended", task.id
    for line in evidence.backends:
        if line["what"] == "call" and (known := tasks.get(line["task"])) is not None:
            server = evidence.servers.get(line["server"])
            if server is not None and server.dialect != TASKSTREAM:
                continue  # its calls do not say
            told = line.get("parents") or {}
            wanted = {parent: STATUSES[tasks[parent].end["type"]] for parent in known.parents if _ended(tasks, parent)}
            if told != wanted:
                yield f"{line['server']} was told of its parents {told}, which are {wanted}", known.id


def _ended(tasks: dict[str, Held], task: str) -> bool:
    return task in tasks and tasks[task].end is not None


def dags_end_as_predicted(evidence: Evidence) -> Iterator[Finding]:
    """A task that depends on others ends in the state that theirs lead to, and runs only where they allow it.

    How a task ends that runs is its own business; so is one that was cancelled by its owner, replaced, or out of time.
    """
    tasks = _tasks(evidence)
    depending = {task.id for task in tasks.values() if task.parents}
    depending |= {parent for task in depending for parent in tasks[task].parents if parent in tasks}
    graph = {task: [parent for parent in tasks[task].parents if parent in depending] for task in depending}
    order = list(TopologicalSorter(graph).static_order())
    places = {task: place for place, task in enumerate(order)}
    nodes = []
    for task in (tasks[name] for name in order):
        if task.is_given:
            nodes.append(Node((), "run", False))
            continue
        parents = tuple(places[parent] for parent in graph[task.id])
        succeeded = task.end is not None and task.end["type"] == "TaskSucceeded"
        nodes.append(Node(parents, task.plan.get("on_parent_failure", "fail"), succeeded))
    outcomes, run = predicted(nodes), will_run(nodes)
    for place, task in enumerate(tasks[name] for name in order):
        if task.is_given or task.end is None:
            continue
        if OUTCOMES[task.end["type"]] != outcomes[place]:
            yield f"ended with {task.end['type']}, and should have {outcomes[place]}", task.id
        if bool(task.starts) != (place in run):
            yield f"{'was started' if task.starts else 'never started'}, and its parents say otherwise", task.id


# Times


def times_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """Nothing starts before its time or when it is too late, and nothing goes on long after its deadline."""
    for task in _tasks(evidence).values():
        not_before, last = _instant(task.plan, "not_before"), _last(task.plan)
        born = task.submitted.stored_at
        for entry in task.starts[:1]:
            ahead, _ = _wrong(evidence, born, entry.stored_at)
            if not_before is not None and entry.stored_at < not_before - ahead - CLOCK_SECONDS:
                yield f"started {not_before - entry.stored_at:.3f} s before its time", task.id
        for entry in task.starts:
            if last is not None and datetime.fromisoformat(entry.recorded["at"]).timestamp() >= last:
                yield f"started when it was too late, at {entry.sequence}", task.id
        if not task.ends:
            continue
        ended_at = task.ends[0].stored_at
        ahead, behind = _wrong(evidence, born, ended_at)
        ends_by = _instant(task.plan, "ends_by")
        if ends_by is not None and ended_at > ends_by + evidence.live_within_seconds + behind:
            yield f"ended {ended_at - ends_by:.1f} s after its deadline", task.id
        end = task.end or {}
        # One that fails with the last attempt that its time allows does so before its time is up.
        is_late = end.get("kind") in ("expired", "deadline") and "another attempt" not in end.get("error", "")
        if is_late and (last is None or ended_at < last - ahead - CLOCK_SECONDS):
            yield f"failed as too late at {ended_at:.3f}, which it was not before {last}", task.id


def _instant(plan: Line, name: str) -> float | None:
    return datetime.fromisoformat(plan[name]).timestamp() if plan.get(name) else None


def _last(plan: Line) -> float | None:
    """Return the instant from which on a task may not start."""
    found = [at for at in (_instant(plan, "expires_at"), _instant(plan, "ends_by")) if at is not None]
    return min(found, default=None)


def _wrong(evidence: Evidence, since: float, until: float) -> tuple[float, float]:
    """Return by how many seconds some clock was ahead within a stretch, and behind, at the most."""
    wrong = [jump.ahead for jump in evidence.jumps if jump.begins <= until and since <= jump.ends]
    return max([0.0, *wrong]), -min([0.0, *wrong])


# Batches


def batches_are_whole(evidence: Evidence) -> Iterator[Finding]:
    """A batch is there with all its tasks, in the order in which they were sent, or it is not there."""
    marks = {task.id: task.event["payload"].get("mark") for task in _tasks(evidence).values()}
    acknowledged: set[str] = set()
    for call in evidence.calls:
        if call.operation == "batch" and call.status == 200:
            acknowledged.add(str(call.task))
            found = [marks.get(task) for task in call.after["task_ids"]]
            if found != [body["payload"]["mark"] for body in call.bodies]:
                yield (
                    f"acknowledged as {call.task}, and holds {found} ({call.before['call']})",
                    call.after["task_ids"][0],
                )
    sizes: dict[str, list[Held]] = defaultdict(list)
    for task in _tasks(evidence).values():
        if batch := task.event.get("batch"):
            sizes[batch].append(task)
    for batch, members in sizes.items():
        wanted = members[0].event["batch_size"]
        if len(members) != wanted and (batch in acknowledged or not evidence.was_full):
            yield f"{len(members)} of the {wanted} tasks of {batch} are there", members[0].id


# Recurring schedules


def schedules_fire_once(evidence: Evidence) -> Iterator[Finding]:
    """Each occurrence fires at most once and has one task of its own; none is left out that should not be."""
    submitted: dict[str, set[str]] = defaultdict(set)
    for task in _tasks(evidence).values():
        if schedule := task.event.get("schedule"):
            submitted[schedule].add(task.id)
    for one in evidence.recurring:
        runs = [run for line in _fired(one) for run in line["event"]["runs"]]
        for name in ("occurrence", "task_id"):
            for value, count in Counter(run[name] for run in runs).items():
                if count > 1:
                    yield f"{one.id} has fired {count} times: {name} {value}", runs[0]["task_id"]
        ids = {run["task_id"] for run in runs}
        refused = {
            run["task_id"]
            for line in one.events
            if line["event"]["type"] == "ScheduleFailed"
            for run in line["event"]["runs"]
        }
        for task_id in sorted(ids - submitted[one.id] - refused):
            yield f"{one.id} has fired, and the task is not there: {task_id}", task_id
        for task_id in sorted(submitted[one.id] - ids):
            yield f"{one.id} has a task that it never fired: {task_id}", task_id
        yield from _occurrences(evidence, one)


def _occurrences(evidence: Evidence, one: Recurring) -> Iterator[Finding]:
    """Follow a schedule from one event to the next: what each deals with begins where the one before ended."""
    expected: int | None = None
    fired = skipped = 0
    for line in one.events:
        event, at = line["event"], line["stored_at"]
        ahead, _ = _wrong(evidence, at - IN_FLIGHT_SECONDS, at)
        if event["type"] == "ScheduleCreated":
            expected = _second(event["next_at"])
            first = int(at) // one.every_seconds * one.every_seconds + one.every_seconds
            if abs(expected - first) > LATEST_SECONDS + abs(ahead):
                yield f"{one.id} was created at {at:.3f}, and is due first at {expected}", ""
        if event["type"] == "SchedulePaused" and expected is not None:
            furthest = max([0.0, *(abs(jump.ahead) for jump in evidence.jumps)])
            if expected < at - LATEST_SECONDS - furthest:
                yield f"{one.id} was due at {expected}, and nothing came of it until {at:.3f}", ""
        if event["type"] not in ("ScheduleFired", "ScheduleSkipped") or expected is None:
            continue
        occurrences = [_second(run["occurrence"]) for run in event.get("runs", ())]
        until = _second(event["next_at"])
        wanted = range(expected, until, one.every_seconds)
        for occurrence in sorted(set(occurrences) - set(wanted)):
            yield f"{one.id} has fired for {occurrence}, which was not due next", ""
        for occurrence in occurrences:
            if occurrence > at + ahead + CLOCK_SECONDS:
                yield f"{one.id} has fired for {occurrence} too early, at {at:.3f}", ""
        missing = sorted(set(wanted) - set(occurrences))
        for occurrence in missing:
            if one.catch_up is not None and len(occurrences) < one.catch_up:
                yield f"{one.id} has passed over {occurrence}, though it catches up {one.catch_up}", ""
            elif occurrence + evidence.grace_seconds > at + ahead + CLOCK_SECONDS:
                yield f"{one.id} has skipped {occurrence} at {at:.3f}, when it was not missed", ""
        fired += len(occurrences)
        skipped += len(missing)
        counts: dict[str, Any] = event.get("counts") or {}
        if (counts.get("fired", 0), counts.get("skipped", 0)) != (fired, skipped):
            yield f"{one.id} counts {counts}, and has fired {fired} and skipped {skipped}", ""
        expected = until


def _fired(one: Recurring) -> list[Line]:
    return [line for line in one.events if line["event"]["type"] == "ScheduleFired"]


def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


HOLD_CHECKS = (
    shared_limits_are_kept,
    rates_are_kept,
    children_follow_their_parents,
    dags_end_as_predicted,
    times_are_kept,
    batches_are_whole,
    schedules_fire_once,
)
