"""The checker finds each kind of broken promise in a history that was doctored to break it, none in a good one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from chaos.checker import check
from chaos.evidence import (
    Bucket,
    ConsumerSeen,
    Corrupted,
    Entry,
    Evidence,
    Expected,
    Fault,
    Heard,
    Jump,
    Probe,
    Received,
    Resources,
    Server,
    Told,
    Window,
    corruptions,
    jumps,
    pair,
)

START = 1_800_000_000.0
ONE, TWO = "0" * 26 + "~alice", "1" * 26 + "~alice"
TIMEOUT_SECONDS = 3
MARKS = {ONE: "mk-alice-0-0", TWO: "mk-alice-0-1"}
PAYLOADS = {ONE: {"mark": MARKS[ONE], "do": ["ok"]}, TWO: {"mark": MARKS[TWO], "do": ["error", "ok"]}}
BODY = {"attempts": 2, "timeout": TIMEOUT_SECONDS}
BY = {"TaskQueued": "system", "ProgressReported": "worker"}
EXPECTED = Expected(
    clients=("alice-0", "bob-0"),
    apis=("api-1",),
    answers={"submit": 2, "read": 1},
    tasks=2,
    server_calls=2,
    faults=(("kill", "api-1"),),
    receivers=(("alice", "steady", ""), ("alice", "silent", "hangs")),
    consumers=(("TIMERS", "due-timers"),),
    streams=("TASKS",),
    buckets=("tasks",),
    processes=("api-1",),
    probes=1,
)
TOKEN = {"issued_at": int(START) - 5, "expires_at": int(START) + 3600}
SUBJECTS = {
    "TaskSubmitted": "submitted.default.normal",
    "TaskQueued": "queued.default.normal",
    "AttemptStarted": "started.one",
    "AttemptAccepted": "attempt_accepted.one",
    "ProgressReported": "progressed",
    "AttemptFailed": "attempt_failed.one",
    "AttemptReturned": "attempt_returned.one",
    "TaskSucceeded": "succeeded.one",
    "TaskFailed": "failed.one",
    "TaskCancelled": "cancelled.one",
    "CancelReported": "cancel_reported.one",
}


def submission(payload: dict[str, Any], owner: str = "alice", attempts: int = 2) -> dict[str, Any]:
    """Return the fields of a TaskSubmitted."""
    return {
        "owner": owner,
        "task_type": "default",
        "pool": "default",
        "priority": "normal",
        "payload": payload,
        "policy": {"attempts": attempts, "timeout": f"PT{TIMEOUT_SECONDS}S"},
    }


def shown(task: str, status: str, **more: Any) -> dict[str, Any]:
    """Return a task as an answer shows it."""
    owner = task.partition("~")[2]
    details = {"id": task, "status": status, "type": "default", "priority": "normal", "owner": owner, "attempts": 2}
    return details | {"request": PAYLOADS.get(task), "result": None, "failureKind": None} | more


def instant(seconds: float) -> str:
    return datetime.fromtimestamp(START + seconds, UTC).isoformat()


class Story:
    """Evidence in the making: a log, calls of clients and lines of backends, at seconds from the start."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.calls: list[dict[str, Any]] = []
        self.backends: list[dict[str, Any]] = []

    def event(self, task: str, at: float, name: str, /, **fields: Any) -> None:
        unique, owner = task.split("~")
        is_users = name in ("TaskSubmitted", "TaskCancelled") or fields.get("renewed")
        by = {"kind": "user", "id": owner} if is_users else {"kind": BY.get(name, "worker"), "id": "x"}
        if name == "AttemptStarted":
            fields = {"deadline": instant(at + TIMEOUT_SECONDS), "worker_id": "x"} | fields
        recorded = {"id": "x", "at": instant(at), "by": by, "event": {"type": name, **fields}}
        if fields.get("renewed"):
            self.call(at - 0.005, "retry", 200, tenant=owner, task=task, said={"task_id": task})
        subject = f"task.{owner}.{unique}.{SUBJECTS[name]}"
        self.log.append(Entry(len(self.log) + 1, subject, recorded, START + at))

    def call(
        self, at: float, operation: str, status: int, *, tenant: str = "alice", said: Any = None, **facts: Any
    ) -> None:
        number = 1 + sum(each["phase"] == "before" and each["tenant"] == tenant for each in self.calls)
        call = f"{tenant}-0-{number}"
        before = {"at": START + at, "phase": "before", "call": call, "tenant": tenant, "operation": operation}
        self.calls.append(before | {"api": "api-1", "token": TOKEN} | facts)
        if status >= 0:
            self.calls.append(
                {"at": START + at + 0.01, "phase": "after", "call": call, "status": status, **(said or {})}
            )

    def backend(self, at: float, what: str, task: str, attempt: int = 1, server: str = "one", **facts: Any) -> None:
        if what == "call":
            received = {"payload": PAYLOADS[task], "type": "default", "reports": False, "parents": {}, "results": {}}
            facts = received | {"deadline": START + at - 0.01 + TIMEOUT_SECONDS} | facts
        self.backends.append(
            {"at": START + at, "what": what, "server": server, "task": task, "attempt": attempt, **facts}
        )

    def submitted(self, task: str, at: float, key: str | None = None) -> None:
        mark, payload = MARKS[task], PAYLOADS[task]
        self.event(task, at, "TaskSubmitted", **submission(payload))
        said = {"task_id": task, "marks": [mark], "shows": "WAITING"}
        self.call(at, "submit", 200, said=said, key=key, mark=mark, body=BODY | {"payload": payload})

    def started(self, task: str, at: float, attempt: int = 1) -> None:
        self.event(task, at, "AttemptStarted", attempt=attempt, server_id="one")
        self.backend(at + 0.01, "call", task, attempt)

    def succeeded(self, task: str, at: float, attempt: int = 1) -> None:
        self.backend(at - 0.01, "over", task, attempt, says="FINISHED")
        data = {"mark": MARKS[task], "attempt": attempt, "server": "one"}
        result = {"inline": {"data": data}}
        self.event(task, at, "TaskSucceeded", attempt=attempt, server_id="one", result=result)

    def evidence(self) -> Evidence:
        return Evidence(
            calls=pair(self.calls),
            log=self.log,
            backends=sorted(self.backends, key=lambda line: line["at"]),
            buckets=[self.bucket()],
            probes=[Probe("a task", 0.5)],
            servers={"one": Server(limit=1)},
            types={"default": {"pool": "default"}},
            expected=EXPECTED,
            streams=(["TASKS"], ["TASKS"]),
            consumers=([ConsumerSeen("TIMERS", "due-timers", True, 1, 0)],) * 2,
            resources=({"api-1": Resources(20, 80.0)}, {"api-1": Resources(22, 85.0)}),
            faults=[Fault("kill", "api-1", START + 9.9, START + 10.1)],
            heard=[self.heard("all"), self.heard("one", ONE), self.heard("live", live=True)],
            received=[self.received("steady"), self.received("flaky"), self.received("silent", "hangs")],
        )

    def bucket(self) -> Bucket:
        views = {".".join(["task", *entry.subject.split(".")[1:3]]): b"1" for entry in self.log}
        return Bucket("tasks", views, dict(views))

    def heard(self, who: str, task: str | None = None, *, live: bool = False) -> Heard:
        """Return what a subscriber is told: all of it, and (live) progress before the log has it."""
        wanted = [entry for entry in self.log if task in (None, entry.task)]
        told = []
        for entry in wanted:
            is_live = live and entry.kind == "progressed"
            told.append(
                Told("" if is_live else str(entry.sequence), pushed(entry, None if is_live else entry.sequence))
            )
        last = wanted[-1].sequence
        wanted_until = None if task else last
        return Heard(
            who=who,
            owner="alice",
            task=task,
            after=0,
            until=last,
            wanted=wanted_until,
            ended=task is not None,
            told=told,
        )

    def received(self, who: str, mode: str = "") -> Received:
        """Return what a webhook's receiver is sent."""
        kinds = frozenset({"submitted", "succeeded", "failed", "cancelled"})
        sent = [entry for entry in self.log if entry.kind in kinds]
        status = "waiting" if mode else "delivered"
        return Received(
            who=who,
            owner="alice",
            kinds=kinds,
            mode=mode,
            calls=[
                {
                    "at": entry.stored_at,
                    "id": f"msg_{entry.sequence}",
                    "path": f"/{who}",
                    "mode": mode or "takes",
                    "signed": True,
                    "message": {"type": f"task.{entry.kind}", "data": pushed(entry, entry.sequence)},
                    "answered": 0 if mode else 204,
                }
                for entry in sent
            ],
            deliveries=[
                {"messageId": f"msg_{entry.sequence}", "sequence": entry.sequence, "status": status} for entry in sent
            ],
        )


