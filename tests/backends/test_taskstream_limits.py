"""The dialect `taskstream`: whole requests, and the limits of what is read, at their boundaries."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects import DIALECTS, dialect_of
from taskstream.backends.dialects.contents import media_type_of
from taskstream.backends.dialects.dialect import (
    Busy,
    Call,
    Completed,
    Failed,
    FailedByBackend,
    ParentResult,
    Probe,
    Reply,
    Request,
    Update,
)
from taskstream.backends.dialects.framing import FRAMINGS, Texts
from taskstream.backends.dialects.reasons import reason_in, reason_of, shortened
from taskstream.backends.dialects.task_update import (
    STATUSES,
    UpdateMetadata,
    read_backend_task_id,
    read_update,
    status_of,
    wrapped,
)
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.commands.task_commands import Reporter, ReportProgress
from taskstream.errors import InvalidInput
from taskstream.events.server import ServerRegistered
from taskstream.events.task import ModelChoice
from taskstream.events.task_type import TypeDefined
from taskstream.wire.json_text import read_json

from .test_taskstream_answers import CALL, answer

SERVER = ServerRegistered(server_id="s1", name="", provider="", predict_url="http://s1/p", health_url="http://s1/h")
TASKSTREAM = Taskstream()


# Requests


def predicted(server: ServerRegistered = SERVER, call: Call = CALL) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the header fields and the body of the request that starts an attempt."""
    request = TASKSTREAM.converse(server, call).begin()
    assert (request.method, request.url) == ("POST", "http://s1/p")
    assert request.body is not None
    return dict(request.headers), json.loads(request.body)


def test_the_request_of_an_attempt_has_no_more_than_a_server_needs() -> None:
    assert predicted() == (
        {"Content-Type": "application/json"},
        {"task_id": "t1", "type": "echo", "request": 1, "async": False, "attempt": 1, "deadline": 1_767_225_600_000},
    )


@pytest.mark.parametrize("more", [{"is_async": True}, {"callback": True}], ids=str)
def test_a_server_that_reports_later_gets_the_address_and_the_token(more: dict[str, bool]) -> None:
    _, body = predicted(replace(SERVER, **more))

    assert body["async"] is more.get("is_async", False)
    assert (body["callback_url"], body["callback_token"]) == ("http://us/api/task/t1", "token")


def test_keys_model_and_parents_are_sent_where_there_are_some() -> None:
    call = replace(
        CALL,
        api_key="own",
        model=ModelChoice(provider="p", model="m", base_url="b"),
        model_key="sk",
        parents=[
            ParentResult(task_id="p1", status="FINISHED", result=Raw(b'{"data":1}')),
            ParentResult(task_id="p2", status="FAILED", error="no"),
        ],
    )

    headers, body = predicted(call=call)

    assert headers == {
        "Content-Type": "application/json",
        "Authorization": "Bearer own",
        "X-AI-Provider": "p",
        "X-AI-Model": "m",
        "X-AI-BaseUrl": "b",
        "X-AI-Key": "sk",
    }
    assert body["parents"] == [
        {"task_id": "p1", "status": "FINISHED", "result": {"data": 1}, "error": None},
        {"task_id": "p2", "status": "FAILED", "result": None, "error": "no"},
    ]
    assert predicted(call=replace(CALL, model=ModelChoice(model="m")))[0] == {
        "Content-Type": "application/json",
        "X-AI-Model": "m",
    }


def test_the_text_of_a_call_has_none_of_its_secrets() -> None:
    assert repr(replace(CALL, api_key="own", model_key="sk")) == "Call(t1, attempt 1)"


def test_a_closed_connection_stops_an_attempt_and_health_is_a_get() -> None:
    conversation = TASKSTREAM.converse(SERVER, CALL)
    assert conversation.cancel() is None
    assert conversation.read_cancel(None) == "requested"
    assert TASKSTREAM.health(SERVER) == Request(method="GET", url="http://s1/h")
    assert TASKSTREAM.health(replace(SERVER, health_url=None)) is None
    assert TASKSTREAM.most_health_bytes == 0
    assert [TASKSTREAM.read_health(status, b"").well for status in (199, 200, 299, 300)] == [False, True, True, False]
    assert TASKSTREAM.read_health(503, b"") == Probe(False, "health check answered 503")


class Other(Taskstream):
    name = "other"


