"""The dialect `taskstream`: the outcome of each answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects.contents import DEEPEST_ANSWER
from taskstream.backends.dialects.dialect import (
    Accepted,
    Answer,
    Busy,
    Call,
    Completed,
    Failed,
    FailedByBackend,
    Final,
    Next,
    Reply,
)
from taskstream.backends.dialects.task_update import LONGEST_MESSAGE
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.events.server import ServerRegistered
from taskstream.events.task import FailureKind
from taskstream.events.task_type import Accepts

CALL = Call(
    task_id="t1",
    task_type="echo",
    attempt=1,
    payload=Raw(b"1"),
    deadline=datetime(2026, 1, 1, tzinfo=UTC),
    callback_url="http://us/api/task/t1",
    callback_token="token",
)


def answer(
    status: int,
    body: Any = b"",
    *,
    reports: bool = False,
    retry_after: timedelta | None = None,
    media_type: str = "application/json",
    accepts: Accepts = "any",
) -> Answer:
    """Return the outcome of an answer; a `body` other than bytes is sent as JSON."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    server = ServerRegistered(server_id="s1", name="", provider="", predict_url="http://s1", callback=reports)
    reply = Reply(
        status=status, headers={"Content-Type": media_type}, body=sent, retry_after=retry_after, elapsed_ms=1234
    )
    found = Taskstream().converse(server, replace(CALL, accepts=accepts)).read(reply)
    assert not isinstance(found, Next | Final)
    return found


def task_result(status: str = "FINISHED", **metadata: Any) -> dict[str, Any]:
    return {
        "task_id": "t1",
        "backend_task_id": "b7",
        "data": {"url": "x"},
        "metadata": {"server_id": "one", "processing_time": 3, "status": status, **metadata},
    }


both = pytest.mark.parametrize("reports", [False, True], ids=["synchronous", "reporting"])


# 2xx


@both
@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_task_result_ends_the_task_and_is_kept_as_it_came(status: int, reports: bool) -> None:
    body = b'{ "data" : {"a": 1.0},\n "metadata": {"status": "FINISHED", "extra": [1]}, "more": "\xc3\xbc" }'

    assert answer(status, body, reports=reports) == Completed(body)


@both
@pytest.mark.parametrize(
    "body",
    [
        {"text": "a chapter"},
        [1, 2],
        "just text",
        None,
        3.5,
        {},
        {"data": 1},
        {"data": 1, "metadata": None},
        {"data": 1, "metadata": {"model": "x"}},
        {"status": "failed", "error": "a word of the model's own"},
        {"task_id": "t1", "status": "FINISHED", "text": "x"},
        {"task_id": "t1", "status": "ok", "text": "x"},
    ],
    ids=repr,
)
def test_json_of_any_other_shape_is_kept_whole_as_the_data_of_a_result(body: Any, reports: bool) -> None:
    found = answer(200, body, reports=reports)

    assert isinstance(found, Completed)
    assert json.loads(found.result) == {
        "task_id": "t1",
        "backend_task_id": None,
        "data": body,
        "metadata": {
            "server_id": "s1",
            "processing_time": 1234,
            "model_time": 0,
            "queue_time": 0,
            "progress": 100,
            "status": "FINISHED",
            "message": None,
        },
    }


@both
@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "PROCESSING"])
def test_the_result_of_another_task_is_a_bad_answer(status: str, reports: bool) -> None:
    """Found by chaos: a backend that answers twice, or mixes up its connections, ended tasks with others' results."""
    body = {**task_result(status), "task_id": "0" * 26 + "~somebody"}

    assert answer(200, body, reports=reports) == Failed(
        kind="bad_answer", error="the server answered with the result of another task"
    )


def test_the_acceptance_of_another_task_is_a_bad_answer() -> None:
    body = {"task_id": "0" * 26 + "~somebody", "backend_task_id": "b7", "status": "QUEUED"}

    found = answer(202, body, reports=True)

    assert isinstance(found, Failed)
    assert found.error == "the server answered with the result of another task"
    assert answer(202, body | {"task_id": "job-17"}, reports=True) == Accepted("b7")


@pytest.mark.parametrize("task_id", ["", "job-17", None, 5, ["0" * 26 + "~somebody"]])
def test_an_id_in_another_format_is_ignored(task_id: Any) -> None:
    """Older backends have put their own there."""
    assert isinstance(answer(200, {**task_result(), "task_id": task_id}), Completed)


