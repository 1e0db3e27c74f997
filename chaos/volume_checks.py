"""The check of the evidence itself: with too little of it, the other checks pass because they see nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from .evidence import FINAL, Evidence, Expected, Finding, Line

ENDS = frozenset({"succeeded", "failed", "cancelled"})
"""Kinds of events that each webhook of a run asks for, among others."""
LEAST_GOOD = 0.2
"""Of all calls of an API. Seen in runs of 14 to 20 s: 0.41 at the least, of one that was killed twice."""
SUBMITTING = ("submit", "repeat", "batch")


def evidence_is_complete(evidence: Evidence) -> Iterator[Finding]:
    """The evidence has at least what the run's plan must leave: of clients, servers, faults, subscribers, receivers."""
    wanted = evidence.expected
    if wanted is None:
        yield "nothing says what the run was to do", ""
        return
    for one in (_of_clients, _of_the_log, _of_servers, _of_faults, _of_subscribers, _of_receivers, _of_the_rest):
        for text in one(evidence, wanted):
            yield text, ""


def _less(found: Mapping[str, int], wanted: Mapping[str, int], what: str) -> Iterator[str]:
    for name, least in wanted.items():
        if found.get(name, 0) < least:
            yield f"{found.get(name, 0)} {what} {name}, and at least {least} are expected"


