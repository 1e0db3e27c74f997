"""Doctorings of a clean run's evidence: each breaks one promise, consistently in the log and in the other evidence.

A doctoring changes the evidence in place, and names the check that must notice. It raises LookupError where the run has
nothing that it could change.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chaos.checker import CHECKS
from chaos.evidence import (
    FINAL,
    TASKSTREAM,
    Bucket,
    Call,
    ConsumerSeen,
    Entry,
    Evidence,
    Fault,
    Heard,
    Line,
    Probe,
    Received,
    Resources,
    Told,
    Window,
    ordered,
)

TENANTS = ("alice", "bob", "carol")
Change: TypeAlias = Callable[[Evidence], Any]
SPREAD = 10
"""After `spread_out` there are nine free sequences between any two."""


class Doctoring(Struct, frozen=True):
    """One forgery."""

    check: str
    """Which must notice it."""
    what: str
    change: Change


def missed(packed: bytes, doctorings: list[Doctoring]) -> list[str]:
    """Apply each doctoring to the evidence of a clean run (MessagePack); return those that go unnoticed, and why."""
    gc.disable()  # it would look through all of the evidence again and again
    try:
        return list(_missed(packed, doctorings))
    finally:
        gc.enable()


def _missed(packed: bytes, doctorings: list[Doctoring]) -> Iterator[str]:
    for one in doctorings:
        evidence = msgspec.msgpack.decode(packed, type=Evidence)
        try:
            one.change(evidence)
        except LookupError as error:
            yield f"{one.check}: {one.what}: the run has nothing to doctor ({error})"
            continue
        if not any(CHECKS[one.check](evidence)):
            yield f"{one.check}: {one.what}: not noticed"


# Finding


class Task(Struct):
    """A task of the run with all that is said of it."""

    id: str
    entries: list[Entry]
    lines: list[Line]
    calls: list[Call]

    def entry(self, kind: str) -> Entry:
        return first(entry for entry in self.entries if entry.type == kind)


def first(things: Iterator[Any]) -> Any:
    """Return the first of things. Raises LookupError if there is none."""
    for one in things:
        return one
    raise LookupError("no such thing")


def tasks(evidence: Evidence) -> list[Task]:
    found: dict[str, Task] = {}
    for entry in evidence.log:
        found.setdefault(entry.task, Task(entry.task, [], [], [])).entries.append(entry)
    for line in evidence.backends:
        if line["task"] in found:
            found[line["task"]].lines.append(line)
    for call in evidence.calls:
        if call.task in found:
            found[str(call.task)].calls.append(call)
    return list(found.values())


def good_tasks(evidence: Evidence) -> list[Task]:
    """Return the tasks of ordinary tenants that were to go well, and did, at once, with the answer of their server.

    The server is one whose calls say everything.
    """
    found = []
    for task in tasks(evidence):
        kinds = [entry.type for entry in task.entries]
        submitted = task.entries[0].event
        if kinds != ["TaskSubmitted", "AttemptStarted", "TaskSucceeded"] or task.entries[0].owner not in TENANTS:
            continue
        server = evidence.servers.get(task.entries[1].event["server_id"])
        says_all = server is not None and server.dialect == TASKSTREAM
        if says_all and ordered(submitted["payload"], 1) == "ok" and whats(task) == ["call", "over"]:
            found.append(task)
    if len(found) < 2:
        raise LookupError(f"{len(found)} tasks went well at once")
    return found


def whats(task: Task) -> list[str]:
    return [line["what"] for line in task.lines]


def call_of(evidence: Evidence, operation: str, status: int = 200, **after: Any) -> Call:
    """Return a call that was answered so."""
    return first(
        call
        for call in evidence.calls
        if call.operation == operation and call.status == status and after.items() <= call.after.items()
    )


# Changing consistently


def copies(evidence: Evidence, entry: Entry) -> Iterator[Line]:
    """Yield an event wherever it is: in the log, as told to subscribers, as sent to webhooks."""
    yield entry.event
    for heard in evidence.heard:
        for told in heard.told:
            if told.event and told.event["sequence"] == entry.sequence:
                yield told.event["event"]
    for received in evidence.received:
        for line in received.calls:
            data = (line["message"] or {}).get("data", {})
            if data.get("sequence") == entry.sequence:
                yield data["event"]


def rewrite(evidence: Evidence, entry: Entry, **fields: Any) -> None:
    """Change fields of an event, wherever it is."""
    for event in copies(evidence, entry):
        event.update(copy.deepcopy(fields))


def forget(evidence: Evidence, *entries: Entry) -> None:
    """Take events out of the log, of what was told and of what was sent, as if fences of the scheduler stood there."""
    gone = {entry.sequence for entry in entries}
    evidence.log = [entry for entry in evidence.log if entry.sequence not in gone]
    evidence.turns |= gone
    for heard in evidence.heard:
        heard.told = [told for told in heard.told if not told.event or told.event["sequence"] not in gone]
    for received in evidence.received:
        received.deliveries = [each for each in received.deliveries if each["sequence"] not in gone]
        received.calls = [
            line for line in received.calls if (line["message"] or {}).get("data", {}).get("sequence") not in gone
        ]


def spread_out(evidence: Evidence) -> None:
    """Give every event ten times its sequence, wherever it is: there is room for others between."""
    for heard in evidence.heard:
        heard.after = None if heard.after is None else heard.after * SPREAD
        heard.wanted = None if heard.wanted is None else heard.wanted * SPREAD
        heard.until *= SPREAD
        heard.states = [replace(state, sequence=state.sequence * SPREAD) for state in heard.states]
        for told in heard.told:
            if told.event and told.event["sequence"] is not None:
                told.event["sequence"] *= SPREAD
    for received in evidence.received:
        for delivery in received.deliveries:
            delivery["sequence"] *= SPREAD
        for line in received.calls:
            if data := (line["message"] or {}).get("data"):
                data["sequence"] *= SPREAD
    evidence.log = [replace(entry, sequence=entry.sequence * SPREAD) for entry in evidence.log]
    _fill(evidence)


def _fill(evidence: Evidence) -> None:
    used = {entry.sequence for entry in evidence.log}
    evidence.turns = frozenset(range(1, max(used) + 1)) - used


def add(
    evidence: Evidence, after: Entry, kind: str, subject: str, by: Line, /, *, later: float = 0.01, **event: Any
) -> Entry:
    """Add an event after another one of its task, in the log and for whoever is told of the task; return it."""
    used = {entry.sequence for entry in evidence.log}
    sequence = next(number for number in range(after.sequence + 1, after.sequence + SPREAD) if number not in used)
    at = after.stored_at + later
    recorded = {"id": f"forged-{sequence}", "at": datetime.fromtimestamp(at, UTC).isoformat(), "by": by, "cause": ""}
    place = ".".join(after.subject.split(".")[:3])
    added = Entry(sequence, f"{place}.{subject}", {**recorded, "event": {"type": kind, **event}}, at)
    evidence.log = sorted([*evidence.log, added], key=lambda entry: entry.sequence)
    _fill(evidence)
    for heard in evidence.heard:
        if heard.has(added.task) and (heard.after or 0) < sequence <= heard.until:
            message = {"type": kind, "taskId": added.task, "sequence": sequence, "event": dict(added.event)}
            place_of = next(
                (n for n, one in enumerate(heard.told) if one.event and (one.event["sequence"] or 0) > sequence),
                len(heard.told),
            )
            heard.told.insert(place_of, Told("", message))
    return added


def replay(evidence: Evidence, old: Call, **after: Any) -> None:
    """Replace the answer of a call."""
    evidence.calls = [replace(call, after=call.after | after) if call is old else call for call in evidence.calls]


def shown_as(evidence: Evidence, task: str, **fields: Any) -> None:
    """Change what reads and lists show of a task."""
    for call in evidence.calls:
        for shown in (call.after.get("details"), *call.after.get("tasks", ())):
            if shown and shown["id"] == task:
                shown.update({name: value for name, value in fields.items() if name in shown})
        if call.task == task and "status" in fields and "shows" in call.after:
            call.after["shows"] = fields["status"]


def line(evidence: Evidence, like: Line, *, later: float = 0.0, **fields: Any) -> Line:
    """Add a line of a backend."""
    added = {**copy.deepcopy(like), "at": like["at"] + later, **fields}
    evidence.backends.append(added)
    evidence.backends.sort(key=lambda each: each["at"])
    return added


# What was submitted


def another_payload(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    payload = task.entries[0].event["payload"] | {"seconds": 7.77}
    rewrite(evidence, task.entries[0], payload=payload)
    task.lines[0]["payload"] = payload
    shown_as(evidence, task.id, request=payload)


def another_type(evidence: Evidence) -> None:
    task = first(each for each in good_tasks(evidence) if each.entries[0].event["task_type"] == "default")
    rewrite(evidence, task.entries[0], task_type="batch", pool="batch")
    task.lines[0]["type"] = "batch"
    shown_as(evidence, task.id, type="batch")


def another_priority(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    priority = "low" if task.entries[0].event["priority"] != "low" else "high"
    rewrite(evidence, task.entries[0], priority=priority)
    shown_as(evidence, task.id, priority=priority)


def more_attempts(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    policy = task.entries[0].event["policy"]
    rewrite(evidence, task.entries[0], policy=policy | {"attempts": policy["attempts"] + 1})
    shown_as(evidence, task.id, attempts=policy["attempts"] + 1)


def another_timeout(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    rewrite(evidence, task.entries[0], policy=task.entries[0].event["policy"] | {"timeout": "PT77S"})


def no_condition(evidence: Evidence) -> None:
    """Lose all conditions under which tasks may run, and with them whatever would be checked of these."""
    for entry in evidence.log:
        if entry.type == "TaskSubmitted" and entry.event.get("plan"):
            rewrite(evidence, entry, plan=None)


# Failures


def all_fail_first(kind: str, says: str | None) -> Change:
    """Return a doctoring by which every good task fails its first attempt, and goes well at the second."""

    def change(evidence: Evidence) -> None:
        spread_out(evidence)
        for task in good_tasks(evidence):
            started, succeeded = task.entry("AttemptStarted"), task.entry("TaskSucceeded")
            call, over = task.lines
            server, by = started.event["server_id"], started.recorded["by"]
            retry_at = datetime.fromtimestamp(started.stored_at, UTC).isoformat()
            failed = add(
                evidence, started, "AttemptFailed", f"attempt_failed.{server}", by,
                attempt=1, server_id=server, kind=kind, error="it failed", retry_at=retry_at,
            )  # fmt: skip
            again = {name: value for name, value in started.event.items() if name not in ("type", "attempt")}
            add(evidence, failed, "AttemptStarted", f"started.{server}", by, attempt=2, **again)
            result = copy.deepcopy(succeeded.event["result"])
            result["inline"]["data"]["attempt"] = 2
            rewrite(evidence, succeeded, attempt=2, result=result)
            shown_as(evidence, task.id, attempt=2)
            line(evidence, call, later=0.005, attempt=2)
            line(evidence, over, later=0.001, attempt=2)
            if says is None:
                evidence.backends.remove(over)
            else:
                over |= {"says": says, "at": call["at"] + 0.001}

    return change


# By whom


def cancelled_by_nobody(evidence: Evidence) -> None:
    task = first(each for each in good_tasks(evidence) if all(call.operation != "cancel" for call in each.calls))
    ended = task.entry("TaskSucceeded")
    server, owner = ended.event["server_id"], ended.owner
    for event in copies(evidence, ended):
        event.clear()
        event |= {"type": "TaskCancelled", "attempt": 1, "server_id": server, "reason": f"Cancelled by {owner}"}
    ended.recorded["by"] = {"kind": "user", "id": owner}
    shown_as(evidence, task.id, status="CANCELLED", result=None)


def retried_by_nobody(evidence: Evidence) -> None:
    spread_out(evidence)
    task = good_tasks(evidence)[0]
    by = {"kind": "user", "id": task.entries[0].owner}
    ended = task.entry("TaskSucceeded")
    fields = {name: task.entries[0].event[name] for name in ("pool", "priority")}
    queued = add(evidence, ended, "TaskQueued", "queued.default.normal", by, reason="retried", renewed=True, **fields)
    server = ended.event["server_id"]
    start = {name: value for name, value in task.entry("AttemptStarted").event.items() if name != "type"}
    worker = task.entry("AttemptStarted").recorded["by"]
    started = add(evidence, queued, "AttemptStarted", f"started.{server}", worker, **start | {"attempt": 2})
    end = {name: value for name, value in ended.event.items() if name != "type"} | {"attempt": 2}
    add(evidence, started, "TaskSucceeded", f"succeeded.{server}", ended.recorded["by"], later=0.05, **end)


def credited_to_another(kind: str, **fields: Any) -> Change:
    def change(evidence: Evidence) -> None:
        entry = first(
            entry
            for entry in evidence.log
            if entry.type == kind and entry.recorded["by"]["kind"] == "user" and fields.items() <= entry.event.items()
        )
        entry.recorded["by"]["id"] = next(tenant for tenant in TENANTS if tenant != entry.owner)

    return change


def retry_credited_to_another(evidence: Evidence) -> None:
    """Credit a retry to somebody else; where the run has none, one is made up with its call."""
    retried_by_nobody(evidence)
    entry = first(entry for entry in evidence.log if entry.event.get("renewed"))
    asked = call_of(evidence, "read").before | {
        "operation": "retry",
        "task": entry.task,
        "tenant": entry.owner,
        "at": entry.stored_at - 0.01,
    }
    evidence.calls.append(Call(asked, {"status": 200, "at": entry.stored_at + 0.01, "task_id": entry.task}))
    if any(CHECKS["changes-have-a-caller"](evidence)):
        raise LookupError("the retry that was made up with its call")
    entry.recorded["by"]["id"] = next(tenant for tenant in TENANTS if tenant != entry.owner)


def submitted_by_another(evidence: Evidence) -> None:
    submitted = good_tasks(evidence)[0].entries[0]
    submitted.recorded["by"]["id"] = next(tenant for tenant in TENANTS if tenant != submitted.owner)


def ended_by_a_user(evidence: Evidence) -> None:
    ended = good_tasks(evidence)[0].entry("TaskSucceeded")
    ended.recorded["by"] = {"kind": "user", "id": ended.owner}


# Servers


def without_call(*kept: str) -> Change:
    """Return a doctoring that removes the lines of a good task's server, but for some kinds."""

    def change(evidence: Evidence) -> None:
        task = good_tasks(evidence)[0]
        evidence.backends = [
            each for each in evidence.backends if each["task"] != task.id or each["what"] in kept
        ]  # fmt: skip

    return change


