"""The files of a batch's results, written line by line while the tasks are read.

Each try has files of its own, whose ids are in the log before them. So what a killed process has written is found and
deleted, and a batch never has two files of one kind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

from .....clock import utc_now
from .....commands.batch_job import BatchJob, FinishBatchJob
from .....container import Container
from .....errors import FileInUse, NotFound
from .....events.batch_job import BatchJobFinalizing, LineCounts, LineError, TokenUsage
from .....events.codec import task_codec
from .....events.envelope import Actor
from .....events.ids import (
    BatchJobRef,
    TaskRef,
    batch_job_cause,
    batch_of_job,
    file_for_key,
    nth,
    parse_file_id,
)
from .....events.json_text import compact
from .....events.subjects import events_filter, task_ref
from .....events.task import StoredResult, TaskCancelled, TaskFailed, TaskSubmitted, TaskSucceeded
from .....files.service import FileDetails, StoredUpload
from .....streams.jetstream.messages import Position, read_last
from .....streams.log import decode
from .....streams.topology.definitions import TASKS
from .inputs import InputLost, Inputs
from .line_tasks import CUSTOM_ID, LINE, LineTasks
from .requests import InvalidLine
from .result_lines import (
    EXPIRED,
    GONE,
    REFUSED,
    ResultLine,
    answered,
    data_in,
    of_failure,
    summed,
    unanswered,
    usage_in,
)
from .submitting import MOST_TOGETHER

READ_TOGETHER = 32
"""Tasks whose events are read, and held, at a time: each may have a payload of 1 MiB."""
ENDS = ("succeeded", "failed", "cancelled")
PART_BYTES = 64 * 1024
PARTS_HELD = 4
PURPOSE = "batch_output"
JSON_LINES = "application/jsonl"


def file_ids(ref: BatchJobRef, attempt: int) -> tuple[str, str]:
    """Return the ids of the output file and the error file of a try: always the same."""
    return tuple(file_for_key(ref.owner, _key(ref, attempt, kind)).id for kind in ("output", "error"))  # type: ignore[return-value]


def _key(ref: BatchJobRef, attempt: int, kind: str) -> str:
    return f"batch job\n{ref.id}\n{attempt}\n{kind}"  # no caller's key has a line break


class _LineFile:
    """A file that is stored while lines are written to it; without lines there is none."""

    def __init__(self, container: Container, ref: BatchJobRef, job: BatchJob, kind: str, by: Actor) -> None:
        self._container = container
        self._ref = ref
        self._job = job
        self._kind = kind
        self._by = by
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(PARTS_HELD)
        self._buffer: list[bytes] = []
        self._size = 0
        self._storing: asyncio.Task[StoredUpload] | None = None

    @property
    def has_lines(self) -> bool:
        return self._storing is not None or bool(self._buffer)

    async def write(self, line: bytes) -> None:
        """Add a line. Raises what the storing of the file raised."""
        self._buffer.append(line)
        self._size += len(line)
        if self._size >= PART_BYTES:
            await self._send(b"".join(self._buffer))
            self._buffer, self._size = [], 0

    async def finish(self) -> None:
        """Store the rest; then the file exists. Raises as `write` does."""
        if not self.has_lines:
            return
        if self._buffer:
            await self._send(b"".join(self._buffer))
        await self._send(None)
        assert self._storing is not None
        await self._storing

    async def abandon(self) -> None:
        """Store nothing."""
        if self._storing is not None and not self._storing.done():
            self._storing.cancel()
            await asyncio.wait([self._storing])

    async def _send(self, part: bytes | None) -> None:
        if self._storing is None:
            self._storing = asyncio.create_task(self._store())
        putting = asyncio.ensure_future(self._parts.put(part))
        await asyncio.wait({putting, self._storing}, return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
            self._storing.result()

    async def _content(self) -> AsyncGenerator[bytes, None]:
        while (part := await self._parts.get()) is not None:
            yield part

    async def _store(self) -> StoredUpload:
        job, ref = self._job, self._ref
        assert job.finalizing is not None
        seconds = job.created.output_seconds
        details = FileDetails(
            name=f"batch_{ref.unique}_{self._kind}.jsonl",
            media_type=JSON_LINES,
            purpose=PURPOSE,
            metadata={"batch_id": ref.id},
            expires_at=utc_now() + timedelta(seconds=seconds) if seconds else None,
        )
        return await self._container.files.create(
            job.created.owner,
            self._content(),
            details,
            by=self._by,
            cause=batch_job_cause(ref.id),
            idempotency_key=_key(ref, job.finalizing.attempt, self._kind),
        )


class ResultWriter:
    """Writes the files of batches whose tasks have ended."""

    def __init__(self, container: Container, inputs: Inputs, tasks: LineTasks, by: Actor) -> None:
        self._container = container
        self._inputs = inputs
        self._tasks = tasks
        self._by = by

    async def remove(self, ref: BatchJobRef, earlier: BatchJobFinalizing) -> None:
        """Delete what an earlier try has written. Raises StoreError."""
        for file_id in (earlier.output_file, earlier.error_file):
            with contextlib.suppress(NotFound, FileInUse):
                await self._container.files.delete(parse_file_id(file_id), by=self._by, cause=batch_job_cause(ref.id))

    async def write(self, ref: BatchJobRef, job: BatchJob, errors: Sequence[LineError] = ()) -> FinishBatchJob:
        """Write the files of the present try; return what ends the batch.

        Raises StoredTooMuch, FileTooLarge, StoreError: then it is to be tried again.
        """
        assert job.finalizing is not None
        output, failures = (_LineFile(self._container, ref, job, kind, self._by) for kind in ("output", "error"))
        usage: TokenUsage | None = None
        completed = failed = 0
        try:
            async with contextlib.aclosing(self._results(ref, job)) as results:
                async for line, used in results:
                    await (output if line.is_success else failures).write(line.text)
                    completed += line.is_success
                    failed += not line.is_success
                    usage = summed(usage, used)
            await output.finish()
            await failures.finish()
        except BaseException:
            await output.abandon()
            await failures.abandon()
            raise
        return FinishBatchJob(
            attempt=job.finalizing.attempt,
            counts=LineCounts(completed=completed, failed=failed),
            has_output=completed > 0,
            has_errors=failed > 0,
            usage=usage,
            errors=tuple(errors),
        )

    async def _results(
        self, ref: BatchJobRef, job: BatchJob
    ) -> AsyncGenerator[tuple[ResultLine, TokenUsage | None], None]:
        """Yield one line for each request: those with tasks first, then the others."""
        seen = bytearray(job.total + 1)
        is_cancelled = job.finalizing is not None and job.finalizing.outcome == "cancelled"
        for number in range(1, job.batches + 1):
            batch = batch_of_job(ref, number)
            for start in range(0, MOST_TOGETHER, READ_TOGETHER):
                refs = [nth(batch, place) for place in range(start, min(start + READ_TOGETHER, MOST_TOGETHER))]
                tasks = await self._read(refs)
                for task, (submitted, end) in tasks.items():
                    facade = submitted.facade
                    line = int(facade.metadata[LINE]) if facade else 0
                    if facade is None or seen[line]:
                        continue
                    seen[line] = 1
                    if isinstance(end, TaskCancelled) and is_cancelled:
                        continue
                    yield await self._line_of(ref, task, facade.metadata[CUSTOM_ID], end)
                if len(tasks) < len(refs):
                    break
        missing = any(not each for each in seen[1 : job.lines + 1])
        if missing or (job.lines < job.total and not is_cancelled):
            async for rest in self._without_tasks(ref, job, seen, most=job.lines if is_cancelled else job.total):
                yield rest, None

    async def _without_tasks(
        self, ref: BatchJobRef, job: BatchJob, seen: bytearray, most: int
    ) -> AsyncGenerator[ResultLine, None]:
        """Yield the lines of requests that have no task: refused by their types, or out of time."""
        number = 0
        with contextlib.suppress(InputLost):
            async with contextlib.aclosing(self._inputs.lines(ref, job)) as lines:
                async for line in lines:
                    number += 1
                    if number > most:
                        break
                    if seen[number]:
                        continue
                    with contextlib.suppress(InvalidLine):
                        request = self._tasks.read(job, line.text)
                        unique = f"{ref.unique}_{number}"
                        if number > job.lines:
                            yield unanswered(unique, request.custom_id, "batch_expired", EXPIRED)
                        else:
                            yield unanswered(unique, request.custom_id, "invalid_request", REFUSED)

    async def _read(
        self, refs: Sequence[TaskRef]
    ) -> dict[TaskRef, tuple[TaskSubmitted, TaskSucceeded | TaskFailed | TaskCancelled | None]]:
        """Return the submission and the last end of each task that is stored."""
        filters = [events_filter(ref, word) for ref in refs for word in ("submitted", *ENDS)]
        submissions: dict[TaskRef, TaskSubmitted] = {}
        ends: dict[TaskRef, Position] = {}
        for position in sorted(await read_last(self._container.reading, TASKS, filters)):
            task = task_ref(position.subject)
            if position.subject.split(".")[3] in ENDS:
                ends[task] = position
                continue
            event = decode(task_codec, position, alone=True).recorded.event
            if isinstance(event, TaskSubmitted):
                submissions[task] = event
        found = {}
        for task, submitted in submissions.items():
            end = decode(task_codec, ends[task], alone=True).recorded.event if task in ends else None
            assert end is None or isinstance(end, TaskSucceeded | TaskFailed | TaskCancelled)
            found[task] = (submitted, end)
        return found

    async def _line_of(
        self,
        ref: BatchJobRef,
        task: TaskRef,
        custom_id: str,
        end: TaskSucceeded | TaskFailed | TaskCancelled | None,
    ) -> tuple[ResultLine, TokenUsage | None]:
        if end is None:
            return unanswered(task.unique, custom_id, "server_error", GONE), None
        if not isinstance(end, TaskSucceeded):
            return of_failure(task.unique, custom_id, end), None
        try:
            body = data_in(await self._bytes_of(ref, end.result))
        except NotFound:
            return unanswered(task.unique, custom_id, "server_error", GONE), None
        return answered(task.unique, custom_id, 200, body), usage_in(body)

    async def _bytes_of(self, ref: BatchJobRef, result: StoredResult) -> bytes:
        """Return a TaskResult on one line. Raises NotFound if it is past its retention, StoreError."""
        if result.object_name is None:
            return bytes(result.inline)
        async with self._container.results.opened(result.object_name, ref.owner) as parts:
            return compact(b"".join([part async for part in parts]))
