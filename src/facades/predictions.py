"""The reader of predictions: a task's history, its reports and its result, as they are now or were at an event."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct, field

from ..errors import NotFound, TooManyReads
from ..events import task as events
from ..events.envelope import NULL, Stored
from ..events.ids import TaskRef
from ..events.kinds import word_of
from ..events.task import ProgressReported, StoredFile, StoredResult, TaskEvent
from ..projections.fleet import Fleet
from ..projections.task_reader import TaskDetail, TaskReader
from ..streams.results import Results
from ..vault.result_links import ResultLinks
from ..vault.sealing import Sealer
from .prediction import PredictionFacts, ReplicatePrediction, ReportPart, prediction_of

REPORTS_AT_ONCE = 1_000
MOST_GATHERED = 4 * 1024 * 1024
"""Bytes of an attempt's reports that are gathered; the rest of longer ones is in the result only."""
REMEMBERED = 200
"""Attempts whose reports are remembered, so that a client that polls costs the new ones only."""
MOST_REMEMBERED = 16 * 1024 * 1024
"""Bytes of all of them."""
LARGE_AT_ONCE = 2
"""Results of the object store in memory at a time."""
PATIENCE_SECONDS = 10.0
FILE_VALID = timedelta(hours=1)
"""How long the URL of a file is valid; each answer has new ones."""
LARGEST_INLINE_FILE = 1024 * 1024
"""Bytes of a file that is sent as a data URI where URLs are not https."""
MOST_INLINE_FILES = 4 * 1024 * 1024
"""Bytes of all such files of one prediction."""
PROGRESS = frozenset({word_of(ProgressReported)})


class TaskSnapshot(NamedTuple):
    """A task as it was after an event."""

    detail: TaskDetail
    started: int
    """Sequence of the start of its last attempt; 0: it has none, or no report to read."""


class _Gathered(Struct):
    """The reports of an attempt up to a sequence."""

    started: int
    up_to: int
    parts: list[ReportPart] = field(default_factory=list)
    size_bytes: int = 0


class _ResultData(Struct):
    data: Raw = NULL


_decode_data = msgspec.json.Decoder(_ResultData).decode


