"""Checks of answers against the log: what reads and lists show was so at some time of the call; and answers come."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

from .evidence import ANY_API, STATUSES, Call, Entry, Evidence, Fault, Finding, Line
from .submission_checks import DEFAULT, Sent, sent_of_tasks, type_of

CLOCK_SECONDS = 0.05
SLACK_SECONDS = 1.0
"""An event that NATS stored may be on its way to the majority of a cluster, or to the disk, so long."""
AFTER_SECONDS = 8.0
"""How long a fault shows in answers: a process starts, a connection that is dead without a word is found out."""


class _Log:
    """The log, by task and by owner."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.faults = evidence.all_faults
        self.sent = sent_of_tasks(evidence)
        self.tasks: dict[str, list[Entry]] = defaultdict(list)
        self.submitted: dict[str, list[Entry]] = defaultdict(list)
        """By owner, in order."""
        self.attempts: dict[int, int] = {}
        """By sequence of an event: how many attempts its task gets in all from then on."""
        for entry in evidence.log:
            history = self.tasks[entry.task]
            self.attempts[entry.sequence] = self._attempts(entry, history)
            history.append(entry)
            if entry.type == "TaskSubmitted":
                self.submitted[entry.owner].append(entry)

    def _attempts(self, entry: Entry, history: Sequence[Entry]) -> int:
        """Return the attempts that were sent, one more for each that was returned, and all again for each retry."""
        if not history:
            one = self.sent.get(entry.task)
            return int(_wanted(self.evidence, one)["attempts"]) if one else 0
        before = self.attempts[history[-1].sequence]
        if entry.type == "AttemptReturned":
            return before + 1
        if entry.event.get("renewed"):
            made = max((each.event.get("attempt", 0) for each in history), default=0)
            return int(made + self.attempts[history[0].sequence])
        return before

    def since(self, call: Call) -> float:
        """Return the time whose state a call must show, or a later one."""
        at = call.begins - SLACK_SECONDS
        of_nats = [f.begins for f in self.faults if is_of_nats(f) and f.begins <= call.ends and at <= f.ends]
        return min([at, *(begins - SLACK_SECONDS for begins in of_nats)])

    def during(self, task: str, since: float, until: float) -> list[Entry]:
        """Return the events after which a task was in its state at some time of a stretch."""
        entries = [entry for entry in self.tasks.get(task, ()) if entry.type in STATUSES]
        return [
            entry
            for entry, after in itertools.zip_longest(entries, entries[1:])
            if entry.stored_at <= until + CLOCK_SECONDS and (after is None or after.stored_at >= since)
        ]


def is_of_nats(fault: Fault) -> bool:
    """Return True for a fault of NATS, of a way to it, or of a stream."""
    return fault.target.startswith("nats") or ">nats" in fault.target or fault.target.partition(".")[0].isupper()


# Agreement


def reads_agree_with_the_log(evidence: Evidence) -> Iterator[Finding]:
    """An answer shows a task as it was submitted, with a status it had during the call, and its own end and result."""
    log = _Log(evidence)
    for call in evidence.calls:
        details = call.after.get("details")
        if details is None or call.status != 200:
            continue
        name = f"{call.operation} ({call.before['call']})"
        task = str(call.after["task_id"])
        if call.before.get("task") not in (None, task) or details["id"] != task:
            yield f"{name} shows {details['id']} for {call.before.get('task')}", task
            continue
        yield from _shown(log, call, name, details)
        one = log.sent.get(task)
        if one is not None and details["request"] != one.body["payload"]:
            yield f"{name} shows the request {details['request']}, and {one.body['payload']} was sent", task
        ends = [entry.event for entry in log.during(task, log.since(call), call.ends)]
        results = [_data(event) for event in ends if event["type"] == "TaskSucceeded"]
        if details["status"] == "FINISHED" and (details["result"] or {}).get("data") not in results:
            yield f"{name} shows the result {details['result']}, and the log says {results}", task


def _data(event: Line) -> object:
    return ((event.get("result") or {}).get("inline") or {}).get("data")


def _shown(log: _Log, call: Call, name: str, shown: Line) -> Iterator[Finding]:
    """Yield what is wrong with a task in an answer."""
    task = shown["id"]
    states = log.during(task, log.since(call), call.ends)
    statuses = {STATUSES[entry.type] for entry in states}
    if shown["status"] not in statuses:
        yield f"{name} shows {shown['status']}, and by the log it was {' or '.join(sorted(statuses)) or 'absent'}", task
    failures = {str(entry.event["kind"]) for entry in states if entry.type == "TaskFailed"}
    if shown["status"] == "FAILED" and shown["failureKind"] not in failures:
        yield f"{name} shows a failure as {shown['failureKind']}, and the log says {sorted(failures)}", task
    one = log.sent.get(task)
    if one is not None:
        wanted = _wanted(log.evidence, one) | {"attempts": shown["attempts"]}
        if shown["attempts"] not in {log.attempts[entry.sequence] for entry in states}:
            yield f"{name} shows {shown['attempts']} attempts, and {one.body.get('attempts')} were sent", task
        if differing := {field: shown[field] for field, value in wanted.items() if shown[field] != value}:
            yield f"{name} shows {differing}, and {wanted} was sent", task


