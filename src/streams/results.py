"""Results of tasks: small ones in the event that ends the task, large ones in JetStream's object store.

Each object has a name of its own, so no other writer replaces or deletes it. Its description is stored before its
parts: whatever a killed process leaves is found by the description, and swept (`workers/result_sweeper.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from msgspec import Raw

from ..clock import unique_id
from ..errors import StoreError
from ..events.envelope import NULL
from ..events.ids import TaskRef
from ..events.json_text import compact
from ..events.task import StoredFile, StoredResult
from .objects import Objects

FileContent: TypeAlias = tuple[str, bytes]
"""The media type of a file, and its bytes."""

BUCKET = "results"
PARTIAL = ".partial"
"""End of the names of objects that progress reports refer to."""
STREAM = f"OBJ_{BUCKET}"


class Results:
    """The results of all tasks. `objects` holds those larger than `inline_bytes`."""

    def __init__(self, objects: Objects, inline_bytes: int) -> None:
        self._objects = objects
        self._inline_bytes = inline_bytes

    def inline(self, ending: bytes, *, has_file: bool = False, most_bytes: int | None = None) -> StoredResult | None:
        """Return a result in the form the event holds, without line breaks; None if it needs an object.

        `most_bytes`: a limit below that of all results.
        """
        result = compact(ending)
        if has_file or len(result) > min(self._inline_bytes, most_bytes or self._inline_bytes):
            return None
        return StoredResult(inline=Raw(result), size_bytes=len(result))

    async def store(
        self, ref: TaskRef, result: bytes, file: FileContent | None = None, files: Sequence[FileContent] = ()
    ) -> StoredResult:
        """Store what of a result is too large for the event, and its files; return the form that the event holds.

        Raises StoreUnavailable: then nothing is stored. Each call makes objects with new names.
        """
        result = compact(result)
        name = f"{ref.owner}.{ref.unique}.{unique_id()}"
        is_inline = len(result) <= self._inline_bytes
        contents = {} if file is None else {f"{name}.file": file}
        contents |= {f"{name}.file.{number}": each for number, each in enumerate(files)}
        stored = tuple(
            StoredFile(object_name=file_name, media_type=media_type, size_bytes=len(content))
            for file_name, (media_type, content) in contents.items()
        )
        objects = [(file_name, content) for file_name, (_, content) in contents.items()]
        await self._put_all(objects if is_inline else [*objects, (name, result)])
        return StoredResult(
            inline=Raw(result) if is_inline else NULL,
            object_name=None if is_inline else name,
            size_bytes=len(result),
            file=None if file is None else stored[0],
            files=stored if file is None else stored[1:],
        )

    async def _put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Store objects by name, all or none. Raises StoreUnavailable; what then cannot be deleted is swept."""
        for place, (name, data) in enumerate(objects):
            try:
                await self._objects.put(name, data)
            except StoreError:
                with contextlib.suppress(StoreError):
                    await self.discard([stored for stored, _ in objects[:place]])
                raise

    async def store_partial(self, ref: TaskRef, data: bytes) -> StoredResult:
        """Store the data of a progress report in an object; return the form that the event holds.

        Raises StoreUnavailable. Each call makes an object with a new name.
        """
        data = compact(data)
        name = f"{ref.owner}.{ref.unique}.{unique_id()}{PARTIAL}"
        await self._objects.put(name, data)
        return StoredResult(object_name=name, size_bytes=len(data))

    async def discard(self, names: Collection[str]) -> None:
        """Delete objects. Raises StoreUnavailable; repeating is safe."""
        for name in names:
            await self._objects.delete(name)

    def opened(
        self, object_name: str, user: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Return a context manager of a large result's parts, or a file's. `Objects.opened` says what it raises."""
        return self._objects.opened(object_name, user, start, end)
