"""What a streamed answer says, however it arrives in pieces. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.backends.progress_update import LONGEST_MESSAGE
from taskstream.backends.stream_parser import (
    DEEPEST_UPDATE,
    LONGEST_PROGRESS,
    BadStream,
    Ending,
    Framing,
    ProgressUpdate,
    Said,
    StreamedAnswer,
)
from taskstream.wire.body_limit import AnswerTooLarge

OTHER_TASK = "0" * 26 + "~somebody"
framings = pytest.mark.parametrize("framing", ["events", "lines"])


def read(framing: Framing, chunks: list[bytes], *, key: str | None = None, most_bytes: int = 10_000_000) -> list[Said]:
    """Return all that is said, up to the end of the attempt."""
    answer = StreamedAnswer(framing, "t1", key, most_bytes)

    def all_said() -> Iterator[Said]:
        for chunk in chunks:
            yield from answer.feed(chunk)
        yield from answer.rest()

    found: list[Said] = []
    for said in all_said():
        found.append(said)
        if isinstance(said, Ending):
            break
    return found


def framed(framing: Framing, update: Any, end: str = "\n") -> bytes:
    """Return an update as it is sent: an object, or the JSON itself."""
    text = update if isinstance(update, bytes) else json.dumps(update).encode()
    return b"data: " + text + 2 * end.encode() if framing == "events" else text + end.encode()


def only(update: Any, framing: Framing = "lines", **more: Any) -> Said:
    found = read(framing, [framed(framing, update)], **more)
    assert len(found) == 1
    return found[0]


def progress(update: Any, **more: Any) -> dict[str, Any]:
    """Return the fields of progress that are not as if unsaid."""
    said = only(update, **more)
    assert isinstance(said, ProgressUpdate)
    told = {"progress": said.metadata.progress, "message": said.metadata.message, "log": said.metadata.log,
            "output": said.metadata.output, "custom_data": json.loads(bytes(said.metadata.custom_data))}  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


def result(update: Any) -> dict[str, Any]:
    said = only(update)
    assert isinstance(said, Ending)
    found: dict[str, Any] = json.loads(said.result("t1", "s1", 12))
    return found


def complaint(update: Any, framing: Framing = "lines", **more: Any) -> str:
    with pytest.raises(BadStream) as refused:
        read(framing, [framed(framing, update)], **more)
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

    assert [one.metadata.progress for one in said if isinstance(one, ProgressUpdate)] == [
        one["progress"] for one in sent
    ]
    assert said == read(framing, [body])


@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from(["events", "lines"]))
def test_no_bytes_do_more_than_to_be_refused(chunks: list[bytes], framing: Framing) -> None:
    with contextlib.suppress(BadStream):
        read(framing, chunks)


@framings
def test_what_lacks_its_last_line_end_counts(framing: Framing) -> None:
    body = framed(framing, {"progress": 1}) + framed(framing, {"data": 1}).rstrip()

    assert isinstance(read(framing, [body])[-1], Ending)


def test_of_an_event_only_the_data_counts_and_its_lines_are_one_text() -> None:
    body = b'event: progress\nid: 7\nretry: 1\ndata: {"progress":\ndata:5}\n\nevent: ping\n\ndata\n\n: comment\n\n'

    (said,) = read("events", [body])

    assert isinstance(said, ProgressUpdate)
    assert said.metadata.progress == 5


@framings
def test_nothing_after_the_end_is_read(framing: Framing) -> None:
    body = framed(framing, {"data": 1}) + framed(framing, b"no json") + framed(framing, {"progress": 3})

    assert [type(said) for said in read(framing, [body])] == [Ending]


# Progress


def test_an_update_and_its_short_form_say_the_same() -> None:
    said = {"progress": 40, "message": "half", "custom_data": {"chapter": 2}, "log": "line", "output": "It was"}

    assert progress(said) == progress({"metadata": {"status": "PROCESSING", **said}}) == said


@pytest.mark.parametrize("status", ["PROCESSING", "WAITING"])
def test_data_beside_a_status_that_goes_on_is_no_end(status: str) -> None:
    assert progress({"data": {}, "metadata": {"status": status, "progress": 3}}) == {"progress": 3}
    assert progress({"data": {}, "status": status, "progress": 3}) == {"progress": 3}


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
    "update", [{"status": "FINISHED"}, {"metadata": {"status": "FINISHED"}}, {"data": None, "status": "FINISHED"}]
)
def test_a_task_may_end_well_without_data(update: dict[str, Any]) -> None:
    assert result(update)["data"] is None


@pytest.mark.parametrize(
    "update",
    [{"status": "FAILED", "message": "no model"}, {"data": 1, "metadata": {"status": "FAILED", "message": "no model"}}],
)
def test_a_failure_says_why(update: dict[str, Any]) -> None:
    said = only(update)

    assert isinstance(said, Ending)
    assert (said.status, said.message) == ("FAILED", "no model")
    assert "progress" not in result(update)["metadata"]


# Refused


@framings
@pytest.mark.parametrize(
    ("update", "says"),
    [
        (b"<html>", "no JSON"),
        (b'{"progress": 1}{"progress": 2}', "no JSON"),
        (b'{"message": "\xff"}', "no JSON"),
        (b"[" * 5000 + b"]" * 5000, "deeper than"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        ({}, "no field of an update"),
        ({"choices": []}, "no field of an update"),
        ({"progress": 101}, "<= 100"),
        ({"progress": "all"}, "float"),
        ({"message": "x" * (LONGEST_MESSAGE + 1)}, "$.message"),
        ({"status": "DONE"}, "$.status"),
        ({"metadata": None}, "object"),
        ({"task_id": OTHER_TASK, "data": 1}, "another task"),
    ],
    ids=str,
)
def test_what_is_no_update_is_refused_with_its_place_and_reason(framing: Framing, update: Any, says: str) -> None:
    found = complaint(update, framing)

    assert says in found
    assert found.startswith("part 1 of the streamed answer")


def test_nesting_is_allowed_as_deep_as_it_can_be_read_again() -> None:
    def nested(levels: int) -> bytes:
        return b'{"data": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert isinstance(only(nested(DEEPEST_UPDATE)), Ending)
    assert "deeper" in complaint(nested(DEEPEST_UPDATE + 1))


def test_progress_is_bounded_and_a_result_only_by_the_whole_answer() -> None:
    large = "x" * LONGEST_PROGRESS

    assert "more than" in complaint({"output": large})
    assert isinstance(only({"data": large}), Ending)
    with pytest.raises(AnswerTooLarge):
        read("lines", [framed("lines", {"data": large})], most_bytes=LONGEST_PROGRESS)


@framings
def test_an_answer_without_an_end_of_line_is_bounded_too(framing: Framing) -> None:
    with pytest.raises(AnswerTooLarge):
        read(framing, [b"x"] * 1001, most_bytes=1000)


# The model's key


@framings
def test_the_models_key_is_taken_out(framing: Framing) -> None:
    key = 'sk-"secret\\1'
    body = framed(framing, {"log": f"using {key}"}) + framed(framing, {"data": {"said": key}})

    said = read(framing, [body[:10], body[10:25], body[25:]], key=key)

    assert isinstance(said[0], ProgressUpdate)
    assert said[0].metadata.log == "using [key removed]"
    assert isinstance(said[1], Ending)
    assert said[1].data == Raw(b'{"said": "[key removed]"}')
