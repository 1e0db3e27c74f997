"""What is reported of an attempt, put into the log in one way: from the call, its stream, or a callback."""

from __future__ import annotations

import asyncio
import math
import time

import structlog

from ..backends.dialects.dialect import Completed, Ending, Update
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
    """One for each process that takes reports."""

    def __init__(self, commands: Commands, results: Results, throttle: ProgressThrottle) -> None:
        self._commands = commands
        self._results = results
        self._throttle = throttle

    async def progress(
        self, ref: TaskRef, update: Update, reporter: Reporter, *, by: Actor, cause: str, known: Known[TaskState]
    ) -> None:
        """Record progress: it is in the log, or soon will be.

        Raises what the decider raises, and StoreUnavailable where it cannot be appended at once.
        """
        await self._throttle.report(ref, update.command(reporter), by=by, cause=cause, known=known)

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

    async def flush(self, ref: TaskRef, patience_seconds: float = PATIENCE_SECONDS) -> bool:
        """Append the progress that waits; return True if there was some.

        With endless patience, progress that NATS has no room for is given up: the outcome matters more.
        """
        try:
            return await self._throttle.flush(ref, patience_seconds)
        except StoreUnavailable:
            if patience_seconds < math.inf:
                raise
            return False

    async def close(self) -> None:
        """Append every report that waits."""
        await self._throttle.close()

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
