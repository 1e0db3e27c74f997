"""Checks of a run's evidence. Pure: the same evidence gives the same violations.

Each check is a generator of violations over the evidence. Its name in CHECKS is that of the function, with dashes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from testkit.legality import IllegalHistory, check_history

from .attempt_checks import ATTEMPT_CHECKS
from .evidence import AFTER_THE_END, ATTEMPT_OVER, FINAL, Call, Evidence, Finding, Jump, growth, in_use
from .hold_checks import HOLD_CHECKS
from .outcome_checks import OUTCOME_CHECKS, said_of_attempts
from .puller_checks import PULLER_CHECKS
from .push_checks import PUSH_CHECKS
from .read_checks import READ_CHECKS
from .recovery_checks import RECOVERY_CHECKS
from .submission_checks import SUBMISSION_CHECKS
from .volume_checks import VOLUME_CHECKS

CLOCK_SECONDS = 0.05
"""Times of one machine's processes are compared; a process reads its clock a moment before it acts."""
LEEWAY_SECONDS = 10.0
"""How much an API forgives in the times of a token, by default."""
FORGETTING_SECONDS = 60.0
"""Longest that an unused consumer may live."""
READERS = 4
"""Two APIs and two workers read a stream once each, if at all: whether a worker does depends on what leases it has."""
MORE_DESCRIPTORS = 20
"""Seen after quiet in 17 runs of 14 to 20 s: 10 more than when warm, at the most."""
MORE_MEGABYTES = 32.0
"""Seen in 40 runs: 27 MB more than when warm, at the most. For 40 s of load the caches of events, views and the index
fill; in an hour at 200 tasks a second nothing more was added."""


class Violation(Struct, frozen=True):
    """A promise that was not kept."""

    check: str
    what: str
    task: str = ""


Check: TypeAlias = Callable[[Evidence], Iterator[Finding]]


def check(evidence: Evidence) -> list[Violation]:
    """Return all that is wrong."""
    return [Violation(name, what, task) for name, one in CHECKS.items() for what, task in one(evidence)]


# Submissions


def acknowledged_is_kept(evidence: Evidence) -> Iterator[Finding]:
    """An acknowledged submit is in the log, under the id that was answered, with the payload that was sent."""
    marks = _marks(evidence)
    for call in evidence.calls:
        if call.operation in ("submit", "repeat") and call.status == 200:
            task = str(call.after["task_id"])
            if task not in marks:
                yield f"acknowledged, and not in the log: {call.before['mark']}", task
            elif marks[task] != call.before["mark"]:
                yield f"acknowledged for {call.before['mark']}, and holds {marks[task]}", task


def nothing_is_doubled(evidence: Evidence) -> Iterator[Finding]:
    """One submission, or one key, gives one task at most; no task exists that was not submitted."""
    tasks: dict[str, list[str]] = defaultdict(list)
    for task, mark in _marks(evidence, of_schedules=False).items():
        tasks[mark].append(task)
    sent = {body["payload"]["mark"] for call in evidence.calls for body in call.bodies}
    for mark, found in tasks.items():
        if len(found) > 1:
            yield f"submitted once, and there {len(found)} times: {mark}: {', '.join(found)}", found[0]
        if mark not in sent:
            yield f"in the log, and submitted by nobody: {mark}", found[0]


def keys_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """A key always stands for the same task; with another body it is refused."""
    answered: dict[tuple[str, str], set[str]] = defaultdict(set)
    for call in evidence.calls:
        key = call.before.get("key")
        if key is None or call.status != 200:
            continue
        if call.operation == "conflict":
            yield f"a key was accepted for another body: {key}", str(call.task)
        else:
            answered[call.before["tenant"], key].add(str(call.task))
    for (_, key), tasks in answered.items():
        if len(tasks) > 1:
            yield f"one key, several tasks: {key}: {', '.join(sorted(tasks))}", min(tasks)


