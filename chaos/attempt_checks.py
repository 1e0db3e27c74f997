"""Checks of attempts against what was sent: what a server received, whether it serves it, and why an attempt failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from .evidence import ATTEMPT_OVER, TASKSTREAM, Evidence, Fault, Finding, Line, is_busy, ordered
from .hostile import OWNERS as HOSTILE
from .submission_checks import DEFAULT, Sent, sent_of_tasks, type_of

CLOCK_SECONDS = 0.05
CROSSING_SECONDS = 1.8
"""A backend calls an answer crossed for 1.5 s; its journal's line before that is a little earlier."""
AFTER_SECONDS = 6.0
"""How long a fault shows: a process starts, connections are made anew, a lease changes hands, a report is repeated."""
EARLY_SECONDS = 0.5
MOST_FAILED = 0.3
"""Of first attempts. Seen in runs of 14 to 20 s: 0.14 at the most."""
FEW = 20
MOMENT = 1.5
"""From a report until it is in the log, on a busy machine."""
STATUSES = {"TaskSucceeded": "FINISHED", "TaskFailed": "FAILED", "TaskCancelled": "CANCELLED"}


OF_OUTCOMES = frozenset({"over", "report", "reported"})


class Attempt(Struct):
    """All that the log and the backends say of one attempt."""

    task: str
    number: int
    server: str
    worker: str
    began_at: float
    deadline: float
    over: Line = {}
    """The event that ended it; empty: none did."""
    over_at: float = 0.0
    over_by: str = ""
    """Kind of who ended it."""
    calls: list[Line] = []
    lines: list[Line] = []
    """Of its server, in order: `over`, `report` and `reported`."""


def attempts_of(evidence: Evidence) -> list[Attempt]:
    """Return the attempts that workers started, in the order of the log."""
    found: dict[tuple[str, int], Attempt] = {}
    running: dict[str, Attempt] = {}
    for entry in evidence.log:
        event = entry.event
        if entry.type == "AttemptStarted":
            worker = str(event.get("worker_id", ""))
            deadline = datetime.fromisoformat(event["deadline"]).timestamp()
            place = (entry.task, event["attempt"])
            one = Attempt(*place, event["server_id"], worker, entry.stored_at, deadline, calls=[], lines=[])
            running[entry.task] = found[place] = one
        elif entry.type in ATTEMPT_OVER and entry.task in running:
            over = running.pop(entry.task)
            over.over, over.over_at, over.over_by = event, entry.stored_at, entry.recorded["by"]["kind"]
    for line in evidence.backends:
        attempt = found.get((line["task"], line["attempt"]))
        if attempt is not None and attempt.server == line["server"]:
            if line["what"] == "call":
                attempt.calls.append(line)
            elif line["what"] in OF_OUTCOMES:
                attempt.lines.append(line)
    return [attempt for attempt in found.values() if attempt.server]


# What servers receive


def servers_receive_what_was_sent(evidence: Evidence) -> Iterator[Finding]:
    """Each call of a server has the payload and type that were submitted, its attempt's deadline, parents' results."""
    sent = sent_of_tasks(evidence)
    attempts = {(one.task, one.number): one for one in attempts_of(evidence)}
    results = _results(evidence)
    for line in evidence.backends:
        if line["what"] != "call":
            continue
        task, name = line["task"], f"attempt {line['attempt']} at {line['server']}"
        if (one := sent.get(task)) is None:
            yield f"{name}: nobody submitted it", task
            continue
        if line["payload"] != one.body["payload"]:
            yield f"{name}: received {line['payload']}, and {one.body['payload']} was sent", task
        server = evidence.servers.get(line["server"])
        if server is not None and server.dialect != TASKSTREAM:
            continue  # its calls have nothing else
        if line["type"] != one.body.get("type", DEFAULT):
            yield f"{name}: received the type {line['type']!r}, and {one.body.get('type')!r} was sent", task
        attempt = attempts.get((task, line["attempt"]))
        if attempt is not None and abs(line["deadline"] - attempt.deadline) > CLOCK_SECONDS:
            yield f"{name}: its deadline is {attempt.deadline:.3f}, and it received {line['deadline']:.3f}", task
        if server is not None and server.reports != line["reports"]:
            yield f"{name}: it was {'' if line['reports'] else 'not '}asked to report by callback", task
        for parent, data in line["results"].items():
            if data not in results.get(parent, [None]):
                yield f"{name}: received {data} as the result of {parent}", task


