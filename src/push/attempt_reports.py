"""The end of an attempt, put into the log in one way, whoever reports it: the call, its stream, or a callback."""

from __future__ import annotations

import asyncio
import math
import time

import structlog

from ..backends.dialects.dialect import Completed, Ending
from ..commands.commands import Commands
from ..commands.handler import PATIENCE_SECONDS, Known
from ..commands.task import FailTask, Reporter, SucceedTask, TaskState
from ..errors import StoreUnavailable
from ..events.envelope import Actor
from ..events.ids import TaskRef
from ..events.task import StoredResult
from ..streams.results import Results
from .progress_throttle import ProgressThrottle

log = structlog.get_logger(__name__)

OBJECT_PAUSE_SECONDS = 5.0
"""How long a large result waits before the object store is asked again."""


class AttemptReports:
    """One for each process that records how attempts end."""

    def __init__(self, commands: Commands, results: Results, progress: ProgressThrottle) -> None:
        self._commands = commands
        self._results = results
        self._progress = progress

    async def end(
        self,
        ref: TaskRef,
        ending: Ending,
        reporter: Reporter,
        *,
        name: str,
        update_digest: str = "",
        by: Actor,
        cause: str,
        known: Known[TaskState],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Store the result, append the progress that waits, then append the end of the task.

        `name` names the result among those of the task. Repeating is safe. Raises what the decider raises, and
        StoreUnavailable when NATS has been away for `patience_seconds`.
        """
        result = await self._store(ref, name, ending.result, patience_seconds)
        has_moved = await self.flush(ref, patience_seconds)
        command = (
            SucceedTask(reporter=reporter, result=result, update_digest=update_digest)
            if isinstance(ending, Completed)
            else FailTask(reporter=reporter, error=ending.error, result=result, update_digest=update_digest)
        )
        await self._commands.task(
            ref, command, by=by, cause=cause, known=None if has_moved else known, patience_seconds=patience_seconds
        )

    async def flush(self, ref: TaskRef, patience_seconds: float) -> bool:
        """Append the progress that waits; return True if there was some.

        With endless patience, progress that NATS has no room for is given up: the outcome matters more.
        """
        try:
            return await self._progress.flush(ref, patience_seconds)
        except StoreUnavailable:
            if patience_seconds < math.inf:
                raise
            return False

    async def _store(self, ref: TaskRef, name: str, result: bytes, patience_seconds: float) -> StoredResult:
        give_up_at = time.monotonic() + patience_seconds
        while True:
            try:
                return await self._results.store(ref, name, result)
            except StoreUnavailable as error:
                if time.monotonic() + OBJECT_PAUSE_SECONDS > give_up_at:
                    raise
                log.warning("result.waits", task=ref.id, reason=str(error))
                await asyncio.sleep(OBJECT_PAUSE_SECONDS)