def test_a_servers_dialect_is_its_own_then_its_types_then_taskstream(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other()
    monkeypatch.setitem(DIALECTS, "other", other)
    taskstream, of_type = DIALECTS["taskstream"], TypeDefined(name="t", pool="t", dialect="other")

    assert dialect_of(SERVER) is taskstream
    assert dialect_of(SERVER, TypeDefined(name="t", pool="t")) is taskstream
    assert dialect_of(SERVER, of_type) is other
    assert dialect_of(replace(SERVER, dialect="taskstream"), of_type) is taskstream
    assert dialect_of(replace(SERVER, dialect="other")) is other
    assert dialect_of(replace(SERVER, dialect="of a newer version"), of_type) is other


# Statuses


def test_which_statuses_mean_busy() -> None:
    def statuses(server: ServerRegistered) -> list[int]:
        return [status for status in range(100, 600) if TASKSTREAM.means_busy(server, status)]

    assert statuses(SERVER) == [429, 503]
    assert statuses(replace(SERVER, busy_status=(409,))) == [409]
    assert statuses(replace(SERVER, busy_status=())) == []


def of(server: ServerRegistered, status: int) -> Any:
    reply = Reply(status=status, headers={}, body=b"", retry_after=timedelta(seconds=3))
    return TASKSTREAM.converse(server, CALL).read(reply)


def test_a_server_that_names_its_own_busy_statuses_fails_with_the_others() -> None:
    own = replace(SERVER, busy_status=(409, 500))
    pause = timedelta(seconds=3)

    assert of(own, 409) == Busy(error="the server answered 409", retry_after=pause)
    assert of(own, 500) == Busy(error="the server answered 500", retry_after=pause)
    assert of(own, 429) == Failed(kind="error", error="the server answered 429", retry_after=pause, is_neutral=True)
    assert of(own, 503) == Failed(kind="error", error="the server answered 503", retry_after=pause)


@pytest.mark.parametrize(("status", "is_read"), [(199, False), (200, True), (202, True), (299, True), (300, False)])
def test_a_stream_is_read_text_by_text_only_of_a_success(status: int, is_read: bool) -> None:
    assert (TASKSTREAM.converse(SERVER, CALL).open_stream(status, {}) is not None) == is_read


def test_a_202_of_a_server_that_reports_later_is_read_whole() -> None:
    reports = replace(SERVER, callback=True)

    assert TASKSTREAM.converse(reports, CALL).open_stream(202, {}) is None
    assert TASKSTREAM.converse(reports, CALL).open_stream(200, {}) is not None


def test_a_stream_that_ends_without_a_result_is_a_bad_answer() -> None:
    reader = TASKSTREAM.converse(SERVER, CALL).open_stream(200, {})
    assert reader is not None

    assert reader.end() == Failed(kind="bad_answer", error="the streamed answer ended without a result")


# Fields at their bounds


def read(metadata: dict[str, Any], **more: Any) -> Any:
    content = {"metadata": {"status": "FINISHED", **metadata}, "data": 1, **more}
    return read_update(read_json(json.dumps(content).encode()))


@pytest.mark.parametrize(
    ("name", "came", "said", "note"),
    [
        ("message", "x" * 2_000, "x" * 2_000, ""),
        ("message", "x" * 2_001, "x" * 1_999 + "…", "shortened from 2,001 to 2,000 characters"),
        ("log", "x" * 8_000, "x" * 8_000, ""),
        ("log", "x" * 8_001, "x" * 7_999 + "…", "shortened from 8,001 to 8,000 characters"),
        ("output", "x" * 100_000, "x" * 100_000, ""),
        ("server_id", "x" * 128, "x" * 128, ""),
        ("server_id", "x" * 129, None, "left out; longer than 128 characters"),
        ("server_id", 10**128 - 1, "9" * 128, ""),
        ("server_id", 10**128, None, "left out; must be text, given: a number"),
        ("server_id", True, None, "left out; must be text, given: true"),
        ("progress", 100, 100, ""),
        ("progress", 0, 0, ""),
        ("progress", 100.0000009, 100, ""),
        ("progress", 100.000002, 100, "clamped to 100"),
        ("progress", -0.0000009, 0, ""),
        ("progress", -0.000002, 0, "clamped to 0"),
        ("progress", "99.5", 99.5, ""),
        ("progress", False, None, "left out; must be a number, given: false"),
        ("processing_time", "+12.", 12.0, ""),
        ("processing_time", "1" * 20 + "." + "1" * 20, float("1" * 20 + "." + "1" * 20), ""),
        ("processing_time", "1" * 21, None, f'left out; must be a number, given: "{"1" * 21}"'),
        ("processing_time", "1." + "1" * 21, None, f'left out; must be a number, given: "1.{"1" * 21}"'),
        ("processing_time", "x" * 40, None, f'left out; must be a number, given: "{"x" * 40}"'),
        ("processing_time", "x" * 41, None, f'left out; must be a number, given: "{"x" * 39}…"'),
        ("processing_time", [], None, "left out; must be a number, given: a list"),
        ("model_time", 1.5, 1.5, ""),
    ],
    ids=lambda it: str(it)[:30],
)
def test_a_field_of_metadata_is_read_up_to_its_bound(name: str, came: Any, said: Any, note: str) -> None:
    update = read({name: came})

    assert update.said.get(name) == said
    assert update.notes == ((f"{name}: {note}",) if note else ())
    assert update.status == "FINISHED"
    assert (name in update.changed) == (said != came or type(said) is not type(came))


@pytest.mark.parametrize(
    ("came", "said"), [("x" * 512, "x" * 512), ("x" * 513, None), (10**511, str(10**511)), (10**512, None), ([], None)]
)
def test_the_servers_own_id_has_512_characters_at_most(came: Any, said: str | None) -> None:
    assert read({}, backend_task_id=came).backend_task_id == said
    assert read_backend_task_id({"backend_task_id": came}) == said
    assert read_backend_task_id([came]) is None


def test_a_status_is_one_of_four_words() -> None:
    assert STATUSES == ("WAITING", "PROCESSING", "FINISHED", "FAILED")
    assert [status_of(word.lower()) for word in STATUSES] == list(STATUSES)
    assert [update.is_final for update in (read({"status": word}) for word in STATUSES)] == [False, False, True, True]
    assert status_of("DONE") is None
    assert status_of(None) is None


def test_final_updates_of_equal_status_and_data_have_one_digest_and_no_others() -> None:
    first = read({"progress": 7, "message": "a"})

    assert first.digest == "431213350532052667944991a85c3bef417945bc581ace7b459a118fa8b98ce8"
    assert first.digest == read({"processing_time": 9}, backend_task_id="b").digest
    assert first.digest != read({"status": "FAILED"}).digest
    assert first.digest != read_update(read_json(b'{"metadata": {"status": "FINISHED"}, "data": 2}')).digest


def test_an_update_names_its_server_and_what_it_said() -> None:
    assert read({"server_id": "one"}).server_id == "one"
    assert read({}).server_id == ""
    assert read({}, task_id="0" * 26 + "~bob").is_of_another("0" * 26 + "~alice")
    assert not read({}, task_id="0" * 26 + "~bob").is_of_another("0" * 26 + "~bob")


@pytest.mark.parametrize(
    ("text", "path", "detail"),
    [
        (b"[]", "$", "must be an object"),
        (b"{}", "$.metadata", "is required and must be an object"),
        (b'{"metadata": 7}', "$.metadata", "is required and must be an object"),
        (
            b'{"metadata": {}}',
            "$.metadata.status",
            "is required and must be one of WAITING, PROCESSING, FINISHED, FAILED",
        ),
        (
            b'{"metadata": {"status": {}}}',
            "$.metadata.status",
            "must be one of WAITING, PROCESSING, FINISHED, FAILED; given: an object",
        ),
        (
            b'{"metadata": {"status": "FINISHED"}, "data": [NaN]}',
            "$.data",
            "has NaN or Infinity, which JSON cannot hold; send null or text instead",
        ),
    ],
)
def test_what_is_no_update_is_refused_with_its_place(text: bytes, path: str, detail: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_update(read_json(text))

    assert (caught.value.path, caught.value.detail) == (path, detail)


def test_nan_beside_the_data_is_read_as_null_with_a_note() -> None:
    update = read_update(read_json(b'{"metadata": {"status": "FINISHED", "progress": NaN, "x": Infinity}, "data": 1}'))

    assert update.notes == ("NaN and Infinity are read as null",)
    assert json.loads(update.whole_result("t1"))["metadata"] == {"status": "FINISHED", "progress": None, "x": None}


def test_progress_passes_every_field_on() -> None:
    said = {"progress": 4, "message": "m", "custom_data": {"a": 1}, "log": "l", "output": "o"}
    update = Update(
        progress=4, message="m", custom_data=Raw(b'{"a": 1}'), lines=("l",), output="o", notes=("model_time: x",)
    )

    found = read_update(read_json(json.dumps({"metadata": {"status": "PROCESSING", **said}}).encode())).progress()
    assert found == replace(update, notes=())
    reporter = Reporter(kind="worker", attempt=3)
    assert update.command(reporter) == ReportProgress(
        reporter=reporter,
        progress=4,
        message="m",
        custom_data=Raw(b'{"a": 1}'),
        lines=("l",),
        output="o",
        notes=("model_time: x",),
    )


def test_an_answer_that_is_no_update_is_the_data_of_a_result() -> None:
    assert json.loads(wrapped("t1", b"[1]", status="FINISHED")) == {
        "task_id": "t1",
        "backend_task_id": None,
        "data": [1],
        "metadata": {"status": "FINISHED"},
    }


@pytest.mark.parametrize(
    ("metadata", "more", "error"),
    [
        ({"message": "a", "error": "b"}, {"error": "c"}, "a"),
        ({"error": "b"}, {"error": "c", "data": {"error": "d"}}, "b"),
        ({}, {"error": "c", "data": {"error": "d"}}, "c"),
        ({}, {"data": {"error": "d"}}, "d"),
        ({"text": "x"}, {"text": "y", "data": {"text": "z"}}, "the server reports failure"),
        ({}, {"data": ["d"]}, "the server reports failure"),
    ],
    ids=str,
)
def test_the_reason_of_a_reported_failure_is_the_nearest_one(metadata: Any, more: Any, error: str) -> None:
    found = answer(200, {"metadata": {"status": "FAILED", **metadata}, "data": None, **more})

    assert isinstance(found, FailedByBackend)
    assert found.error == error


# Reasons


def test_a_reason_has_three_hundred_characters_and_three_entries_at_most() -> None:
    assert reason_in("x" * 300) == "x" * 300
    assert reason_in("x" * 301) == "x" * 299 + "…"
    assert reason_in(["a", "b", "c"]) == "a; b; c"
    assert reason_in(["a", "b", "c", "d"]) == "a; b; c; … (4 in all)"
    assert reason_in({"errors": {"a": "1", "b": "2", "c": "3", "d": "4"}}) == "a: 1; b: 2; c: 3; … (4 in all)"
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


def test_a_reason_is_searched_four_levels_deep() -> None:
    def nested(levels: int) -> Any:
        return {"error": nested(levels - 1)} if levels else "why"

    assert reason_in(nested(4)) == "why"
    assert reason_in(nested(5)) == ""
    assert reason_in([[[["why"]]]]) == "why"
    assert reason_in([[[[["why"]]]]]) == ""
    assert reason_in({"errors": {"width": nested(3)}}) == "width: why"
    assert reason_in({"errors": {"width": nested(4)}}) == ""


def test_the_place_of_an_error_is_short_too() -> None:
    steps: list[Any] = ["x" * 60, *range(12)]

    assert reason_in({"loc": steps, "msg": "why"}) == "x" * 50 + ".0.1.2.3.4.5.6.7.8: why"
    assert reason_in({"errors": {"w" * 120: "why"}}) == "w" * 100 + ": why"


def test_a_refusal_of_a_quarter_of_a_megabyte_is_searched_and_no_larger_one() -> None:
    largest = b'{"error": "why"}'.ljust(256 * 1024)

    assert reason_of(largest, "application/json") == "why"
    assert reason_of(largest + b" ", "application/json") == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"title": "Bad Request", "error": "Bad Request"}, "Bad Request"),
        ({"title": "why", "error": "bad request"}, "why"),
        ({"title": "why", "error": "why"}, "why"),
        ({"title": "a title", "error": "Bad Request", "message": "why"}, "a title: why"),
        ({"error": "Bad Request", "message": "Not Found"}, "Bad Request"),
        ({"errors": {"error": "why"}}, "why"),
        ({"details": "d", "reason": "c", "error_description": "b", "msg": "a"}, "a"),
        ({"details": "d", "reason": "c", "error_description": "b"}, "b"),
        ({"details": "d", "reason": "c"}, "c"),
        ({"details": "d"}, "d"),
    ],
    ids=str,
)
def test_the_most_specific_reason_is_shown(content: Any, reason: str) -> None:
    assert reason_in(content) == reason