def acknowledged_changes_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """An acknowledged cancel or retry is in the task's history."""
    histories = evidence.histories()
    wanted: Counter[tuple[str, str]] = Counter()
    for call in evidence.calls:
        if call.operation in ("cancel", "retry") and call.status == 200:
            wanted[call.operation, str(call.task)] += 1
    for (operation, task), count in wanted.items():
        events = [entry["event"] for entry in histories.get(task, [])]
        if operation == "cancel":
            found = sum(event["type"] == "TaskCancelled" for event in events)
            least = 1  # a second cancel finds it so
        else:
            found = sum(event["type"] in ("TaskQueued", "TaskHeld") and bool(event.get("renewed")) for event in events)
            least = count
        if found < least:
            yield f"{operation} acknowledged {count} times, and recorded {found} times", task


# Histories


def histories_are_legal(evidence: Evidence) -> Iterator[Finding]:
    """Every history is one that allowed steps lead to: attempts without a gap and within their limit, one end."""
    for task, history in evidence.histories().items():
        try:
            check_history(history, ended=False)
        except IllegalHistory as error:
            yield str(error).splitlines()[0], task


def log_is_contiguous(evidence: Evidence) -> Iterator[Finding]:
    """The log has every sequence from 1 to its end, once."""
    expected = 1
    for entry in evidence.log:
        while expected in evidence.turns:
            expected += 1
        if entry.sequence != expected:
            yield f"after sequence {expected - 1} of the log comes {entry.sequence}", entry.task
        expected = entry.sequence + 1


def everything_ends(evidence: Evidence) -> Iterator[Finding]:
    """After healing every task ends. One that has not, and that nothing will ever move, is an orphan."""
    for task, history in evidence.histories().items():
        last = next(entry["event"] for entry in reversed(history) if entry["event"]["type"] not in AFTER_THE_END)
        if last["type"] in FINAL:
            continue
        held = [name for name, tasks in (("queue", evidence.queued), ("timers", evidence.timed)) if task in tasks]
        if last["type"] == "TaskHeld" or last.get("held"):
            yield f"not ended, last {last['type']}: the scheduler holds it", task
            continue
        running = last["type"] in ("AttemptStarted", "AttemptAccepted", "ProgressReported")
        state = f"it is in the {' and the '.join(held)}" if held else "an attempt runs" if running else "an ORPHAN"
        yield f"not ended, last {last['type']}: {state}", task


# Attempts


def calls_were_started(evidence: Evidence) -> Iterator[Finding]:
    """Every call of a backend has its AttemptStarted before it, for that server, and no attempt is called twice."""
    started: dict[tuple[str, int], dict[str, Any]] = {}
    for task, history in evidence.histories().items():
        for entry in history:
            if entry["event"]["type"] == "AttemptStarted":
                started[task, entry["event"]["attempt"]] = entry
    called: Counter[tuple[str, int]] = Counter()
    for line in evidence.backends:
        if line["what"] != "call":
            continue
        place = (line["task"], line["attempt"])
        called[place] += 1
        start = started.get(place)
        if start is None:
            yield f"{line['server']} was called for attempt {place[1]}, which was never started", place[0]
        elif start["event"]["server_id"] != line["server"]:
            yield f"attempt {place[1]} is {start['event']['server_id']}'s, and {line['server']} was called", place[0]
        elif start["stored_at"] > line["at"] + CLOCK_SECONDS:
            yield f"attempt {place[1]} was called before it was started", place[0]
        if called[place] == 2:
            yield f"attempt {place[1]} was called more than once", place[0]


def results_are_the_tasks_own(evidence: Evidence) -> Iterator[Finding]:
    """The result a task ended with is what its own attempt's server made of its own payload.

    One exception: see `outcomes_match_reports`.
    """
    marks, said = _marks(evidence), said_of_attempts(evidence)
    for task, history in evidence.histories().items():
        for event in (entry["event"] for entry in history):
            if event["type"] != "TaskSucceeded":
                continue
            data = (event["result"].get("inline") or {}).get("data")
            if (server := evidence.servers.get(event["server_id"])) is not None:
                data = server.made(data)
            wanted = {"mark": marks.get(task), "attempt": event["attempt"], "server": event["server_id"]}
            if data != wanted and "crossed" not in said[task, event["attempt"], event["server_id"]]:
                yield f"ended with {data}, and should with {wanted}", task


