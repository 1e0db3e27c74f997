"""The check of recoveries: what NATS' return brings back, it brings back at once."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from .evidence import Evidence, Finding, Recovery

SOON_SECONDS = 3.0
"""Longest time from NATS' readiness to the start of a new task, on a machine that does not notice the tasks before the
kill. A worker that waited for its request of before the kill would start some queue's task after 4 to 6 s."""
CALM_TIMES = 5.0
"""And so many times the usual time from a submission to its start: a busy machine takes longer for everything."""


def recovers_at_once(evidence: Evidence) -> Iterator[Finding]:
    """As soon as NATS is ready after a kill, a new task of each queue starts; the APIs live and say what is missing."""
    submitted = {entry.task: entry.stored_at for entry in evidence.log if entry.type == "TaskSubmitted"}
    started: dict[str, float] = {}
    for entry in evidence.log:
        if entry.type == "AttemptStarted":
            started.setdefault(entry.task, entry.stored_at)
    for recovery in evidence.recoveries:
        usual = [started[task] - submitted[task] for task in recovery.calm_tasks if task in started]
        allowed = SOON_SECONDS + CALM_TIMES * (statistics.median(usual) if usual else 0.0)
        if not recovery.tasks:
            yield f"{_when(recovery)}: no task was submitted", ""
        for task in recovery.tasks:
            seconds = started.get(task, float("inf")) - recovery.ready_at
            if seconds > allowed:
                yield f"{_when(recovery)}: it started {seconds:.1f} s after NATS was ready, not {allowed:.1f} s", task
        if recovery.live_missed:
            yield f"{_when(recovery)}: {recovery.live_missed} requests for /health/live were not answered in time", ""
        if not recovery.said_unready:
            yield f"{_when(recovery)}: no API said that it was not ready, and why", ""


def _when(recovery: Recovery) -> str:
    return f"after NATS was away for {recovery.outage_seconds:.1f} s"


RECOVERY_CHECKS = (recovers_at_once,)
