"""The results of tasks: small ones in the event that ends the task, large ones in the object store."""

from __future__ import annotations

from msgspec import Raw

from ..events.ids import TaskRef
from ..events.task import StoredResult
from .objects import Objects


class Results:
    def __init__(self, objects: Objects, inline_bytes: int) -> None:
        self._objects = objects
        self._inline_bytes = inline_bytes

    async def store(self, ref: TaskRef, mark: str, result: bytes) -> StoredResult:
        """Return a result as the event has it; a large one is on disk by then.

        `mark` tells the results of one task apart. Raises StoreUnavailable; repeating is safe.
        """
        if len(result) <= self._inline_bytes:
            return StoredResult(inline=Raw(result), size_bytes=len(result))
        name = f"{ref.owner}.{ref.unique}.{mark}"
        await self._objects.put(name, result)
        return StoredResult(object_name=name, size_bytes=len(result))

    async def read(self, stored: StoredResult) -> Raw | None:
        """Return a result. Raises NotFound where it is past its retention, StoreUnavailable if NATS is away."""
        if stored.object_name is None:
            return stored.inline
        return Raw(await self._objects.get(stored.object_name))