def _results(evidence: Evidence) -> dict[str, list[Any]]:
    """Return the data of all results that each task ended with; None where one had none."""
    found: dict[str, list[Any]] = defaultdict(list)
    for entry in evidence.log:
        if entry.type in STATUSES:
            result = entry.event.get("result") or {}
            found[entry.task].append((result.get("inline") or {}).get("data"))
    return found


def tasks_run_where_they_are_served(evidence: Evidence) -> Iterator[Finding]:
    """No attempt is on a server that does not serve the type that was submitted, nor on one that nobody registered."""
    sent = sent_of_tasks(evidence)
    for entry in evidence.log:
        server = entry.event.get("server_id") if entry.type == "AttemptStarted" else None
        if not server:
            continue
        known = evidence.servers.get(server)
        one = sent.get(entry.task)
        task_type = one.body.get("type", DEFAULT) if one else entry.event.get("type")
        if known is None:
            yield f"attempt {entry.event['attempt']} is on {server}, which nobody registered", entry.task
        elif known.types and task_type not in known.types:
            yield f"attempt {entry.event['attempt']} is on {server}, which does not serve {task_type!r}", entry.task


HEARD = frozenset({"failed", "rejected", "error", "bad_answer", "busy"})
"""Kinds of an outcome that only an answer or a report of the server can have brought about."""


def outcomes_follow_calls(evidence: Evidence) -> Iterator[Finding]:
    """An outcome that a server brought about follows a call of that server; so does all that it says of an attempt."""
    for attempt in attempts_of(evidence):
        kind = attempt.over.get("kind", "")
        heard = attempt.over.get("type") == "TaskSucceeded" or kind in HEARD
        name = f"attempt {attempt.number} at {attempt.server}"
        is_garbled = attempt.over.get("type") != "TaskSucceeded" and _is_garbled(evidence, attempt)
        if (
            heard
            and not is_garbled
            and not any(call["at"] <= attempt.over_at + CLOCK_SECONDS for call in attempt.calls)
        ):
            yield f"{name}: {attempt.over['type']} {kind} without a call before", attempt.task
        first = min((call["at"] for call in attempt.calls), default=1e99)
        if early := [line for line in attempt.lines if line["at"] < first]:
            yield f"{name}: the server said {early[0]['what']} before it was called", attempt.task


def _is_garbled(evidence: Evidence, attempt: Attempt) -> bool:
    """Return True if the way to a server corrupted data during an attempt: the server refuses a request of garbage."""
    return any(
        one.link == f"workers>{attempt.server}" and one.begins <= attempt.over_at and attempt.began_at <= one.ends + 1
        for one in evidence.corruptions
    )


# Why attempts fail

SAYS: Mapping[str, frozenset[str]] = {
    "hang": frozenset({"error", "nothing"}),
    **dict.fromkeys(("trickle", "lie", "garbage", "no_json", "huge", "bomb", "die"), frozenset({"nothing"})),
    **dict.fromkeys(("misaddressed", "redirect"), frozenset({"nothing"})),
    "fail": frozenset({"FAILED"}),
    "busy": frozenset({"busy"}),
    "unavailable": frozenset({"busy"}),
    "error": frozenset({"error"}),
    "reject": frozenset({"rejected"}),
}
"""By order: what the answer says. Any other order is to succeed."""
SAYS_IN: Mapping[str, Mapping[str, frozenset[str]]] = {
    "openai": {"fail": frozenset({"rejected", "error"})},  # an error object has no word for a task that has failed
}
"""By dialect: what else an answer says."""
SUCCESS = frozenset({"FINISHED"})


