"""What became of the tasks that another depends on, as its server is told."""

from __future__ import annotations

import asyncio
from typing import Literal

from msgspec import Raw, Struct

from ..errors import NotFound
from ..events.envelope import NULL
from ..events.ids import parse_task_id
from ..events.task import Plan
from ..projections.task_reader import TaskReader
from ..projections.task_view import Status

READ_AT_ONCE = 32


class Parent(Struct, frozen=True, kw_only=True):
    """A task that has ended."""

    task_id: str
    status: Status | Literal["GONE"]
    """GONE: its history is past its retention."""
    result: Raw = NULL
    """Its TaskResult, JSON; null if it has none."""
    error: str | None = None


class Parents:
    def __init__(self, tasks: TaskReader) -> None:
        self._tasks = tasks

    async def of(self, plan: Plan | None) -> list[Parent] | None:
        """Return the parents of a task in the order in which it names them, None if it has none.

        Raises StoreUnavailable.
        """
        if plan is None or not plan.depends_on:
            return None
        places = asyncio.Semaphore(READ_AT_ONCE)

        async def read(task_id: str) -> Parent:
            async with places:
                return await self._read(task_id)

        return list(await asyncio.gather(*map(read, plan.depends_on)))

    async def _read(self, task_id: str) -> Parent:
        try:
            detail = await self._tasks.detail(parse_task_id(task_id), deleted=True)
        except NotFound:
            return Parent(task_id=task_id, status="GONE")
        result = NULL if detail.result is None else detail.result
        return Parent(task_id=task_id, status=detail.view.status, result=result, error=detail.view.error or None)
