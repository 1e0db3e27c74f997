"""What a backend (or the owner) says of a task, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.api.task_updates import attempt_of_token, parse_update
from taskstream.backends.dialects.dialect import Completed, FailedByBackend, Update
from taskstream.backends.dialects.task_update import LONGEST_MESSAGE, TaskUpdate
from taskstream.errors import InvalidInput
from taskstream.events.envelope import NULL

from ..deciders.support import attempt_failed, queued, started, stored, submitted


def parse_both(body: Any) -> tuple[TaskUpdate, Update]:
    """Return the update of a body (bytes, or what is sent as JSON), and it as progress."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_update(sent, "t1", 10)


def parse(body: Any) -> TaskUpdate:
    return parse_both(body)[0]


def update(status: str = "FINISHED", data: Any = None, **metadata: Any) -> dict[str, Any]:
    return {"data": data, "metadata": {"status": status, **metadata}}


def refused(body: Any) -> tuple[str, str]:
    """Return the path and the detail of the refusal."""
    with pytest.raises(InvalidInput) as caught:
        parse(body)
    return caught.value.path, caught.value.detail


# What is read


def test_a_whole_update_is_read() -> None:
    body = {
        "task_id": "t1",
        "backend_task_id": "b7",
        "data": {"url": "x"},
        "metadata": {
            "server_id": "gpu 1",
            "status": "PROCESSING",
            "progress": 40,
            "message": "4 of 10",
            "processing_time": 1200,
            "model_time": 1000.5,
            "queue_time": 0,
            "custom_data": {"eta": 3},
            "log": "step 4",
            "output": "Es war",
        },
    }

    report, progress = parse_both(body)

    assert (report.status, report.server_id, report.is_final) == ("PROCESSING", "gpu 1", False)
    assert progress == Update(
        progress=40.0,
        message="4 of 10",
        custom_data=Raw(b'{"eta": 3}'),
        lines=("step 4",),
        output="Es war",
    )
    assert json.loads(report.result("t1")) == body


def test_the_least_there_is_to_an_update_is_its_status() -> None:
    report, progress = parse_both({"metadata": {"status": "PROCESSING"}})

    assert report.server_id == ""
    assert progress == Update(progress=None, message=None, custom_data=NULL)


@pytest.mark.parametrize(
    ("status", "final"), [("WAITING", False), ("PROCESSING", False), ("FINISHED", True), ("FAILED", True)]
)
def test_a_finished_or_failed_task_is_over(status: str, final: bool) -> None:
    assert parse(update(status)).is_final is final


def test_a_finished_update_asks_for_the_success_of_the_task() -> None:
    assert parse(update("FINISHED", {"url": "x"})).ending(b"result") == Completed(b"result")


@pytest.mark.parametrize(
    ("message", "error"),
    [("no such model", "no such model"), (None, "the server reports failure"), ("", "the server reports failure")],
)
def test_a_failed_update_asks_for_the_failure_of_the_task_with_its_message(message: Any, error: str) -> None:
    assert parse(update("FAILED", message=message)).ending(b"result") == FailedByBackend(b"result", error)


def test_the_result_is_what_came_with_the_id_of_the_task() -> None:
    body = b'{"metadata": { "status":"FINISHED", "mood": [1.0] }, "data": { "a" : 1e2 }, "backend_task_id": "b7"}'

    assert parse(body).result("t1") == (
        b'{"task_id":"t1","backend_task_id":"b7",'
        b'"data":{ "a" : 1e2 },"metadata":{ "status":"FINISHED", "mood": [1.0] }}'
    )


def test_an_update_without_data_has_none() -> None:
    assert json.loads(parse({"metadata": {"status": "FINISHED"}}).result("t1"))["data"] is None


# What tells two updates apart


def test_two_updates_of_one_outcome_and_one_result_are_the_same() -> None:
    one = parse(update("FINISHED", {"url": "x"}, processing_time=3, message="a"))
    other = parse(update("FINISHED", {"url": "x"}, processing_time=4, server_id="gpu 1"))

    assert one.digest == other.digest