@both
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (task_result("FAILED", message="no such model"), "no such model"),
        (task_result("FAILED", message=None), "the server reports failure"),
        (task_result("FAILED", message=""), "the server reports failure"),
        (task_result("FAILED", message="y" * 5000), "y" * (LONGEST_MESSAGE - 1) + "…"),
        (task_result("FAILED", message={"message": "no memory", "code": 3}), "no memory"),
        (task_result("FAILED", message=7), "the server reports failure"),
        (task_result("FAILED", error={"message": "no memory"}), "no memory"),
        ({"metadata": {"status": "FAILED", "message": "no memory"}}, "no memory"),
        ({"metadata": {"status": "FAILED"}, "error": "no memory"}, "no memory"),
        ({"metadata": {"status": "FAILED"}, "data": {"error": "no memory"}}, "no memory"),
    ],
    ids=["message", "null", "empty", "long", "object", "number", "error", "no data", "beside", "in the data"],
)
def test_a_failed_result_inside_a_200_fails_the_task_with_its_message(
    body: dict[str, Any], error: str, reports: bool
) -> None:
    found = answer(200, body, reports=reports)

    assert isinstance(found, FailedByBackend)
    assert found.error == error
    assert json.loads(found.result)["data"] == body.get("data")


@both
@pytest.mark.parametrize("status", [200, 204, 206])
@pytest.mark.parametrize(
    "body",
    [b"  ", b"<html>", b'{"a":', b"{}{}", b"nan", b"1e999", b"[" * 5000 + b"]" * 5000],
    ids=["blank", "html", "cut", "two", "nan", "infinite", "very deep"],
)
@pytest.mark.parametrize("media_type", ["application/json", "Application/Problem+JSON; charset=utf-8"])
def test_a_body_declared_json_that_is_not_json_is_a_bad_answer(
    status: int, body: bytes, media_type: str, reports: bool
) -> None:
    found = answer(status, body, reports=reports, media_type=media_type)

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"


def test_an_answer_nested_deeper_than_it_could_be_read_again_is_a_bad_answer() -> None:
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    assert isinstance(answer(200, nested(DEEPEST_ANSWER)), Completed)
    too_deep = answer(200, nested(DEEPEST_ANSWER + 1))
    assert isinstance(too_deep, Failed)
    assert too_deep.kind == "bad_answer"
    assert isinstance(answer(200, b"[" + b"[]," * 10_000 + b"[]]"), Completed)


@both
@pytest.mark.parametrize(
    ("came", "kept", "note"),
    [
        ({"progress": "all"}, {}, 'progress: left out; must be a number, given: "all"'),
        ({"progress": "40%"}, {}, 'progress: left out; must be a number, given: "40%"'),
        ({"progress": True}, {}, "progress: left out; must be a number, given: true"),
        ({"progress": 101}, {"progress": 100}, "progress: clamped to 100"),
        ({"progress": 10**400}, {"progress": 100}, "progress: clamped to 100"),
        ({"progress": -3}, {"progress": 0}, "progress: clamped to 0"),
        ({"progress": 100.00000000000001}, {"progress": 100}, None),
        ({"progress": " 40 "}, {"progress": 40}, None),
        ({"message": {"code": 1}}, {}, "message: left out; must be text, given: an object"),
        (
            {"message": {"message": "x"}},
            {"message": "x"},
            "message: must be text, given: an object; the text in it is used",
        ),
        ({"message": "x" * 2_001}, {"message": "x" * 1_999 + "…"}, "message: shortened from 2,001 to 2,000 characters"),
        ({"server_id": 7}, {"server_id": "7"}, None),
        ({"server_id": "x" * 129}, {}, "server_id: left out; longer than 128 characters"),
        ({"processing_time": "fast"}, {}, 'processing_time: left out; must be a number, given: "fast"'),
        ({"queue_time": []}, {}, "queue_time: left out; must be a number, given: a list"),
        ({"log": 1}, {}, "log: left out; must be text, given: a number"),
        ({"output": {}}, {}, "output: left out; must be text, given: an object"),
    ],
    ids=lambda it: str(it)[:40],
)
@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_no_result_is_lost_over_a_cosmetic_field(
    status: str, came: Any, kept: Any, note: str | None, reports: bool
) -> None:
    body = task_result(status) | {"metadata": {"status": status, "mood": [1.0], **came}}

    found = answer(200, body, reports=reports)

    assert isinstance(found, Completed if status == "FINISHED" else FailedByBackend)
    assert json.loads(found.result) == body | {"metadata": {"status": status, "mood": [1.0], **kept}}
    assert found.notes == ((note,) if note else ())


@both
@pytest.mark.parametrize("said", ["failed", "Failed", " FAILED\n", "fAiLeD"])
def test_a_status_is_read_in_any_case_and_kept_as_the_word_it_is(said: str, reports: bool) -> None:
    found = answer(200, {"metadata": {"status": said, "message": "CUDA OOM"}}, reports=reports)

    assert isinstance(found, FailedByBackend)
    assert found.error == "CUDA OOM"
    assert json.loads(found.result)["metadata"] == {"status": "FAILED", "message": "CUDA OOM"}
    finished = answer(200, {"metadata": {"status": said.lower().replace("failed", "finished")}}, reports=reports)
    assert isinstance(finished, Completed)