def _of_clients(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    answered = [call for call in evidence.calls if call.status]
    yield from _less(Counter(call.operation for call in answered), wanted.answers, "answers to")
    good = Counter(str(call.before["api"]) for call in answered if call.status == 200)
    yield from _less(good, dict.fromkeys(wanted.apis, len(wanted.clients)), "good answers of")
    made = Counter(str(call.before["api"]) for call in evidence.calls)
    yield from _less(good, {api: round(made[api] * LEAST_GOOD) for api in wanted.apis}, "good answers of")
    numbers: dict[str, list[int]] = defaultdict(list)
    for call in evidence.calls:
        client, _, number = str(call.before["call"]).rpartition("-")
        numbers[client].append(int(number))
    for client in sorted(numbers.keys() | set(wanted.clients)):
        found = sorted(numbers[client])
        if client not in wanted.clients:
            yield f"there are calls of {client}, which is no client of the run"
        elif found != list(range(1, len(found) + 1)) or not found:
            yield f"the calls of {client} have a gap in their numbers, or there is none"
    for call in evidence.calls:
        if call.operation in SUBMITTING and not call.bodies:
            yield f"a submission was noted without its body ({call.before['call']})"
        if call.status == 200 and call.operation == "list" and "tasks" not in call.after:
            yield f"a list was noted without what it shows ({call.before['call']})"
        if call.status == 200 and call.operation == "read" and "details" not in call.after:
            yield f"a read was noted without what it shows ({call.before['call']})"


def _of_the_log(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    counts = Counter(entry.type for entry in evidence.log)
    yield from _less(counts, dict.fromkeys(("TaskSubmitted", "AttemptStarted"), wanted.tasks), "events")
    yield from _less(counts, {"TaskSucceeded": wanted.tasks // 3}, "events")
    views = {name.removeprefix("task.") for bucket in evidence.buckets if bucket.name == "tasks"
             for name in bucket.wanted if name.startswith("task.")}  # fmt: skip
    tasks = {f"{entry.subject.split('.')[1]}.{entry.subject.split('.')[2]}" for entry in evidence.log}
    if "tasks" in wanted.buckets and views != tasks:
        yield f"{len(views ^ tasks)} tasks are either in the log or in its fold, and not in both"


def _of_servers(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    calls = Counter(line["server"] for line in evidence.backends if line["what"] == "call")
    if not evidence.servers:
        yield "no server is known"
    least = dict.fromkeys(evidence.servers, wanted.server_calls) | wanted.calls_of
    yield from _less(calls, least, "calls of")
    attempts = Counter(str(entry.event["server_id"]) for entry in evidence.log if entry.type == "AttemptStarted")
    yield from _less(calls, {name: attempts[name] // 3 for name in evidence.servers}, "calls of")
    overs = Counter(line["server"] for line in evidence.backends if line["what"] in ("over", "report"))
    yield from _less(overs, {name: count // 2 for name, count in least.items()}, "answers and reports of")
    for name, server in evidence.servers.items():
        if server.reports and not any(
            line["what"] == "reported" and line["server"] == name for line in evidence.backends
        ):
            yield f"no report of {name} was answered"  # fmt: skip


def _of_faults(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    found = Counter((fault.kind, fault.target) for fault in evidence.faults)
    for (kind, target), count in Counter(wanted.faults).items():
        if found[kind, target] != count:
            yield f"{kind} of {target}: planned {count} times, and injected {found[kind, target]} times"
    for kind, target in sorted(found.keys() - set(wanted.faults)):
        yield f"{kind} of {target} was injected, and never planned"
    wrong_clocks = sum(fault.kind in ("clock", "drift") for fault in evidence.faults)
    if len(evidence.jumps) != wrong_clocks:
        yield f"{len(evidence.jumps)} clocks are said to have been wrong, and {wrong_clocks} were"
    corrupted = sum(fault.kind == "corrupt" for fault in evidence.faults)
    if len(evidence.corruptions) != corrupted:
        yield f"{len(evidence.corruptions)} links are said to have corrupted data, and {corrupted} did"
    if evidence.was_full != any(fault.kind == "disk_full" for fault in evidence.faults):
        yield "a disk is said to have been full, and none was, or the other way round"


def _of_subscribers(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    lasting = {heard.who: heard for heard in evidence.heard if heard.task is None}
    for who in wanted.subscribers:
        heard = lasting.get(who)
        if heard is None or not heard.connections or not heard.told:
            yield f"{who} never received anything"
    followed = sum(heard.ended and bool(heard.told) for heard in evidence.heard if heard.task is not None)
    yield from _less({"end": followed}, {"end": wanted.followers}, "tasks followed to their")


def _of_receivers(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    found = {(one.owner, one.who, one.mode): one for one in evidence.received}
    ends = Counter(entry.owner for entry in evidence.log if entry.type in FINAL)
    for owner, who, mode in wanted.receivers:
        received = found.get((owner, who, mode))
        if received is None or not received.kinds >= ENDS:
            yield f"{owner}'s {who} webhook is missing, or does not want the ends of tasks"
        elif ends[owner] and not received.calls:
            yield f"{owner}'s {who} webhook was never sent anything"
        elif mode != "refuses" and ends[owner] and not received.deliveries:
            yield f"{owner}'s {who} webhook lists no deliveries"


def _of_the_rest(evidence: Evidence, wanted: Expected) -> Iterator[str]:
    for when, streams, consumers, resources in zip(
        ("before", "after"), evidence.streams, evidence.consumers, evidence.resources, strict=True
    ):
        if missing := sorted(set(wanted.streams) - set(streams)):
            yield f"{when} the faults there are no streams {', '.join(missing)}"
        seen = {(one.stream, one.name) for one in consumers if one.durable}
        if absent := sorted(set(wanted.consumers) - seen):
            yield f"{when} the faults there are no consumers {absent}"
        for name in wanted.processes:
            if name not in resources or not resources[name].descriptors or not resources[name].megabytes:
                yield f"{when} the faults nothing is known of the resources of {name}"
    buckets = {bucket.name: bucket for bucket in evidence.buckets}
    for name in wanted.buckets:
        if name not in buckets or not buckets[name].wanted:
            yield f"nothing is known of the bucket {name}"
    counts = {
        "probes": len(evidence.probes),
        "recoveries": len(evidence.recoveries),
        "windows": len(evidence.windows),
        "shared limits": len(evidence.shared_limits),
    }
    least = {
        "probes": wanted.probes,
        "recoveries": wanted.recoveries,
        "windows": wanted.windows,
        "shared limits": wanted.shared_limits,
    }
    yield from _less(counts, least, "of the")
    for one in evidence.recurring:
        yield from _less({one.id: _dealt_with(one.events)}, {one.id: wanted.occurrences}, "occurrences of")
    if wanted.occurrences and not evidence.recurring:
        yield "no recurring schedule is known"


def _dealt_with(events: list[Line]) -> int:
    """Return how many occurrences a schedule has fired or skipped."""
    counts = [line["event"].get("counts") or {} for line in events]
    return max((int(each.get("fired", 0)) + int(each.get("skipped", 0)) for each in counts), default=0)


VOLUME_CHECKS = (evidence_is_complete,)
