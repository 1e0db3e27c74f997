"""The chapters that servers report in `custom_data`, and the sets of their numbers.

A report about a chapter is `{"chapterIndex": 1, "status": "complete", "title": …, "preview": …, "wordCount": …}`, with
`status` `complete` or `error` at its end, and anything else before. Servers send any JSON: a field of another type is
left out, a text is shortened, and what has no valid `chapterIndex` is about no chapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from .task import ProgressReported

HIGHEST_NUMBER = 1_000_000
"""Of a chapter; from 0."""
MOST_NUMBERS = 10_000
"""Numbers in one set, which the largest task needs. Further ones are left out."""
MOST_RANGES = 1_000
"""Ranges of numbers in one set: about 16 kB in a view. Chapters written in order are one range."""
LONGEST_TEXT = 2_000
_ENDS: dict[object, Literal["complete", "error"]] = {
    "complete": "complete",
    "completed": "complete",
    "error": "error",
    "failed": "error",
}

Ranges = tuple[tuple[int, int], ...]
"""A set of numbers as ascending ranges, both ends included, with a gap between any two."""


class Chapter(Struct, frozen=True, kw_only=True):
    """A report about a chapter."""

    number: int
    status: str = "generating"
    title: str = ""
    preview: str = ""
    word_count: int = 0
    error: str = ""

    @property
    def has_ended(self) -> bool:
        return self.status in ("complete", "error")


class Volume(Struct, frozen=True, kw_only=True):
    """A report about a part of an outline that is complete: `{"volumeIndex": 1, "status": "complete", …}`."""

    number: int
    title: str = ""
    chapters: int = 0


class _Reported(Struct, kw_only=True, rename="camel"):
    chapter_index: Any = None
    volume_index: Any = None
    status: Any = None
    title: Any = None
    preview: Any = None
    word_count: Any = None
    chapter_count: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Reported).decode


def read_chapter(custom_data: Raw) -> Chapter | None:
    """Return the chapter that a report is about; None if it is about none."""
    found = _read(custom_data, b'"chapterIndex"')
    if found is None or (number := _number(found.chapter_index)) is None:
        return None
    status = _ENDS.get(found.status) if isinstance(found.status, str) else None
    return Chapter(
        number=number,
        status=status or _text(found.status) or "generating",
        title=_text(found.title),
        preview=_text(found.preview),
        word_count=_number(found.word_count) or 0,
        error=_text(found.error),
    )


def read_volume(custom_data: Raw) -> Volume | None:
    """Return the part of an outline that a report says is complete; None if it says so of none."""
    found = _read(custom_data, b'"volumeIndex"')
    if found is None or (number := _number(found.volume_index)) is None or _text(found.status) not in _ENDS:
        return None
    if _ENDS[found.status] != "complete":
        return None
    return Volume(number=number, title=_text(found.title), chapters=_number(found.chapter_count) or 0)


def reported(event: ProgressReported) -> Iterator[Raw]:
    """Yield the custom data of a logged report that may be about chapters, in the order of the reports."""
    for merged in event.merged:
        yield merged.custom_data
    yield event.custom_data


def ends_chapter(custom_data: Raw) -> bool:
    """Return True if a report says that a chapter, or a part of an outline, has ended."""
    chapter = read_chapter(custom_data)
    return (chapter is not None and chapter.has_ended) or read_volume(custom_data) is not None


def _read(custom_data: Raw, name: bytes) -> _Reported | None:
    text = bytes(custom_data)
    if name not in text:
        return None
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _number(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= HIGHEST_NUMBER else None  # type: ignore[operator, return-value]


def _text(value: object) -> str:
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""


class Chapters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The chapters of a task, by what was last reported of each."""

    completed: Ranges = ()
    failed: Ranges = ()
    first: int | None = None
    """The lowest number that was reported; None: none was."""

    def after(self, chapter: Chapter) -> Chapters:
        """Return the chapters after one more report."""
        number = chapter.number
        completed, failed = without(self.completed, number), without(self.failed, number)
        if chapter.status == "complete":
            completed = including(completed, number)
        elif chapter.status == "error":
            failed = including(failed, number)
        first = number if self.first is None else min(self.first, number)
        return replace(self, completed=completed, failed=failed, first=first)


NO_CHAPTERS = Chapters()


def including(ranges: Ranges, number: int) -> Ranges:
    """Return a set with one more number; the same set if it is full."""
    if _contains(ranges, number) or count(ranges) >= MOST_NUMBERS:
        return ranges
    before = [each for each in ranges if each[1] < number - 1]
    behind = [each for each in ranges if each[0] > number + 1]
    touching = ranges[len(before) : len(ranges) - len(behind)]
    merged = (min([number, *(low for low, _ in touching)]), max([number, *(high for _, high in touching)]))
    found = (*before, merged, *behind)
    return found if len(found) <= MOST_RANGES else ranges


def without(ranges: Ranges, number: int) -> Ranges:
    """Return a set without a number; the same set if it must stay for a lack of ranges."""
    if not _contains(ranges, number):
        return ranges
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        parts = [(low, number - 1), (number + 1, high)] if low <= number <= high else [(low, high)]
        found += [part for part in parts if part[0] <= part[1]]
    return tuple(found) if len(found) <= MOST_RANGES else ranges


def numbers(ranges: Ranges) -> list[int]:
    """Return the numbers of a set, ascending."""
    return [number for low, high in ranges for number in range(low, high + 1)]


def count(ranges: Ranges) -> int:
    """Return the size of a set."""
    return sum(high - low + 1 for low, high in ranges)


def _contains(ranges: Ranges, number: int) -> bool:
    return any(low <= number <= high for low, high in ranges)