def _wanted(evidence: Evidence, one: Sent) -> Line:
    own = type_of(evidence, one.body)
    return {
        "owner": one.call.tenant,
        "type": one.body.get("type", DEFAULT),
        "priority": one.body.get("priority") or own.get("priority", "normal"),
        "attempts": one.body.get("attempts") or own.get("attempts"),
    }


def lists_agree_with_the_log(evidence: Evidence) -> Iterator[Finding]:
    """A list shows the owner's newest tasks, newest first, none missing, each as it was at some time of the call."""
    log = _Log(evidence)
    acknowledged = _acknowledged(evidence)
    for call in evidence.calls:
        if call.operation != "list" or call.status != 200:
            continue
        name = f"list ({call.before['call']})"
        shown = [task["id"] for task in call.after["tasks"]]
        submitted = [entry for entry in log.submitted[call.tenant] if entry.stored_at <= call.ends + CLOCK_SECONDS]
        places = {entry.task: place for place, entry in enumerate(submitted)}
        if unknown := [task for task in shown if task not in places]:
            yield f"{name} shows {unknown[0]}, which is no task of {call.tenant} in the log", unknown[0]
            continue
        order = [places[task] for task in shown]
        if order != sorted(set(order), reverse=True):
            yield f"{name} is not in the order of submission, newest first, each once", shown[0]
        newest = submitted[-call.before["limit"] :]
        since = log.since(call)
        for entry in newest:
            certain = entry.stored_at < since or acknowledged.get(entry.task, 1e99) < call.begins
            if certain and entry.task not in shown:
                yield f"{name} of {len(shown)} does not show a task submitted before", entry.task
        for task in call.after["tasks"]:
            yield from _shown(log, call, name, task)


def _acknowledged(evidence: Evidence) -> dict[str, float]:
    """Return when each task was first acknowledged."""
    found: dict[str, float] = {}
    for call in evidence.calls:
        if call.status == 200 and call.operation in ("submit", "repeat", "batch"):
            tasks = call.after["task_ids"] if call.operation == "batch" else [str(call.task)]
            for task in tasks:
                found.setdefault(task, call.ends)
    return found


REFUSED_IN = {"cancel": {"FINISHED", "FAILED"}, "retry": {"WAITING", "PROCESSING", "FINISHED"}}
"""By a call that is answered 409: the statuses of its task in which that is right."""


def refusals_agree_with_the_log(evidence: Evidence) -> Iterator[Finding]:
    """A cancel or retry is refused only for a task in a state that does not allow it, a read only for no such task."""
    log = _Log(evidence)
    for call in evidence.calls:
        task = call.before.get("task")
        if task is None or call.tenant != task.partition("~")[2]:
            continue
        statuses = {STATUSES[entry.type] for entry in log.during(task, log.since(call), call.ends)}
        name = f"{call.operation} ({call.before['call']})"
        if call.status == 409 and call.operation in REFUSED_IN and not statuses & REFUSED_IN[call.operation]:
            yield f"{name} was refused, and by the log the task was {' or '.join(sorted(statuses))}", task
        elif call.status == 404 and call.operation in ("read", "cancel", "retry") and statuses:
            yield f"{name} found no task, and by the log it was {' or '.join(sorted(statuses))}", task


# Availability


def apis_answer(evidence: Evidence) -> Iterator[Finding]:
    """An API answers, other than 503, unless a fault of it, of its ways or of NATS is near. At the end none is.

    Behind a load balancer it is that which finds no API ready, on a busy machine also without a fault: a rolling
    restart has a check of its own for what a client must never see.
    """
    faults = evidence.all_faults
    for call in evidence.calls:
        if call.before["api"] == ANY_API:
            continue
        if call.status in (0, 503) and not _is_away(faults, call):
            what = "was answered 503" if call.status else "was not answered"
            text = call.after.get("said") or call.after.get("lost") or ""
            yield (
                f"{call.operation} {what} by {call.before['api']}, and no fault explains it: {text} "
                f"({call.before['call']})",
                str(call.task or ""),
            )


def _is_away(faults: Sequence[Fault], call: Call) -> bool:
    """Return True if the API of a call, or what it needs, may be away or slow at some time of the call."""
    api = call.before["api"]
    return any(
        fault.begins <= call.ends + CLOCK_SECONDS
        and call.begins <= fault.over_at + AFTER_SECONDS
        and (
            fault.target == api
            or fault.target.startswith((f"{api}>", "nats"))
            or fault.target.partition(".")[0].isupper()
        )
        for fault in faults
    )


READ_CHECKS = (
    reads_agree_with_the_log,
    lists_agree_with_the_log,
    refusals_agree_with_the_log,
    apis_answer,
)
