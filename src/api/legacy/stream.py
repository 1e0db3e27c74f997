"""`generate-stream`, kept for older clients: the events of a chapter task in their vocabulary.

A server reports chapters in `custom_data` of its progress: `chapterIndex`, `status` (`complete` and `error` end the
chapter, anything else is on the way), `title`, `preview`, `wordCount`, `error`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

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
from ...push.listeners import Scope
from ..sse import block

HEARTBEAT_SECONDS = 15.0
T = TypeVar("T")

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

    total_generated: int | None = None
    total_failed: int | None = None


class _Result(Struct, kw_only=True):
    data: _Totals = msgspec.field(default_factory=_Totals)


class LegacyStream:
    """Translates the events of one task, and counts its chapters."""

    def __init__(self, task_id: str, total: int) -> None:
        self._task_id = task_id
        self._total = total
        self._generated: set[int] = set()
        self._failed: set[int] = set()

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
        chapter = _read(event.custom_data, _Chapter)
        index = chapter.chapter_index if chapter else None
        status = chapter.status if chapter else "generating"
        if chapter and status in ("complete", "error"):
            (self._generated if status == "complete" else self._failed).add(chapter.chapter_index)
        yield {
            "type": "progress",
            "current": len(self._generated | self._failed),
            "total": self._total,
            "chapterIndex": index,
            "status": status,
            "message": event.message or "",
        }
        if chapter and status == "complete":
            yield {
                "type": "chapter_complete",
                "chapterIndex": index,
                "title": chapter.title,
                "preview": chapter.preview,
                "wordCount": chapter.word_count,
            }
        if chapter and status == "error":
            yield {"type": "chapter_error", "chapterIndex": index, "error": chapter.error}

    def _done(self, result: StoredResult | None) -> dict[str, Any]:
        found = _read(result.inline, _Result) if result else None
        totals = found.data if found else _Totals()
        return {
            "type": "done",
            "success": result is not None,
            "totalGenerated": len(self._generated) if totals.total_generated is None else totals.total_generated,
            "totalFailed": len(self._failed - self._generated) if totals.total_failed is None else totals.total_failed,
            "taskId": self._task_id,
        }


async def generated(feeds: Feeds, ref: TaskRef, after: int, total: int) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream about a task, from its events after a sequence to its end."""
    stream = LegacyStream(ref.id, total)
    yield _line({"type": "start", "total": total})
    yield _line({"type": "task_created", "taskId": ref.id})
    try:
        async for item in feeds.feed(Scope(ref=ref), FeedPosition(after), HEARTBEAT_SECONDS, in_log=True):
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
    return block(_encode(message))


EXPIRED = _line({"type": "error", "error": "the token has expired; the task goes on"})
"""The last line of a stream whose token has expired."""


def _read(text: bytes | Raw, shape: type[T]) -> T | None:
    """Return a text of a server as a shape, None if it is another one."""
    try:
        return msgspec.json.decode(text, type=shape)
    except msgspec.MsgspecError:
        return None
