"""Metrics of tasks, counted by the process that appends their events, so each event counts once in all processes."""

from __future__ import annotations

from collections.abc import Sequence

from ..backends.dialects import dialect_of
from ..commands.task_state import Processing, TaskState, Unknown
from ..events.envelope import Recorded
from ..events.task import AttemptFailed, AttemptStarted, TaskCancelled, TaskEvent, TaskFailed, TaskSucceeded
from ..projections.fleet import Fleet
from ..runtime import metrics
from ..runtime.metrics import labelled

UNKNOWN_SERVER = "other"
"""Label of what is reported by persons, and by servers that are not registered: labels have bounded values."""


class TaskMeters:
    """Counts starts and ends of tasks, and the outcomes of accepted attempts, with the times since the submission."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def count(self, state: TaskState, appended: Sequence[Recorded[TaskEvent]]) -> None:
        """Count events that were appended to a task. `state`: before them."""
        if isinstance(state, Unknown):
            return  # a submission, which its service counts
        facts = state.facts
        for recorded in appended:
            event = recorded.event
            match event:
                case AttemptStarted(attempt=1):
                    waited = recorded.at - facts.submitted_at
                    labelled(metrics.task_start_seconds, facts.pool).observe(max(0.0, waited.total_seconds()))
                case TaskSucceeded():
                    self._count_end(state, recorded, "finished", "")
                    self._count_report(state, event.server_id, "succeeded")
                case TaskFailed():
                    self._count_end(state, recorded, "failed", event.kind)
                    self._count_report(state, event.server_id, event.kind)
                case AttemptFailed():
                    self._count_report(state, event.server_id, event.kind)
                case TaskCancelled():
                    self._count_end(state, recorded, "cancelled", "")
                case _:
                    pass

    def _count_end(self, state: TaskState, recorded: Recorded[TaskEvent], status: str, kind: str) -> None:
        assert not isinstance(state, Unknown)
        facts = state.facts
        lasted = recorded.at - facts.submitted_at
        labelled(metrics.ended, facts.pool, status, kind).inc()
        labelled(metrics.task_end_seconds, facts.pool).observe(max(0.0, lasted.total_seconds()))

    def _count_report(self, state: TaskState, server_id: str, outcome: str) -> None:
        """Count the outcome of an attempt that its server had accepted; those of calls are counted by their worker."""
        if not isinstance(state, Processing) or not state.accepted:
            return
        server = self._fleet.find(server_id)
        if server is None:
            labelled(metrics.attempts_reported, UNKNOWN_SERVER, outcome, "").inc()
            return
        dialect = dialect_of(server.settings, self._fleet.definition(state.facts.task_type)).name
        labelled(metrics.attempts_reported, server.server_id, outcome, dialect).inc()