def pushed(entry: Entry, sequence: int | None) -> dict[str, Any]:
    """Return an event as it is pushed."""
    event = dict(entry.recorded["event"])
    return {"type": event["type"], "taskId": entry.task, "sequence": sequence, "event": event}


def good() -> Story:
    """A task that went well at once, and one at the second try, one after the other on a server that takes one."""
    story = Story()
    story.submitted(ONE, 0, key="k")
    story.started(ONE, 1)
    story.succeeded(ONE, 2)
    story.submitted(TWO, 2.5)
    story.started(TWO, 3)
    story.event(TWO, 4, "AttemptFailed", attempt=1, server_id="one", kind="error", retry_at=instant(4.5))
    story.backend(3.9, "over", TWO, says="error")
    story.started(TWO, 5, attempt=2)
    story.event(TWO, 5.5, "ProgressReported", attempt=2, output="one/2/1;one/2/2;")
    story.succeeded(TWO, 6, attempt=2)
    data = {"mark": MARKS[ONE], "attempt": 1, "server": "one"}
    details = shown(ONE, "FINISHED", result={"data": data})
    said = {"task_id": ONE, "marks": [MARKS[ONE]], "shows": "FINISHED", "details": details}
    story.call(7, "read", 200, task=ONE, said=said)
    body = BODY | {"payload": PAYLOADS[ONE]}
    said = {"task_id": ONE, "marks": [MARKS[ONE]]}
    story.call(8, "repeat", 200, key="k", mark=MARKS[ONE], body=body, said=said)
    story.call(9, "pry", 404, tenant="bob", task=ONE, said={"marks": []})
    lost = BODY | {"payload": {"mark": "mk-alice-0-9", "do": ["ok"]}}
    story.call(10, "submit", -1, key=None, mark="mk-alice-0-9", body=lost)  # never answered: its API was killed
    return story


