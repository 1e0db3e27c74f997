"""Files that are kept for tasks: each is referred to in its own history before the tasks that need it are submitted.

The event is appended after the last one of the file, as its deletion is. So of a submission and a deletion that race,
one succeeds, and the other is decided again: a task that was accepted has its files. What refers to a file for a task
that was refused after all, `workers/file_sweeper.py` removes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ..clock import utc_now
from ..commands.commands import Commands
from ..commands.file import FileCommand, FileState, ReferToFile, decide
from ..commands.handler import HandlerCommand, Known
from ..errors import NotFound
from ..events.envelope import Actor
from ..events.ids import FileRef

AT_ONCE = 100
"""Files whose histories are read and extended together."""
TRIES = 3
"""How often a file is looked for that disappears while others are referred to."""


class FileHolds:
    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def refer(self, tasks: Mapping[FileRef, Sequence[str]], *, schedule: str = "", by: Actor, cause: str) -> None:
        """Keep files for tasks, by their ids, that are submitted next. Repeating is safe.

        `schedule`: for the runs of this schedule, and for no tasks. Raises NotFound for the first file that does not
        exist, was deleted, or has expired; StoreError. Files before it may be referred to then.
        """
        refs = list(tasks)
        for start in range(0, len(refs), AT_ONCE):
            some = refs[start : start + AT_ONCE]
            for _ in range(TRIES):
                known = await self.present(some)
                orders: list[HandlerCommand[FileRef, FileState, FileCommand]] = [
                    HandlerCommand(
                        key=ref, command=ReferToFile(tasks=tuple(tasks[ref]), schedule=schedule), known=state
                    )
                    for ref, state in zip(some, known, strict=True)
                ]
                try:
                    await self._commands.files.handle_together(orders, by=by, cause=cause)
                    break
                except NotFound:
                    continue  # deleted at this moment: `present` says which one
            else:
                raise NotFound("file", some[0].id)

    async def present(self, refs: Sequence[FileRef]) -> list[Known[FileState]]:
        """Return the states of files that may be referred to now. Raises NotFound for the first that may not."""
        known = await asyncio.gather(*map(self._commands.files.load, refs))
        now = utc_now()
        for ref, (state, _) in zip(refs, known, strict=True):
            try:
                decide(ReferToFile(tasks=()), state, now)
            except NotFound:
                raise NotFound("file", ref.id) from None
        return known