def servers_do_as_ordered(evidence: Evidence) -> Iterator[Finding]:
    """Each answer and report of a server is the one that the submitted payload orders, unless something explains it.

    A server that is busy by turns is so at the times that its clock gives; an answer crosses a call only soon after one
    that nobody asked for; a caller that hangs up gets none.
    """
    sent = sent_of_tasks(evidence)
    extras: dict[str, list[float]] = defaultdict(list)
    for line in evidence.backends:
        if line["what"] == "extra":
            extras[line["server"]].append(line["at"])
    for attempt in attempts_of(evidence):
        one, server = sent.get(attempt.task), evidence.servers.get(attempt.server)
        if one is None or server is None:
            continue  # others say so
        orders = ordered(one.body["payload"], attempt.number)
        called_at = attempt.calls[0]["at"] if attempt.calls else attempt.began_at
        names = server.names(attempt.server)
        stopped = any(fault.target in names and fault.kind == "stop" for fault in evidence.faults)
        for line in attempt.lines:
            name = f"attempt {attempt.number} at {attempt.server}, ordered {orders!r}"
            if line["what"] == "over":
                says = line["says"]
                way = "pull" if server.pulled else server.dialect
                allowed = SAYS_IN.get(way, {}).get(orders) or SAYS.get(orders, SUCCESS)
                by_turn = says == "busy" and is_busy(server.busy_seconds, called_at)
                after_extra = bool(line.get("after_extra")) and any(
                    at <= line["at"] <= at + (CROSSING_SECONDS if says == "crossed" and not stopped else 1e9)
                    for at in extras[attempt.server]
                )
                is_missing = says == "nothing" and bool(line.get("hung_up"))
                is_lost = says == "error" and bool(line.get("forgotten")) and _may_forget(evidence, attempt, orders)
                if not (says in allowed or by_turn or after_extra or is_missing or is_lost):
                    yield f"{name}: it said {says}", attempt.task
            elif line["what"] == "report" and line["kind"] == "own":
                status = line["status"].upper()
                fails = orders == "fail" or (server.pulled and orders == "reject")  # a puller has one word for both
                if status != "PROCESSING" and (status == "FAILED") != fails:
                    yield f"{name}: it reported {status}", attempt.task


def _may_forget(evidence: Evidence, attempt: Attempt, orders: str) -> bool:
    """Return True if a server that is polled may not know a job: it was ordered so, or was killed since the call."""
    server = evidence.servers[attempt.server]
    killed = any(
        fault.kind == "kill" and fault.target in server.names(attempt.server) and fault.over_at >= attempt.began_at
        for fault in evidence.faults
    )
    return server.polled and (orders in FORGETTING_ORDERS or killed)


FORGETTING_ORDERS = frozenset({"die", "misaddressed"})
"""Of a server that is polled: in place of closing without an answer."""
SLOW_ORDERS = frozenset({"hang", "trickle", "report_late", "report_older"})
NAMELESS = frozenset({"bare", "cog", "openai"})
"""Dialects whose answers do not say whose they are: a server breaks off instead of giving that of another."""
BROKEN_ORDERS = frozenset({"die", "garbage", "lie", "huge", "bomb", "no_json"})


def failures_have_a_reason(evidence: Evidence) -> Iterator[Finding]:
    """An attempt that fails without a word of its server has a reason: the payload's orders, or a fault near it.

    The fault is one that concerns that attempt: of its server, of the way to it or back, of a worker, or of NATS. And
    faults are not everywhere: of the tasks that are to go well at once, most do.
    """
    sent = sent_of_tasks(evidence)
    yield from _most_go_well(evidence, sent)
    for attempt in attempts_of(evidence):
        over = attempt.over
        kind = over.get("kind", "shutdown" if over.get("type") == "AttemptReturned" else "")
        if over.get("type") not in ("AttemptFailed", "TaskFailed", "AttemptReturned") or kind in HEARD:
            continue
        if kind in ("expired", "deadline", "parent_failed"):
            continue  # by the submission's own times
        one = sent.get(attempt.task)
        if one is None:
            continue
        name = f"attempt {attempt.number} at {attempt.server}: {over['type']} {kind}"
        if not _is_explained(evidence, attempt, one, kind):
            yield f"{name} after {attempt.over_at - attempt.began_at:.1f} s, and nothing explains it", attempt.task
        if kind == "timeout" and attempt.over_at < attempt.deadline - EARLY_SECONDS - _wrong(evidence, attempt):
            yield f"{name} {attempt.deadline - attempt.over_at:.1f} s before its deadline", attempt.task


