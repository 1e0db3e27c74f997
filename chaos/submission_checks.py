"""Checks of who wanted what: each task is as it was submitted, and each change by a user was asked for by that user."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from .evidence import FINAL, Call, Entry, Evidence, Finding, Line

CLOCK_SECONDS = 0.05
"""A client reads its clock a moment before it sends a call, and a moment after an answer arrives."""
IN_FLIGHT_SECONDS = 20.0
"""A call whose answer was lost may take effect so long after its client gave up: its process was stopped, say."""
DEFAULT = "default"
PLAN_FIELDS = {"depends_on", "on_parent_failure", "concurrency_key", "not_before", "expires_at", "ends_by", "require"}


class Sent(Struct, frozen=True):
    """One submission as its client sent it."""

    call: Call
    body: Line
    place: int = 0
    """In its batch."""
    size: int = 0
    """Of its batch; 0: it is in none."""


def sent_by_mark(evidence: Evidence) -> dict[str, Sent]:
    """Return every submission that a client sent, by its mark; the first call of those with the same body."""
    found: dict[str, Sent] = {}
    for call in evidence.calls:
        bodies = call.bodies
        for place, body in enumerate(bodies):
            size = len(bodies) if call.operation == "batch" else 0
            found.setdefault(body["payload"]["mark"], Sent(call, body, place, size))
        if call.operation == "schedule" and "task" in (call.before.get("body") or {}):
            body = call.before["body"]["task"]
            found.setdefault(body["payload"]["mark"], Sent(call, body))
    return found


def sent_of_tasks(evidence: Evidence) -> dict[str, Sent]:
    """Return what was sent for each task of the log, by task id; a task that nobody submitted is left out."""
    sent = sent_by_mark(evidence)
    marks = {e.task: (e.event.get("payload") or {}).get("mark") for e in evidence.log if e.type == "TaskSubmitted"}
    return {task: sent[mark] for task, mark in marks.items() if mark in sent}


def submissions_are_as_sent(evidence: Evidence) -> Iterator[Finding]:
    """Each task has the owner, payload, type, priority, attempts, timeout and conditions that its submission has.

    What a submission leaves out comes from the definition of its type.
    """
    sent = sent_of_tasks(evidence)
    batches: dict[str, list[str]] = defaultdict(list)
    for entry in evidence.log:
        if entry.type == "TaskSubmitted" and entry.event.get("batch"):
            batches[entry.event["batch"]].append(entry.task)
    for entry in evidence.log:
        if entry.type != "TaskSubmitted":
            continue
        one = sent.get(entry.task)
        if one is None:
            yield "submitted by nobody", entry.task
            continue
        found = _recorded(entry.event)
        wanted = _wanted(evidence, one, entry, batches.get(entry.event.get("batch", ""), []))
        for name, value in wanted.items():
            if found[name] != value:
                yield f"its {name} is {found[name]!r}, and {value!r} was sent ({one.call.before['call']})", entry.task


def _recorded(event: Line) -> Line:
    plan = _plan(event)
    return {
        "owner": event["owner"],
        "payload": event["payload"],
        "type": event["task_type"],
        "pool": event["pool"],
        "priority": event["priority"],
        "attempts": event["policy"]["attempts"],
        "timeout": seconds_of(event["policy"]["timeout"]),
        "size of the batch": event.get("batch_size", 0),
        "schedule": bool(event.get("schedule")),
        "parents": list(plan.get("depends_on", ())),
        "choice for failed parents": plan.get("on_parent_failure", "fail"),
        "concurrency key": plan.get("concurrency_key", ""),
        "labels": plan.get("require", {}),
        "earliest start": _instant(plan.get("not_before")),
        "latest start": _instant(plan.get("expires_at")),
        "latest end": _instant(plan.get("ends_by")),
    }


def _wanted(evidence: Evidence, one: Sent, entry: Entry, batch: list[str]) -> Line:
    body = one.body
    name = body.get("type", DEFAULT)
    own = type_of(evidence, body)
    first = _milliseconds(body.get("runAt"))
    is_over = "not_before" not in (entry.event.get("plan") or {})
    if first is not None and is_over and first <= entry.stored_at + _ahead(evidence):
        first = None  # it has passed: nothing to wait for
    parents = [batch[parent] if isinstance(parent, int) and parent < len(batch) else parent
               for parent in body.get("dependsOn", ())]  # fmt: skip
    return {
        "owner": one.call.tenant,
        "payload": body["payload"],
        "type": name,
        "pool": own.get("pool", name),
        "priority": body.get("priority") or own.get("priority", "normal"),
        "attempts": body.get("attempts") or own.get("attempts"),
        "timeout": body.get("timeout") or own.get("timeout"),
        "size of the batch": one.size,
        "schedule": one.call.operation == "schedule",
        "parents": list(dict.fromkeys(parents)),
        "choice for failed parents": body.get("onParentFailure", "fail"),
        "concurrency key": body.get("concurrencyKey", ""),
        "labels": body.get("require", {}),
        "earliest start": first,
        "latest start": _milliseconds(body.get("expiresAt")),
        "latest end": _milliseconds(body.get("deadline")),
    }


def type_of(evidence: Evidence, body: Line) -> Line:
    """Return the definition of a submission's type; what it leaves out is the service's default."""
    return evidence.types.get("", {}) | evidence.types.get(body.get("type", DEFAULT), {})


def _ahead(evidence: Evidence) -> float:
    """Return by how much some clock was ahead at some time of the run, and a moment."""
    return max([0.0, *(jump.ahead for jump in evidence.jumps)]) + CLOCK_SECONDS


def seconds_of(duration: str) -> float:
    """Return the seconds of an ISO 8601 duration."""
    return msgspec.convert(duration, timedelta).total_seconds()


def _instant(text: str | None) -> float | None:
    return round(datetime.fromisoformat(text).timestamp(), 3) if text else None


def _milliseconds(instant: int | None) -> float | None:
    return round(instant / 1000, 3) if instant is not None else None


# Who

ACTORS: Mapping[str, frozenset[str]] = {
    "TaskSubmitted": frozenset({"user", "timer"}),
    "TaskHeld": frozenset({"user", "worker", "system"}),
    "TaskQueued": frozenset({"user", "worker", "system", "server"}),
    "AttemptStarted": frozenset({"user", "worker"}),
    "AttemptAccepted": frozenset({"worker"}),
    "ProgressReported": frozenset({"user", "server", "worker"}),
    "AttemptFailed": frozenset({"worker", "timer", "system", "server"}),
    "AttemptReturned": frozenset({"worker", "server"}),
    "TaskSucceeded": frozenset({"worker", "server"}),
    "TaskFailed": frozenset({"worker", "server", "timer", "system"}),
    "TaskCancelled": frozenset({"user", "system"}),
    "CancelReported": frozenset({"user", "worker", "server", "timer"}),
}
"""By event: the kinds of actors that bring it about in a run. A user ends no task by a report in any."""
SKIPPED = re.compile(r"skipped: (\S+), on which it depends, ")
REPLACED = re.compile(r"replaced by (\S+), which has the same concurrency key")
ASKED_BY: Mapping[str, frozenset[str]] = {
    "TaskSubmitted": frozenset({"submit", "repeat", "batch"}),
    "TaskHeld": frozenset({"retry"}),
    "TaskQueued": frozenset({"retry"}),
    "AttemptStarted": frozenset({"claim"}),
    "ProgressReported": frozenset({"claim"}),
    "TaskCancelled": frozenset({"cancel"}),
    "CancelReported": frozenset({"cancel"}),
}
"""By event: the calls by which a user asks for it."""


def changes_have_a_caller(evidence: Evidence) -> Iterator[Finding]:
    """Each event by a user was asked for by that user, in a call about that task which was under way or unanswered.

    An event by a server is by the one that has the attempt, and follows a report of it. Others are by our own
    processes, and are none that only a user may bring about.
    """
    calls: dict[tuple[str, str], list[Call]] = defaultdict(list)
    by_mark: dict[str, list[Call]] = defaultdict(list)
    for call in evidence.calls:
        for body in call.bodies:
            by_mark[body["payload"]["mark"]].append(call)
        if task := call.before.get("task"):
            calls[call.operation, task].append(call)
    reports = _reports(evidence)
    servers: dict[str, str] = {}
    past: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.log:
        by, event = entry.recorded["by"], entry.event
        past[entry.task].append(entry)
        if entry.type == "AttemptStarted":
            servers[entry.task] = event["server_id"]
        if by["kind"] not in ACTORS.get(entry.type, frozenset()):
            yield f"{entry.type} at {entry.sequence} by {by['kind']} {by['id']}, who brings about none", entry.task
        elif by["kind"] == "user":
            known = by_mark[(event.get("payload") or {}).get("mark", "")] if entry.type == "TaskSubmitted" else []
            known = known or [call for name in ASKED_BY[entry.type] for call in calls[name, entry.task]]
            asked = [call for call in known if call.tenant == by["id"] and _may_have_caused(call, entry)]
            if not asked or by["id"] != entry.owner:
                yield f"{entry.type} at {entry.sequence} by {by['id']}, who asked for none", entry.task
        elif by["kind"] == "server" and entry.type in ("AttemptReturned", "TaskQueued"):
            if not _may_return(evidence, by["id"], servers.get(entry.task), reports, entry, past[entry.task]):
                yield f"{entry.type} at {entry.sequence} by {by['id']}, which returned none", entry.task
        elif by["kind"] == "server":
            first = reports.get((entry.task, event["attempt"], by["id"]))
            if by["id"] != servers.get(entry.task) or first is None or first > entry.stored_at + CLOCK_SECONDS:
                yield f"{entry.type} at {entry.sequence} by {by['id']}, which reported none", entry.task
        elif _is_a_users(entry, past):
            yield f"{entry.type} at {entry.sequence} by {by['kind']} {by['id']}, and only a user may ask", entry.task


def _may_return(
    evidence: Evidence,
    server: str,
    of_attempt: str | None,
    reports: Mapping[tuple[str, int, str], float],
    entry: Entry,
    past: Sequence[Entry],
) -> bool:
    """Return True if a pulled server has returned the last attempt of a task: by a report, or unseen by its pullers."""
    if server != of_attempt or server not in evidence.servers or not evidence.servers[server].pulled:
        return False
    attempt = next(each.event["attempt"] for each in reversed(past) if each.type == "AttemptStarted")
    first = reports.get((entry.task, attempt, server))
    was_seen = any(
        line["what"] == "call" and (line["task"], line["attempt"]) == (entry.task, attempt)
        for line in evidence.backends
    )
    return first <= entry.stored_at + CLOCK_SECONDS if first is not None else not was_seen


def _is_a_users(entry: Entry, past: Mapping[str, Sequence[Entry]]) -> bool:
    """Return True for what only a user brings about: a submission that no schedule made, a retry, a cancel.

    The scheduler cancels a task if a parent did not succeed, or if a newer task has its concurrency key. `past`: the
    log up to the event, by task.
    """
    event = entry.event
    match entry.type:
        case "TaskSubmitted":
            return not event.get("schedule")
        case "TaskQueued" | "TaskHeld":
            return bool(event.get("renewed"))
        case "TaskCancelled":
            own = past[entry.task][0].event
            if found := SKIPPED.match(event["reason"]):
                ends = [each.type for each in past.get(found[1], ()) if each.type in FINAL]
                return found[1] not in _plan(own).get("depends_on", ()) or not ends or ends[-1] == "TaskSucceeded"
            if found := REPLACED.match(event["reason"]):
                newer = past.get(found[1], ())
                shared = own["task_type"], _plan(own).get("concurrency_key")
                return not newer or (newer[0].event["task_type"], _plan(newer[0].event)["concurrency_key"]) != shared
            return True
        case _:
            return False


def _plan(event: Line) -> Line:
    return event.get("plan") or {}


def _may_have_caused(call: Call, entry: Entry) -> bool:
    """Return True if NATS stored an event while a call was under way, or after its client gave up."""
    patience = CLOCK_SECONDS if call.status and call.status < 500 else IN_FLIGHT_SECONDS
    return call.begins - CLOCK_SECONDS <= entry.stored_at <= call.ends + patience


def _reports(evidence: Evidence) -> dict[tuple[str, int, str], float]:
    """Return when each server first reported on each attempt."""
    found: dict[tuple[str, int, str], float] = {}
    for line in evidence.backends:
        if line["what"] == "report":
            found.setdefault((line["task"], line["attempt"], line["server"]), line["at"])
    return found


SUBMISSION_CHECKS: tuple[Any, ...] = (submissions_are_as_sent, changes_have_a_caller)
