"""Checks of who brings an outcome about: the server of the attempt alone, and no owner that of another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median

from .evidence import Evidence, Finding

CLOCK_SECONDS = 0.05
"""A process reads its clock a moment before it acts."""
LARGEST_FALL = 2
"""Factor by which an owner's starts may differ from one window to another of the same length."""
OWN_REPORTS = frozenset({"own", "late", "older"})
"""Kinds of reports of a backend with the token of their attempt."""
INVALID = frozenset({400, 413, 422})
FAILED_AS: dict[str, set[str]] = {
    "failed": {"FAILED"},
    "rejected": {"rejected"},
    "error": {"error"},
    "bad_answer": {"nothing"},
    "busy": set(),  # a busy server fails no attempt, and no run takes the hour after which a task fails
}
"""By kind of a failure: what the server said."""
SAID_BEFORE: dict[tuple[str, str], set[str]] = {
    ("TaskSucceeded", ""): {"FINISHED"},
    **{(event, kind): said for event in ("TaskFailed", "AttemptFailed") for kind, said in FAILED_AS.items()},
    ("AttemptReturned", "busy"): {"busy"},
    ("AttemptReturned", "unsent"): {"never called"},
}
"""By an event and its kind: what the server of the attempt said, one of these. Others say nothing of the server."""


# Servers


def workers_alone_occupy_servers(evidence: Evidence) -> Iterator[Finding]:
    """No attempt occupies a server unless a worker started it: nobody takes a server's slots by a report."""
    for entry in evidence.log:
        by = entry.recorded["by"]
        if entry.type == "AttemptStarted" and entry.event["server_id"] and by["kind"] != "worker":
            yield f"{by['kind']} {by['id']} started an attempt on {entry.event['server_id']}", entry.task


def outcomes_match_reports(evidence: Evidence) -> Iterator[Finding]:
    """No task ends, and no attempt fails or is returned, as anything else than its own server said of that attempt.

    An outcome of an attempt that heard nothing from its server (unreachable, timeout, worker_lost) says nothing of what
    the server did. Where a link corrupted data a failure may have any kind; where an answer that nobody asked for
    crossed the call on its way, nobody could know that it is none.
    """
    said = said_of_attempts(evidence)
    for task, history in evidence.histories().items():
        began_at = 0.0
        for entry in history:
            event = entry["event"]
            outcome = (event["type"], event.get("kind", ""))
            if event["type"] == "AttemptStarted":
                began_at = entry["stored_at"]
            if (allowed := SAID_BEFORE.get(outcome)) is None:
                continue
            found = said.get((task, event["attempt"], event["server_id"]), {"never called"})
            if "crossed" in found:
                continue
            link = f"workers>{event['server_id']}"
            is_failure = event["type"] != "TaskSucceeded"
            if outcome == ("AttemptReturned", "busy") and _is_pulled(evidence, event["server_id"]):
                allowed = allowed | {"never called"}  # its puller hung up before it got the attempt
            if not allowed & found and not (is_failure and _corrupts(evidence, link, began_at, entry["stored_at"])):
                words = " and ".join(sorted(found))
                yield f"attempt {event['attempt']}: {' '.join(outcome)}, and its server's answer: {words}", task
    yield from _refused_reports(evidence)


def _is_pulled(evidence: Evidence, server: str) -> bool:
    return server in evidence.servers and evidence.servers[server].pulled


def said_of_attempts(evidence: Evidence) -> dict[tuple[str, int, str], set[str]]:
    """Return all that a server said of each attempt it was called for, by task, attempt and server."""
    said: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for line in evidence.backends:
        place = (line["task"], line["attempt"], line["server"])
        if line["what"] == "call":
            said[place] |= set()
        elif line["what"] == "over":
            said[place].add(line["says"])
        elif line["what"] == "report" and line["kind"] in OWN_REPORTS and line["status"] != "PROCESSING":
            said[place].add(line["status"].upper())
    return said