def names_of(evidence: Evidence) -> set[str]:
    """Return the checks that find something."""
    return {violation.check for violation in check(evidence)}


def test_nothing_is_found_in_a_good_history() -> None:
    assert check(good().evidence()) == []


def without(events: Callable[[Entry], bool]) -> Callable[[Evidence], None]:
    """Return a doctoring that takes events out of the log."""

    def doctor(evidence: Evidence) -> None:
        evidence.log = [entry for entry in evidence.log if not events(entry)]

    return doctor


def story(*steps: tuple[str, tuple[Any, ...], dict[str, Any]]) -> Callable[[], Evidence]:
    """Return a making of evidence in which further things happened."""

    def make() -> Evidence:
        made = good()
        for name, arguments, fields in steps:
            getattr(made, name)(*arguments, **fields)
        return made.evidence()

    return make


def step(name: str, *arguments: Any, **fields: Any) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    return name, arguments, fields


def called(*arguments: Any, **fields: Any) -> Callable[[], Evidence]:
    """Return a making of evidence in which a client made one more call."""
    return story(step("call", *arguments, **fields))


def about(task: str, **more: Any) -> dict[str, Any]:
    return {"task_id": task, "marks": [], **more}


def another_task(mark: str) -> Callable[[], Evidence]:
    fields = submission({"mark": mark, "do": ["ok"]})
    return story(step("event", "2" * 26 + "~alice", 20, "TaskSubmitted", **fields))


def doctored(change: Callable[[Evidence], Any]) -> Callable[[], Evidence]:
    def make() -> Evidence:
        evidence = copy.deepcopy(good().evidence())
        change(evidence)
        return evidence

    return make


def changed_event(sequence: int, **fields: Any) -> Callable[[], Evidence]:
    return doctored(lambda evidence: evidence.log[sequence - 1].recorded["event"].update(fields))


def backend_line(what: str, **fields: Any) -> Callable[[], Evidence]:
    def change(evidence: Evidence) -> None:
        next(line for line in evidence.backends if line["what"] == what).update(fields)

    return doctored(change)


def set_to(**fields: Any) -> Callable[[], Evidence]:
    return lambda: replace(good().evidence(), **fields)


def broken(evidence: Evidence, *faults: Fault) -> Evidence:
    """Have more faults, as planned."""
    assert evidence.expected is not None
    evidence.faults = [*evidence.faults, *faults]
    planned = (*evidence.expected.faults, *((fault.kind, fault.target) for fault in faults))
    evidence.expected = replace(evidence.expected, faults=planned)
    return evidence


def wrong_clock(evidence: Evidence, jump: Jump) -> Evidence:
    evidence.jumps = [jump]
    return broken(evidence, Fault("clock", jump.process, jump.begins, jump.ends))


def refused(jump: Jump) -> Callable[[], Evidence]:
    """Return a making of evidence in which a good token was refused at 20 s, and a clock was wrong."""

    def make() -> Evidence:
        return wrong_clock(story(step("call", 20, "list", 401))(), jump)

    return make


def heard(change: Callable[[Heard], Any], number: int = 0) -> Callable[[], Evidence]:
    """Return a making of evidence in which a subscriber was told otherwise: 0 of all, 1 of ONE, 2 of progress live."""
    return doctored(lambda evidence: change(evidence.heard[number]))


def received(change: Callable[[Received], Any], number: int = 0) -> Callable[[], Evidence]:
    """Return a making of evidence in which a receiver was sent otherwise: 0 and 1 take it, 2 never answers."""
    return doctored(lambda evidence: change(evidence.received[number]))


def told_again(place: int) -> Callable[[Heard], None]:
    return lambda heard: heard.told.append(heard.told[place])


def swapped(things: list[Any]) -> None:
    things[0], things[1] = things[1], things[0]


def split_progress(heard: Heard, *outputs: str) -> None:
    """Have the report be told in pieces, live."""
    told = heard.told.pop(7)
    for output in outputs:
        event = copy.deepcopy(told.event)
        event["event"]["output"] = output
        heard.told.insert(-1, Told("", event))


def refused_for_good(*, disabled: bool, calls_after: bool) -> Callable[[Received], None]:
    def change(received: Received) -> None:
        received.mode = "refuses"
        received.disabled_at = START + (0 if calls_after else 100) if disabled else None
        for line in received.calls:
            line["answered"] = 410

    return change


def called_while_busy(count: int) -> Callable[[Received], None]:
    """Have a receiver answer 429, and be called again so many times within a tenth of a second."""

    def change(received: Received) -> None:
        first = received.calls[0]
        again = [{**first, "at": first["at"] + 0.1 * number / count, "answered": 429} for number in range(count + 1)]
        received.calls[:0] = again

    return change


def said(says: str) -> Callable[[], Evidence]:
    """Return a making of evidence in which a server said something else of the first attempt."""
    return backend_line("over", says=says)


