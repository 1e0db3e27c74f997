"""Puts what came of a call into the log, however long NATS may be away."""

from __future__ import annotations

import asyncio
import contextlib
import math

import structlog

from ...backends.dialects.dialect import Accepted, Answer, Completed, Failed, FailedByBackend
from ...commands.commands import Commands
from ...commands.handler import Known
from ...commands.task import (
    AcceptAttempt,
    FailTask,
    Processing,
    Reporter,
    SucceedTask,
    TaskCommand,
    TaskState,
)
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...events.ids import TaskRef
from ...events.subjects import server_token
from ...events.task import StoredResult
from ...push.progress_throttle import ProgressThrottle
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...settings import Settings
from ...streams.results import Results
from ...streams.timers import Timers
from ..fleet.slots import Slots
from .failures import fail_attempt

log = structlog.get_logger(__name__)

OBJECT_PAUSE_SECONDS = 5.0
"""How long a large result waits before the object store is asked again."""


class Outcomes:
    def __init__(
        self,
        settings: Settings,
        commands: Commands,
        timers: Timers,
        results: Results,
        progress: ProgressThrottle,
        slots: Slots,
        worker: Actor,
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._timers = timers
        self._results = results
        self._progress = progress
        self._slots = slots
        self._worker = worker

    async def record(self, ref: TaskRef, server_id: str, claimed: Known[TaskState], answer: Answer) -> None:
        """Record an outcome and set the timer it calls for; then its queue message may be acked.

        An outcome that the log no longer wants (the task was cancelled, the attempt declared lost) is dropped.
        Raises StoreUnavailable only where a timer could not be set.
        """
        assert isinstance(claimed.state, Processing)
        attempt = claimed.state.facts.attempt
        with contextlib.suppress(StoreUnavailable):  # without room for it: the outcome matters more
            await self._progress.flush(ref, patience_seconds=math.inf)
        try:
            outcome = await self._append(ref, server_id, attempt, claimed, answer)
        except Refused as refusal:
            log.info("outcome.dropped", task=ref.id, attempt=attempt, reason=str(refusal))
            outcome = "late"
        labelled(metrics.attempts, server_id, outcome).inc()

    async def _append(
        self, ref: TaskRef, server_id: str, attempt: int, claimed: Known[TaskState], answer: Answer
    ) -> str:
        """Append what an answer comes to; return its name for the metrics."""
        reporter = Reporter(kind="worker", attempt=attempt)
        match answer:
            case Completed(result=body):
                result = await self._stored(ref, attempt, body)
                await self._command(ref, SucceedTask(reporter=reporter, result=result), claimed)
                return "succeeded"
            case FailedByBackend(result=body, error=error):
                result = await self._stored(ref, attempt, body)
                await self._command(ref, FailTask(reporter=reporter, error=error, result=result), claimed)
                return "failed"
            case Accepted(backend_task_id=backend_task_id):
                acceptance = AcceptAttempt(attempt=attempt, backend_task_id=backend_task_id)
                state = await self._command(ref, acceptance, claimed)
                if isinstance(state, Processing) and state.facts.attempt == attempt:
                    await self._timers.watch_deadline(ref, attempt, state.deadline)
                else:  # the callback was faster than the acceptance
                    self._slots.ended_elsewhere(server_token(server_id), ref)
                return "accepted"
            case Failed(kind=kind, error=error, retry_after=retry_after):
                await fail_attempt(
                    self._commands,
                    self._timers,
                    ref,
                    attempt=attempt,
                    kind=kind,
                    error=error,
                    by=self._worker,
                    cause=str(claimed.sequence),
                    retry_after=retry_after,
                    known=claimed,
                    patience_seconds=math.inf,
                )
                return kind

    async def _command(self, ref: TaskRef, command: TaskCommand, claimed: Known[TaskState]) -> TaskState:
        handled = await self._commands.task(
            ref, command, by=self._worker, cause=str(claimed.sequence), known=claimed, patience_seconds=math.inf
        )
        return handled.known.state

    async def _stored(self, ref: TaskRef, attempt: int, body: bytes) -> StoredResult:
        while True:
            try:
                return await self._results.store(ref, str(attempt), body)
            except StoreUnavailable as error:
                log.warning("result.waits", task=ref.id, reason=str(error))
                await asyncio.sleep(OBJECT_PAUSE_SECONDS)
