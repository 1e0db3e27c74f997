"""Reports of attempts, recorded in one way: from the call, its stream, or a callback.

An end is appended after all progress. A large result is stored before it, once the end is known to be allowed; if the
log refuses the end after all, the result is deleted. What a crash leaves, `workers/result_sweeper.py` deletes.
Progress is throttled: the log keeps a few reports a second of each task, and always the last; all are pushed live.

Each task has a token bucket. A report that finds a token is appended. A report that finds none is pushed live and
waits: later ones are merged into it, until there is a token or the task ends here. A task's reports are handled one at
a time, so they keep their order.

The cost: a report that was answered with 200 is in the log within `1 / PER_SECOND` seconds. If this process is killed
before that, the report is lost. An end is never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec import Struct, field
from msgspec.structs import replace

from ..backends.dialects.dialect import Completed, Ending, Update
from ..clock import unique_id
from ..commands.commands import Commands
from ..commands.handler import PATIENCE_SECONDS, Known
from ..commands.task import decide
from ..commands.task_commands import FailTask, Reporter, ReportProgress, SucceedTask
from ..commands.task_state import TaskState
from ..errors import Refused, ResultExpired, StoreError, StoreUnavailable
from ..events.chapters import ends_chapter
from ..events.envelope import NULL, Actor
from ..events.ids import TaskRef
from ..events.stream_parts import joined
from ..events.subjects import live_subject, task_root
from ..events.task import MergedReport, ProgressReported, StoredResult, TaskEvent, object_names
from ..files.references import SIGN
from ..files.results import ResultFiles
from ..projections.task_reader import TaskDetail, next_report
from ..projections.task_view import after_report
from ..streams.client.connection import Connection
from ..streams.results import Results
from . import live

log = structlog.get_logger(__name__)

PER_SECOND = 4.0
BURST = 8.0
MOST_OUTPUT = 64 * 1024
"""Characters of output and lines that may wait; with more, they are appended without a token."""
MOST_MERGED = 100
"""Ends of chapters that may wait; with more, they are appended without a token."""
MOST_LINES = 500
"""Lines that may wait; with more, they are appended without a token. Merging costs time for each line that waits."""
MOST_INLINE = 16 * 1024
"""Bytes of a report's data in its event. More is in the object store: each read of a task reads all its events."""
MOST_STORED = 32 * 1024 * 1024
"""Characters of output, lines, data and custom data of one task that this process stores. More is pushed live only."""
MOST_STORED_THEN = 1_024
"""Bytes of custom data that are stored even then."""
NOT_KEPT = (
    "output, lines and large custom data are pushed live only, and data is left out: the task has stored "
    f"{MOST_STORED:,} characters"
)
ROOM_BYTES = 512 * 1024
"""Of a message: for the report that waits, and that the next is merged into. A report may have what is left."""
NOT_SENT = "output, lines or custom data that are too large for an event were left out"
MOST_NOTES = 20
"""Notes of merged reports; equal ones count once."""
REMEMBERED = 10_000
OBJECT_PAUSE_SECONDS = 5.0
"""How long a large result waits before the object store is asked again."""
_encode = msgspec.json.Encoder().encode
NOT_STORED = StoredResult(size_bytes=0)
"""Stands for a large result while it is decided whether it may be stored."""
LONGEST_UNDECIDED = timedelta(minutes=20)
"""How long an end that names no attempt may be decided after its result was stored. Less than `SAFE_AGE` of the
sweeper: a process that was stopped meanwhile must not refer to a result that was swept."""