def another_payload_for_the_server(evidence: Evidence) -> None:
    good_tasks(evidence)[0].lines[0]["payload"]["seconds"] = 7.77


def another_deadline_for_the_server(evidence: Evidence) -> None:
    good_tasks(evidence)[0].lines[0]["deadline"] += 60


def on_a_server_that_does_not_serve_it(evidence: Evidence) -> None:
    for task in good_tasks(evidence):
        task_type = task.entries[0].event["task_type"]
        for name, server in evidence.servers.items():
            if server.types and task_type not in server.types and not server.reports:
                started, ended = task.entry("AttemptStarted"), task.entry("TaskSucceeded")
                rewrite(evidence, started, server_id=name)
                result = copy.deepcopy(ended.event["result"])
                result["inline"]["data"]["server"] = name
                rewrite(evidence, ended, server_id=name, result=result)
                for each in task.lines:
                    each["server"] = name
                shown_as(evidence, task.id, serverId=name)
                return
    raise LookupError("every good task is of a type that all serve")


def timed_out_near_faults(evidence: Evidence) -> None:
    """Have every task that is to go well time out first, and a fault be near all the time that explains it."""
    spread_out(evidence)
    for task in tasks(evidence):
        starts = [entry for entry in task.entries if entry.type == "AttemptStarted" and entry.event["server_id"]]
        if len(starts) != 1 or ordered(task.entries[0].event["payload"], 1) != "ok":
            continue
        event, by = starts[0].event, starts[0].recorded["by"]
        over = {"attempt": 1, "server_id": event["server_id"], "kind": "timeout", "error": "it failed"}
        retry_at = datetime.fromtimestamp(starts[0].stored_at, UTC).isoformat()
        failed = add(evidence, starts[0], "AttemptFailed", "attempt_failed.x", by, retry_at=retry_at, **over)
        again = {name: value for name, value in event.items() if name not in ("type", "attempt")}
        add(evidence, failed, "AttemptStarted", "started.x", by, attempt=2, **again)
        for later in task.entries[task.entries.index(starts[0]) + 1 :]:
            if later.event.get("attempt"):
                rewrite(evidence, later, attempt=2)
        for each in task.lines:
            each["attempt"] = 2
    begins, ends = evidence.log[0].stored_at, evidence.log[-1].stored_at
    evidence.faults.append(Fault("stop", "worker-1", begins, ends))


