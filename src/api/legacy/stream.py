"""`generate-stream`, kept for older clients: a task's events in the words they know (contract, section 2).

What a server reports of a chapter is in `custom_data` of its progress: `chapterIndex`, `status` (`complete` and `error`
are an end of that chapter, anything else is on the way), `title`, `preview`, `wordCount`, `error`.
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
    """What `custom_data` says of a chapter."""

    chapter_index: int
    status: str = "generating"
    title: str = ""
    preview: str = ""
    word_count: int = 0
    error: str = ""


class _Totals(Struct, kw_only=True, rename="camel"):
    """What the end's `data` may say of all chapters."""

    total_generated: int | UnsetType = UNSET
    total_failed: int | UnsetType = UNSET


class _Result(Struct, kw_only=True):
    data: _Totals = msgspec.field(default_factory=_Totals)


class LegacyStream:
    """Tells one task's events; keeps count of its chapters."""

    def __init__(self, task_id: str, total: int) -> None:
        self._task_id = task_id
        self._total = total
        self._generated: set[int] = set()
        self._failed: set[int] = set()

    def beginning(self) -> Iterator[dict[str, Any]]:
        yield {"type": "start", "total": self._total}
        yield {"type": "task_created", "taskId": self._task_id}

    def tell(self, event: TaskEvent) -> Iterator[dict[str, Any]]:
        """Yield what an event comes to; nothing for those that older clients know nothing of."""
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


async def generated(feeds: Feeds, ref: TaskRef, submitted: int, total: int) -> AsyncIterator[bytes]:
    """Yield the lines of a stream about a task that was submitted at a sequence, until its end."""
    telling = LegacyStream(ref.id, total)
    for line in telling.beginning():
        yield _line(line)
    try:
        async for told in feeds.feed(Scope(ref=ref), FeedPosition(submitted), HEARTBEAT_SECONDS):
            if told is None:
                yield _line({"type": "heartbeat"})
            elif told.what is not None:
                for line in telling.tell(told.what.event):
                    yield _line(line)
                if told.is_end:
                    return
    except StoreError:
        yield _line({"type": "error", "error": "the connection to the log was lost; the task goes on"})


def _line(told: dict[str, Any]) -> bytes:
    return b"data: " + _encode(told) + b"\n\n"


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