def ended(event: str, kind: str, says: str) -> Callable[[], Evidence]:
    """Return a making of evidence in which ONE was retried and its second attempt came to this."""
    return story(
        step("event", ONE, 20, "TaskQueued", renewed=True),
        step("started", ONE, 21, attempt=2),
        step("backend", 22, "over", ONE, 2, says=says),
        step("event", ONE, 23, event, kind=kind, attempt=2, server_id="one"),
    )


def failed_first(kind: str, says: str) -> Callable[[], Evidence]:
    """Return a making of evidence in which the first attempt of TWO failed otherwise."""

    def change(evidence: Evidence) -> None:
        next(line for line in evidence.backends if line["what"] == "over" and line["task"] == TWO)["says"] = says
        evidence.log[5].recorded["event"]["kind"] = kind

    return doctored(change)


def reported(answered: int) -> Callable[[], Evidence]:
    """Return a making of evidence in which a server reported the end of ONE, and was answered so."""
    facts = {"kind": "own", "status": "FINISHED"}
    return story(
        step("backend", 1.9, "report", ONE, **facts),
        step("backend", 2.1, "reported", ONE, answered=answered, **facts),
    )


def windows(*, starts: Sequence[int], recovered: bool = True) -> Callable[[], Evidence]:
    """Return a making of evidence with windows of 10 s, in which so many tasks of bob start, every other hostile."""

    def make() -> Evidence:
        made = good()
        for place, count in enumerate(starts):
            for number in range(count):
                task = f"{place}{number:025d}~bob"
                at = 100 + 10 * place + number
                payload = {"mark": task, "do": ["ok"]}
                made.event(task, at, "TaskSubmitted", **submission(payload, "bob"))
                body = BODY | {"payload": payload}
                made.call(at, "submit", 200, tenant="bob", said=about(task), key=None, mark=task, body=body)
                made.event(task, at, "AttemptStarted", attempt=1, server_id="one")
                made.event(f"{place}{number:025d}~mallory", at, "AttemptStarted", attempt=1, server_id="one")
        evidence = made.evidence()
        begins = [START + 100 + 10 * place for place in range(len(starts))]
        evidence.windows = [Window(at, at + 10, bool(place % 2), recovered) for place, at in enumerate(begins)]
        evidence.hostile = frozenset({"mallory"})
        return evidence

    return make