class PredictionReader:
    """Reads tasks as predictions."""

    def __init__(self, tasks: TaskReader, fleet: Fleet, results: Results, sealer: Sealer) -> None:
        self._tasks = tasks
        self._fleet = fleet
        self._results = results
        self._sealer = sealer
        self._known: OrderedDict[TaskRef, _Gathered] = OrderedDict()
        self._known_bytes = 0
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def snapshot(self, ref: TaskRef, up_to: int | None = None) -> TaskSnapshot:
        """Return a task as it is, or was after the event at a sequence. Raises NotFound, also for a deleted one."""
        history = await self._tasks.history(ref, deleted=up_to is not None)
        if up_to is not None:
            history = [stored for stored in history if stored.sequence <= up_to]
        elif not any(isinstance(stored.recorded.event, ProgressReported) for stored in history):
            return TaskSnapshot(self._tasks.detail_of(ref, history), 0)
        return TaskSnapshot(self._tasks.detail_of(ref, history), _last_start(history))

    async def prediction(
        self,
        snapshot: TaskSnapshot,
        base: str,
        now: datetime,
        *,
        up_to: int | None = None,
        stream: str | None = None,
        in_list: bool = False,
    ) -> ReplicatePrediction:
        """Return a task as a prediction. `base`: of its URLs. `in_list`: without a result that is not inline.

        Raises StoreUnavailable, and TooManyReads if too many large results are being read.
        """
        detail = snapshot.detail
        reports = await self.reports(detail.ref, snapshot.started, up_to)
        stored, sequence = detail.result, detail.result_sequence
        data, has_unread = await self._data(detail.ref, stored, in_list=in_list)
        urls = await self._file_urls(detail.ref, stored, sequence, base, now, in_list=in_list) if stored else {}
        definition = self._fleet.definition(detail.view.task_type)
        seen = PredictionFacts(definition, reports, data, has_unread)
        return prediction_of(detail, seen, base, lambda number: urls.get(number, ""), stream)

    async def data(self, detail: TaskDetail) -> Raw | None:
        """Return the `data` of a task's result, None without one. Raises as `prediction` does."""
        return (await self._data(detail.ref, detail.result, in_list=False))[0]

    async def reports(self, ref: TaskRef, started: int, up_to: int | None = None) -> Sequence[ReportPart]:
        """Return what the reports of an attempt say, in order, up to a sequence; `started`: of its start."""
        if not started:
            return ()
        known = self._known.pop(ref, None)
        if known is not None:
            self._known_bytes -= known.size_bytes
        if known is None or known.started != started:
            known = _Gathered(started, started)
        while known.size_bytes < MOST_GATHERED and (up_to is None or known.up_to < up_to):
            try:
                found, following = await self._tasks.history_page(
                    ref, known.up_to, REPORTS_AT_ONCE, words=PROGRESS, deleted=True
                )
            except NotFound:  # past its retention
                break
            for stored in found:
                _gather(known, stored)
            if following is None:
                break
        self._remember(ref, known)
        return known.parts if up_to is None else [part for part in known.parts if part.sequence <= up_to]

    def _remember(self, ref: TaskRef, gathered: _Gathered) -> None:
        if (other := self._known.pop(ref, None)) is not None:  # of a request at the same time
            self._known_bytes -= other.size_bytes
        self._known[ref] = gathered
        self._known_bytes += gathered.size_bytes
        while len(self._known) > REMEMBERED or self._known_bytes > MOST_REMEMBERED:
            _, forgotten = self._known.popitem(last=False)
            self._known_bytes -= forgotten.size_bytes

    async def _data(self, ref: TaskRef, stored: StoredResult | None, *, in_list: bool) -> tuple[Raw | None, bool]:
        """Return the data of a result, and True if there is one that was not read."""
        if stored is None:
            return None, False
        if stored.object_name is None:
            return _decode_data(stored.inline).data, False
        if in_list:
            return None, True
        try:
            return _decode_data(await self._object(stored.object_name, ref)).data, False
        except NotFound:
            return None, True

    async def _object(self, name: str, ref: TaskRef) -> bytes:
        """Return an object. Raises NotFound if it is past its retention, TooManyReads, StoreUnavailable."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._large.acquire()
        except TimeoutError:
            raise TooManyReads from None
        try:
            async with self._results.opened(name, ref.owner) as parts:
                return b"".join([part async for part in parts])
        finally:
            self._large.release()

    async def _file_urls(
        self, ref: TaskRef, stored: StoredResult, sequence: int, base: str, now: datetime, *, in_list: bool
    ) -> dict[int | None, str]:
        """Return the URLs of a result's files by number, None for the file that the whole result is.

        Clients take only https URLs and data URIs for files: where the base is http, small files are data URIs.
        """
        if not stored.all_files:
            return {}
        links = ResultLinks(base, self._sealer).files(ref, sequence, stored, now + FILE_VALID)
        found: dict[int | None, tuple[StoredFile, str]] = {}
        if stored.file is not None:
            found[None] = stored.file, links["file"]["$ref"]
        found |= {
            number: (file, link["$ref"])
            for number, (file, link) in enumerate(zip(stored.files, links.get("files", ()), strict=True))
        }
        urls: dict[int | None, str] = {}
        left = 0 if in_list or base.startswith("https:") else MOST_INLINE_FILES
        for number, (file, url) in found.items():
            if file.size_bytes <= min(left, LARGEST_INLINE_FILE):
                left -= file.size_bytes
                urls[number] = await self._data_uri(file, ref) or url
            else:
                urls[number] = url
        return urls

    async def _data_uri(self, file: StoredFile, ref: TaskRef) -> str | None:
        try:
            content = await self._object(file.object_name, ref)
        except NotFound:
            return None
        media_type = file.media_type.replace(" ", "")
        return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _last_start(history: Sequence[Stored[TaskEvent]]) -> int:
    starts = [stored.sequence for stored in history if isinstance(stored.recorded.event, events.AttemptStarted)]
    return starts[-1] if starts else 0


def _gather(known: _Gathered, stored: Stored[TaskEvent]) -> None:
    event = stored.recorded.event
    known.up_to = stored.sequence
    if not isinstance(event, ProgressReported) or not (event.lines or event.output or event.progress is not None):
        return
    known.parts.append(ReportPart(stored.sequence, event.lines, event.output, event.progress))
    known.size_bytes += 100 + len(event.output) + sum(map(len, event.lines))