def forged_reports_are_refused(evidence: Evidence) -> Iterator[Finding]:
    """A report with a forged token or one of another task is a 401, one of an attempt that is over a 409."""
    for line in evidence.backends:
        if line["what"] != "reported" or not 200 <= line["answered"] < 300:
            continue
        if line["kind"] in ("forged", "foreign"):
            yield f"a report with a {line['kind']} token was accepted ({line['answered']})", line["task"]
        elif line["kind"] == "older":
            yield f"a report of an older attempt was accepted ({line['answered']})", line["task"]


def limits_are_kept(evidence: Evidence) -> Iterator[Finding]:
    """No server has more attempts at once than its limit.

    Counted are calls a server has taken and not answered (or accepted and not reported the end of), as long as the log
    says that the attempt runs. One that the log has given up is not: a worker that was stopped for longer than its
    lease leaves its calls open while another takes its servers over.
    """
    for server, limit in ((name, one.limit) for name, one in evidence.servers.items()):
        changes: list[tuple[float, int, str]] = []
        for task, begins, ends in _running(evidence, server):
            if ends > begins:
                changes += [(begins, 1, task), (ends, -1, task)]
        running = 0
        for at, change, task in sorted(changes, key=lambda each: (each[0], each[1])):
            running += change
            if running > limit and change > 0:
                yield f"{server} had {running} attempts at once, its limit is {limit}, at {at:.3f}", task


def _running(evidence: Evidence, server: str) -> Iterator[tuple[str, float, float]]:
    """Yield task, beginning and end of what ran on a server."""
    over_in_log: dict[tuple[str, int], float] = {}
    accepted: set[tuple[str, int]] = set()
    for task, history in evidence.histories().items():
        attempt = 0
        for entry in history:
            event = entry["event"]
            if event["type"] == "AttemptStarted":
                attempt = event["attempt"]
            elif event["type"] in ATTEMPT_OVER:
                over_in_log.setdefault((task, attempt), entry["stored_at"])
            elif event["type"] == "AttemptAccepted":
                accepted.add((task, attempt))
    answered: dict[tuple[str, int], float] = {}
    for line in evidence.backends:
        place = (line["task"], line["attempt"])
        is_answer = line["what"] == "over" and place not in accepted
        is_report = line["what"] == "report" and line["kind"] in ("own", "late") and line["status"] != "PROCESSING"
        if line["server"] == server and (is_answer or is_report):
            answered.setdefault(place, line["at"])
    for line in evidence.backends:
        if line["what"] == "call" and line["server"] == server:
            place = (line["task"], line["attempt"])
            begins: float = line["at"]
            ends = over_in_log.get(place, begins)
            ends = min(ends, answered.get(place, ends))
            yield line["task"], begins, ends


# Reads


def tenants_are_apart(evidence: Evidence) -> Iterator[Finding]:
    """No tenant sees another tenant's data; except what a server has sent unasked across the call of that very task."""
    crossed = {task for (task, _, _), said in said_of_attempts(evidence).items() if "crossed" in said}
    for call in evidence.calls:
        tenant = call.before["tenant"]
        foreign = [mark for mark in call.after.get("marks", []) if not mark.startswith(f"mk-{tenant}-")]
        if foreign and call.task not in crossed:
            yield f"{tenant} was shown {', '.join(foreign[:3])} ({call.before['call']})", str(call.task or "")
        elif call.operation in ("pry", "usurp") and call.status == 200:
            verb = "read" if call.operation == "pry" else "report on"
            yield f"{tenant} could {verb} another tenant's task ({call.before['call']})", str(call.task)