class _Throttle(Struct):
    """One task's token bucket, and the report that waits."""

    tokens: float = BURST
    at: float = 0.0
    """Monotonic seconds: when the tokens were counted."""
    waiting: ReportProgress | None = None
    by: Actor | None = None
    cause: str = ""
    last: int = 0
    """Sequence of the last report that was appended here."""
    flush: asyncio.Task[None] | None = None
    stored: int = 0
    """Characters of output, lines, data and custom data that were stored here."""
    refused: tuple[Reporter, Refused] | None = None
    """The reporter of an attempt that no longer counts, and why it was refused."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held to append, or to change what waits."""

    def take(self, now: float) -> bool:
        self.tokens = min(BURST, self.tokens + (now - self.at) * PER_SECOND)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class AttemptReports:
    """Records the reports that a process receives."""

    def __init__(
        self,
        commands: Commands,
        results: Results,
        connection: Connection,
        now: Callable[[], datetime],
        files: ResultFiles,
    ) -> None:
        self._commands = commands
        self._results = results
        self._files = files
        self._connection = connection
        self._now = now
        self._tasks: dict[TaskRef, _Throttle] = {}

    async def progress(
        self,
        ref: TaskRef,
        update: Update,
        reporter: Reporter,
        *,
        by: Actor,
        cause: str,
        known: Known[TaskState],
        is_kept_apart: bool = False,
    ) -> None:
        """Append a progress report, or merge it into the one that waits. `is_kept_apart`: never merge it with others.

        Raises Refused if the known state does not allow it, StoreUnavailable if it must be appended now and cannot be.
        """
        command = self._bounded(update.command(reporter))
        is_large = False
        if update.data != NULL:
            inline = self._results.inline(bytes(update.data), most_bytes=MOST_INLINE)
            is_large = inline is None
            command = replace(command, data=inline)
        events = decide(command, known.state, self._now())
        if command.parts is not None and command.parts.first == 0:
            is_kept_apart = True  # in the log before any client has it: no other attempt may begin the stream again
        task = self._task(ref)
        async with task.lock:
            if task.refused is not None and task.refused[0] == command.reporter:
                raise task.refused[1]
            size = len(command.output) + sum(map(len, command.lines)) + len(command.custom_data) + len(update.data)
            is_over = task.stored + size > MOST_STORED
            if is_over:
                command = _without_content(command)
            else:
                task.stored += size
                if is_large:
                    await self._append_large(ref, task, command, bytes(update.data), by=by, cause=cause)
                    return
            if is_kept_apart:
                if task.waiting is not None:
                    await self._append(ref, task)
                task.last = (await self._commands.task(ref, command, by=by, cause=cause)).known.sequence
                return
            is_free = not is_over and task.waiting is None and task.flush is None and task.take(time.monotonic())
            if is_free or len(events) > 1:  # a report that starts an attempt is more than progress
                handled = await self._commands.task(ref, command, by=by, cause=cause, known=known)
                task.last = handled.known.sequence
                return
            if task.waiting is not None and not _may_be_merged(task.waiting, command):
                await self._append(ref, task)
            before = _part_characters(task.waiting)
            waiting = task.waiting = _merged(task.waiting, command)
            task.stored += max(0, _part_characters(waiting) - before)  # what they have in common is stored once
            task.by, task.cause = by, cause
            if task.flush is None:
                task.flush = asyncio.create_task(self._flush_later(ref, task))
            await self._push(ref, waiting, events[0], by, after=max(task.last, known.sequence))

    def _bounded(self, command: ReportProgress) -> ReportProgress:
        """Return a report that an event can hold.

        One that cannot be stored would wait for ever, and keep the end out.
        """
        most = self._connection.max_payload - ROOM_BYTES
        if 6 * _characters(command) + len(command.custom_data) <= most:  # no character takes more than six bytes
            return command
        if len(_encode((command.output, command.lines, command.parts))) + len(command.custom_data) <= most:
            return command
        return replace(command, custom_data=NULL, lines=(), output="", parts=None, notes=(*command.notes, NOT_SENT))

    async def _append_large(
        self, ref: TaskRef, task: _Throttle, command: ReportProgress, data: bytes, *, by: Actor, cause: str
    ) -> None:
        """Append a report whose data needs an object, after the one that waits. It is too large to be pushed live."""
        if task.waiting is not None:
            await self._append(ref, task)
        decided_by = self._now() + LONGEST_UNDECIDED
        stored = await self._results.store_partial(ref, data)
        try:
            if self._now() > decided_by:
                raise ResultExpired
            handled = await self._commands.task(ref, replace(command, data=stored), by=by, cause=cause)
        except Refused:
            await self._discard(ref, stored)
            raise
        task.last = handled.known.sequence

    def with_waiting(self, detail: TaskDetail) -> TaskDetail:
        """Return a task as it is with the report that waits here to be appended."""
        task = self._tasks.get(detail.ref)
        waiting = None if task is None else task.waiting
        view = detail.view
        if waiting is None or view.status != "PROCESSING" or waiting.reporter.attempt not in (None, view.attempt):
            return detail
        event = ProgressReported(
            attempt=view.attempt,
            progress=waiting.progress,
            message=waiting.message,
            custom_data=waiting.custom_data,
            merged=waiting.merged,
            data=waiting.data,
        )
        return detail._replace(view=after_report(view, event), report=next_report(detail.report, event, view.sequence))

    async def end(
        self,
        ref: TaskRef,
        ending: Ending,
        reporter: Reporter,
        *,
        update_digest: str = "",
        by: Actor,
        cause: str,
        known: Known[TaskState],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Store the result, append the progress that waits, then append the end of the task.

        An end that is not allowed, or recorded already, stores nothing. Repeating is safe. Raises what the decider
        raises, and StoreUnavailable when NATS has been away for `patience_seconds`.
        """
        if isinstance(ending, Completed) and SIGN in ending.result:
            ending = await self._with_links(ref, ending, by, cause, patience_seconds)
        has_file = isinstance(ending, Completed) and (ending.file is not None or ending.files != ())
        result = self._results.inline(ending.result, has_file=has_file)
        if result is not None:
            command = _end(ending, reporter, result, update_digest)
        else:
            decided_by = None if reporter.attempt else self._now() + LONGEST_UNDECIDED
            asked = _end(ending, reporter, NOT_STORED, update_digest, decided_by)
            found = await self._store(ref, asked, ending, patience_seconds)
            if found is None:
                return
            known, result = found
            command = replace(asked, result=result)
        has_moved = await self.flush(ref, patience_seconds)
        try:
            handled = await self._commands.task(
                ref, command, by=by, cause=cause, known=None if has_moved else known, patience_seconds=patience_seconds
            )
        except Refused:
            await self._discard(ref, result)
            raise
        if not handled.appended:
            await self._discard(ref, result)

    async def _with_links(
        self, ref: TaskRef, ending: Completed, by: Actor, cause: str, patience_seconds: float
    ) -> Completed:
        """Return an end whose result has links to the files that it names. Raises StoreUnavailable."""
        give_up_at = time.monotonic() + patience_seconds
        while True:
            try:
                linked = await self._files.linked(ref, ending.result, by=by, cause=cause)
                return replace(ending, result=linked.result, notes=(*ending.notes, *linked.notes))
            except StoreUnavailable as error:
                if time.monotonic() + OBJECT_PAUSE_SECONDS > give_up_at:
                    raise
                log.warning("result.delayed", task=ref.id, reason=str(error))
                await asyncio.sleep(OBJECT_PAUSE_SECONDS)

    async def flush(self, ref: TaskRef, patience_seconds: float = PATIENCE_SECONDS) -> bool:
        """Append the progress that waits; return True if there was some.

        Raises StoreUnavailable when NATS has been away for `patience_seconds`; the progress waits on. With endless
        patience, progress is dropped if the store is full: the outcome matters more.
        """
        task = self._tasks.get(ref)
        if task is None:
            return False
        async with task.lock:
            if task.waiting is None:
                return False
            try:
                await self._append(ref, task, patience_seconds)
            except StoreUnavailable:
                if patience_seconds < math.inf:
                    raise
                return False
            return True

    async def close(self) -> None:
        """Append every report that waits."""
        for ref, task in list(self._tasks.items()):
            with contextlib.suppress(StoreUnavailable):
                await self.flush(ref)
            if task.flush is not None:
                task.flush.cancel()

    async def _store(
        self, ref: TaskRef, command: SucceedTask | FailTask, ending: Ending, patience_seconds: float
    ) -> tuple[Known[TaskState], StoredResult] | None:
        """Store a large result if its end is allowed; return what the end was decided on, and the form the event holds.

        Return None if the end is recorded already. Raises Refused: nothing is stored.
        """
        file, files = (ending.file, ending.files) if isinstance(ending, Completed) else (None, ())
        content = None if file is None else (file.media_type, file.content)
        contents = [(each.media_type, each.content) for each in files]
        give_up_at = time.monotonic() + patience_seconds
        while True:
            try:
                known = await self._commands.tasks.load(ref)  # it may have changed while the result was received
                if not decide(command, known.state, self._now()):
                    return None
                return known, await self._results.store(ref, ending.result, content, contents)
            except StoreUnavailable as error:
                if time.monotonic() + OBJECT_PAUSE_SECONDS > give_up_at:
                    raise
                log.warning("result.delayed", task=ref.id, reason=str(error))
                await asyncio.sleep(OBJECT_PAUSE_SECONDS)

    async def _discard(self, ref: TaskRef, result: StoredResult) -> None:
        """Delete the objects of an end that came to nothing; what cannot be deleted now is left to the sweeper.

        An append whose answer was lost may have recorded the end before the task moved on: then they stay.
        """
        if not result.object_names:
            return
        with contextlib.suppress(StoreError):
            unreferenced = set(result.object_names)
            async with contextlib.aclosing(self._commands.tasks.log.steps(task_root(ref))) as steps:
                async for step in steps:
                    for stored in step:
                        unreferenced -= object_names(stored.recorded.event)
            await self._results.discard(unreferenced)

    def _task(self, ref: TaskRef) -> _Throttle:
        task = self._tasks.get(ref)
        if task is None:
            if len(self._tasks) >= REMEMBERED:
                self._tasks = {ref: task for ref, task in self._tasks.items() if task.waiting or task.flush is not None}
            task = self._tasks[ref] = _Throttle(at=time.monotonic())
        return task

    async def _push(self, ref: TaskRef, waiting: ReportProgress, event: TaskEvent, by: Actor, after: int) -> None:
        """Push a report live. `after`: sequence of the last event of the task that is known here."""
        assert isinstance(event, ProgressReported)
        report = live.LiveReport(
            batch=waiting.batch, index=waiting.reports - 1, at=self._now(), by=by, event=event, after=after
        )
        with contextlib.suppress(StoreUnavailable):  # listeners get it from the log later
            await self._connection.publish(live_subject(ref), live.encode(report))

    async def _flush_later(self, ref: TaskRef, task: _Throttle) -> None:
        while task.waiting is not None:
            await asyncio.sleep((1 - task.tokens) / PER_SECOND)
            if not task.take(time.monotonic()):
                continue
            try:
                await self.flush(ref)
            except StoreUnavailable as error:
                log.warning("progress.delayed", task=ref.id, reason=str(error))
        task.flush = None

    async def _append(self, ref: TaskRef, task: _Throttle, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Append the report that waits. Drop it if it is refused; it waits on if it cannot be stored."""
        batch = task.waiting
        assert batch is not None
        assert task.by is not None
        try:
            handled = await self._commands.task(
                ref, batch, by=task.by, cause=task.cause, patience_seconds=patience_seconds
            )
            task.last = handled.known.sequence
        except Refused as refusal:
            log.debug("progress.dropped", task=ref.id, reason=str(refusal))
            if batch.reporter.attempt is not None:
                task.refused = batch.reporter, refusal
        task.waiting = None


def _end(
    ending: Ending, reporter: Reporter, result: StoredResult, update_digest: str, decided_by: datetime | None = None
) -> SucceedTask | FailTask:
    """Return the command that records an end."""
    if isinstance(ending, Completed):
        return SucceedTask(
            reporter=reporter,
            result=result,
            update_digest=update_digest,
            notes=ending.notes,
            decided_by=decided_by,
        )
    return FailTask(
        reporter=reporter,
        error=ending.error,
        result=result,
        update_digest=update_digest,
        notes=ending.notes,
        decided_by=decided_by,
    )


def _without_content(command: ReportProgress) -> ReportProgress:
    """Return what is stored of a report once the task has stored enough: the percentage and the message."""
    is_small = len(command.custom_data) <= MOST_STORED_THEN
    return replace(
        command,
        custom_data=command.custom_data if is_small else NULL,
        lines=(),
        output="",
        data=None,
        parts=None,
        notes=(*command.notes, NOT_KEPT),
    )


def _may_be_merged(first: ReportProgress, second: ReportProgress) -> bool:
    if first.reporter != second.reporter or len(first.lines) >= MOST_LINES or len(first.merged) >= MOST_MERGED:
        return False
    merged = sum(len(report.custom_data) for report in first.merged)
    if len(first.custom_data) > MOST_OUTPUT and ends_chapter(first.custom_data):
        return False  # it would be kept beside the second's
    return _characters(first) + merged <= MOST_OUTPUT


def _characters(command: ReportProgress) -> int:
    """Return the characters of output, lines and parts in a report."""
    return len(command.output) + sum(map(len, command.lines)) + _part_characters(command)


def _part_characters(command: ReportProgress | None) -> int:
    return 0 if command is None or command.parts is None else command.parts.characters


def _merged(first: ReportProgress | None, second: ReportProgress) -> ReportProgress:
    """Merge two reports: the later one's fields win, lines, output and ends of chapters are joined.

    Without a first, start a batch.
    """
    if first is None:
        return replace(second, batch=unique_id())
    merged = first.merged
    if second.custom_data != NULL and NOT_KEPT not in first.notes and ends_chapter(first.custom_data):
        merged = (*merged, MergedReport(report=first.reports - 1, custom_data=first.custom_data))
    return replace(
        second,
        progress=first.progress if second.progress is None else second.progress,
        message=second.message or first.message,
        custom_data=first.custom_data if second.custom_data == NULL else second.custom_data,
        lines=(*first.lines, *second.lines),
        output=first.output + second.output,
        batch=first.batch,
        reports=first.reports + 1,
        notes=tuple(dict.fromkeys((*first.notes, *second.notes)))[:MOST_NOTES],
        merged=merged,
        data=second.data or first.data,
        parts=joined(first.parts, second.parts),
    )