# Contents and framing


def test_an_answer_as_deep_as_five_hundred_levels_is_read() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    assert isinstance(answer(200, nested(500)), Completed)
    assert answer(200, nested(501)) == Failed(
        kind="bad_answer", error="the server answered 200, and the answer is nested deeper than 500 levels"
    )


def test_the_media_type_is_found_in_any_case_and_without_its_parameters() -> None:
    def of(headers: dict[str, str]) -> str:
        return media_type_of(Reply(status=200, headers=headers, body=b""))

    assert of({"X": "text/plain", "content-TYPE": " Image/PNG ; charset=x"}) == "image/png"
    assert of({}) == ""


def test_a_charset_is_read_from_the_forms_in_which_it_is_written() -> None:
    for written in ("; charset=latin1", ';charset="ISO-8859-1"', "; x=y; CHARSET = 'l1'"):
        found = answer(200, b"\xfc", media_type=f"text/plain{written}")
        assert isinstance(found, Completed)
        assert json.loads(found.result)["data"] == "ü"


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("windows-1250", "Š"),
        ("windows-1258", "₫"),
        ("iso-8859-2", "ł"),
        ("iso-8859-16", "ș"),
        ("us-ascii", "a"),
        ("utf-16-le", "ü"),
        ("utf-32", "ü"),
        ("euc-jp", "夜"),
        ("euc-kr", "밤"),
        ("gb2312", "夜"),
        ("gbk", "夜"),
        ("gb18030", "🜚"),
        ("big5", "夜"),
        ("koi8-r", "ночь"),
    ],
)
def test_every_usual_charset_is_read(charset: str, text: str) -> None:
    found = answer(200, text.encode(charset), media_type=f"text/plain; charset={charset}")

    assert isinstance(found, Completed)
    assert json.loads(found.result)["data"] == text


