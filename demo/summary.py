"""The summary of the demo: a table read from the service, and a check of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from .history import History
from .workload import REJECTION, SERVERS, VICTIM, DemoTask

FINAL = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})
TYPES = ("thumbnail", "default", "render")
PRIORITIES = ("high", "normal", "low")
SHOWN = 5
"""Problems of one kind that are printed; the others are counted."""


class DemoFacts(NamedTuple):
    """The service's own report at the end."""

    tasks: Sequence[Mapping[str, Any]]
    """From `GET /api/tasks`."""
    histories: Mapping[str, History]
    """From `GET /api/task/{id}/events`, by task."""
    servers: Mapping[str, Mapping[str, Any]]
    """From `GET /api/servers`."""
    counters: Mapping[str, float]
    """From `GET /metrics`."""

    def events(self, event_type: str) -> list[dict[str, Any]]:
        return [
            entry["event"]
            for history in self.histories.values()
            for entry in history
            if entry["event"]["type"] == event_type
        ]


def table(facts: DemoFacts) -> list[str]:
    """Return the lines of the summary."""
    return [*_task_table(facts), "", *_server_table(facts), "", *_sources(facts)]


def _task_table(facts: DemoFacts) -> Iterable[str]:
    columns = {name: [task for task in facts.tasks if task["type"] == name] for name in TYPES}
    columns["all"] = list(facts.tasks)
    yield _row("tasks", columns)
    yield _row("submitted", [len(tasks) for tasks in columns.values()])
    for status in ("FINISHED", "FAILED", "CANCELLED", "WAITING", "PROCESSING"):
        counts = [sum(task["status"] == status for task in tasks) for tasks in columns.values()]
        if counts[-1] or status in ("FINISHED", "FAILED"):
            yield _row(f"  {status.lower()}", counts)
    yield _row("retried", [sum(task["attempt"] > 1 for task in tasks) for tasks in columns.values()])
    yield _row("attempts", [sum(task["attempt"] for task in tasks) for tasks in columns.values()])
    for priority in PRIORITIES:
        waits = [
            [task["startedAt"] - task["createdAt"] for task in tasks if task["priority"] == priority]
            for tasks in columns.values()
        ]
        shown = [f"{median(each) / 1000:.1f} s" if each else "-" for each in waits]
        yield _row(f"median wait, {priority}", shown)


def _server_table(facts: DemoFacts) -> Iterable[str]:
    started, failed, ended = (
        Counter(event["server_id"] for event in facts.events(kind))
        for kind in ("AttemptStarted", "AttemptFailed", "TaskSucceeded")
    )
    yield _row("servers", ("attempts", "failed", "succeeded", "state"))
    for plan in SERVERS:
        server = facts.servers.get(plan.server_id, {"status": "removed"})
        name = plan.server_id
        yield _row(f"  {name}", (started[name], failed[name], ended[name], server["status"]))


def _sources(facts: DemoFacts) -> Iterable[str]:
    events = sum(map(len, facts.histories.values()))
    endings = sum(len(facts.events(kind)) for kind in FINAL)
    yield f"The log holds {events} events of these tasks; {endings} of them end one."
    submitted = facts.counters.get("taskstream_tasks_submitted_total", 0)
    attempts = facts.counters.get("taskstream_attempts_total", 0)
    yield f"/metrics counted {submitted:.0f} tasks submitted and {attempts:.0f} attempts."


def explanation(facts: DemoFacts) -> list[str]:
    """Return why attempts and tasks failed: all of it was planned."""
    attempts = facts.events("AttemptFailed")
    failed = Counter(event["server_id"] for event in attempts)
    rejected = sum(task["status"] == "FAILED" for task in facts.tasks)
    return [
        f"{len(attempts)} attempts failed and were retried: {failed['flaky']} on `flaky`, which fails every fifth "
        f"call, and {failed[VICTIM.server_id]} on `{VICTIM.server_id}` when it was killed.",
        f"{rejected} tasks failed for good: their images are corrupt, and a rejected request (422) is not retried.",
    ]


def _row(head: str, cells: Iterable[object]) -> str:
    return f"{head:<20}" + "".join(f"{cell!s:>11}" for cell in cells)


def problems(facts: DemoFacts, submitted: Mapping[str, DemoTask]) -> list[str]:
    """Return everything that is wrong."""
    found = _task_problems(facts, submitted)
    attempts = len(facts.events("AttemptStarted"))
    for name, wanted in (("tasks_submitted", len(submitted)), ("attempts", attempts)):
        counted = facts.counters.get(f"taskstream_{name}_total", 0)
        if counted != wanted:
            found.append(f"/metrics: taskstream_{name}_total is {counted:.0f}; the log says {wanted}")
    for plan in SERVERS:
        wanted_state = "offline" if plan is VICTIM else "online"
        state = facts.servers.get(plan.server_id, {}).get("status")
        if state != wanted_state:
            found.append(f"server {plan.server_id} is {state} and should be {wanted_state}")
    return found


def _task_problems(facts: DemoFacts, submitted: Mapping[str, DemoTask]) -> list[str]:
    views = {task["id"]: task for task in facts.tasks}
    wrong = (
        [f"{len(views)} tasks are listed, {len(submitted)} were submitted"] if views.keys() != submitted.keys() else []
    )
    for task_id, task in submitted.items():
        if reason := _wrong_with(task, views.get(task_id), facts.histories.get(task_id, [])):
            wrong.append(f"task {task.number} ({task_id}): {reason}")
    return wrong if len(wrong) <= SHOWN else [*wrong[:SHOWN], f"… and {len(wrong) - SHOWN} more"]


def _wrong_with(submitted: DemoTask, view: Mapping[str, Any] | None, history: History) -> str:
    """Return what is wrong with a task, empty if nothing is."""
    wanted = "FAILED" if submitted.is_broken else "FINISHED"
    if view is None:
        return "the list does not have it"
    if view["status"] != wanted:
        return f"it is {view['status']} and should be {wanted}; {view['error'] or 'no error'}"
    endings = [entry["event"] for entry in history if entry["event"]["type"] in FINAL]
    if len(endings) != 1:
        return f"it ended {len(endings)} times"
    if submitted.is_broken:
        return "" if REJECTION in (view["error"] or "") else f"it failed, but with: {view['error']}"
    result = endings[0]["result"]["inline"]
    return "" if result["data"]["number"] == submitted.number else f"it got another task's result: {result['data']}"