def writes_are_read(evidence: Evidence) -> Iterator[Finding]:
    """After an answer that a task exists, or has ended, no later answer says otherwise."""
    ended: dict[str, float] = {}
    renewed: set[str] = set()
    there: dict[str, float] = {}
    for call in evidence.calls:
        if call.operation == "retry" and call.task:
            renewed.add(call.task)  # also one without an answer may have been done
        if call.status == 200 and call.operation in ("submit", "repeat", "read", "cancel"):
            task = str(call.task)
            there.setdefault(task, call.after["at"])
            if call.after.get("shows") in ("FINISHED", "FAILED", "CANCELLED"):
                ended.setdefault(task, call.after["at"])
    for call in evidence.calls:
        task = str(call.task)
        begun = call.before["at"]
        if call.operation == "read" and call.status == 404 and there.get(task, begun) < begun:
            yield f"a task that was there is not found ({call.before['call']})", task
        if call.operation == "read" and call.status == 200 and task not in renewed:
            shows = call.after.get("shows")
            if shows in ("WAITING", "PROCESSING") and ended.get(task, begun) < begun:
                yield f"a task that had ended is shown as {shows} ({call.before['call']})", task


def answers_are_understood(evidence: Evidence) -> Iterator[Finding]:
    """No answer is an error of ours: where something is away it is a 503 that says when to ask again.

    A good token is refused only by an API whose clock is so wrong that it must take it for one of another time; a task
    that is to start or end by some instant only where that has passed, and never when it is submitted again.
    """
    allowed = {
        "submit": {200, 503},
        "repeat": {200, 503},
        "conflict": {422, 503},
        "cancel": {200, 409, 503},
        "retry": {200, 409, 503},
        "read": {200, 404, 503},
        "list": {200, 503},
        "pry": {200, 404, 503},
        "claim": {200, 409, 503},
        "usurp": {200, 403, 404, 503},
        "odd": {400, 404, 414, 503},
        "batch": {200, 503},
        "schedule": {200, 503},
    }
    known: set[tuple[str, str]] = set()
    for call in evidence.calls:
        key = (call.before["tenant"], str(call.before.get("key")))
        if call.status == 200 and call.before.get("key"):
            known.add(key)
        if call.status == 401 and _is_of_another_time(call, evidence.jumps):
            continue
        if call.status == 400 and key not in known and _is_too_late(call, evidence.jumps):
            continue
        if call.status and call.status not in allowed.get(call.operation, {200}):
            said = call.after.get("said", "")
            yield f"{call.operation} was answered {call.status}: {said} ({call.before['call']})", str(call.task or "")
        elif call.status == 503 and not str(call.after.get("retry_after") or "").isdigit():
            yield f"{call.operation} was answered 503 without Retry-After ({call.before['call']})", str(call.task or "")


def _is_of_another_time(call: Call, jumps: Sequence[Jump]) -> bool:
    """Return True if a clock that the API may have had during a call puts its token into the future or the past."""
    begins, ends = call.before["at"], call.after["at"]
    wrong = _wrong(call, jumps)
    token = call.before["token"]
    earliest, latest = begins + min([0.0, *wrong]), ends + max([0.0, *wrong])
    return token["issued_at"] > earliest + LEEWAY_SECONDS or token["expires_at"] + LEEWAY_SECONDS <= latest


def _is_too_late(call: Call, jumps: Sequence[Jump]) -> bool:
    """Return True if by a clock that the API may have had during a call the task's last instant has passed."""
    return bool(call.before.get("last_at", 1e99) <= call.after["at"] + max([0.0, *_wrong(call, jumps)]))


def _wrong(call: Call, jumps: Sequence[Jump]) -> list[float]:
    """Return how wrong the clock of a call's API was during it, each time that it was."""
    begins, ends = call.before["at"], call.after["at"]
    return [
        jump.ahead
        for jump in jumps
        if jump.process == call.before["api"] and jump.begins <= ends and begins <= jump.ends
    ]


# What is left


