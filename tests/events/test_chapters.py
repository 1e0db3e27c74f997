"""The chapters in reports of servers: any JSON is read, and the sets of numbers stay small and right."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.events import chapters
from taskstream.events.chapters import (
    HIGHEST_NUMBER,
    NO_CHAPTERS,
    Chapter,
    Ranges,
    count,
    including,
    numbers,
    read_chapter,
    read_volume,
    without,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
FIELDS = ("chapterIndex", "volumeIndex", "status", "title", "preview", "wordCount", "chapterCount", "error")


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), values) | values)
def test_any_json_is_a_chapter_with_bounded_fields_or_none(custom_data: Any) -> None:
    raw = Raw(msgspec.json.encode(custom_data))

    chapter = read_chapter(raw)
    read_volume(raw)

    if chapter is not None:
        assert 0 <= chapter.number <= HIGHEST_NUMBER
        assert 0 <= chapter.word_count <= HIGHEST_NUMBER


def test_no_nesting_breaks_the_reader() -> None:
    assert read_chapter(Raw(b'{"chapterIndex":1,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}")) is None
    assert read_chapter(Raw(b'{"chapterIndex":1,"title":' + b"[" * 100_000)) is None


@pytest.mark.parametrize(
    ("custom_data", "chapter"),
    [
        (b'{"chapterIndex": 2}', Chapter(number=2)),
        (b'{"chapterIndex": 2.0, "status": "complete"}', Chapter(number=2, status="complete")),
        (b'{"chapterIndex": 2, "status": "failed", "error": "e"}', Chapter(number=2, status="error", error="e")),
        (b'{"chapterIndex": 2, "title": null, "wordCount": "9"}', Chapter(number=2)),
        (b'{"chapterIndex": -1}', None),
        (b'{"chapterIndex": true}', None),
        (b'{"chapterIndex": 1e30}', None),
        (b'{"chapterIndex": "2"}', None),
        (b'["chapterIndex"]', None),
        (b"null", None),
    ],
)
def test_a_report_is_read_as_far_as_it_is_valid(custom_data: bytes, chapter: Chapter | None) -> None:
    assert read_chapter(Raw(custom_data)) == chapter


@given(st.lists(st.tuples(st.sampled_from(["complete", "error", "generating"]), st.integers(0, 12))))
def test_the_last_report_about_a_chapter_counts(reports: list[tuple[str, int]]) -> None:
    found, last = NO_CHAPTERS, {}
    for status, number in reports:
        found = found.after(Chapter(number=number, status=status))
        last[number] = status

    assert numbers(found.completed) == sorted(number for number, status in last.items() if status == "complete")
    assert numbers(found.failed) == sorted(number for number, status in last.items() if status == "error")
    assert found.first == min(last, default=None)
    for ranges in (found.completed, found.failed):
        assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(ranges))


def test_a_server_that_numbers_wildly_makes_no_large_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "MOST_RANGES", 10)
    monkeypatch.setattr(chapters, "MOST_NUMBERS", 100)
    ranges: Ranges = ()
    for number in range(0, 1_000, 2):
        ranges = including(ranges, number)
    assert len(ranges) == 10
    for number in range(1_000):
        ranges = including(ranges, number)
    assert (count(ranges), ranges[0]) == (100, (0, 99))
    for number in range(1, 99, 2):
        ranges = without(ranges, number)
    assert len(ranges) == 10