DUE_TIMERS = ConsumerSeen("TIMERS", "due-timers", True, 1, 0)
VIOLATIONS: list[tuple[str, str, Callable[[], Evidence]]] = [
    ("acknowledged-is-kept", "a lost task", doctored(without(lambda entry: entry.task == ONE))),
    ("acknowledged-is-kept", "another payload", changed_event(1, payload={"mark": "mk-alice-0-7"})),
    ("nothing-is-doubled", "one submit, two tasks", another_task(MARKS[ONE])),
    ("nothing-is-doubled", "a task of nobody", another_task("mk-bob-5-5")),
    ("keys-are-kept", "one key, two tasks", called(20, "repeat", 200, key="k", mark=MARKS[ONE], said=about(TWO))),
    (
        "keys-are-kept",
        "another body accepted",
        called(20, "conflict", 200, key="k", mark="mk-alice-0-8", said=about(ONE)),
    ),
    ("acknowledged-changes-are-kept", "a lost cancel", called(20, "cancel", 200, task=TWO, said=about(TWO))),
    ("acknowledged-changes-are-kept", "a lost retry", called(20, "retry", 200, task=TWO, said=about(TWO))),
    ("histories-are-legal", "two ends", story(step("succeeded", ONE, 20))),
    ("histories-are-legal", "an attempt after the end", story(step("started", ONE, 20, attempt=2))),
    ("histories-are-legal", "a gap in the attempts", changed_event(7, attempt=3)),
    ("histories-are-legal", "too many attempts", changed_event(4, policy={"attempts": 1, "timeout": "PT3S"})),
    ("histories-are-legal", "an end of an older attempt", changed_event(9, attempt=1)),
    ("log-is-contiguous", "a hole in the log", doctored(without(lambda entry: entry.sequence == 5))),
    ("everything-ends", "an orphan", doctored(without(lambda entry: entry.sequence in (2, 3)))),
    ("everything-ends", "an attempt that never ends", doctored(without(lambda entry: entry.sequence == 9))),
    ("calls-were-started", "a call without a start", backend_line("call", attempt=9)),
    ("calls-were-started", "a call before its start", backend_line("call", at=START + 0.5)),
    ("calls-were-started", "a call of another server", backend_line("call", server="two")),
    ("calls-were-started", "an attempt called twice", story(step("backend", 2.2, "call", ONE))),
    (
        "results-are-the-tasks-own",
        "the result of another task",
        changed_event(3, result={"inline": {"data": {"mark": MARKS[TWO], "attempt": 1, "server": "one"}}}),
    ),
    (
        "results-are-the-tasks-own",
        "the result of another attempt",
        changed_event(9, result={"inline": {"data": {"mark": MARKS[TWO], "attempt": 1, "server": "one"}}}),
    ),
    (
        "workers-alone-occupy-servers",
        "a claim by a user",
        doctored(lambda evidence: evidence.log[1].recorded.update(by={"kind": "user", "id": "mallory"})),
    ),
    ("outcomes-match-reports", "a success that was none", said("FAILED")),
    ("outcomes-match-reports", "a success that nobody reported", said("nothing")),
    ("outcomes-match-reports", "a success of another server", backend_line("over", server="two")),
    ("outcomes-match-reports", "a success without a call", doctored(lambda evidence: evidence.backends.clear())),
    ("outcomes-match-reports", "a failure that was a success", ended("TaskFailed", "failed", "FINISHED")),
    ("outcomes-match-reports", "a failure that was only an error", ended("TaskFailed", "failed", "error")),
    ("outcomes-match-reports", "refused by an answer to nobody", ended("TaskFailed", "rejected", "nothing")),
    ("outcomes-match-reports", "a result lost over something else", ended("TaskFailed", "bad_answer", "FINISHED")),
    ("outcomes-match-reports", "a result lost, and the work repeated", failed_first("bad_answer", "FINISHED")),
    ("outcomes-match-reports", "a try spent on a busy server", failed_first("busy", "busy")),
    ("outcomes-match-reports", "an end for a busy server", ended("TaskFailed", "busy", "busy")),
    ("outcomes-match-reports", "returned as busy without reason", ended("AttemptReturned", "busy", "error")),
    ("outcomes-match-reports", "returned as unsent, and it was called", ended("AttemptReturned", "unsent", "nothing")),
    ("outcomes-match-reports", "a report that was refused", reported(400)),
    ("others-keep-their-throughput", "half of the starts", windows(starts=(8, 3, 8, 3, 8, 8))),
    ("others-keep-their-throughput", "no starts", windows(starts=(8, 0, 8, 0, 8, 0))),
    ("others-keep-their-throughput", "no recovery", windows(starts=(8, 8, 8, 8, 8, 8), recovered=False)),
    *(
        (
            "forged-reports-are-refused",
            kind,
            story(step("backend", 20, "reported", ONE, kind=kind, status="FINISHED", answered=200)),
        )
        for kind in ("forged", "foreign", "older")
    ),
    (
        "limits-are-kept",
        "two at once on a server for one",
        story(
            step("event", TWO, 20, "TaskQueued", renewed=True),
            step("started", TWO, 21, attempt=3),
            step("event", ONE, 21.5, "TaskQueued", renewed=True),
            step("started", ONE, 22, attempt=2),
            step("succeeded", ONE, 24, attempt=2),
            step("succeeded", TWO, 25, attempt=3),
        ),
    ),
    (
        "tenants-are-apart",
        "another tenant's mark",
        called(20, "list", 200, tenant="bob", said={"marks": [MARKS[ONE]], "tasks": []}, limit=20),
    ),
    ("tenants-are-apart", "another tenant's task", called(20, "pry", 200, tenant="bob", task=ONE)),
    ("tenants-are-apart", "a usurper", called(20, "usurp", 200, tenant="bob", task=ONE)),
    ("writes-are-read", "a task that is gone", called(20, "read", 404, task=ONE)),
    (
        "writes-are-read",
        "an end that is undone",
        called(20, "read", 200, task=ONE, said=about(ONE, shows="PROCESSING")),
    ),
    ("answers-are-understood", "an error of ours", called(20, "list", 500, said={"said": "oh"})),
    ("answers-are-understood", "no Retry-After", called(20, "list", 503, said={"said": "away"})),
    ("answers-are-understood", "too late, and it is not", called(20, "submit", 400, mark="m", last_at=START + 25)),
    (
        "answers-are-understood",
        "too late, and it is there",
        called(20, "repeat", 400, key="k", mark=MARKS[ONE], last_at=START + 5),
    ),
    ("answers-are-understood", "a good token refused", called(20, "list", 401)),
    (
        "answers-are-understood",
        "refused by a clock that is hardly wrong",
        refused(Jump("api-1", START, START + 40, -9)),
    ),
    ("answers-are-understood", "refused by a clock that is right again", refused(Jump("api-1", START, START + 9, -90))),
    ("answers-are-understood", "refused by another's clock", refused(Jump("api-2", START, START + 40, -90))),
    ("answers-are-understood", "refused by a clock that is ahead", refused(Jump("api-1", START, START + 40, 90))),
    ("subscribers-receive-all", "an event that was not told", heard(lambda one: one.told.pop(4))),
    ("subscribers-receive-all", "an event told twice", heard(told_again(4))),
    ("subscribers-receive-all", "events out of order", heard(lambda one: swapped(one.told))),
    ("subscribers-receive-all", "an event of another's task", heard(lambda one: setattr(one, "task", ONE))),
    ("subscribers-receive-all", "another event", heard(lambda one: one.told[4].event["event"].update(attempt=9))),
    ("subscribers-receive-all", "nothing at all", heard(lambda one: setattr(one, "after", None))),
    ("subscribers-receive-all", "not the end", heard(lambda one: (setattr(one, "until", 8), one.told.pop()))),
    (
        "subscribers-receive-all",
        "an early end",
        heard(lambda one: (setattr(one, "until", 2), one.told.pop()), 1),
    ),
    ("subscribers-receive-all", "no end", heard(lambda one: setattr(one, "ended", False), 1)),
    ("progress-is-sent-once", "not told", heard(lambda one: one.told.pop(7))),
    ("progress-is-sent-once", "told in part", heard(lambda one: split_progress(one, "one/2/1;"), 2)),
    (
        "progress-is-sent-once",
        "told live and by the log",
        heard(lambda one: split_progress(one, "one/2/1;", "one/2/1;one/2/2;"), 2),
    ),
    ("progress-is-sent-once", "out of order", heard(lambda one: split_progress(one, "one/2/2;", "one/2/1;"), 2)),
    ("nothing-follows-the-end", "progress after the end", heard(told_again(7), 2)),
    ("streams-are-understood", "an error of ours", heard(lambda one: one.refusals.append("500 oh"))),
    ("webhooks-deliver-all", "no delivery", received(lambda one: (one.deliveries.pop(), one.calls.pop()))),
    ("webhooks-deliver-all", "never taken", received(lambda one: one.calls.pop())),
    (
        "webhooks-deliver-all",
        "taken, and said to wait",
        received(lambda one: one.deliveries[0].update(status="waiting")),
    ),
    (
        "webhooks-deliver-all",
        "two deliveries of one event",
        received(lambda one: one.deliveries.append(one.deliveries[0])),
    ),
    ("webhooks-deliver-all", "what it does not want", received(lambda one: one.deliveries[0].update(sequence=2))),
    (
        "webhooks-deliver-all",
        "delivered to one that never answers",
        received(lambda one: one.deliveries[0].update(status="delivered"), 2),
    ),
    ("webhooks-deliver-all", "410, and not disabled", received(refused_for_good(disabled=False, calls_after=False), 1)),
    ("webhooks-deliver-all", "410, and sent more", received(refused_for_good(disabled=True, calls_after=True), 1)),
    ("webhook-messages-are-one", "a wrong signature", received(lambda one: one.calls[0].update(signed=False))),
    (
        "webhook-messages-are-one",
        "an id of its own for each try",
        received(lambda one: one.calls[0].update(id="msg_x")),
    ),
    ("webhook-messages-are-one", "a redirect followed", received(lambda one: one.calls[0].update(path="/elsewhere"))),
    (
        "webhook-messages-are-one",
        "another event",
        received(lambda one: one.calls[0]["message"]["data"].update(event={"type": "TaskSubmitted"})),
    ),
    (
        "webhook-messages-are-one",
        "no event of the log",
        received(lambda one: one.calls[0]["message"]["data"].update(sequence=77)),
    ),
    ("webhook-pauses-are-kept", "called on and on", received(called_while_busy(9))),
    ("projections-equal-the-fold", "changed", set_to(buckets=[Bucket("tasks", {"a": b"1"}, {"a": b"2"})])),
    ("projections-equal-the-fold", "missing", set_to(buckets=[Bucket("tasks", {}, {"a": b"2"})])),
    ("projections-equal-the-fold", "extra", set_to(buckets=[Bucket("tasks", {"a": b"1"}, {})])),
    ("dispatch-is-live", "never", set_to(probes=[Probe("a task", None)])),
    ("dispatch-is-live", "late", set_to(probes=[Probe("a task", 31.0)])),
    ("nothing-is-left-over", "a stream more", set_to(streams=(["TASKS"], ["TASKS", "X"]))),
    ("nothing-is-left-over", "a consumer less", set_to(consumers=([DUE_TIMERS], []))),
    (
        "nothing-is-left-over",
        "a consumer for ever",
        set_to(consumers=([DUE_TIMERS], [DUE_TIMERS, ConsumerSeen("TASKS", "follow-1", False, 0, 0)])),
    ),
    (
        "nothing-is-left-over",
        "consumers in use twice",
        set_to(consumers=([DUE_TIMERS], [DUE_TIMERS, *[ConsumerSeen("TASKS", "follow", False, 1, 60)] * 5])),
    ),
    (
        "resources-are-given-back",
        "descriptors",
        set_to(resources=({"api-1": Resources(20, 80.0)}, {"api-1": Resources(60, 80.0)})),
    ),
    (
        "resources-are-given-back",
        "memory",
        set_to(resources=({"api-1": Resources(20, 80.0)}, {"api-1": Resources(20, 140.0)})),
    ),
    ("nobody-died", "a crash", set_to(exits=["worker-1 ended by itself with 1"])),
    ("nobody-died", "a part that crashed", set_to(crashes=["worker-1: service.failed: KeyError: 'one'"])),
]


