"""The `traceparent` of a caller: passed on if it is valid, else ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.wire.trace import Trace, read_traceparent

IDS = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
VALID = f"00-{IDS}-01"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (VALID, VALID),
        (f"00-{IDS}-00", f"00-{IDS}-00"),
        (f" {VALID}\t", VALID),
        (f"00-{IDS}-ff", VALID),  # flags that version 00 does not have
        (f"01-{IDS}-01", VALID),  # a later version, by the fields known now
        (f"cc-{IDS}-01-what-is-new", VALID),
        (f"01-{IDS}-01.what", ""),
        (f"00-{IDS}-01-more", ""),
        (f"00-{IDS}-01-", ""),
        (f"ff-{IDS}-01", ""),
        (VALID.upper(), ""),
        (f"00-{IDS}-1", ""),
        (f"00-{IDS}", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", ""),
        (f"00-{IDS}-0x", ""),
        (f"00-{IDS}-01\n", ""),
        (f"{VALID},{VALID}", ""),
        ("", ""),
    ],
)
def test_a_traceparent_is_read_as_the_standard_says(given: str, read: str) -> None:
    assert read_traceparent([given.encode()]) == read


def test_several_headers_or_none_are_no_traceparent() -> None:
    assert read_traceparent([VALID.encode()] * 2) == ""
    assert read_traceparent([]) == ""


@given(st.binary(max_size=80) | st.text("0123456789abcdef-", max_size=80).map(str.encode))
def test_what_is_read_is_valid_and_read_again_the_same(value: bytes) -> None:
    read = read_traceparent([value])
    assert read_traceparent([read.encode()]) == read
    assert read == "" or len(read) == len(VALID)


def test_empty_parts_are_no_headers() -> None:
    assert Trace().headers() == {}
    assert Trace("abc", VALID).headers() == {"X-Request-Id": "abc", "traceparent": VALID}
