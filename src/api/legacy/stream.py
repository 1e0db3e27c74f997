"""`generate-stream`, kept for older clients: the events of a chapter task in their vocabulary (contract, section 2).

A server reports chapters in `custom_data` of its progress: `chapterIndex`, `status` (`complete` and `error` end the
chapter, anything else is on the way), `title`, `preview`, `wordCount`, `error`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ...errors import StoreError
from ...events.ids import TaskRef
from ...events.task import (
    ProgressReported,
    StoredResult,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskSucceeded,
)
from ...push.feed import FeedPosition, Feeds
from ...push.hub import Scope

HEARTBEAT_SECONDS = 15.0

_encode = msgspec.json.Encoder().encode


class _Chapter(Struct, kw_only=True, rename="camel"):
    """A chapter in `custom_data`."""

    chapter_index: int
    status: str = "generating"
    title: str = ""
    preview: str = ""
    word_count: int = 0
    error: str = ""


class _Totals(Struct, kw_only=True, rename="camel"):
    """Counts of chapters that the `data` of a result may have."""

    total_generated: int | UnsetType = UNSET
    total_failed: int | UnsetType = UNSET


class _Result(Struct, kw_only=True):
    data: _Totals = msgspec.field(default_factory=_Totals)


class LegacyStream:
    """Translates the events of one task, and counts its chapters."""

    def __init__(self, task_id: str, total: int) -> None:
        self._task_id = task_id
        self._total = total
        self._generated: set[int] = set()
        self._failed: set[int] = set()

    def beginning(self) -> Iterator[dict[str, Any]]:
        """Yield the messages every stream starts with."""
        yield {"type": "start", "total": self._total}
        yield {"type": "task_created", "taskId": self._task_id}

    def translate(self, event: TaskEvent) -> Iterator[dict[str, Any]]:
        """Yield the messages for an event; none for an event that older clients do not know."""
        match event:
            case ProgressReported():
                yield from self._progress(event)
            case TaskSucceeded():
                yield self._done(event.result)
            case TaskFailed():
                yield {"type": "error", "error": event.error}
                yield self._done(None)
            case TaskCancelled():
                yield {"type": "error", "error": event.reason}
                yield self._done(None)
            case _:
                pass

    def _progress(self, event: ProgressReported) -> Iterator[dict[str, Any]]:
        chapter = _chapter(event)
        index = chapter.chapter_index if chapter else None
        if chapter and chapter.status == "complete":
            self._generated.add(chapter.chapter_index)
        if chapter and chapter.status == "error":
            self._failed.add(chapter.chapter_index)
        yield {
            "type": "progress",
            "current": len(self._generated | self._failed),
            "total": self._total,
            "chapterIndex": index,
            "status": chapter.status if chapter else "generating",
            "message": event.message or "",
        }
        if chapter and chapter.status == "complete":
            yield {
                "type": "chapter_complete",
                "chapterIndex": index,
                "title": chapter.title,
                "preview": chapter.preview,
                "wordCount": chapter.word_count,
            }
        if chapter and chapter.status == "error":
            yield {"type": "chapter_error", "chapterIndex": index, "error": chapter.error}

    def _done(self, result: StoredResult | None) -> dict[str, Any]:
        totals = _totals(result) if result else _Totals()
        generated, failed = totals.total_generated, totals.total_failed
        return {
            "type": "done",
            "success": result is not None,
            "totalGenerated": len(self._generated) if generated is UNSET else generated,
            "totalFailed": len(self._failed - self._generated) if failed is UNSET else failed,
            "taskId": self._task_id,
        }


async def generated(feeds: Feeds, ref: TaskRef, after: int, total: int) -> AsyncIterator[bytes]:
    """Yield the lines of a stream about a task, from its events after a sequence to its end."""
    stream = LegacyStream(ref.id, total)
    for message in stream.beginning():
        yield _line(message)
    try:
        async for item in feeds.feed(Scope(ref=ref), FeedPosition(after), HEARTBEAT_SECONDS):
            if item is None:
                yield _line({"type": "heartbeat"})
            elif item.what is not None:
                for message in stream.translate(item.what.event):
                    yield _line(message)
                if item.is_end:
                    return
    except StoreError:
        yield _line({"type": "error", "error": "the connection to the event log was lost; the task goes on"})


def _line(message: dict[str, Any]) -> bytes:
    return b"data: " + _encode(message) + b"\n\n"


def _chapter(event: ProgressReported) -> _Chapter | None:
    try:
        return msgspec.json.decode(event.custom_data, type=_Chapter)
    except msgspec.MsgspecError:
        return None


def _totals(result: StoredResult) -> _Totals:
    try:
        return msgspec.json.decode(result.inline, type=_Result).data
    except msgspec.MsgspecError:
        return _Totals()