@both
@pytest.mark.parametrize(
    "said", ["DONE", "succeeded", "error", "", "FINISHED!", "\ufb01nished", None, 1, True, {}, ["FINISHED"]], ids=repr
)
@pytest.mark.parametrize("more", [{}, {"data": 1}], ids=["without data", "with data"])
def test_a_status_that_is_no_known_word_is_a_bad_answer_and_never_a_success(
    said: Any, more: Any, reports: bool
) -> None:
    found = answer(200, {"metadata": {"status": said}, **more}, reports=reports)

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"
    assert "$.metadata.status: must be one of WAITING, PROCESSING, FINISHED, FAILED; given: " in found.error


@both
def test_a_result_without_data_has_null(reports: bool) -> None:
    found = answer(200, {"metadata": {"status": "FINISHED"}, "text": "kept"}, reports=reports)

    assert isinstance(found, Completed)
    assert json.loads(found.result) == {
        "task_id": "t1",
        "backend_task_id": None,
        "data": None,
        "metadata": {"status": "FINISHED"},
        "text": "kept",
    }


@both
@pytest.mark.parametrize(("came", "kept"), [(123, "123"), (1.5, None), ({}, None), ("x" * 513, None), ("b7", "b7")])
def test_the_servers_own_id_may_be_a_number(came: Any, kept: str | None, reports: bool) -> None:
    found = answer(200, task_result("FAILED") | {"backend_task_id": came}, reports=reports)

    assert isinstance(found, FailedByBackend)
    assert json.loads(found.result)["backend_task_id"] == kept
    assert bool(found.notes) == (kept is None)


def test_data_is_kept_byte_for_byte_when_something_else_is_not() -> None:
    body = b'{"metadata": {"status":"finished", "x": [1.0]}, "data": { "a" : 1e2 }, "extra": 1.50}'

    found = answer(200, body)

    assert isinstance(found, Completed)
    assert b'"data":{ "a" : 1e2 }' in found.result
    assert b'"x":[1.0]' in found.result
    assert b'"extra":1.50' in found.result


@both
@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b'\xef\xbb\xbf{"data": 1, "metadata": {"status": "FAILED"}}', 1),
        (b'{"data": "half \\ud83d of it", "metadata": {"status": "FAILED"}}', "half \ufffd of it"),
        (b'{"data": "\\udc00", "metadata": {"status": "FAILED"}}', "\ufffd"),
        (b'{"data": "caf\xe9", "metadata": {"status": "FAILED"}}', "caf\ufffd"),
        (b'{"data": "\\ud83d\\ude00 \\\\ud83d \xff", "metadata": {"status": "FAILED"}}', "\U0001f600 \\ud83d \ufffd"),
    ],
    ids=["byte order mark", "first half", "second half", "Latin-1", "all of it"],
)
def test_text_that_is_not_quite_unicode_is_read_all_the_same(sent: bytes, read: Any, reports: bool) -> None:
    found = answer(200, sent, reports=reports)

    assert isinstance(found, FailedByBackend)
    assert json.loads(found.result)["data"] == read


# 202


def test_a_202_of_a_server_that_reports_is_an_acceptance_with_the_servers_own_id() -> None:
    body = {"task_id": "t1", "backend_task_id": "b7", "status": "PROCESSING", "message": "queued"}

    assert answer(202, body, reports=True) == Accepted("b7")


@pytest.mark.parametrize(
    "body",
    [b"", b"ok", b"null", b"[]", b'{"backend_task_id": 7.5}', b'{"status": "QUEUED"}', b"[" * 5000,
      b'{"metadata": {"status": "QUEUED"}}'],
    ids=["empty", "text", "null", "list", "number", "other status", "very deep", "other status within"],
)  # fmt: skip
def test_a_202_with_an_unknown_body_is_still_an_acceptance(body: bytes) -> None:
    assert answer(202, body, reports=True) == Accepted(None)


@both
@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "failed"])
def test_a_202_whose_body_is_a_final_result_is_final(status: str, reports: bool) -> None:
    found = answer(202, task_result(status), reports=reports)

    assert isinstance(found, Completed if status == "FINISHED" else FailedByBackend)


@pytest.mark.parametrize(
    "body",
    [{"task_id": "t1", "backend_task_id": "b7", "status": "PROCESSING"}, {"job": 7}, {}, None, task_result("WAITING")],
    ids=repr,
)
def test_a_202_of_a_server_without_callbacks_is_no_result(body: Any) -> None:
    found = answer(202, body)

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"
    assert "with `callback: true`" in found.error


