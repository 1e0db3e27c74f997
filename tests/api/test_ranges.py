"""Which bytes a `Range` header selects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.api.ranges import ByteRange, read_range


@pytest.mark.parametrize(
    ("header", "size", "wanted"),
    [
        (None, 10, None),
        ("", 10, None),
        ("bytes=0-", 10, ByteRange(0, 10)),
        ("bytes=0-0", 10, ByteRange(0, 1)),
        ("bytes=3-5", 10, ByteRange(3, 6)),
        ("bytes= 3-5 ", 10, ByteRange(3, 6)),
        ("bytes=3-99", 10, ByteRange(3, 10)),
        ("bytes=9-", 10, ByteRange(9, 10)),
        ("bytes=-3", 10, ByteRange(7, 10)),
        ("bytes=-99", 10, ByteRange(0, 10)),
        ("bytes=10-", 10, "unsatisfiable"),
        ("bytes=-0", 10, "unsatisfiable"),
        ("bytes=0-", 0, "unsatisfiable"),
        ("bytes=5-3", 10, None),
        ("bytes=-", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("bytes=a-b", 10, None),
        ("bytes=+1-2", 10, None),
        ("bytes=1-2x", 10, None),
        ("bytes=\u0661-", 10, None),
        ("lines=1-2", 10, None),
        (f"bytes={'9' * 30}-", 10, None),
    ],
)
def test_a_header_selects_bytes(header: str | None, size: int, wanted: Any) -> None:
    assert read_range(header, size) == wanted


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d{0,3}-\d{0,3}", fullmatch=True), st.integers(0, 200))
def test_whatever_is_asked_for_is_within_the_bytes(header: str, size: int) -> None:
    found = read_range(header, size)

    if isinstance(found, ByteRange):
        assert 0 <= found.start < found.end <= size
