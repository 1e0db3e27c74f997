"""The stream of a prediction: `output`, `logs`, then `done`, or `error` and `done`, as server-sent events.

Every event has an id; a client that resumes with `Last-Event-ID` misses nothing and receives nothing twice, whatever
process answers. An item of the feed may be several events. The ids of all but its last say how much of the item is
told: `<place before it>+<how many>` of an event of the log, which is always the same; of a report that the log does not
have yet, a place that has its output and not its lines.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Literal, NamedTuple

import msgspec
from msgspec import Raw

from ....container import Container
from ....events import task as events
from ....events.kinds import ENDING_WORDS
from ....events.task import TaskEvent
from ....facades.model_versions import is_iterator
from ....facades.prediction import progress_line
from ....facades.predictions import TaskSnapshot
from ....projections.task_view import ACTIVE
from ....push.feed import Start
from ....push.listeners import Scope
from ....push.updates import LiveEvent, LoggedEvent

StreamedKind = Literal["output", "logs", "error", "done"]
"""Python's client raises at any other name."""
PAUSE_SECONDS = 15.0
HEARTBEAT = b": heartbeat\n"
EXPIRED = b": the credential has expired\n\n"
"""The last block of a stream whose credential has expired: a comment."""
_PART = re.compile(r"([^+]*)\+([0-9]{1,4})", re.ASCII)
_LINES = re.compile(r"\r\n|\r|\n")
DONE = "{}"


class PredictionEvent(NamedTuple):
    """An event of the stream."""

    kind: StreamedKind
    data: str


class ResumedStream(NamedTuple):
    """Where a client resumes."""

    place: str
    """Its last place in the feed."""
    skipped: int
    """Events of the next item that it has."""


def resumed_at(event_id: str | None) -> ResumedStream:
    """Return where the id of a client resumes."""
    found = _PART.fullmatch(event_id or "")
    return ResumedStream(found[1], int(found[2])) if found else ResumedStream(event_id or "", 0)


def block(event: PredictionEvent, event_id: str) -> bytes:
    """Return an event as a block of the stream. Each line of the data is a line of its own."""
    data = "\n".join(f"data: {line}" for line in _LINES.split(event.data))
    return f"event: {event.kind}\nid: {event_id}\n{data}\n\n".encode()


def has_all(start: Start, snapshot: TaskSnapshot) -> bool:
    """Return True if a client that resumes has received the end."""
    view = snapshot.detail.view
    if start.resumed is None or view.status in ACTIVE:
        return False
    return start.resumed.sequence >= (view.ended_sequence or view.sequence)


async def blocks(
    container: Container, snapshot: TaskSnapshot, start: Start, skipped: int
) -> AsyncGenerator[bytes, None]:
    """Yield the blocks of a prediction's stream, from where a client resumes, else from its last attempt's start."""
    detail = snapshot.detail
    place = start.resumed or start.at((snapshot.started or detail.view.created_sequence) - 1)
    if start.resumed is None:
        skipped = 0
    told = _ToldEvents(container, snapshot)
    before = str(place)
    feed = container.feeds.feed(Scope(ref=detail.ref), place, PAUSE_SECONDS, in_log=True)
    async for item in feed:
        if item is None or item.what is None:
            before = str(place)
            yield HEARTBEAT
            continue
        after = str(item.place)
        is_end = isinstance(item.what, LoggedEvent) and item.what.kind in ENDING_WORDS
        found = [event async for event in told.events(item.what.event)]
        for number, event in enumerate(found, 1):
            between = _between(after, item.what) if isinstance(item.what, LiveEvent) else f"{before}+{number}"
            if number > skipped:
                yield block(event, after if number == len(found) else between)
        before, skipped = after, 0
        if is_end:
            return


def _between(after: str, live: LiveEvent) -> str:
    """Return the place that has the output of a live report and all before it, but not its lines.

    `after`: the place that has the whole report.
    """
    report = live.report
    count = re.compile(rf";{report.batch}:(\d+):(\d+):(\d+)", re.ASCII)

    def without_lines(found: re.Match[str]) -> str:
        lines = int(found[2]) - len(report.event.lines)
        return f";{report.batch}:{int(found[1]) - 1}:{lines}:{found[3]}"

    return count.sub(without_lines, after)


class _ToldEvents:
    """What one client is told of a task's events."""

    def __init__(self, container: Container, snapshot: TaskSnapshot) -> None:
        self._container = container
        self._detail = snapshot.detail
        self._has_output = False

    async def events(self, event: TaskEvent) -> AsyncIterator[PredictionEvent]:
        """Yield what an event of the task says; the same for the same event of the log."""
        match event:
            case events.AttemptStarted(attempt=attempt) if attempt > 1 and self._has_output:
                self._has_output = False
                yield PredictionEvent("logs", f"attempt {attempt}: the output begins again\n")
            case events.ProgressReported():
                for streamed in _reported(event):
                    self._has_output = self._has_output or streamed.kind == "output"
                    yield streamed
            case events.TaskSucceeded():
                for piece in await self._whole_output():
                    yield PredictionEvent("output", piece)
                yield PredictionEvent("done", DONE)
            case events.TaskFailed():
                yield PredictionEvent("error", event.error)
                yield PredictionEvent("done", '{"reason":"error"}')
            case events.TaskCancelled():
                yield PredictionEvent("done", '{"reason":"canceled"}')
            case _:
                return

    async def _whole_output(self) -> list[str]:
        """Return the result as output, if no part of it was streamed."""
        reader = self._container.predictions
        ended = await reader.snapshot(self._detail.ref)
        if any(part.output for part in await reader.reports(self._detail.ref, ended.started)):
            return []
        data = await reader.data(ended.detail)
        if data is None:
            return []
        value = msgspec.json.decode(data)
        definition = self._container.fleet.definition(ended.detail.view.task_type)
        if isinstance(value, list) and (is_iterator(definition) or all(isinstance(each, str) for each in value)):
            return [_text(each) for each in value]
        return [_text(value)] if value is not None else []


def _reported(event: events.ProgressReported) -> Iterator[PredictionEvent]:
    if event.output:
        yield PredictionEvent("output", event.output)
    lines = [*event.lines]
    if event.progress is not None:
        lines.append(progress_line(event.progress))
    if lines:
        yield PredictionEvent("logs", "\n".join(lines) + "\n")


def _text(value: object) -> str:
    return value if isinstance(value, str) else bytes(Raw(msgspec.json.encode(value))).decode()