def _wrong(evidence: Evidence, attempt: Attempt) -> float:
    """Return by how much some clock was wrong during an attempt, at the most."""
    near = [one for one in evidence.jumps if one.begins <= attempt.over_at and attempt.began_at <= one.ends + 1]
    return max([0.0, *(abs(one.ahead) for one in near)])


def _most_go_well(evidence: Evidence, sent: Mapping[str, Sent]) -> Iterator[Finding]:
    failed = count = 0
    for attempt in attempts_of(evidence):
        one = sent.get(attempt.task)
        if one is None or attempt.number > 1 or attempt.task.partition("~")[2] in HOSTILE:
            continue
        if ordered(one.body["payload"], 1) == "ok":
            count += 1
            failed += attempt.over.get("type") in ("AttemptFailed", "TaskFailed")
    if count >= FEW and failed > MOST_FAILED * count:
        yield f"{failed} of {count} tasks that were to go well failed at first", ""


def _is_explained(evidence: Evidence, attempt: Attempt, one: Sent, kind: str) -> bool:
    payload = one.body["payload"]
    orders = ordered(payload, attempt.number)
    near = [fault for fault in evidence.all_faults if _is_near(fault, attempt)]
    targets = {fault.target for fault in near}
    server = evidence.servers.get(attempt.server)
    names = server.names(attempt.server) if server else frozenset({attempt.server})
    of_server = any(target in names or target.endswith(f">{attempt.server}") for target in targets)
    of_workers = any(target.startswith("worker") for target in targets)
    of_nats = any(target.startswith("nats") or ">nats" in target or target.isupper() for target in targets)
    of_apis = any(target.startswith(("api", "callbacks")) for target in targets)
    after_extra = any(line.get("after_extra") for line in attempt.lines)
    own = type_of(evidence, one.body)
    timeout = one.body.get("timeout") or own.get("timeout") or 0.0
    match kind:
        case "unreachable":
            is_nameless = server is not None and server.dialect in NAMELESS and orders == "misaddressed"
            return orders in BROKEN_ORDERS or is_nameless or of_server or after_extra
        case "timeout":
            is_slow = orders in SLOW_ORDERS | BROKEN_ORDERS or payload.get("seconds", 0.05) > timeout / 2
            by_report = server is not None and server.reports and (of_apis or of_nats)
            return is_slow or of_server or of_workers or of_nats or by_report or after_extra or _still_reported(attempt)
        case "worker_lost" if server is not None and server.pulled:
            is_silent = orders in SLOW_ORDERS | BROKEN_ORDERS | SILENT_ORDERS
            return is_silent or of_server or of_apis or of_workers or of_nats or _still_reported(attempt)
        case "worker_lost":
            return of_workers or of_nats
        case "shutdown":
            if server is not None and server.pulled and not attempt.calls:
                return True  # the puller's request had ended
            return any(fault.kind == "restart" and fault.target.startswith("worker") for fault in near)
        case _:
            return False


SILENT_ORDERS = frozenset({"misaddressed", "redirect"})
"""Of a puller, beside those that break an answer: it says nothing of an attempt."""


def _still_reported(attempt: Attempt) -> bool:
    """Return True if the server was heard of to the last, and had not yet ended its work: a busy machine is slow.

    Its own journal says so: reports of progress up to then, or an answer that was written at the last moment.
    """
    last = attempt.over_at - MOMENT
    if attempt.calls and attempt.calls[0]["at"] > last:
        return True  # the call itself arrived so late
    lately = any(last < line["at"] < attempt.over_at for line in attempt.lines)
    ends = [line["at"] for line in attempt.lines if line["what"] == "over" or line.get("status") != "PROCESSING"]
    return lately and all(at > last for at in ends)


def _is_near(fault: Fault, attempt: Attempt) -> bool:
    return fault.begins <= attempt.over_at + CLOCK_SECONDS and attempt.began_at <= fault.over_at + AFTER_SECONDS


ATTEMPT_CHECKS = (
    servers_receive_what_was_sent,
    tasks_run_where_they_are_served,
    outcomes_follow_calls,
    servers_do_as_ordered,
    failures_have_a_reason,
)
