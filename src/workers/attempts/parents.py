"""Results of the tasks that another depends on, which its server receives."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from ...backends.dialects.dialect import ParentResult
from ...errors import NotFound
from ...events.envelope import NULL
from ...events.ids import parse_task_id
from ...events.task import Plan
from ...projections.task_reader import TaskReader
from ...projections.task_view import ACTIVE

READ_AT_ONCE = 32
CACHED_SECONDS = 1.0
"""Many tasks with one parent share a read of it; a parent that is retried may end otherwise, so not for long."""
MOST_CACHED = 1_000
LARGEST_CACHED_BYTES = 16 * 1024


class _Cached(NamedTuple):
    until: float
    """Monotonic seconds."""
    parent: ParentResult


class Parents:
    def __init__(self, tasks: TaskReader) -> None:
        self._tasks = tasks
        self._cached: dict[str, _Cached] = {}

    async def of(self, plan: Plan | None) -> list[ParentResult] | None:
        """Return the parents of a task in the order in which it names them, None if it has none.

        Each is as it was less than a second ago. Raises StoreUnavailable.
        """
        if plan is None or not plan.depends_on:
            return None
        places = asyncio.Semaphore(READ_AT_ONCE)

        async def find(task_id: str) -> ParentResult:
            if (cached := self._cached.get(task_id)) and time.monotonic() < cached.until:
                return cached.parent
            async with places:
                parent = await self._read(task_id)
            self._cache(parent)
            return parent

        return list(await asyncio.gather(*map(find, plan.depends_on)))

    def _cache(self, parent: ParentResult) -> None:
        if parent.status in ACTIVE or len(parent.result) > LARGEST_CACHED_BYTES:
            return
        if len(self._cached) >= MOST_CACHED:
            self._cached.clear()
        self._cached[parent.task_id] = _Cached(time.monotonic() + CACHED_SECONDS, parent)

    async def _read(self, task_id: str) -> ParentResult:
        try:
            detail = await self._tasks.detail(parse_task_id(task_id), deleted=True)
        except NotFound:
            return ParentResult(task_id=task_id, status="GONE")
        result = NULL if detail.result is None else detail.result
        return ParentResult(task_id=task_id, status=detail.view.status, result=result, error=detail.view.error or None)
