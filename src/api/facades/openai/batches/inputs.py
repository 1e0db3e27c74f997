"""The input of a batch: its lines, read from the stored file part by part."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from .....commands.batch_job import BatchJob
from .....commands.file import FilePresent
from .....errors import NotFound
from .....events.batch_job import LineError
from .....events.ids import BatchJobRef, parse_file_id
from .....files.service import FileService
from .line_tasks import LineTasks
from .lines import LineSplitter, TextLine
from .requests import InputCheck


class InputLost(Exception):
    """The input file was deleted, or has expired."""


class Inputs:
    """Reads the inputs of batches."""

    def __init__(self, files: FileService, tasks: LineTasks) -> None:
        self._files = files
        self._tasks = tasks

    async def lines(self, ref: BatchJobRef, job: BatchJob, offset: int = 0) -> AsyncGenerator[TextLine, None]:
        """Yield the lines after `offset` bytes, without empty ones. Raises InputLost, StoreError."""
        splitter = LineSplitter(self._tasks.longest, offset=offset, number=1 if offset else 0)
        file = await self._find(job)
        try:
            async with self._files.opened(file, ref.owner, offset) as parts:
                async for part in parts:
                    await asyncio.sleep(0)  # other requests go on, however much is in memory
                    for line in splitter.feed(part):
                        yield line
        except NotFound:
            raise InputLost from None
        for line in splitter.finish():
            yield line

    async def check(self, ref: BatchJobRef, job: BatchJob) -> tuple[int, list[LineError]]:
        """Return the number of requests, and what is wrong with them. Raises WindowOver, InputLost, StoreError."""
        await self._tasks.catch_up()
        check = InputCheck(lambda text: self._tasks.check(job, text))
        async with contextlib.aclosing(self.lines(ref, job)) as lines:
            async for line in lines:
                check.add(line)
                if check.is_done:
                    break
        return check.total, check.result()

    async def _find(self, job: BatchJob) -> FilePresent:
        try:
            return await self._files.find(parse_file_id(job.created.input_file))
        except NotFound:
            raise InputLost from None