@pytest.mark.parametrize(
    ("name", "make"), [(name, make) for name, _, make in VIOLATIONS], ids=[f"{n}: {w}" for n, w, _ in VIOLATIONS]
)
def test_it_catches(name: str, make: Callable[[], Evidence]) -> None:
    assert name in {violation.check for violation in check(make())}


def test_pushed_progress_may_precede_the_log_or_never_reach_it() -> None:
    evidence = heard(lambda one: split_progress(one, "one/2/1;", "one/2/2;", "one/2/3;"), 2)()

    assert check(evidence) == []


def test_a_receiver_may_get_a_message_again_but_none_after_it_refused() -> None:
    evidence = received(lambda one: one.calls.append(one.calls[0]))()
    refused_for_good(disabled=True, calls_after=False)(evidence.received[1])

    assert check(evidence) == []


def test_a_call_of_an_abandoned_attempt_does_not_count_towards_the_limit() -> None:
    """The known exception: a worker that was stopped for longer than its lease leaves its calls open."""
    made = good()
    made.event(TWO, 20, "TaskQueued", renewed=True)
    made.started(TWO, 21, attempt=3)
    made.event(TWO, 22, "AttemptFailed", attempt=3, server_id="one", kind="worker_lost", retry_at=instant(22))
    made.started(TWO, 23, attempt=4)
    made.succeeded(TWO, 24, attempt=4)
    made.backend(25, "over", TWO, 3, says="FINISHED")

    assert check(broken(made.evidence(), Fault("stop", "worker-1", START + 20, START + 25))) == []


