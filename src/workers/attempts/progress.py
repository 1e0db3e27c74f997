"""Passes on what a server streams of one attempt, as long as the attempt counts."""

from __future__ import annotations

import asyncio

import structlog

from ...backends.dialects.dialect import Update
from ...commands.handler import Known
from ...commands.task import Processing, Reporter, TaskState
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...events.ids import TaskRef
from ...push.progress_throttle import ProgressThrottle

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.5
"""How long a report that cannot be taken now waits; what comes after it waits in the server's connection."""


class ProgressForwarder:
    def __init__(self, gate: ProgressThrottle, ref: TaskRef, claimed: Known[TaskState], worker: Actor) -> None:
        assert isinstance(claimed.state, Processing)
        self._gate = gate
        self._ref = ref
        self._claimed = claimed
        self._worker = worker
        self._reporter = Reporter(kind="worker", attempt=claimed.state.facts.attempt)
        self._counts = True

    async def __call__(self, update: Update) -> None:
        """Take a report, waiting for NATS as long as need be. Nothing is done once the attempt counts no more."""
        command = update.command(self._reporter)
        while self._counts:
            try:
                await self._gate.report(
                    self._ref, command, by=self._worker, cause=str(self._claimed.sequence), known=self._claimed
                )
                return
            except Refused as refusal:
                log.info("progress.refused", task=self._ref.id, reason=str(refusal))
                self._counts = False
            except StoreUnavailable as error:
                log.warning("progress.waits", task=self._ref.id, reason=str(error))
                await asyncio.sleep(PAUSE_SECONDS)