def test_two_updates_of_another_outcome_or_result_are_not() -> None:
    digests = [
        parse(update("FINISHED", {"url": "x"})).digest,
        parse(update("FINISHED", {"url": "y"})).digest,
        parse(update("FINISHED")).digest,
        parse(update("FAILED")).digest,
        parse(update("FAILED", {"url": "x"})).digest,
    ]

    assert len(set(digests)) == 5


# What is wrong


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({}, "$.metadata.status"),
        ({"status": "DONE"}, "$.metadata.status"),
        ({"status": "CANCELLED"}, "$.metadata.status"),
        ({"status": None}, "$.metadata.status"),
        ({"status": "PROCESSING", "progress": -0.1}, "$.metadata.progress"),
        ({"status": "PROCESSING", "progress": 100.1}, "$.metadata.progress"),
        ({"status": "PROCESSING", "progress": "40"}, "$.metadata.progress"),
        ({"status": "PROCESSING", "message": 4}, "$.metadata.message"),
        ({"status": "PROCESSING", "message": "x" * (LONGEST_MESSAGE + 1)}, "$.metadata.message"),
        ({"status": "PROCESSING", "server_id": "x" * 129}, "$.metadata.server_id"),
        ({"status": "PROCESSING", "server_id": 7}, "$.metadata.server_id"),
        ({"status": "PROCESSING", "processing_time": "3 s"}, "$.metadata.processing_time"),
        ([], "$.metadata"),
        ("FINISHED", "$.metadata"),
        (None, "$.metadata"),
    ],
)
def test_metadata_with_a_bad_value_is_refused_with_its_path(metadata: Any, path: str) -> None:
    assert refused({"data": 1, "metadata": metadata})[0] == path


@pytest.mark.parametrize("progress", [0, 0.0, 33.3, 100])
def test_progress_is_a_percentage(progress: float) -> None:
    assert parse_both(update("PROCESSING", progress=progress))[1].progress == progress


def test_an_update_without_metadata_is_refused() -> None:
    assert refused({"data": 1})[0] == "$.metadata"


@pytest.mark.parametrize("body", [update() | {"backend_task_id": 7}, update() | {"task_id": 7}])
def test_an_id_that_is_no_text_is_refused_with_its_path(body: Any) -> None:
    assert refused(body)[0] in ("$.backend_task_id", "$.task_id")


def test_an_update_about_another_task_than_the_path_is_refused() -> None:
    assert refused(update() | {"task_id": "t2"})[0] == "$.task_id"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"data": "\xff"}', b'{"data": "\\ud800", "metadata": {}}', b"null"]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body)


def test_an_update_nested_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(10):
        deep = [deep]

    assert "deeper than 10" in refused(update(data=deep))[1]


@given(st.binary(max_size=100) | st.recursive(st.none() | st.text(), st.lists).map(lambda it: json.dumps(it).encode()))
def test_no_bytes_break_anything(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(body)


# Tokens


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


HISTORY = stored(
    submitted(),
    started(1, "s1", token_digest=digest("first")),
    attempt_failed(1),
    started(2, "s2", token_digest=digest("second")),
    attempt_failed(2),
    queued(),
    started(3, "s3", worker_id="", token_digest=""),
)


def test_a_token_leads_to_the_attempt_it_was_made_for() -> None:
    first, second = attempt_of_token("first", HISTORY), attempt_of_token("second", HISTORY)

    assert first is not None
    assert second is not None
    assert (first.attempt, first.server_id) == (1, "s1")
    assert (second.attempt, second.server_id) == (2, "s2")


@pytest.mark.parametrize("token", ["", "third", "FIRST", "first ", digest("first"), "🜚"])
def test_any_other_token_leads_to_no_attempt(token: str) -> None:
    assert attempt_of_token(token, HISTORY) is None


def test_a_task_without_attempts_has_no_token() -> None:
    assert attempt_of_token("first", []) is None
    assert attempt_of_token("first", HISTORY[:1]) is None
