"""The `traceparent` of a caller: passed on if it is valid, else ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.wire.trace import (
    NO_CONTEXT,
    Trace,
    TraceContext,
    read_context,
    read_traceparent,
    read_tracestate,
)

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
    assert Trace("abc", TraceContext(VALID)).headers() == {"X-Request-Id": "abc", "traceparent": VALID}
    both = Trace("abc", TraceContext(VALID, "a=1")).headers()
    assert both == {"X-Request-Id": "abc", "traceparent": VALID, "tracestate": "a=1"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["rojo=00f067aa0ba902b7"], "rojo=00f067aa0ba902b7"),
        (["a=1, b=2 ,\t3c@d=3", "e=4"], "a=1,b=2,3c@d=3,e=4"),
        (["a=1,,b=2,"], "a=1,b=2"),
        (["a=x y"], "a=x y"),
        ([], ""),
        (["a"], ""),
        (["a="], ""),
        (["A=1"], ""),
        (["a=1,a=2"], ""),
        (["a=1;b,=2"], ""),
        (["a=1", "b=\n"], ""),
        (["a=é"], ""),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        ([f"{'k' * 257}=v"], ""),
        ([f"k={'v' * 257}"], ""),
    ],
)
def test_a_tracestate_is_read_as_the_standard_says(given: list[str], read: str) -> None:
    assert read_tracestate([value.encode() for value in given]) == read


def test_a_long_tracestate_loses_its_large_members_then_the_last_ones() -> None:
    large = f"large={'v' * 200}"
    small = [f"k{number:02}={'v' * 60}" for number in range(10)]
    read = read_tracestate([",".join([small[0], large, *small[1:]]).encode()])

    assert len(read) <= 512
    assert read == ",".join(small[: read.count(",") + 1])
    assert read.count(",") == 6


def test_a_tracestate_counts_only_beside_a_valid_traceparent() -> None:
    assert read_context([VALID.encode()], [b"a=1"]) == TraceContext(VALID, "a=1")
    assert read_context([VALID.encode()], [b"???"]) == TraceContext(VALID)
    assert read_context([b"00-1"], [b"a=1"]) == NO_CONTEXT


@given(st.lists(st.binary(max_size=300) | st.text("abc=1, @-*/", max_size=700).map(str.encode), max_size=3))
def test_a_tracestate_that_is_read_is_bounded_and_read_again_the_same(values: list[bytes]) -> None:
    read = read_tracestate(values)

    assert len(read) <= 512
    assert read_tracestate([read.encode()]) == read