def test_a_server_that_has_sent_its_report_has_room_before_the_log_has_the_end() -> None:
    made = good()
    made.event(TWO, 20, "TaskQueued", renewed=True)
    made.started(TWO, 21, attempt=3)
    made.event(TWO, 21.1, "AttemptAccepted", attempt=3)
    made.event(ONE, 21.2, "TaskQueued", renewed=True)
    made.started(ONE, 23, attempt=2)
    made.succeeded(TWO, 23.2, attempt=3)
    made.succeeded(ONE, 24, attempt=2)
    assert {violation.check for violation in check(made.evidence())} == {"limits-are-kept"}

    made.backend(22, "report", TWO, 3, kind="own", status="FINISHED")

    assert check(made.evidence()) == []


@pytest.mark.parametrize(("ahead", "legitimate"), [(-36.0, True), (-34.0, False), (3580.0, False), (3600.0, True)])
def test_a_token_may_be_refused_by_a_clock_that_takes_it_for_one_of_another_time(
    ahead: float, legitimate: bool
) -> None:
    """The token is 25 s old and has 3580 s to go; 10 s are forgiven."""
    found = check(refused(Jump("api-1", START + 10, START + 30, ahead))())

    assert (found == []) == legitimate


def test_a_task_may_be_refused_that_comes_too_late_by_the_clock_of_its_api() -> None:
    late = BODY | {"payload": {"mark": "m", "do": ["ok"]}}
    evidence = story(
        step("call", 20, "submit", 400, mark="m", last_at=START + 15, body=late),
        step("call", 30, "submit", 400, mark="m", last_at=START + 45, body=late),
    )()
    wrong_clock(evidence, Jump("api-1", START + 25, START + 35, 20))

    assert check(evidence) == []


def test_a_worker_whose_clock_is_wrong_when_it_records_a_start_breaks_nothing() -> None:
    """What NATS says of when it stored an event counts."""
    evidence = good().evidence()
    for entry in evidence.log:
        entry.recorded["at"] = instant(500)

    assert check(evidence) == []


@pytest.mark.parametrize(
    "make",
    [
        ended("TaskFailed", "failed", "FAILED"),
        ended("TaskFailed", "rejected", "rejected"),
        ended("TaskFailed", "bad_answer", "nothing"),
        ended("TaskFailed", "timeout", "FINISHED"),
        ended("AttemptReturned", "busy", "busy"),
        ended("AttemptReturned", "shutdown", "FINISHED"),
        reported(200),
        reported(409),
    ],
)
def test_an_outcome_may_be_what_its_server_said_or_that_nothing_arrived(make: Callable[[], Evidence]) -> None:
    assert "outcomes-match-reports" not in {violation.check for violation in check(make())}


def test_a_report_may_spell_its_status_in_its_own_way() -> None:
    made = good()
    made.event(ONE, 20, "TaskQueued", renewed=True)
    made.started(ONE, 21, attempt=2)
    made.backend(22, "report", ONE, 2, kind="own", status="failed")
    made.event(ONE, 23, "TaskFailed", kind="failed", attempt=2, server_id="one")

    assert "outcomes-match-reports" not in names_of(made.evidence())


def test_an_answer_that_crossed_a_call_may_be_taken_for_its_own() -> None:
    evidence = ended("TaskFailed", "rejected", "crossed")()
    extra = {"at": START + 21.9, "what": "extra", "server": "one", "task": "", "attempt": 0}
    evidence.backends.append(extra)
    assert "servers-do-as-ordered" in names_of(evidence)

    next(line for line in evidence.backends if line.get("says") == "crossed")["after_extra"] = True

    assert check(evidence) == []


@pytest.mark.parametrize(
    ("link", "ends", "excused"), [("workers>one", 21.5, True), ("workers>one", 20.5, False), ("workers>two", 30, False)]
)
def test_a_failure_may_be_due_to_a_link_that_corrupted_data_meanwhile(link: str, ends: float, excused: bool) -> None:
    evidence = ended("TaskFailed", "rejected", "nothing")()
    next(line for line in evidence.backends if line.get("says") == "nothing")["hung_up"] = True
    evidence.corruptions = [Corrupted(link, START + 20, START + ends)]
    broken(evidence, Fault("corrupt", link, START + 20, START + ends))

    assert (check(evidence) == []) == excused


