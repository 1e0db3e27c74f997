"""`generate-stream` and `outline`, kept for older clients: the events of a task in their vocabulary.

A server reports chapters, and parts of an outline, in `custom_data` of its progress (`events/chapters.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

from ...container import Container
from ...errors import StoreError
from ...events.chapters import MOST_NUMBERS, Chapter, numbers, read_chapter, read_volume, reported
from ...events.envelope import NULL
from ...events.ids import TaskRef
from ...events.task import (
    ProgressReported,
    StoredResult,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskSucceeded,
)
from ...projections.task_view import ACTIVE, Listed
from ...push.feed import FeedPosition
from ...push.listeners import Scope
from ..schemas.legacy_queue import ended_count, percent, target_count
from ..sse import HEARTBEAT, block

HEARTBEAT_SECONDS = 15.0
MOST_RESULT = 4 * 1024 * 1024
"""Bytes of a result in the object store that are read for the last message."""
LONGEST_TITLE = 200
"""Of a chapter in the last message."""
T = TypeVar("T")
Message = dict[str, Any]

_encode = msgspec.json.Encoder().encode


class _Part(Struct, kw_only=True, rename="camel"):
    """A chapter in the `data` of a result."""

    chapter: Any = None
    chapter_index: Any = None
    title: Any = None
    word_count: Any = None


class _Data(Struct, kw_only=True, rename="camel"):
    """The fields about chapters in the `data` of a result; all are optional."""

    generated: Raw = NULL
    chapters: Raw = NULL
    failed_chapters: Raw = NULL
    total_generated: Raw = NULL
    total_failed: Raw = NULL
    outline: Raw = NULL


class _Result(Struct, kw_only=True):
    data: Raw = NULL


class Translation(Protocol):
    """Translates the events of one task. An end is translated by `done` or `failed`, which is the last message."""

    def progress(self, event: ProgressReported) -> Iterator[Message]:
        """Yield the messages for a report."""

    def done(self, result: bytes | None) -> Message:
        """Return the message for a success; None: its result is too large to be read."""

    @property
    def needs_result(self) -> bool:
        """True if `done` reads the result even when it is in the object store."""


class ChapterMessages:
    """The messages about a chapter task, and the state of each chapter as it was last reported."""

    def __init__(self, task_id: str, total: int) -> None:
        self._task_id = task_id
        self._total = total
        self._ended: dict[int, Chapter] = {}

    def progress(self, event: ProgressReported) -> Iterator[Message]:
        last: Chapter | None = None
        ends: list[Message] = []
        for custom_data in reported(event):
            last = read_chapter(custom_data)
            if last is not None:
                ends += self._took(last)
        yield {
            "type": "progress",
            "current": len(self._ended),
            "total": self._total,
            "chapterIndex": last.number if last else None,
            "status": last.status if last else "generating",
            "message": event.message or "",
        }
        yield from ends

    def _took(self, chapter: Chapter) -> Iterator[Message]:
        """Take a report into account; yield the message if it ends the chapter, once however often it is reported."""
        before = self._ended.pop(chapter.number, None)
        if not chapter.has_ended or len(self._ended) >= MOST_NUMBERS:
            return
        short = {"title": chapter.title[:LONGEST_TITLE], "preview": ""}
        self._ended[chapter.number] = msgspec.structs.replace(chapter, **short)
        if before is not None and before.status == chapter.status:
            return
        if chapter.status == "complete":
            yield {
                "type": "chapter_complete",
                "chapterIndex": chapter.number,
                "title": chapter.title,
                "preview": chapter.preview,
                "wordCount": chapter.word_count,
            }
        else:
            yield {"type": "chapter_error", "chapterIndex": chapter.number, "error": chapter.error}

    @property
    def needs_result(self) -> bool:
        return not self._ended

    def done(self, result: bytes | None) -> Message:
        """Return the end: chapters as they were reported, else as the result has them."""
        data = _data_of(result)
        ended = sorted(self._ended.values(), key=lambda chapter: chapter.number)
        generated = [
            {"chapter": chapter.number, "title": chapter.title, "wordCount": chapter.word_count}
            for chapter in ended
            if chapter.status == "complete"
        ]
        failed = [chapter.number for chapter in ended if chapter.status == "error"]
        if not ended:
            generated = list(_parts(data.generated)) or list(_parts(data.chapters))
            failed = [number for number in _read(data.failed_chapters, list[Any]) or [] if _is_number(number)]
        return {
            "type": "done",
            "success": True,
            "generated": generated[:MOST_NUMBERS],
            "failedChapters": failed[:MOST_NUMBERS],
            "totalGenerated": _total(data.total_generated, generated),
            "totalFailed": _total(data.total_failed, failed),
            "taskId": self._task_id,
        }


class OutlineMessages:
    """The messages about an outline task."""

    needs_result = True

    def __init__(self, task_id: str, total: int) -> None:
        self._task_id = task_id
        self._total = total
        self._percent = 0.0
        self._volumes: set[int] = set()

    def progress(self, event: ProgressReported) -> Iterator[Message]:
        self._percent = self._percent if event.progress is None else event.progress
        yield outline_progress(self._total, self._percent, event.message)
        for custom_data in reported(event):
            volume = read_volume(custom_data)
            if volume is not None and volume.number not in self._volumes and len(self._volumes) < MOST_NUMBERS:
                self._volumes.add(volume.number)
                yield {
                    "type": "volume_complete",
                    "volumeIndex": volume.number,
                    "volumeTitle": volume.title,
                    "chapterCount": volume.chapters,
                }

    def done(self, result: bytes | None) -> Message:
        """Return the end with the outline: the field of the result's `data`, else all of it."""
        found = _read(result or b"", _Result) or _Result()
        data = _data_of(result)
        outline = found.data if data.outline == NULL else data.outline
        return {"type": "done", "success": True, "outline": outline, "taskId": self._task_id}


