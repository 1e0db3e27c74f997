"""Lines of a batch: how they are cut, what they must be, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.api.facades.openai.batches import requests
from taskstream.api.facades.openai.batches.lines import LineSplitter, TextLine
from taskstream.api.facades.openai.batches.requests import InputCheck, InvalidLine, read_request
from taskstream.api.facades.openai.batches.result_lines import (
    answered,
    of_failure,
    summed,
    unanswered,
    usage_in,
)
from taskstream.events.batch_job import LineError, TokenUsage
from taskstream.events.task import TaskCancelled, TaskFailed

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "r-1", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}


def line(**changed: Any) -> bytes:
    return json.dumps({name: value for name, value in (GOOD | changed).items() if value is not None}).encode()


def split(*chunks: bytes, longest: int = 100) -> list[TextLine]:
    splitter = LineSplitter(longest)
    return [found for chunk in chunks for found in splitter.feed(chunk)] + splitter.finish()


def test_lines_have_their_numbers_and_ends_and_empty_ones_are_left_out() -> None:
    assert split(b"a\r\n\n  \nbc\nd") == [TextLine(1, b"a", 3), TextLine(4, b"bc", 10), TextLine(5, b"d", 11)]


def test_millions_of_empty_lines_are_passed_over_together(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(LineSplitter, "_end", lambda self, found: ended.append(self._number))
    splitter = LineSplitter(100)

    for _ in range(10):
        assert splitter.feed(b"\n \r\n\t\n" * 100_000) == []
    assert ended == []


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert [found.text for found in split(b"\xef\xbb\xbf{}\n\xef\xbb\xbf")] == [b"{}", b"\xef\xbb\xbf"]


def test_nothing_is_kept_of_a_line_that_is_too_long() -> None:
    splitter = LineSplitter(10)

    assert splitter.feed(b"x" * 8) == []
    assert splitter.feed(b"x" * 8) == []
    assert splitter._kept == []
    assert splitter.feed(b"x" * 50 + b"\nok\n") == [TextLine(1, b"", 67), TextLine(2, b"ok", 70)]


@given(st.lists(st.binary(max_size=12).filter(lambda text: b"\n" not in text), max_size=8), st.integers(1, 7))
def test_lines_are_the_same_however_the_stream_is_cut(texts: list[bytes], size: int) -> None:
    whole = b"\n".join(texts)

    assert split(*(whole[start : start + size] for start in range(0, len(whole), size))) == split(whole)


@given(st.lists(st.sampled_from([b"", b"a", b"bb", b"c" * 20]), max_size=8))
def test_a_reader_that_begins_after_a_line_finds_the_others(texts: list[bytes]) -> None:
    whole = b"\n".join(texts)
    lines = split(whole, longest=10)

    for place, first in enumerate(lines):
        splitter = LineSplitter(10, offset=first.end, number=1)
        rest = splitter.feed(whole[first.end :]) + splitter.finish()
        assert [found[1:] for found in rest] == [found[1:] for found in lines[place + 1 :]]


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"", "line_too_long", ""),
        (b"nonsense", "invalid_json_line", ""),
        (b"[1]", "invalid_json_line", ""),
        (b"\xff", "invalid_json_line", ""),
        (b"[" * 100_000, "invalid_json_line", ""),
        (b'{"a":' * 90 + b"1" + b"}" * 90, "invalid_json_line", ""),
        (line(custom_id=None), "missing_required_parameter", "custom_id"),
        (line(custom_id=7), "invalid_type", "custom_id"),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(body=None), "missing_required_parameter", "body"),
        (line(body=[1]), "invalid_type", "body"),
        (line(body={}), "missing_required_parameter", "body.model"),
        (line(body={"model": 3}), "missing_required_parameter", "body.model"),
        (line(body={"model": "m", "stream": True}), "unsupported_parameter", "body.stream"),
        (line(body={"model": "m", "background": True}), "unsupported_parameter", "body.background"),
    ],
)
def test_a_line_that_is_no_request_of_its_batch_says_what_is_wrong(text: bytes, code: str, param: str) -> None:
    with pytest.raises(InvalidLine) as caught:
        read_request(text, CHAT, 64, 1_000)

    assert (caught.value.code, caught.value.param) == (code, param)
    assert len(str(caught.value)) < 300


def test_a_request_keeps_its_body_as_it_was_written() -> None:
    text = b'{"custom_id":"r","method":"POST","url":"/v1/chat/completions","body":{ "model" : "m", "n": 1.0 }}'

    found = read_request(text, CHAT, 64, 1_000)

    assert (found.custom_id, found.model, bytes(found.body)) == ("r", "m", b'{ "model" : "m", "n": 1.0 }')


def checked(*texts: bytes) -> InputCheck:
    check = InputCheck(lambda text: read_request(text, CHAT, 64, 1_000).custom_id)
    for number, text in enumerate(texts, 1):
        if not check.is_done:
            check.add(TextLine(number, text, 0))
    return check


def test_every_line_of_an_input_is_checked_and_a_custom_id_comes_once() -> None:
    check = checked(line(), line(custom_id="r-2"), line(), b"{")

    assert [(error.code, error.line) for error in check.result()] == [
        ("duplicate_custom_id", 3),
        ("invalid_json_line", 4),
    ]
    assert checked(line(), line(custom_id="r-2")).result() == []


def test_an_input_has_at_least_one_request() -> None:
    assert [error.code for error in checked().result()] == ["empty_file"]


def test_an_input_with_too_many_requests_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_LINES", 2)

    check = checked(*(line(custom_id=f"r-{number}") for number in range(9)))

    assert check.total == 3
    assert [error.code for error in check.result()] == ["too_many_requests"]


def test_the_validation_ends_with_the_last_error_that_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_ERRORS", 2)

    check = checked(*[b"x"] * 9)

    assert (check.total, len(check.result())) == (2, 2)
    assert isinstance(check.result()[0], LineError)


def test_a_response_is_on_one_line_with_the_body_of_the_server() -> None:
    found = answered("U", "r-1", 200, Raw(b'{"id":"c","n":1.0}'))

    assert found.is_success
    assert found.text == (
        b'{"id":"batch_req_U","custom_id":"r-1","response":{"status_code":200,"request_id":"U",'
        b'"body":{"id":"c","n":1.0}},"error":null}\n'
    )


def test_what_a_server_refused_has_its_status_and_body_in_the_file_of_errors() -> None:
    found = answered("U", "r-1", 400, Raw(b'{"error":{}}'))

    assert not found.is_success
    assert json.loads(found.text)["response"]["status_code"] == 400


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (TaskFailed(attempt=1, server_id="s", kind="deadline", error="late"), "batch_expired"),
        (TaskFailed(attempt=0, server_id="", kind="expired", error="late"), "batch_expired"),
        (TaskFailed(attempt=1, server_id="s", kind="rejected", error="no"), "invalid_request"),
        (TaskFailed(attempt=3, server_id="s", kind="timeout", error="slow"), "request_timeout"),
        (TaskFailed(attempt=3, server_id="s", kind="unreachable", error="gone"), "server_error"),
        (TaskCancelled(attempt=0, server_id="", reason="by alice"), "request_cancelled"),
    ],
)
def test_a_request_without_an_answer_has_an_error(event: TaskFailed | TaskCancelled, code: str) -> None:
    found = of_failure("U", "r-1", event)

    content = json.loads(found.text)
    assert (found.is_success, content["response"], content["error"]["code"]) == (False, None, code)


def test_custom_ids_of_any_text_survive() -> None:
    for custom_id in ('a "quoted" one', "ünï\u2028", "\\"):
        assert json.loads(unanswered("U", custom_id, "c", "m").text)["custom_id"] == custom_id


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}', (3, 0, 5, 0)),
        (
            b'{"usage":{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":2},'
            b'"completion_tokens_details":null}}',
            (3, 2, 5, 0),
        ),
        (
            b'{"usage":{"input_tokens":3,"output_tokens":5,"output_tokens_details":{"reasoning_tokens":1}}}',
            (3, 0, 5, 1),
        ),
        (b'{"usage":{"prompt_tokens":"many"}}', None),
        (b'{"usage":null}', None),
        (b"[1]", None),
    ],
)
def test_tokens_are_read_from_answers_of_each_kind(body: bytes, expected: tuple[int, ...] | None) -> None:
    found = usage_in(Raw(body))

    assert (None if found is None else msgspec.structs.astuple(found)) == expected


def test_tokens_add_up_and_an_answer_without_any_changes_nothing() -> None:
    three = TokenUsage(input_tokens=1, cached_tokens=2, output_tokens=3, reasoning_tokens=4)

    assert summed(None, None) is None
    assert summed(three, None) == summed(None, three) == three
    assert summed(three, three) == TokenUsage(input_tokens=2, cached_tokens=4, output_tokens=6, reasoning_tokens=8)