@pytest.mark.parametrize("body", [b'{"a": NaN}', b'[{"status": NaN}]', b'[{"metadata": NaN}]'])
def test_a_text_with_nan_that_can_be_no_report_is_a_text(body: bytes) -> None:
    found = answer(200, body, media_type="text/plain")

    assert isinstance(found, Completed)
    assert json.loads(found.result)["data"] == body.decode()


@pytest.mark.parametrize("body", [b'{"metadata": {"x": NaN}}', b'{"status": NaN}', b'[{"status": NaN, "metadata": 1}]'])
def test_a_text_with_nan_that_may_be_a_report_is_a_bad_answer(body: bytes) -> None:
    found = answer(200, body, media_type="text/plain")

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"


def test_what_a_reply_a_failure_or_a_probe_does_not_say() -> None:
    reply = Reply(status=200, headers={}, body=b"")
    failed = Failed(kind="error", error="")
    probe = Probe(True, "")

    assert (reply.elapsed_ms, reply.retry_after) == (0, None)
    assert (failed.retry_after, failed.is_neutral, failed.is_unreached) == (None, False, False)
    assert (probe.latency_ms, probe.timed_out, probe.is_ours) == (None, False, False)
    assert json.loads(bytes(msgspec.json.decode(b'{"status": "FAILED"}', type=UpdateMetadata).custom_data)) is None