def reported_otherwise(evidence: Evidence) -> None:
    """Have a server report the failure of what it was ordered to do well."""
    each = first(line for line in evidence.backends if line["what"] == "report" and line["status"] == "FINISHED")
    each["status"] = "FAILED"


def on_a_server_of_nobody(evidence: Evidence) -> None:
    rewrite(evidence, good_tasks(evidence)[0].entry("AttemptStarted"), server_id="backend-9")


def called_at_once(evidence: Evidence) -> None:
    """Have all that a server was ever called for arrive at one time."""
    calls = [each for each in evidence.backends if each["what"] == "call" and each["server"] == "backend-1"]
    for each in calls:
        each["at"] = calls[0]["at"]


def results_swapped(evidence: Evidence) -> None:
    one, other = good_tasks(evidence)[:2]
    ends = one.entry("TaskSucceeded"), other.entry("TaskSucceeded")
    results = [end.event["result"] for end in ends]
    for end, result in zip(ends, reversed(results), strict=True):
        rewrite(evidence, end, result=result)


def said(says: str, **more: Any) -> Change:
    def change(evidence: Evidence) -> None:
        good_tasks(evidence)[0].lines[1].update(says=says, **more)

    return change


def goes_on_after_its_cancellation(evidence: Evidence) -> None:
    """Have a server be said to have stopped what it still does."""
    spread_out(evidence)
    evidence.faults = [fault for fault in evidence.faults if fault.kind != "kill"]
    task = good_tasks(evidence)[0]
    ended = task.entry("TaskSucceeded")
    server, owner = ended.event["server_id"], ended.owner
    for event in copies(evidence, ended):
        event.clear()
        event |= {"type": "TaskCancelled", "attempt": 1, "server_id": server, "reason": f"Cancelled by {owner}"}
    told = {"attempt": 1, "server_id": server, "outcome": "confirmed", "detail": "the server stopped"}
    reported = add(evidence, ended, "CancelReported", "cancel_reported.x", ended.recorded["by"], **told)
    task.lines[1]["at"] = reported.stored_at + 5


