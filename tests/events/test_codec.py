"""Events to bytes and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from msgspec import Raw

from taskstream.events.codec import server_codec, task_codec, type_codec
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.task import ProgressReported, TaskEvent

from ..deciders.support import recorded, started, submitted


@pytest.mark.parametrize(
    "payload",
    [b"null", b"{}", b'{ "a" : 1.0 }', b'"\xc3\xbc"', b'"\\u00fc"', b"1e3", b"123456789012345678901234567890"],
)
def test_a_payload_is_kept_byte_for_byte(payload: bytes) -> None:
    event = submitted(payload=Raw(payload))

    decoded = task_codec.decode(task_codec.encode(recorded(event)))

    assert bytes(decoded.event.payload) == payload  # type: ignore[union-attr]


def test_an_instant_is_the_same_after_it_was_stored() -> None:
    at = datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    event: Recorded[TaskEvent] = Recorded(id="1", at=at, by=Actor("timer", "retry"), event=started(deadline=at))

    decoded = task_codec.decode(task_codec.encode(event))

    assert decoded.at == at == at.astimezone(UTC)
    assert decoded.event.deadline == at  # type: ignore[union-attr]


def test_an_event_names_the_key_that_was_used_and_only_then() -> None:
    at = datetime(2026, 11, 30, tzinfo=UTC)

    def stored(by: Actor) -> bytes:
        event: Recorded[TaskEvent] = Recorded(id="1", at=at, by=by, event=started(deadline=at))
        return task_codec.encode(event)

    with_key = stored(Actor("user", "alice", "01KDW1Z6P0C6N4T0Z5V3Q9H8RB~alice"))

    assert b'"by":{"kind":"user","id":"alice","key":"01KDW1Z6P0C6N4T0Z5V3Q9H8RB~alice"}' in with_key
    assert task_codec.decode(with_key).by.key == "01KDW1Z6P0C6N4T0Z5V3Q9H8RB~alice"
    assert b'"by":{"kind":"user","id":"alice"}' in stored(Actor("user", "alice"))


def test_an_event_says_of_which_type_it_is() -> None:
    content = msgspec.json.decode(task_codec.encode(recorded(ProgressReported(attempt=1))))

    assert content["event"] == {"type": "ProgressReported", "attempt": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"not json",
        b'{"id":"1"}',
        b'{"id":"\xff","at":"2026-01-01T00:00:00Z","by":{"kind":"user","id":"a"},"event":{"type":"TypeDeleted"}}',
    ],
)
@pytest.mark.parametrize("codec", [task_codec, server_codec, type_codec], ids=["task", "server", "type"])
def test_what_is_no_event_is_refused_as_such(codec: object, data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        codec.decode(data)  # type: ignore[attr-defined]


def test_an_event_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'TaskSubmitted'"):
        server_codec.decode(task_codec.encode(recorded(submitted())))


def test_an_event_without_a_field_it_must_have_is_refused() -> None:
    content = msgspec.json.decode(task_codec.encode(recorded(started())))
    del content["event"]["deadline"]

    with pytest.raises(msgspec.ValidationError, match="deadline"):
        task_codec.decode(msgspec.json.encode(content))