@pytest.mark.parametrize(
    ("outcome", "over_at", "is_found"),
    [("confirmed", 21.9, False), ("confirmed", 23.0, True), ("requested", 23.0, False)],
)
def test_what_is_said_to_have_stopped_had_stopped(outcome: str, over_at: float, is_found: bool) -> None:
    made = good()
    made.event(ONE, 20, "TaskQueued", renewed=True)
    made.started(ONE, 21, attempt=2)
    made.event(ONE, 21.5, "TaskCancelled", attempt=2, server_id="one", reason="Cancelled by alice")
    made.backend(over_at, "over", ONE, 2, says="nothing", hung_up=True)
    made.event(ONE, 22, "CancelReported", attempt=2, server_id="one", outcome=outcome, detail="it says so")

    assert ("cancellations-are-as-reported" in names_of(made.evidence())) == is_found


def answer_in(dialect: str, data: Any) -> Any:
    """Return data as a server of a dialect answers with them."""
    text = msgspec.json.encode(data).decode()
    match dialect:
        case "openai":
            return {"choices": [{"index": 0, "message": {"content": f"one/1/7;{text}"}}]}
        case "oip":
            return {"outputs": [{"name": "result", "datatype": "BYTES", "data": [text]}]}
        case _:
            return data


@pytest.mark.parametrize("dialect", ["bare", "cog", "oip", "openai"])
def test_a_result_is_the_tasks_own_in_every_dialect(dialect: str) -> None:
    evidence = good().evidence()
    evidence.servers["one"] = replace(evidence.servers["one"], dialect=dialect)
    ends = [entry.event for entry in evidence.log if entry.type == "TaskSucceeded"]
    for event in ends:
        event["result"]["inline"]["data"] = answer_in(dialect, event["result"]["inline"]["data"])
    assert "results-are-the-tasks-own" not in names_of(evidence)

    ends[0]["result"] = ends[1]["result"]

    assert "results-are-the-tasks-own" in names_of(evidence)


def test_a_server_of_a_dialect_that_says_less_is_told_the_payload_alone() -> None:
    evidence = good().evidence()
    evidence.servers["one"] = replace(evidence.servers["one"], dialect="bare")
    calls = [line for line in evidence.backends if line["what"] == "call"]
    for line in calls:
        line.update(type=None, deadline=None)
    assert "servers-receive-what-was-sent" not in names_of(evidence)

    calls[0]["payload"] = {"mark": MARKS[ONE], "do": ["fail"]}

    assert "servers-receive-what-was-sent" in names_of(evidence)


@pytest.mark.parametrize(
    ("target", "orders", "polled", "is_found"),
    [
        ("models", "ok", True, False),
        ("one", "die", True, False),
        ("another", "ok", True, True),
        ("models", "ok", False, True),
    ],
)
def test_a_server_forgets_a_job_only_if_it_was_killed_or_ordered_so(
    target: str, orders: str, polled: bool, is_found: bool
) -> None:
    made = good()
    made.event(ONE, 20, "TaskQueued", renewed=True)
    made.started(ONE, 21, attempt=2)
    made.backend(22, "over", ONE, 2, says="error", forgotten=True)
    made.event(ONE, 22.1, "TaskFailed", attempt=2, server_id="one", kind="error")
    evidence = copy.deepcopy(made.evidence())
    evidence.servers["one"] = replace(evidence.servers["one"], polled=polled, processes=("models",))
    for call in evidence.calls:
        for body in call.bodies:
            if body["payload"]["mark"] == MARKS[ONE]:
                body["payload"]["do"] = ["ok", orders]
    broken(evidence, Fault("kill", target, START + 21.2, START + 21.4))

    assert ("servers-do-as-ordered" in names_of(evidence)) == is_found


def test_no_corruption_makes_a_success() -> None:
    evidence = said("FAILED")()
    evidence.corruptions = [Corrupted("workers>one", START, START + 30)]

    assert "outcomes-match-reports" in names_of(evidence)


def test_starts_may_differ_by_a_factor_of_two_and_once_by_more() -> None:
    found = check(windows(starts=(8, 4, 8, 0, 8, 8))())

    assert "others-keep-their-throughput" not in {violation.check for violation in found}


def test_corruptions_are_read_from_the_journal_of_faults() -> None:
    faults = [
        {"at": 1.0, "what": "begin", "kind": "corrupt", "target": "workers>backend-1", "ahead": 0.0},
        {"at": 2.0, "what": "begin", "kind": "kill", "target": "api-2", "ahead": 0.0},
        {"at": 3.0, "what": "end", "kind": "corrupt", "target": "workers>backend-1"},
        {"at": 4.0, "what": "answer", "target": "$JS.API.X", "said": "ok"},
    ]

    assert corruptions(faults) == [Corrupted("workers>backend-1", 1.0, 3.0)]


def test_jumps_are_read_from_the_journal_of_faults() -> None:
    faults = [
        {"at": 1.0, "what": "begin", "kind": "clock", "target": "api-1", "ahead": -30.0},
        {"at": 2.0, "what": "begin", "kind": "kill", "target": "api-2", "ahead": 0.0},
        {"at": 3.0, "what": "end", "kind": "clock", "target": "api-1", "ahead": -30.0},
        {"at": 4.0, "what": "end", "kind": "kill", "target": "api-2", "ahead": 0.0},
        {"at": 5.0, "what": "answer", "target": "$JS.API.X", "said": "ok"},
    ]

    assert jumps(faults) == [Jump("api-1", 1.0, 3.0, -30.0)]