def pulled_attempts(evidence: Evidence) -> list[tuple[Line, Line]]:
    """Return calls of pullers that ended well at once, each with its report that was recorded."""
    found = []
    for task in tasks(evidence):
        reported = [each for each in task.lines if each["what"] == "reported" and each.get("standing") == "recorded"]
        if task.entries[-1].type != "TaskSucceeded" or len(reported) != 1 or reported[0]["status"] != "FINISHED":
            continue
        attempt = reported[0]["attempt"]
        calls = [each for each in task.lines if each["what"] == "call" and each["attempt"] == attempt]
        if calls and calls[0].get("puller"):
            found.append((calls[0], reported[0]))
    if not found:
        raise LookupError("no puller ended a task well")
    return found


def taken_by_two(evidence: Evidence) -> None:
    call, _ = pulled_attempts(evidence)[0]
    line(evidence, call, later=0.01, puller="puller-9")


def told_of_success_after_a_loss(evidence: Evidence) -> None:
    """Have a puller lose an attempt, and be told that its result was recorded."""
    _, reported = pulled_attempts(evidence)[0]
    end = first(e for e in evidence.log if e.task == reported["task"] and e.type == "TaskSucceeded")
    for event in copies(evidence, end):
        event.clear()
        event |= {"type": "TaskFailed", "attempt": reported["attempt"], "server_id": reported["server"]}
        event |= {"kind": "worker_lost", "error": "the puller did not renew its lease"}


def told_too_late(evidence: Evidence) -> None:
    _, reported = pulled_attempts(evidence)[0]
    reported["standing"] = "gone"


def lost_before_its_lease(evidence: Evidence) -> None:
    call, _ = pulled_attempts(evidence)[0]
    evidence.jumps = []
    end = first(e for e in evidence.log if e.task == call["task"] and e.type == "TaskSucceeded")
    for event in copies(evidence, end):
        event.clear()
        event |= {"type": "TaskFailed", "attempt": call["attempt"], "server_id": call["server"]}
        event |= {"kind": "worker_lost", "error": "the puller did not renew its lease"}
    evidence.backends = [
        each
        for each in evidence.backends
        if each["task"] != call["task"] or each["what"] not in ("report", "reported", "renewed")
    ]


def accepted_forged(kind: str) -> Change:
    def change(evidence: Evidence) -> None:
        like = good_tasks(evidence)[0].lines[1]
        line(evidence, like, what="reported", kind=kind, status="FINISHED", answered=200)

    return change


# Holds


