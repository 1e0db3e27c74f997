"""The topic `log:`: lines of all logs as they are written, one reading of each log for all filters."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import structlog

from ...clock import utc_now
from ...errors import StoreError, UnreadableEvent
from ...projections.log_entries import LOG_NAMES, EntryFilter, EventEntry, LogName, LogSource, about
from ...projections.log_pages import LogPlace, LogReader, parse_place
from ...streams.client.connection import Connection
from ...streams.jetstream.messages import Position
from ...streams.tail import LogReplaced, Tail
from ...streams.topology.definitions import TASKS
from ..schemas.log import log_entry_info
from .channels import FLUSH_SECONDS, Channel, LiveFrame, frame

log = structlog.get_logger(__name__)

MOST_LINES = 100
"""Lines of one frame: the newest."""
MOST_PENDING = 1_000
"""Events between two frames that are kept; of more, the oldest are counted only."""
PAGES_CAUGHT_UP = 5
"""Pages that are read for a listener that was away."""


class LogTails:
    """One tail of each log, for all who follow it."""

    def __init__(self, connection: Connection, tasks: Tail) -> None:
        self._connection = connection
        self._tails = {TASKS: tasks}

    def of(self, stream: str) -> Tail:
        tail = self._tails.get(stream)
        if tail is None:
            tail = self._tails[stream] = Tail(self._connection, stream, ">")
        return tail


class LinesChannel(Channel):
    """The lines of one filter."""

    def __init__(self, reader: LogReader, tails: LogTails, wanted: EntryFilter) -> None:
        super().__init__()
        self._reader = reader
        self._tails = tails
        self._wanted = wanted
        self._pending: deque[tuple[LogSource, Position]] = deque(maxlen=MOST_PENDING)
        self._count = 0
        """Events since the last frame that the filter may select."""
        self._read: dict[LogName, int] = {}
        """Up to where each log was read."""
        self._published: LogPlace | None = None
        self._started = asyncio.Event()

    @property
    def position(self) -> str:
        return str(self._published) if self._published is not None else ""

    async def ready(self) -> None:
        await self._started.wait()

    async def work(self) -> None:
        end = await self._reader.end(self._wanted, utc_now())
        if self._published is not None:
            self.publish(frame("reset", str(end)))
        self._read = dict(end.sequences)
        self._published = end
        self._started.set()
        news = asyncio.Event()
        tasks = [asyncio.create_task(self._follow(source, news)) for source in self._wanted.sources]
        try:
            while True:
                waiting = asyncio.create_task(news.wait())
                done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                for task in done - {waiting}:
                    task.result()  # raises
                if waiting not in done:
                    return
                news.clear()
                self._flush()
                await asyncio.sleep(FLUSH_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, source: LogSource, news: asyncio.Event) -> None:
        with contextlib.suppress(LogReplaced):
            batches = self._tails.of(source.stream).follow(self._read[source.name], FLUSH_SECONDS)
            async with contextlib.aclosing(batches):
                async for positions in batches:
                    for position in positions:
                        found = about(source, position.subject)
                        if found is not None and self._wanted.may_select(found):
                            self._pending.append((source, position))
                            self._count += 1
                            news.set()
                    if positions:
                        self._read[source.name] = positions[-1].sequence

    def _flush(self) -> None:
        pending, count = self._pending, self._count
        self._pending, self._count = deque(maxlen=MOST_PENDING), 0
        lines: list[EventEntry] = []
        more = count - len(pending)
        decodes = bool(self._wanted.actor_id or self._wanted.actor_kind)
        for source, position in reversed(pending):
            if len(lines) >= MOST_LINES and not decodes:
                more += 1
                continue
            with contextlib.suppress(UnreadableEvent):
                entry = self._wanted.select(source, position)
                if entry is not None and len(lines) < MOST_LINES:
                    lines.append(entry)
                elif entry is not None:
                    more += 1
        self._published = LogPlace(at=utc_now(), sequences=dict(self._read))
        if lines:
            self.publish(lines_frame(lines, more, str(self._published)))

    async def catch_up(self, place: str) -> list[LiveFrame]:
        """Return the lines since a place; `reset` if they are too many, or the place is not in these logs."""
        end = self._published
        start = parse_place(place)
        if end is None or start is None:
            return [frame("reset", self.position)]
        if any(number > end.sequences.get(name, number) for name, number in start.sequences.items()):
            return [frame("reset", str(end))]
        lines: deque[EventEntry] = deque(maxlen=MOST_LINES)
        count = 0
        for _ in range(PAGES_CAUGHT_UP):
            try:
                page = await self._reader.page(self._wanted, MOST_PENDING, utc_now(), after=start)
            except StoreError:
                return [frame("reset", str(end))]
            before = [each for each in page.entries if each.sequence <= end.sequences.get(each.log, 0)]
            lines.extend(before)
            count += len(before)
            start = page.after
            if not page.has_more or all(start.sequences.get(name, 0) >= last for name, last in end.sequences.items()):
                return [lines_frame(list(lines), count - len(lines), str(end))] if lines else []
        return [frame("reset", str(end))]


def lines_frame(lines: list[EventEntry], more: int, place: str) -> LiveFrame:
    """Return a frame of lines, the oldest first."""
    ordered = sorted(lines, key=lambda entry: (entry.at, LOG_NAMES.index(entry.log), entry.sequence))
    return frame("log", place, len(ordered) + more, lines=list(map(log_entry_info, ordered)), more=more)