def test_which_media_types_are_streams() -> None:
    assert FRAMINGS == {
        "text/event-stream": "events",
        "application/x-ndjson": "lines",
        "application/ndjson": "lines",
        "application/jsonl": "lines",
        "application/x-jsonlines": "lines",
    }


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([b"a\nb\r\n \n\nc"], [b"a", b"b\r", b"c"]),
        ([b"\xef\xbb", b"\xbfa\n\xef\xbb\xbfb\n"], [b"a", b"\xef\xbb\xbfb"]),
        ([b"a", b"", b"b\n"], [b"ab"]),
        ([b"a\rb\n"], [b"a\rb"]),
    ],
    ids=str,
)
def test_lines_are_put_together_from_their_pieces(chunks: list[bytes], found: list[bytes]) -> None:
    texts = Texts("lines")

    assert [text for chunk in chunks for text in texts.feed(chunk)] + list(texts.rest()) == found


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([b"data: a\r\n\r\ndata:b\r\rdata:  c\n\n"], [b"a", b"b", b" c"]),
        ([b"data: a\r", b"\n", b"\r", b"\ndata: b"], [b"a", b"b"]),
        ([b"data: a\r", b"\r", b"data: b"], [b"a", b"b"]),
        ([b"data: a\ndata: b\n\n"], [b"a\nb"]),
        ([b"data: a\n", b"\ndata: b\n\n"], [b"a", b"b"]),
        ([b"data: a\r", b"\n", b"\n", b"data: b"], [b"a", b"b"]),
        ([b"\n\xef\xbb\xbfdata: a\n\n"], []),
        ([b"data\n\ndata: \n\n: x\n\nevent: data\nid: data: 1\n\n"], []),
        ([b"\xef\xbb\xbfdata: a\n\n"], [b"a"]),
    ],
    ids=str,
)
def test_events_are_put_together_from_their_pieces(chunks: list[bytes], found: list[bytes]) -> None:
    texts = Texts("events")

    assert [text for chunk in chunks for text in texts.feed(chunk)] + list(texts.rest()) == found