def child_of(parent: Callable[[Evidence], Task], child: Callable[[Evidence], Task]) -> Change:
    def change(evidence: Evidence) -> None:
        rewrite(evidence, child(evidence).entries[0], plan={"depends_on": [parent(evidence).id]})

    return change


def failed_task(evidence: Evidence) -> Task:
    return first(
        task
        for task in tasks(evidence)
        if task.entries[-1].type == "TaskFailed" and task.entries[-1].event["kind"] not in ("expired", "deadline")
        if not (task.entries[0].event.get("plan") or {}).get("depends_on")
    )


def attempts_that_go_on(evidence: Evidence) -> None:
    """Have no attempt of a limited owner end before its next one starts."""
    over = FINAL | {"AttemptFailed", "AttemptReturned"}
    forget(evidence, *(entry for entry in evidence.log if entry.owner == "erin" and entry.type in over))


def started_at_once(evidence: Evidence) -> None:
    """Have all attempts of a limited owner start within a moment."""
    starts = [entry for entry in evidence.log if entry.owner == "erin" and entry.type == "AttemptStarted"]
    at = {entry.sequence: starts[0].stored_at + 0.001 * place for place, entry in enumerate(starts)}
    evidence.log = [replace(entry, stored_at=at.get(entry.sequence, entry.stored_at)) for entry in evidence.log]