def projections_equal_the_fold(evidence: Evidence) -> Iterator[Finding]:
    """Each bucket, and the index of each API, holds what the fold of the log gives, byte for byte."""
    for bucket in evidence.buckets:
        for key in sorted(bucket.wanted.keys() | bucket.found.keys()):
            found, wanted = bucket.found.get(key), bucket.wanted.get(key)
            if found != wanted:
                yield f"{bucket.name} has at {key}: {found!r}, the log says: {wanted!r}", _task_of_key(key)


def _task_of_key(key: str) -> str:
    """Return the task a key of the bucket `tasks` is about, as far as it is about one."""
    *_, owner, unique = ("", "", *key.split("."))
    return f"{unique}~{owner}" if key.startswith(("task.", "row.", "active.")) else ""


def dispatch_is_live(evidence: Evidence) -> Iterator[Finding]:
    """After healing every API is ready, and what is submitted is done, in time."""
    for probe in evidence.probes:
        if probe.seconds is None or probe.seconds > evidence.live_within_seconds:
            took = "waited in vain" if probe.seconds is None else f"waited {probe.seconds:.1f} s"
            yield f"after healing, for {probe.what}: {took}", ""


def nothing_is_left_over(evidence: Evidence) -> Iterator[Finding]:
    """Streams and consumers are those there were; what a dead process left behind expires."""
    before, after = evidence.streams
    if before != after:
        yield f"streams were {before}, and are {after}", ""
    known, found = evidence.consumers
    lost = {(one.stream, one.name) for one in known if one.durable} - {(one.stream, one.name) for one in found}
    for stream, name in sorted(lost):
        yield f"the consumer {name} of {stream} is gone", ""
    for one in found:
        if not one.durable and not 0 < one.forgotten_after_seconds <= FORGETTING_SECONDS:
            yield f"the consumer {one.name} of {one.stream} would stay for ever", ""
    now, once = in_use(found), in_use(known)
    for stream in now:
        if now[stream] > max(once[stream], READERS):
            yield f"{now[stream]} consumers of {stream} are in use, before there were {once[stream]}", ""


def resources_are_given_back(evidence: Evidence) -> Iterator[Finding]:
    """After quiet every process is back at what it had when it was warm, but for a measured margin."""
    for name, more in sorted(growth(evidence).items()):
        if more.descriptors > MORE_DESCRIPTORS:
            yield f"{name} has {more.descriptors} descriptors more than when it was warm", ""
        if more.megabytes > MORE_MEGABYTES:
            yield f"{name} has {more.megabytes:.0f} MB more than when it was warm", ""


def nobody_died(evidence: Evidence) -> Iterator[Finding]:
    """No process ends unexpectedly, and no part of one by an exception that nobody foresaw."""
    for text in (*evidence.exits, *evidence.crashes):
        yield text, ""


def _marks(evidence: Evidence, *, of_schedules: bool = True) -> dict[str, str]:
    """Return the mark of each submitted task, by task id; all tasks of a schedule have the same one."""
    return {
        entry.task: entry.event["payload"]["mark"]
        for entry in evidence.log
        if entry.type == "TaskSubmitted" and (of_schedules or not entry.event.get("schedule"))
    }


CHECKS: dict[str, Check] = {
    check.__name__.replace("_", "-"): check
    for check in (
        acknowledged_is_kept,
        nothing_is_doubled,
        keys_are_kept,
        acknowledged_changes_are_kept,
        histories_are_legal,
        log_is_contiguous,
        everything_ends,
        calls_were_started,
        results_are_the_tasks_own,
        forged_reports_are_refused,
        limits_are_kept,
        *SUBMISSION_CHECKS,
        *ATTEMPT_CHECKS,
        *OUTCOME_CHECKS,
        *PULLER_CHECKS,
        *HOLD_CHECKS,
        tenants_are_apart,
        writes_are_read,
        answers_are_understood,
        *READ_CHECKS,
        *PUSH_CHECKS,
        projections_equal_the_fold,
        dispatch_is_live,
        *RECOVERY_CHECKS,
        nothing_is_left_over,
        resources_are_given_back,
        nobody_died,
        *VOLUME_CHECKS,
    )
}