def test_a_200_that_says_the_task_goes_on_is_an_acceptance_of_a_server_that_reports() -> None:
    for status in ("PROCESSING", "WAITING", "processing"):
        assert answer(200, task_result(status), reports=True) == Accepted("b7")
        short = {"task_id": "t1", "backend_task_id": 7, "status": status, "message": "queued"}
        assert answer(200, short, reports=True) == Accepted("7")
    assert answer(200, {"metadata": {"status": "PROCESSING"}}, reports=True) == Accepted(None)


@pytest.mark.parametrize("status", ["PROCESSING", "WAITING", "processing"])
def test_a_task_that_goes_on_at_a_server_without_callbacks_is_a_bad_answer(status: str) -> None:
    for body in (task_result(status), {"task_id": "t1", "status": status}, {"backend_task_id": "b", "status": status}):
        found = answer(200, body)
        assert isinstance(found, Failed)
        assert found.kind == "bad_answer"
        assert f"reports {status.upper()}. Register a server that reports later with `callback: true`" in found.error


@both
@pytest.mark.parametrize("status", [200, 202])
def test_a_failure_in_the_shape_of_an_acceptance_is_a_failure(status: int, reports: bool) -> None:
    body = {"task_id": "t1", "backend_task_id": "b7", "status": "failed", "message": "CUDA OOM", "progress": "40%"}

    found = answer(status, body, reports=reports)

    assert isinstance(found, FailedByBackend)
    assert found.error == "CUDA OOM"
    assert json.loads(found.result)["metadata"]["status"] == "FAILED"


# Refusals


@both
@pytest.mark.parametrize(
    ("kind", "statuses", "more"),
    [
        ("rejected", (400, 401, 403, 404, 405, 409, 410, 413, 418, 422, 499), ""),
        ("error", (408, 425, 500, 501, 502, 504, 599), ""),
        ("bad_answer", (301, 302, 303, 307, 308, 304), "; redirects are not followed"),
        ("bad_answer", (100, 101), "; that is no answer to a task"),
    ],
)
def test_the_kind_of_a_failure_is_read_from_its_status(
    kind: FailureKind, statuses: tuple[int, ...], more: str, reports: bool
) -> None:
    pause = timedelta(seconds=7)
    for status in statuses:
        found = answer(status, reports=reports, retry_after=pause)
        waits = pause if kind == "error" else None
        said = f"the server answered {status}{more}"
        assert found == Failed(kind=kind, error=said, retry_after=waits, is_neutral=status in (408, 425)), status


@both
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("pause", [None, timedelta(0), timedelta(seconds=7)])
def test_busy_is_no_failure(status: int, pause: timedelta | None, reports: bool) -> None:
    found = answer(status, {"error": "full"}, reports=reports, retry_after=pause)

    assert found == Busy(error=f"the server answered {status}: full", retry_after=pause)


@pytest.mark.parametrize("status", [422, 500])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        *[({field: "width must be even", "trace": "…"}, ": width must be even") for field in ("error", "detail")],
        ({"message": "width must be even"}, ": width must be even"),
        ({"message": "c", "detail": "b", "error": "a"}, ": a"),
        *[(body, "") for body in (b"", b"<html>Traceback", b"[1]", b'{"error": ', b"[" * 5000)],
        ({"error": {"code": 3}}, ""),
        ({"error": ""}, ""),
    ],
    ids=lambda it: str(it)[:30],
)
def test_the_servers_own_reason_is_kept_if_it_is_text(status: int, body: Any, reason: str) -> None:
    found = answer(status, body)

    assert isinstance(found, Failed)
    assert found.error == f"the server answered {status}{reason}"


@given(
    st.integers(100, 599),
    st.binary(max_size=50) | st.recursive(st.none() | st.text(), st.lists).map(lambda it: json.dumps(it).encode()),
    st.booleans(),
)
def test_every_answer_has_an_outcome(status: int, body: bytes, reports: bool) -> None:
    found = answer(status, body, reports=reports)

    if not 200 <= status < 300:
        assert isinstance(found, Failed | Busy)
    elif isinstance(found, Completed | FailedByBackend):
        json.loads(found.result)


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize(
    "beside", [{"metadata": {}}, {"metadata": None}, {"data": None}, {"metadata": {"x": 1}, "data": 1}]
)
def test_a_failure_that_is_named_beside_data_or_metadata_is_one(beside: dict[str, Any], reports: bool) -> None:
    found = answer(200, {"task_id": "t1", "status": "FAILED", "error": "CUDA OOM", **beside}, reports=reports)

    assert isinstance(found, FailedByBackend)
    assert found.error == "CUDA OOM"
    result = json.loads(found.result)
    assert result["data"] == beside.get("data")
    assert result["metadata"]["status"] == "FAILED"