def started_too_early(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    first_at = datetime.fromtimestamp(task.entries[0].stored_at, UTC) + timedelta(hours=1)
    rewrite(evidence, task.entries[0], plan={"not_before": first_at.isoformat()})


def half_a_batch(evidence: Evidence) -> None:
    last = first(
        entry for entry in reversed(evidence.log) if entry.type == "TaskSubmitted" and entry.event.get("batch")
    )
    forget(evidence, *(entry for entry in evidence.log if entry.task == last.task))


def never_fired(evidence: Evidence) -> None:
    """Have a schedule fire nothing from its beginning on, and its tasks gone with it."""
    one = evidence.recurring[0]
    runs = {run["task_id"] for each in one.events for run in each["event"].get("runs", ())}
    one.events[:] = [each for each in one.events if each["event"]["type"] in ("ScheduleCreated", "SchedulePaused")]
    one.events[-1]["stored_at"] += 600
    forget(evidence, *(entry for entry in evidence.log if entry.task in runs))


def run_twice(evidence: Evidence) -> None:
    fired = first(each for each in evidence.recurring[0].events if each["event"].get("runs"))
    fired["event"]["runs"].append(fired["event"]["runs"][0])


# Reads


def of_lists(change: Callable[[list[Line]], Any]) -> Change:
    """Return a doctoring of what the fullest list shows."""

    def doctor(evidence: Evidence) -> None:
        lists = [call for call in evidence.calls if call.operation == "list" and call.after.get("tasks")]
        change(max(lists, key=lambda call: len(call.after["tasks"])).after["tasks"])

    return doctor


def empty_lists(evidence: Evidence) -> None:
    for call in evidence.calls:
        if call.operation == "list" and call.status == 200:
            call.after.update(tasks=[], marks=[])


def wrong_outcomes(evidence: Evidence) -> None:
    """Have every list show each task that succeeded as failed."""
    for call in evidence.calls:
        for task in call.after.get("tasks", ()) if call.operation == "list" else ():
            if task["status"] == "FINISHED":
                task.update(status="FAILED", failureKind="failed")


def always_503(operation: str) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.calls = [
            replace(call, after={**unavailable, "at": call.ends, "phase": "after"})
            if call.operation == operation
            else call
            for call in evidence.calls
        ]

    unavailable = {"status": 503, "marks": [], "said": "unavailable", "retry_after": "1"}
    return change


def read_as(**fields: Any) -> Change:
    """Return a doctoring of what a read shows of a good task."""

    def change(evidence: Evidence) -> None:
        good = {task.id for task in good_tasks(evidence)}
        call = first(
            each
            for each in evidence.calls
            if each.operation in ("read", "repeat") and each.task in good and each.after.get("shows") == "FINISHED"
        )
        call.after["details"].update(fields)

    return change


def refused(operation: str) -> Change:
    """Return a doctoring by which a call about a task that it may be made for is refused."""

    def change(evidence: Evidence) -> None:
        task = good_tasks(evidence)[0]
        submitted = call_of(evidence, "submit", task_id=task.id)
        at = task.entry("AttemptStarted" if operation == "cancel" else "TaskSucceeded").stored_at
        before = submitted.before | {"operation": operation, "task": task.id, "at": at}
        if operation == "cancel":  # while it runs
            ended = task.entry("TaskSucceeded")
            evidence.log = [replace(e, stored_at=at + 60) if e is ended else e for e in evidence.log]
        evidence.calls.append(Call(before, {"status": 409 if operation == "cancel" else 404, "at": at + 0.01}))

    return change


def answered(operation: str, status: int, **after: Any) -> Change:
    """Return a doctoring by which a call is answered otherwise."""

    def change(evidence: Evidence) -> None:
        call = first(call for call in evidence.calls if call.operation == operation and call.status)
        replay(evidence, call, status=status, **after)

    return change


def one_key_two_tasks(evidence: Evidence) -> None:
    one = first(call for call in evidence.calls if call.operation == "repeat" and call.status == 200)
    replay(evidence, one, task_id=next(task.id for task in tasks(evidence) if task.id != one.task))


def lost(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    forget(evidence, *task.entries)


def twice(evidence: Evidence) -> None:
    """Have a second task of one submission."""
    task = good_tasks(evidence)[0]
    spread_out(evidence)
    unique = task.id.partition("~")[0]
    other = unique[:-1] + ("0" if unique[-1] != "0" else "1")
    for entry in [entry for entry in evidence.log if entry.task == task.id]:
        evidence.log.append(replace(entry, sequence=entry.sequence + 1, subject=entry.subject.replace(unique, other)))
    evidence.log.sort(key=lambda entry: entry.sequence)
    _fill(evidence)


def cancel_without_effect(evidence: Evidence) -> None:
    task = good_tasks(evidence)[0]
    before = call_of(evidence, "submit", task_id=task.id).before | {"operation": "cancel", "task": task.id}
    evidence.calls.append(Call(before, {"status": 200, "at": before["at"] + 0.01, "task_id": task.id}))


# Pushes


def of_subscriber(change: Callable[[Heard], Any]) -> Change:
    """Return a doctoring of what one subscriber received that follows everything from the beginning."""

    def doctor(evidence: Evidence) -> None:
        change(first(heard for heard in evidence.heard if heard.task is None and heard.owner is None and heard.told))

    return doctor


def without_one_event(heard: Heard) -> None:
    heard.told.remove(first(told for told in heard.told if told.event and told.event["type"] == "AttemptStarted"))


def progress_twice(heard: Heard) -> None:
    place = first(place for place, told in enumerate(heard.told) if told.event and told.event["event"].get("output"))
    heard.told.insert(place, heard.told[place])


def progress_after_the_end(heard: Heard) -> None:
    told = first(told for told in heard.told if told.event and told.event["event"].get("output"))
    heard.told.append(told)


def began_late(evidence: Evidence) -> None:
    """Have a subscriber that began with the present begin at the end of the log, as if there was nothing else."""
    heard = first(each for each in evidence.heard if each.from_state and each.task is None and each.told)
    heard.after = heard.until
    heard.told.clear()


def state_of_another_kind(evidence: Evidence) -> None:
    heard = first(each for each in evidence.heard if each.states)
    heard.states[0] = replace(heard.states[0], status="CANCELLED")


def without_states(evidence: Evidence) -> None:
    for heard in evidence.heard:
        heard.states.clear()


def of_receiver(change: Callable[[Received], Any]) -> Change:
    """Return a doctoring of the receiver that accepts everything."""
    return lambda evidence: change(first(one for one in evidence.received if one.mode == "takes"))


def sent_during_a_pause(received: Received) -> None:
    one = received.calls[0]
    again = [{**one, "at": one["at"] + 0.01 * number, "answered": 429} for number in range(10)]
    received.calls[:0] = again


# Projections, processes


def projected_otherwise(evidence: Evidence) -> None:
    bucket = evidence.buckets[0]
    evidence.buckets[0] = replace(bucket, found=bucket.found | {next(iter(bucket.found)): b"{}"})


def indexed_otherwise(kind: str) -> Callable[[Evidence], None]:
    """Have the index of an API differ in a row, or in a view."""

    def change(evidence: Evidence) -> None:
        place = next(place for place, bucket in enumerate(evidence.buckets) if bucket.name == "index of api-2")
        bucket = evidence.buckets[place]
        key = first(key for key in bucket.found if key.startswith(kind))
        evidence.buckets[place] = replace(bucket, found={k: v for k, v in bucket.found.items() if k != key})

    return change


def projected_without_a_task(evidence: Evidence) -> None:
    """Have the projection and its fold lack a task of the log."""
    bucket = evidence.buckets[0]
    name = first(name for name in bucket.wanted if name.startswith("task."))
    found, wanted = ({k: v for k, v in each.items() if k != name} for each in (bucket.found, bucket.wanted))
    evidence.buckets[0] = Bucket("tasks", found, wanted)


def windows(evidence: Evidence) -> None:
    begins, ends = evidence.log[0].stored_at, evidence.log[-1].stored_at + 1
    evidence.windows = [Window(begins, ends, False), Window(ends, ends + ends - begins, True)]


def grown(evidence: Evidence) -> None:
    warm, _ = evidence.resources
    more = {name: Resources(each.descriptors + 50, each.megabytes + 50) for name, each in warm.items()}
    evidence.resources = (warm, more)


# Evidence


def emptied(name: str) -> Change:
    def change(evidence: Evidence) -> None:
        value = getattr(evidence, name)
        setattr(evidence, name, type(value)() if not isinstance(value, tuple) else (type(value[0])(), type(value[1])()))

    return change


def empty(evidence: Evidence) -> None:
    for name, value in msgspec.structs.asdict(Evidence(calls=[], log=[], backends=[])).items():
        setattr(evidence, name, value)


def of_recovery(**changes: Any) -> Change:
    def change(evidence: Evidence) -> None:
        evidence.recoveries[0] = replace(evidence.recoveries[0], **changes)

    return change


def started_late_after_a_kill(evidence: Evidence) -> None:
    """Let the workers find a task only when their requests of before the kill are over."""
    recovery = evidence.recoveries[-1]
    evidence.recoveries[-1] = replace(recovery, ready_at=recovery.ready_at - 6 + recovery.outage_seconds)


def empty_but_for_the_plan(evidence: Evidence) -> None:
    expected = evidence.expected
    empty(evidence)
    evidence.expected = expected


def a_fifth(name: str) -> Change:
    return lambda evidence: setattr(evidence, name, getattr(evidence, name)[::5])


def without_client(evidence: Evidence) -> None:
    evidence.calls = [call for call in evidence.calls if not call.before["call"].startswith("bob-1-")]


def without_one_call(evidence: Evidence) -> None:
    evidence.calls.remove(first(call for call in evidence.calls if call.operation == "read"))


def without_lines_of_a_server(evidence: Evidence) -> None:
    evidence.backends = [each for each in evidence.backends if each["server"] != "backend-3"]


FIFTEEN = [
    Doctoring("submissions-are-as-sent", "another payload", another_payload),
    Doctoring("submissions-are-as-sent", "another type", another_type),
    Doctoring("submissions-are-as-sent", "another priority", another_priority),
    Doctoring("submissions-are-as-sent", "more attempts", more_attempts),
    Doctoring("servers-do-as-ordered", "all fail first, as an error", all_fail_first("error", "error")),
    Doctoring("failures-have-a-reason", "all fail first, unreachable", all_fail_first("unreachable", None)),
    Doctoring("failures-have-a-reason", "all fail first, timed out", all_fail_first("timeout", None)),
    Doctoring("changes-have-a-caller", "a cancel by nobody", cancelled_by_nobody),
    Doctoring("changes-have-a-caller", "a retry by nobody", retried_by_nobody),
    Doctoring("changes-have-a-caller", "a cancel credited to another", credited_to_another("TaskCancelled")),
    Doctoring("changes-have-a-caller", "a retry credited to another", retry_credited_to_another),
    Doctoring("outcomes-follow-calls", "a success without a call", without_call()),
    Doctoring("outcomes-follow-calls", "a success whose call is missing, not its answer", without_call("over")),
    Doctoring("servers-receive-what-was-sent", "another payload for the server", another_payload_for_the_server),
    Doctoring("lists-agree-with-the-log", "empty lists", empty_lists),
    Doctoring("lists-agree-with-the-log", "wrong outcomes in lists", wrong_outcomes),
    Doctoring("apis-answer", "lists are always 503", always_503("list")),
    Doctoring("tasks-run-where-they-are-served", "a server that does not serve it", on_a_server_that_does_not_serve_it),
    Doctoring("evidence-is-complete", "no evidence", empty),
    Doctoring("evidence-is-complete", "nothing but the plan", empty_but_for_the_plan),
    *(
        Doctoring("evidence-is-complete", f"a fifth of the {name}", a_fifth(name))
        for name in ("calls", "log", "backends", "heard", "faults")
    ),
]
"""The forgeries that once passed, consistently in log and evidence."""

OTHERS = [
    Doctoring("submissions-are-as-sent", "another timeout", another_timeout),
    Doctoring("submissions-are-as-sent", "no conditions", no_condition),
    Doctoring("changes-have-a-caller", "a submission credited to another", submitted_by_another),
    Doctoring("changes-have-a-caller", "a success by a user", ended_by_a_user),
    Doctoring("servers-receive-what-was-sent", "another deadline for the server", another_deadline_for_the_server),
    Doctoring("tasks-run-where-they-are-served", "a server of nobody", on_a_server_of_nobody),
    Doctoring("failures-have-a-reason", "all fail first, near a fault", timed_out_near_faults),
    Doctoring("servers-do-as-ordered", "busy out of turn", said("busy")),
    Doctoring("servers-do-as-ordered", "another report", reported_otherwise),
    Doctoring("servers-do-as-ordered", "crossed by nothing", said("crossed", after_extra=False)),
    Doctoring("acknowledged-is-kept", "a lost task", lost),
    Doctoring("nothing-is-doubled", "a second task of a submission", twice),
    Doctoring("keys-are-kept", "one key, two tasks", one_key_two_tasks),
    Doctoring("keys-are-kept", "another body accepted", answered("conflict", 200)),
    Doctoring("acknowledged-changes-are-kept", "a cancel without effect", cancel_without_effect),
    Doctoring(
        "histories-are-legal",
        "a gap in the attempts",
        lambda evidence: rewrite(evidence, good_tasks(evidence)[0].entry("AttemptStarted"), attempt=2),
    ),
    Doctoring("log-is-contiguous", "a hole", lambda evidence: evidence.log.pop(len(evidence.log) // 2)),
    Doctoring(
        "everything-ends",
        "a task that never ends",
        lambda evidence: forget(evidence, good_tasks(evidence)[0].entry("TaskSucceeded")),
    ),
    Doctoring("calls-were-started", "called twice", lambda e: line(e, good_tasks(e)[0].lines[0])),
    Doctoring("results-are-the-tasks-own", "results swapped", results_swapped),
    *(Doctoring("forged-reports-are-refused", kind, accepted_forged(kind)) for kind in ("forged", "foreign", "older")),
    Doctoring("limits-are-kept", "all at once", called_at_once),
    Doctoring(
        "workers-alone-occupy-servers",
        "a start by a user",
        lambda e: good_tasks(e)[0].entry("AttemptStarted").recorded.update(by={"kind": "user", "id": "mallory"}),
    ),
    Doctoring("outcomes-match-reports", "a success that was a failure", said("FAILED")),
    Doctoring("cancellations-are-as-reported", "a server that goes on", goes_on_after_its_cancellation),
    Doctoring("attempts-are-held-by-one", "taken by two pullers", taken_by_two),
    Doctoring("attempts-are-held-by-one", "lost before its lease ended", lost_before_its_lease),
    Doctoring("pullers-are-told-the-truth", "a success that was a loss", told_of_success_after_a_loss),
    Doctoring("pullers-are-told-the-truth", "too late, and recorded", told_too_late),
    Doctoring("others-keep-their-throughput", "no starts beside hostile owners", windows),
    Doctoring("shared-limits-are-kept", "attempts that go on", attempts_that_go_on),
    Doctoring("rates-are-kept", "started at once", started_at_once),
    Doctoring(
        "children-follow-their-parents",
        "before its parent",
        child_of(lambda e: good_tasks(e)[-1], lambda e: good_tasks(e)[0]),
    ),
    Doctoring("dags-end-as-predicted", "run in spite of a failure", child_of(failed_task, lambda e: good_tasks(e)[-1])),
    Doctoring("times-are-kept", "before its time", started_too_early),
    Doctoring("batches-are-whole", "half a batch", half_a_batch),
    Doctoring("schedules-fire-once", "a run twice", run_twice),
    Doctoring("schedules-fire-once", "never fired", never_fired),
    Doctoring("tenants-are-apart", "another tenant's mark", answered("list", 200, marks=["mk-nobody-0-0"])),
    Doctoring("tenants-are-apart", "another tenant's task", answered("pry", 200)),
    Doctoring("writes-are-read", "a task that is gone", answered("read", 404)),
    Doctoring("answers-are-understood", "an error of ours", answered("read", 500)),
    Doctoring("reads-agree-with-the-log", "another status", read_as(status="FAILED", failureKind="failed")),
    Doctoring("reads-agree-with-the-log", "another request", read_as(request={"mark": "another"})),
    Doctoring("reads-agree-with-the-log", "another result", read_as(result={"data": {"mark": "another"}})),
    Doctoring("reads-agree-with-the-log", "another owner", read_as(owner="nobody")),
    Doctoring("lists-agree-with-the-log", "one task less", of_lists(lambda shown: shown.pop(1))),
    Doctoring("lists-agree-with-the-log", "another order", of_lists(lambda shown: shown.reverse())),
    Doctoring("refusals-agree-with-the-log", "a cancel refused in time", refused("cancel")),
    Doctoring("refusals-agree-with-the-log", "a retry that finds no task", refused("retry")),
    *(
        Doctoring("apis-answer", f"{operation} is always 503", always_503(operation))
        for operation in ("submit", "read", "repeat", "pry")
    ),
    Doctoring("subscribers-receive-all", "an event not told", of_subscriber(without_one_event)),
    Doctoring("streams-begin-with-the-present", "began too late", began_late),
    Doctoring("streams-begin-with-the-present", "another state", state_of_another_kind),
    Doctoring("streams-begin-with-the-present", "no states", without_states),
    Doctoring("progress-is-sent-once", "told twice", of_subscriber(progress_twice)),
    Doctoring("nothing-follows-the-end", "progress after the end", of_subscriber(progress_after_the_end)),
    Doctoring("streams-are-understood", "an error", of_subscriber(lambda heard: heard.refusals.append("500 oh"))),
    Doctoring("webhooks-deliver-all", "never taken", of_receiver(lambda received: received.calls.clear())),
    Doctoring("webhook-messages-are-one", "not signed", of_receiver(lambda one: one.calls[0].update(signed=False))),
    Doctoring("webhook-pauses-are-kept", "sent during a pause", of_receiver(sent_during_a_pause)),
    Doctoring("projections-equal-the-fold", "another view", projected_otherwise),
    Doctoring("projections-equal-the-fold", "a row less in an index", indexed_otherwise("row.")),
    Doctoring("projections-equal-the-fold", "a view less in an index", indexed_otherwise("task.")),
    Doctoring("dispatch-is-live", "in vain", lambda e: e.probes.append(Probe("a task", None))),
    Doctoring("recovers-at-once", "on a grid of 6 s", started_late_after_a_kill),
    Doctoring("recovers-at-once", "a task that never starts", lambda e: e.recoveries[0].tasks.append("x~alice")),
    Doctoring("recovers-at-once", "no task", of_recovery(tasks=[])),
    Doctoring("recovers-at-once", "a process that does not answer", of_recovery(live_missed=1)),
    Doctoring("recovers-at-once", "ready without NATS", of_recovery(said_unready=False)),
    Doctoring("nothing-is-left-over", "a stream more", lambda e: e.streams[1].append("X")),
    Doctoring(
        "nothing-is-left-over",
        "a consumer for ever",
        lambda e: e.consumers[1].append(ConsumerSeen("TASKS", "x", False, 0, 0)),
    ),
    Doctoring("resources-are-given-back", "grown", grown),
    Doctoring("nobody-died", "an exit", lambda e: e.exits.append("worker-1 ended by itself with 1")),
    *(
        Doctoring("evidence-is-complete", f"no {name}", emptied(name))
        for name in (
            *(
                "calls",
                "log",
                "backends",
                "buckets",
                "probes",
                "recoveries",
                "servers",
                "shared_limits",
                "recurring",
                "streams",
            ),
            *("consumers", "resources", "faults", "heard", "received"),
        )
    ),
    Doctoring("evidence-is-complete", "a client less", without_client),
    Doctoring("evidence-is-complete", "a call less", without_one_call),
    Doctoring("evidence-is-complete", "a server less", without_lines_of_a_server),
    Doctoring("evidence-is-complete", "a task less in the fold", projected_without_a_task),
]
DOCTORINGS = [*FIFTEEN, *OTHERS]