def outline_progress(total: int, done_percent: float, message: str | None) -> Message:
    return {
        "type": "progress",
        "current": int(total * done_percent / 100),
        "total": total,
        "progress": int(done_percent),
        "message": message or "",
    }


async def chapter_lines(container: Container, listed: Listed, *, is_new: bool) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream about a chapter task to its end; of one that was taken up, from now on."""
    ref, view = listed
    total = target_count(view)
    yield _line({"type": "start", "total": total})
    if is_new:
        yield _line({"type": "task_created", "taskId": ref.id})
    else:
        yield _line(
            {
                "type": "task_resumed",
                "taskId": ref.id,
                "total": total,
                "current": ended_count(view),
                "progress": percent(view),
                "message": view.message or "",
                "completedChapters": numbers(view.chapters.completed),
                "failedChapters": numbers(view.chapters.failed),
            }
        )
    heartbeat = _line({"type": "heartbeat"})
    async for line in _lines(container, listed, ChapterMessages(ref.id, total), heartbeat, is_new=is_new):
        yield line


async def outline_lines(container: Container, listed: Listed, *, is_new: bool) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream about an outline task to its end; of one that was taken up, from now on."""
    ref, view = listed
    total = target_count(view)
    yield _line({"type": "start", "total": total, "taskId": ref.id})
    if not is_new:
        yield _line(outline_progress(total, view.progress or 0.0, view.message))
    async for line in _lines(container, listed, OutlineMessages(ref.id, total), HEARTBEAT, is_new=is_new):
        yield line


async def _lines(
    container: Container, listed: Listed, messages: Translation, heartbeat: bytes, *, is_new: bool
) -> AsyncGenerator[bytes, None]:
    """Yield the lines for a task's events. What a task that was taken up did before is read, and not sent."""
    ref, view = listed
    sent_from = 0 if is_new else view.sequence + 1 if view.status in ACTIVE else view.ended_sequence or view.sequence
    try:
        async for item in container.feeds.feed(Scope(ref=ref), FeedPosition(0), HEARTBEAT_SECONDS, in_log=True):
            if item is None:
                yield heartbeat
            elif item.what is not None:
                is_news = item.place.sequence >= sent_from
                async for message in _translated(container, ref, item.what.event, messages):
                    if is_news:
                        yield _line(message)
                if item.is_end and is_news:
                    return
    except StoreError:
        yield LOST


async def _translated(
    container: Container, ref: TaskRef, event: TaskEvent, messages: Translation
) -> AsyncIterator[Message]:
    match event:
        case ProgressReported():
            for message in messages.progress(event):
                yield message
        case TaskSucceeded():
            yield messages.done(await _result(container, ref, event.result, is_needed=messages.needs_result))
        case TaskFailed():
            yield {"type": "error", "error": event.error, "taskId": ref.id}
        case TaskCancelled():
            yield {"type": "error", "error": event.reason, "taskId": ref.id}
        case _:
            pass


async def _result(container: Container, ref: TaskRef, stored: StoredResult, *, is_needed: bool) -> bytes | None:
    """Return a result; None for one in the object store that is not needed, or larger than MOST_RESULT."""
    if stored.object_name is None:
        return bytes(stored.inline)
    if not is_needed or stored.size_bytes > MOST_RESULT:
        return None
    async with container.results.opened(stored.object_name, ref.owner) as parts:
        return b"".join([part async for part in parts])


def _data_of(result: bytes | None) -> _Data:
    found = _read(result or b"", _Result) or _Result()
    return _read(found.data, _Data) or _Data()


def _parts(chapters: Raw) -> Iterator[Message]:
    for part in _read(chapters, list[_Part]) or []:
        number = part.chapter if _is_number(part.chapter) else part.chapter_index
        if _is_number(number):
            title = part.title[:LONGEST_TITLE] if isinstance(part.title, str) else ""
            words = part.word_count if _is_number(part.word_count) else 0
            yield {"chapter": number, "title": title, "wordCount": words}


def _total(said: Raw, found: list[Any]) -> int:
    total: Any = _read(said, object)
    return total if _is_number(total) else len(found)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _line(message: Message) -> bytes:
    return block(_encode(message))


LOST = _line({"type": "error", "error": "the connection to the event log was lost; the task goes on"})
EXPIRED = _line({"type": "error", "error": "the token has expired; the task goes on"})
"""The last line of a stream whose token has expired."""


def _read(text: bytes | Raw, shape: type[T]) -> T | None:
    """Return a text of a server as a shape, None if it is another one."""
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, RecursionError):
        return None