def _refused_reports(evidence: Evidence) -> Iterator[Finding]:
    """Yield each final report of a server on its own attempt that was refused as invalid, though no link spoilt it."""
    sent: dict[tuple[str, int], float] = {}
    for line in evidence.backends:
        if line["what"] not in ("report", "reported") or line["kind"] not in OWN_REPORTS:
            continue
        place, status, at = (line["task"], line["attempt"]), line["status"], line["at"]
        if status == "PROCESSING":
            continue
        began_at = sent.setdefault(place, at)
        is_refused = line["what"] == "reported" and line["answered"] in INVALID
        way = f"{line['puller']}>" if "puller" in line else "callbacks>"
        if is_refused and not _corrupts(evidence, way, began_at, at):
            yield f"attempt {line['attempt']}: its server's report {status} was answered {line['answered']}", place[0]


def _corrupts(evidence: Evidence, link: str, since: float, until: float) -> bool:
    """Return True if a link whose name begins so corrupted data within a stretch."""
    return any(
        one.link.startswith(link) and one.begins <= until and since <= one.ends + CLOCK_SECONDS
        for one in evidence.corruptions
    )


def cancellations_are_as_reported(evidence: Evidence) -> Iterator[Finding]:
    """A cancellation is confirmed only after the server has noted the end of its work, or if it had no call."""
    over: dict[tuple[str, int, str], float] = {}
    called: dict[tuple[str, int, str], float] = {}
    for line in evidence.backends:
        place = (line["task"], line["attempt"], line["server"])
        if line["what"] in ("over", "report") and line.get("status") != "PROCESSING":
            over.setdefault(place, line["at"])
        elif line["what"] == "call":
            called.setdefault(place, line["at"])
    for entry in evidence.log:
        event = entry.event
        if entry.type != "CancelReported" or event["outcome"] != "confirmed":
            continue
        place = (entry.task, event["attempt"], event["server_id"])
        if called.get(place, 1e99) > entry.stored_at + CLOCK_SECONDS or _was_killed(evidence, place[2], called[place]):
            continue
        if over.get(place, 1e99) > entry.stored_at + CLOCK_SECONDS:
            yield f"attempt {place[1]} is said to have stopped ({event['detail']}), and {place[2]} went on", entry.task


def _was_killed(evidence: Evidence, server: str, since: float) -> bool:
    """Return True if a server was killed after some time, which ended its work without a note."""
    known = evidence.servers.get(server)
    names = known.names(server) if known else frozenset({server})
    return any(fault.kind == "kill" and fault.target in names and fault.over_at >= since for fault in evidence.faults)


# Owners


def others_keep_their_throughput(evidence: Evidence) -> Iterator[Finding]:
    """While hostile owners act, as many tasks of each other owner start as without them, within a factor of two.

    Counted are tasks that start in each window, at the median of the windows.
    """
    starts = [
        Counter(
            entry.owner
            for entry in evidence.log
            if entry.type == "AttemptStarted" and entry.event["attempt"] == 1 and window.has(entry)
        )
        for window in evidence.windows
    ]
    for owner in sorted({owner for counts in starts for owner in counts} - evidence.hostile):
        by_window = [(window.hostile, counts[owner]) for counts, window in zip(starts, evidence.windows, strict=True)]
        beside = median(count for hostile, count in by_window if hostile)
        alone = median(count for hostile, count in by_window if not hostile)
        if beside * LARGEST_FALL < alone:
            yield f"{owner} had {beside:g} tasks started beside hostile owners, and {alone:g} without them", ""
    for window in evidence.windows:
        if not window.recovered:
            yield f"tasks still waited long after the window that ended at {window.ends:.1f}", ""


OUTCOME_CHECKS = (
    workers_alone_occupy_servers,
    outcomes_match_reports,
    cancellations_are_as_reported,
    others_keep_their_throughput,
)
