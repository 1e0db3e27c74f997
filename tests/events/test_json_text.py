"""JSON texts of others lose their line breaks, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.events.codec import task_codec
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.json_text import compact
from taskstream.events.task import RetryPolicy, TaskSubmitted
from testkit.json_texts import json_texts

SECOND = timedelta(seconds=1)


def as_written(text: bytes | str) -> Any:
    """Return the value of a JSON text, with numbers as they are written and names that come twice."""
    return json.loads(text, parse_float=str, parse_int=str, object_pairs_hook=list)


@given(json_texts())
def test_a_text_has_the_same_value_in_one_line(text: str) -> None:
    line = compact(text.encode())

    assert b"\n" not in line
    assert b"\r" not in line
    assert as_written(line) == as_written(text)


def test_a_text_in_one_line_stays_as_it_is() -> None:
    text = b'{ "a": [1.0 , 1E+400] }'

    assert compact(text) is text


@given(st.integers(2_000, 20_000))
def test_a_text_that_is_nested_too_deep_to_be_formatted_is_one_line_too(depth: int) -> None:
    assert compact(b"[" * depth + b"\r\n" + b"]" * depth) == b"[" * depth + b"  " + b"]" * depth


@given(json_texts())
def test_an_event_is_stored_in_one_line_with_the_payload_that_was_sent(text: str) -> None:
    policy = RetryPolicy(attempts=1, backoff_base=SECOND, backoff_cap=SECOND, timeout=SECOND)
    event = TaskSubmitted(
        owner="alice",
        task_type="default",
        payload=Raw(text.encode()),
        pool="default",
        priority="normal",
        policy=policy,
        fingerprint="",
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    stored = task_codec.encode(Recorded(id="1", at=at, by=Actor("user", "alice"), event=event))

    assert b"\n" not in stored
    assert b"\r" not in stored
    decoded = task_codec.decode(stored).event
    assert isinstance(decoded, TaskSubmitted)
    assert as_written(bytes(decoded.payload)) == as_written(text)
