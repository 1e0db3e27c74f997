"""The dialect `taskstream`: updates and end of a streamed answer, in whatever pieces it arrives. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.dialects.contents import DEEPEST_ANSWER
from taskstream.backends.dialects.dialect import Answer, BadAnswer, Completed, FailedByBackend, Final, Update
from taskstream.backends.dialects.framing import Framing, Texts
from taskstream.backends.dialects.task_update import LONGEST_MESSAGE
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.events.server import ServerRegistered

from .test_taskstream_answers import CALL

SERVER = ServerRegistered(server_id="s1", name="", provider="", predict_url="http://s1")
OTHER_TASK = "0" * 26 + "~somebody"
framings = pytest.mark.parametrize("framing", ["events", "lines"])


def read(framing: Framing, chunks: list[bytes]) -> list[Update | Answer]:
    """Return all updates, up to the end of the attempt."""
    texts = Texts(framing)
    reader = Taskstream().converse(SERVER, CALL).open_stream(200, {})
    assert reader is not None

    def all_texts() -> Iterator[bytes]:
        for chunk in chunks:
            yield from texts.feed(chunk)
        yield from texts.rest()

    found: list[Update | Answer] = []
    for text in all_texts():
        said = reader.read(text, 12, texts.event)
        assert said is not None
        assert not isinstance(said, Final)
        found.append(said)
        if not isinstance(said, Update):
            break
    return found


def framed(framing: Framing, update: Any, end: str = "\n") -> bytes:
    """Return an update as it is sent: an object, or the JSON itself."""
    text = update if isinstance(update, bytes) else json.dumps(update).encode()
    return b"data: " + text + 2 * end.encode() if framing == "events" else text + end.encode()


def only(update: Any, framing: Framing = "lines") -> Update | Answer:
    found = read(framing, [framed(framing, update)])
    assert len(found) == 1
    return found[0]


def progress(update: Any) -> dict[str, Any]:
    """Return the fields of progress that have a value."""
    said = only(update)
    assert isinstance(said, Update)
    fields = {"progress": said.progress, "message": said.message, "log": "".join(said.lines), "output": said.output,
              "custom_data": json.loads(bytes(said.custom_data))}  # fmt: skip
    return {name: value for name, value in fields.items() if value not in (None, "")}


def result(update: Any) -> dict[str, Any]:
    said = only(update)
    assert isinstance(said, Completed | FailedByBackend)
    found: dict[str, Any] = json.loads(said.result)
    return found


def complaint(update: Any, framing: Framing = "lines") -> str:
    with pytest.raises(BadAnswer) as refused:
        read(framing, [framed(framing, update)])
    return str(refused.value)


# Framing

texts = st.text(max_size=20)
updates = st.lists(
    st.fixed_dictionaries(
        {"progress": st.floats(0, 100)},
        optional={"message": texts, "log": texts, "output": texts, "custom_data": st.recursive(texts, st.lists)},
    ),
    max_size=8,
)


@given(updates, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["events", "lines"]), st.booleans(), st.data())
def test_updates_are_the_same_in_whatever_pieces_they_arrive(
    sent: list[dict[str, Any]], end: str, framing: Framing, has_mark: bool, data: st.DataObject
) -> None:
    end = "\n" if framing == "lines" and end == "\r" else end
    body = b"\xef\xbb\xbf" if has_mark else b""
    for update in sent:
        body += framed(framing, update, end) + (f": still here{end}{end}" if framing == "events" else end).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    pieces = [body[begin:stop] for begin, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    said = read(framing, pieces)

    assert [one.progress for one in said if isinstance(one, Update)] == [one["progress"] for one in sent]
    assert said == read(framing, [body])


@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from(["events", "lines"]))
def test_any_bytes_are_read_or_refused(chunks: list[bytes], framing: Framing) -> None:
    with contextlib.suppress(BadAnswer):
        read(framing, chunks)


@framings
def test_the_last_update_needs_no_line_end(framing: Framing) -> None:
    body = framed(framing, {"progress": 1}) + framed(framing, {"data": 1}).rstrip()

    assert isinstance(read(framing, [body])[-1], Completed)


def test_only_the_data_lines_of_an_event_count_and_they_are_one_text() -> None:
    body = b'event: progress\nid: 7\nretry: 1\ndata: {"progress":\ndata:5}\n\nevent: ping\n\ndata\n\n: comment\n\n'

    (said,) = read("events", [body])

    assert isinstance(said, Update)
    assert said.progress == 5


@framings
def test_nothing_after_the_end_is_read(framing: Framing) -> None:
    body = framed(framing, {"data": 1}) + framed(framing, b"no json") + framed(framing, {"progress": 3})

    assert [type(said) for said in read(framing, [body])] == [Completed]


# Progress


def test_an_update_and_its_short_form_say_the_same() -> None:
    said = {"progress": 40, "message": "half", "custom_data": {"chapter": 2}, "log": "line", "output": "It was"}

    assert progress(said) == progress({"metadata": {"status": "PROCESSING", **said}}) == said


@pytest.mark.parametrize("status", ["PROCESSING", "WAITING"])
def test_data_with_a_status_that_is_not_final_is_no_end(status: str) -> None:
    assert progress({"data": {}, "metadata": {"status": status, "progress": 3}}) == {"progress": 3}
    assert progress({"data": {}, "status": status, "progress": 3}) == {"progress": 3}


@pytest.mark.parametrize(
    ("came", "read"),
    [
        ({"progress": 100.00000000000001}, {"progress": 100}),
        ({"progress": sum([100 / 6] * 6)}, {"progress": 100}),
        ({"progress": 101}, {"progress": 100}),
        ({"progress": "40%", "message": "half"}, {"message": "half"}),
        ({"progress": "40"}, {"progress": 40}),
        ({"message": "x" * (LONGEST_MESSAGE + 1)}, {"message": "x" * (LONGEST_MESSAGE - 1) + "…"}),
        ({"message": 5, "log": "line"}, {"log": "line"}),
        ({"log": "x" * 8_001}, {"log": "x" * 7_999 + "…"}),
        ({"output": 5, "progress": 1}, {"progress": 1}),
        (b'{"output": "an emoji, cut: \\ud83d"}', {"output": "an emoji, cut: \ufffd"}),
        (b'{"output": "no UTF-8: \xff"}', {"output": "no UTF-8: \ufffd"}),
        (b'\xef\xbb\xbf{"progress": 1}', {"progress": 1}),
    ],
    ids=lambda it: str(it)[:40],
)
def test_no_run_is_lost_over_a_cosmetic_field_of_its_progress(came: Any, read: dict[str, Any]) -> None:
    assert progress(came) == read


def test_progress_has_a_note_of_what_was_left_out() -> None:
    said = only({"progress": "40%", "message": "x" * 3_000, "output": "text"})

    assert isinstance(said, Update)
    assert said.notes == (
        'progress: left out; must be a number, given: "40%"',
        "message: shortened from 3,000 to 2,000 characters",
    )


@pytest.mark.parametrize(("said", "kind"), [("finished", Completed), (" Failed ", FailedByBackend)])
def test_a_status_is_read_in_any_case(said: str, kind: type) -> None:
    for update in ({"status": said, "data": 1}, {"metadata": {"status": said}, "data": 1}):
        assert isinstance(only(update), kind)
        assert result(update)["metadata"]["status"] == said.strip().upper()


# The end


def test_data_alone_is_the_result() -> None:
    assert result({"data": {"text": "It was"}}) == {
        "task_id": "t1",
        "backend_task_id": None,
        "data": {"text": "It was"},
        "metadata": {
            "server_id": "s1",
            "processing_time": 12,
            "model_time": 0,
            "queue_time": 0,
            "status": "FINISHED",
            "message": None,
            "progress": 100,
        },
    }


def test_a_task_result_is_kept_with_what_it_says_of_itself() -> None:
    metadata = {"server_id": "one", "processing_time": 3, "model_time": 2, "status": "FINISHED", "extra": [1.50]}
    found = result({"task_id": "t1", "backend_task_id": "b7", "data": [1], "metadata": metadata})

    assert found["backend_task_id"] == "b7"
    assert found["data"] == [1]
    assert found["metadata"] == {"queue_time": 0, "message": None, "progress": 100, **metadata}


@pytest.mark.parametrize(
    ("update", "kind", "data"),
    [
        ({"status": "FINISHED"}, Completed, None),
        ({"metadata": {"status": "FINISHED"}}, Completed, None),
        ({"data": None, "status": "FINISHED"}, Completed, None),
        ({"status": "FAILED", "message": "no model"}, FailedByBackend, None),
        ({"data": 1, "metadata": {"status": "FAILED", "message": "no model"}}, FailedByBackend, 1),
    ],
)
def test_a_task_may_end_without_data_and_a_failure_has_its_reason(update: Any, kind: type, data: Any) -> None:
    said = only(update)

    assert isinstance(said, kind)
    assert result(update)["data"] == data
    if isinstance(said, FailedByBackend):
        assert said.error == "no model"
        assert "progress" not in result(update)["metadata"]


# Refused


@framings
@pytest.mark.parametrize(
    ("update", "says"),
    [
        (b"<html>", "not JSON"),
        (b'{"progress": 1}{"progress": 2}', "not JSON"),
        (b"[" * 5000 + b"]" * 5000, "deeper than"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        ({}, "no field of an update"),
        ({"choices": []}, "no field of an update"),
        ({"error": {"message": "CUDA OOM", "code": 500}}, "reports an error: CUDA OOM"),
        ({"error": "CUDA OOM", "data": {"half": 1}}, "reports an error: CUDA OOM"),
        ({"status": "DONE"}, "$.status"),
        ({"status": None, "data": 1}, "$.status"),
        ({"metadata": {"status": "DONE"}, "data": 1}, "$.metadata.status"),
        ({"metadata": None}, "no field"),
        ({"task_id": OTHER_TASK, "data": 1}, "another task"),
    ],
    ids=str,
)
def test_what_is_no_update_is_refused_with_its_reason(framing: Framing, update: Any, says: str) -> None:
    assert says in complaint(update, framing)


def test_nesting_is_allowed_as_deep_as_it_can_be_read_again() -> None:
    def nested(levels: int) -> bytes:
        return b'{"data": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert isinstance(only(nested(DEEPEST_ANSWER)), Completed)
    assert "deeper" in complaint(nested(DEEPEST_ANSWER + 1))


@pytest.mark.parametrize(
    "wrong", [{"progress": "all"}, {"progress": 101}, {"message": "x" * (LONGEST_MESSAGE + 1)}, {"backend_task_id": 7}]
)
@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_a_wrong_cosmetic_field_does_not_lose_the_end(status: str, wrong: Any) -> None:
    said = only({"data": 1, "status": status, **wrong})

    assert isinstance(said, Completed if status == "FINISHED" else FailedByBackend)
    assert json.loads(said.result)["data"] == 1


@pytest.mark.parametrize("metadata", [{}, None, {"model": "m"}])
def test_a_status_beside_metadata_decides(metadata: Any) -> None:
    failed = only({"data": 1, "status": "failed", "metadata": metadata})
    finished = only({"data": 1, "metadata": metadata})

    assert isinstance(failed, FailedByBackend)
    assert json.loads(failed.result)["metadata"]["status"] == "FAILED"
    assert isinstance(finished, Completed)
    with pytest.raises(BadAnswer, match=r"status"):
        only({"data": 1, "status": "error", "metadata": metadata})
