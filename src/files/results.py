"""Files in results: a server that has stored files for its attempt names them in its result as `{"$file": "<id>"}`.

What readers get looks like a file of an answer, with the id: `{"$file", "$ref", "name", "mediaType", "bytes"}`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..commands.commands import Commands
from ..commands.file import FilePresent
from ..errors import NotFound
from ..events.envelope import Actor
from ..events.ids import FileRef, TaskRef, parse_file_id
from .holds import FileHolds
from .references import MOST_FILES, SIGN, ids_in, rewritten


class LinkedFiles(NamedTuple):
    """A result whose files have links."""

    result: bytes
    notes: tuple[str, ...]
    """What it names that is no file of the task's owner."""


class ResultFiles:
    """Puts links into results, and keeps the files that they name as long as the task."""

    def __init__(self, commands: Commands, holds: FileHolds) -> None:
        self._commands = commands
        self._holds = holds

    async def linked(self, ref: TaskRef, result: bytes, *, by: Actor, cause: str) -> LinkedFiles:
        """Return a result of a task with a link beside each file of its owner that it names.

        Files that its attempts stored live as long as the task anyway; any other is referred to by the task from now
        on. What is missing, or of another owner, stays as it was said. Raises StoreError.
        """
        if SIGN not in result:
            return LinkedFiles(result, ())
        found: dict[str, dict[str, Any]] = {}
        missing = []
        named = ids_in(result)
        for file_id in named[:MOST_FILES]:
            shown = await self._link(ref, parse_file_id(file_id), by=by, cause=cause)
            if shown is None:
                missing.append(file_id)
            else:
                found[file_id] = shown
        notes = [f"the result names files that its owner does not have: {', '.join(missing[:3])}"] if missing else []
        if len(named) > MOST_FILES:
            notes.append(f"the result names more than {MOST_FILES} files; the others have no links")
        if not found:
            return LinkedFiles(result, tuple(notes))
        return LinkedFiles(rewritten(result, found.get), tuple(notes))

    async def _link(self, task: TaskRef, ref: FileRef, *, by: Actor, cause: str) -> dict[str, Any] | None:
        if ref.owner != task.owner:
            return None
        state = (await self._commands.files.load(ref)).state
        if not isinstance(state, FilePresent):
            return None
        created = state.created
        if created.task != task.id:
            try:
                await self._holds.refer({ref: (task.id,)}, by=by, cause=cause)
            except NotFound:
                return None
        named = {"name": created.name} if created.name else {}
        path = f"/api/files/{ref.id}"
        return {"$file": ref.id, "$ref": path, **named, "mediaType": created.media_type, "bytes": created.size_bytes}
