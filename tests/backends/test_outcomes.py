"""No task ends as the opposite of what its server reported, whichever way the report came: answer, stream, callback."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.api.task_updates import parse_update
from taskstream.backends.dialects.dialect import (
    Accepted,
    Answer,
    BadAnswer,
    Completed,
    Failed,
    FailedByBackend,
    Final,
    Update,
)
from taskstream.backends.dialects.task_update import NAN_IS_NULL, STATUSES
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.errors import InvalidInput

from .test_taskstream_answers import CALL, answer
from .test_taskstream_stream import SERVER

Way = Literal["answer", "answer 202", "reporting answer", "reporting 202", "stream", "callback"]
WAYS: list[Way] = ["answer", "answer 202", "reporting answer", "reporting 202", "stream", "callback"]

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COSMETIC = ["server_id", "progress", "message", "processing_time", "model_time", "queue_time", "log", "output", "error"]


@st.composite
def spelled(draw: st.DrawFn, word: str) -> str:
    """Draw a spelling of a status: in any case, with spaces around it."""
    letters = [draw(st.sampled_from([letter.lower(), letter])) for letter in word]
    space = st.text(" \t\n", max_size=2)
    return draw(space) + "".join(letters) + draw(space)


@st.composite
def reports(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """Draw a TaskResult with anything in its other fields, and the status it means; None for no known one."""
    meant: str | None = draw(st.sampled_from([*STATUSES, None]))
    said = draw(junk if meant is None else spelled(meant))
    if meant is None and isinstance(said, str) and said.strip().upper() in STATUSES:
        meant = said.strip().upper()
    metadata = draw(st.dictionaries(st.sampled_from(COSMETIC), junk)) | {"status": said}
    outer = draw(st.dictionaries(st.sampled_from(["backend_task_id", "data", "message", "extra", "status"]), junk))
    return meant, outer | {"metadata": metadata}


def received(way: Way, body: bytes) -> Answer | Update | None:
    """Return the outcome of a report that came this way; None if it is refused."""
    match way:
        case "answer" | "answer 202":
            return answer(202 if way == "answer 202" else 200, body)
        case "reporting answer" | "reporting 202":
            return answer(202 if way == "reporting 202" else 200, body, reports=True)
        case "stream":
            reader = Taskstream().converse(SERVER, CALL).open_stream(200, {})
            assert reader is not None
            with contextlib.suppress(BadAnswer):
                found = reader.read(body, 5, "")
                assert not isinstance(found, Final)
                return found
            return None
        case "callback":
            with contextlib.suppress(InvalidInput):
                update = parse_update(body, CALL.task_id, 64)
                return update.ending(update.result(CALL.task_id)) if update.is_final else update.progress()
            return None


@given(reports())
@example(("FAILED", {"metadata": {"status": "FAILED", "message": "CUDA OOM"}}))
@example(("FAILED", {"metadata": {"status": "FAILED"}, "backend_task_id": 123}))
@example(("FAILED", {"metadata": {"status": "FAILED", "progress": "40%"}}))
@example(("FAILED", {"metadata": {"status": "FAILED", "message": {"code": 3}}}))
@example(("FAILED", {"metadata": {"status": "failed"}}))
@example(("PROCESSING", {"metadata": {"status": "PROCESSING"}, "data": 1}))
@example((None, {"metadata": {"status": "DONE"}, "data": 1}))
@example(("FINISHED", {"metadata": {"status": "FINISHED", "progress": 100.00000000000001}, "data": 1}))
def test_no_task_ends_as_the_opposite_of_its_servers_report(report: tuple[str | None, Any]) -> None:
    meant, body = report
    text = json.dumps(body).encode()

    for way in WAYS:
        _assert_outcome(way, received(way, text), meant, body)


def _assert_outcome(way: Way, found: Answer | Update | None, meant: str | None, body: dict[str, Any]) -> None:
    match meant:
        case "FINISHED":
            assert isinstance(found, Completed)
        case "FAILED":
            assert isinstance(found, FailedByBackend)
            assert found.error
        case "PROCESSING" | "WAITING":
            accepts = way in ("reporting answer", "reporting 202")
            assert isinstance(found, Accepted if accepts else Update if way in ("stream", "callback") else Failed)
        case _:
            assert found is None or isinstance(found, Failed | Accepted)
            assert isinstance(found, Accepted) == (way == "reporting 202")
    if isinstance(found, Completed | FailedByBackend):
        result = json.loads(found.result)
        assert result["data"] == body.get("data")
        assert result["metadata"]["status"] == meant
        assert len(found.notes) <= len(COSMETIC)
        assert all(len(note) < 200 for note in found.notes)
        _assert_documented(result)


def _assert_documented(result: dict[str, Any]) -> None:
    """Assert that the documented fields of a result have the documented types."""
    metadata = result["metadata"]
    assert isinstance(result.get("backend_task_id"), str | None)
    for name in ("server_id", "message", "log", "output"):
        assert isinstance(metadata.get(name), str | None), name
    for name in ("progress", "processing_time", "model_time", "queue_time"):
        assert isinstance(metadata.get(name), int | float | None), name
        assert not isinstance(metadata.get(name), bool), name
    assert 0 <= (metadata.get("progress") or 0) <= 100


not_numbers = pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
ways = pytest.mark.parametrize("way", WAYS)


@ways
@not_numbers
@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
@pytest.mark.parametrize(
    "body",
    [
        '{"data": ["NaN"], "metadata": {"status": "%s", "progress": NaN}}',
        '{"data": ["NaN"], "metadata": {"status": "%s", "loss": [1, {"data": NaN}], "message": "-NaN, \\"NaN"}}',
        '{"data": ["NaN"], "metadata": {"custom_data": NaN, "status": "%s"}, "score": NaN, "backend_task_id": NaN}',
    ],
)
def test_nan_outside_of_data_is_null_with_a_note_and_loses_no_end(way: Way, word: str, status: str, body: str) -> None:
    body = (body % status).replace(" NaN", f" {word}")

    found = received(way, body.encode())

    assert isinstance(found, Completed if status == "FINISHED" else FailedByBackend)
    result = json.loads(found.result)
    assert result["data"] == ["NaN"]
    assert result["metadata"]["status"] == status
    assert found.notes == (NAN_IS_NULL,)
    assert json.loads(found.result, parse_constant=pytest.fail)


@ways
@not_numbers
@pytest.mark.parametrize(
    "body",
    [
        '{"data": NaN, "metadata": {"status": "FINISHED"}}',
        '{"metadata": {"status": "FINISHED", "progress": NaN}, "data": {"a": [1, NaN]}}',
        '{"data": [NaN], "metadata": {"status": "FAILED"}}',
        '{"data": [NaN, "\\ud83d"], "metadata": {"status": "FAILED"}}',
    ],
)
def test_an_end_with_nan_in_its_data_is_no_end(way: Way, word: str, body: str) -> None:
    found = received(way, body.replace("NaN", word).encode())

    assert not isinstance(found, Completed | FailedByBackend)


@not_numbers
@pytest.mark.parametrize("body", ["NaN", "[1, NaN]", '{"loss": NaN}', '{"metadata": {"loss": NaN}, "data": 1}'])
@pytest.mark.parametrize("reports", [False, True])
def test_an_answer_that_is_all_data_has_no_nan(word: str, body: str, reports: bool) -> None:
    found = answer(200, body.replace("NaN", word).encode(), reports=reports)

    assert isinstance(found, Failed)
    assert found.kind == "bad_answer"


@not_numbers
def test_text_that_looks_like_json_with_nan_stays_text(word: str) -> None:
    text = f"[1, {word}]"

    found = answer(200, text.encode(), media_type="text/plain")

    assert isinstance(found, Completed)
    assert json.loads(found.result)["data"] == text


@not_numbers
@pytest.mark.parametrize("media_type", ["", "text/plain", "application/json"])
@pytest.mark.parametrize("name", ["status", "st\\u0061tus"])
def test_a_failure_in_short_with_nan_is_a_failure(word: str, media_type: str, name: str) -> None:
    found = answer(200, f'{{"task_id": "t1", "{name}": "FAILED", "progress": {word}}}'.encode(), media_type=media_type)

    assert isinstance(found, FailedByBackend)


@not_numbers
def test_progress_with_nan_is_progress(word: str) -> None:
    for way, body in (
        ("stream", '{"progress": NaN, "message": "m"}'),
        ("stream", '{"metadata": {"status": "PROCESSING", "progress": NaN, "message": "m"}}'),
        ("callback", '{"metadata": {"status": "PROCESSING", "progress": NaN, "message": "m"}}'),
    ):
        found = received(way, body.replace("NaN", word).encode())

        assert isinstance(found, Update)
        assert (found.progress, found.message, found.notes) == (None, "m", (NAN_IS_NULL,))
