"""The dialect `oip`: answers of KServe and MLServer as recorded, and answers of Triton and OpenVINO as documented."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects.dialect import (
    Answer,
    BadAnswer,
    Busy,
    Call,
    Completed,
    Failed,
    FailedByBackend,
    Reply,
    Request,
    StreamReader,
    Update,
    attempt_id,
)
from taskstream.backends.dialects.oip import BUSY_TEXTS, Oip, place_of
from taskstream.events.server import ServerRegistered

from .recorded_answers import Recorded, recorded_answers

KSERVE = recorded_answers("oip", "kserve-0.21.0")
MLSERVER = recorded_answers("oip", "mlserver-1.7.1")
INPUTS = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]
SERVER = ServerRegistered(
    server_id="s1", name="", provider="", predict_url="http://h:8080/v2/models/echo/infer", dialect="oip"
)


def call_with(payload: Any, attempt: int = 1) -> Call:
    return Call(
        task_id="0" * 26 + "~alice",
        task_type="t",
        attempt=attempt,
        payload=Raw(json.dumps(payload).encode()),
        deadline=datetime.now(UTC) + timedelta(seconds=10),
        callback_url="",
        callback_token="",
    )


def server_at(path: str, **more: Any) -> ServerRegistered:
    return replace(SERVER, predict_url=f"http://h:8080{path}", **more)


def request_of(payload: Any, server: ServerRegistered = SERVER) -> Request:
    request = Oip().converse(server, call_with(payload)).begin()
    assert isinstance(request, Request)
    return request


def answer_to(
    status: int,
    body: bytes,
    payload: Any = None,
    server: ServerRegistered = SERVER,
    media_type: str = "application/json",
) -> Answer:
    conversation = Oip().converse(server, call_with({"inputs": INPUTS} if payload is None else payload))
    conversation.begin()
    turn = conversation.read(Reply(status=status, headers={"Content-Type": media_type}, body=body))
    assert not isinstance(turn, Request)
    return turn  # type: ignore[return-value]


def recorded_answer(found: Recorded) -> Answer:
    """Return the verdict on an answer whose request had the id `a1`."""
    return answer_to(found.status, found.body, {"id": "a1", "inputs": INPUTS}, media_type=found.content_type)


def reader(action: str) -> StreamReader:
    conversation = Oip().converse(server_at(f"/v2/models/echo/{action}"), call_with({"id": "a1", "inputs": INPUTS}))
    conversation.begin()
    opened = conversation.open_stream(200, {})
    assert opened is not None
    return opened


# The address


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/v2/models/echo/infer", "http://h:8080/v2/models/echo/infer"),
        ("/v2/models/echo", "http://h:8080/v2/models/echo/infer"),
        ("/v2/models/echo/versions/3/infer", "http://h:8080/v2/models/echo/versions/3/infer"),
        ("/team/v2/models/a%2Fb/infer", "http://h:8080/team/v2/models/a%2Fb/infer"),
        ("/v2/models/llm/generate_stream", "http://h:8080/v2/models/llm/generate_stream"),
        ("/v2", "http://h:8080/v2/models/mine/infer"),
        ("/", "http://h:8080/v2/models/mine/infer"),
        ("/team/", "http://h:8080/team/v2/models/mine/infer"),
    ],
)
def test_the_model_is_that_of_the_url_else_that_of_the_registration(path: str, url: str) -> None:
    assert request_of({"inputs": []}, server_at(path, model="mine")).url == url


def test_the_health_check_asks_if_the_model_is_ready_unless_it_has_its_own_address() -> None:
    health = Oip().health(server_at("/v2/models/echo/versions/3/infer"))
    own = Oip().health(replace(SERVER, health_url="http://h:8080/v2/health/ready"))

    assert health is not None
    assert own is not None
    assert health.url == "http://h:8080/v2/models/echo/versions/3/ready"
    assert own.url == "http://h:8080/v2/health/ready"


# The id


def test_a_request_gets_an_id_of_its_attempt_that_does_not_show_the_owner() -> None:
    first, second = call_with({"inputs": INPUTS}), call_with({"inputs": INPUTS}, attempt=2)
    body = json.loads(request_of({"inputs": INPUTS}).body or b"")

    assert body == {"inputs": INPUTS, "id": attempt_id(first.task_id, first.attempt)}
    assert "alice" not in body["id"]
    assert attempt_id(first.task_id, first.attempt) != attempt_id(second.task_id, second.attempt)


def test_its_own_id_marks_an_attempt_and_one_of_the_payload_does_not() -> None:
    own, given = Oip().converse(SERVER, call_with({"inputs": []})), Oip().converse(SERVER, call_with({"id": "mine"}))
    own.begin()
    given.begin()

    assert own.mark == attempt_id("0" * 26 + "~alice", 1)
    assert given.mark == ""


def test_an_id_in_the_payload_is_kept_and_null_is_none() -> None:
    assert json.loads(request_of({"id": "mine", "inputs": []}).body or b"")["id"] == "mine"
    assert json.loads(request_of({"id": None, "inputs": []}).body or b"")["id"]


def test_a_payload_that_is_no_inference_request_is_sent_as_it_is() -> None:
    assert request_of([1, 2]).body == b"[1, 2]"
    generate = server_at("/v2/models/llm/generate")
    assert json.loads(request_of({"text_input": "hi"}, generate).body or b"") == {"text_input": "hi"}


def test_an_answer_with_the_id_of_another_request_is_a_bad_answer() -> None:
    mine, other = {"id": "a1", "inputs": []}, b'{"model_name": "m", "id": "a2", "outputs": []}'

    found = answer_to(200, other, mine)

    assert isinstance(found, Failed)
    assert (found.kind, "another request" in found.error) == ("bad_answer", True)
    for echo in (b'"a1"', b'""', b"null"):
        assert isinstance(answer_to(200, other.replace(b'"a2"', echo), mine), Completed)


# Verdicts


@pytest.mark.parametrize("program", [KSERVE, MLSERVER])
def test_the_whole_answer_of_a_real_program_is_the_result(program: dict[str, Recorded]) -> None:
    answer = recorded_answer(program["success"])

    assert isinstance(answer, Completed)
    data = json.loads(answer.result)["data"]
    assert data == json.loads(program["success"].body)
    assert data["outputs"][0]["data"] == ["you said hello"]


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        (KSERVE["refused by the model"], "no such voice"),
        (MLSERVER["refused by the model"], "no such voice"),
        (KSERVE["invalid inputs"], "shape: Field required"),
        (MLSERVER["invalid inputs"], "body.inputs.0.shape: Field required"),
        (KSERVE["no such model"], "Model with name nope does not exist."),
        (MLSERVER["no such model"], "Model nope not found"),
    ],
)
def test_a_request_that_a_real_program_refuses_is_rejected_with_its_reason(recorded: Recorded, reason: str) -> None:
    answer = recorded_answer(recorded)

    assert isinstance(answer, Failed)
    assert answer.kind == "rejected"
    assert reason in answer.error


@pytest.mark.parametrize("recorded", [KSERVE["error of the model"], MLSERVER["error of the model"]])
def test_an_error_of_a_model_is_tried_again(recorded: Recorded) -> None:
    answer = recorded_answer(recorded)

    assert isinstance(answer, Failed)
    assert answer.kind == "error"


@pytest.mark.parametrize(
    "recorded", [KSERVE["queue full"], KSERVE["infer while not ready"], MLSERVER["infer while not ready"]]
)
def test_a_real_program_that_takes_no_request_now_is_busy(recorded: Recorded) -> None:
    assert isinstance(recorded_answer(recorded), Busy)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "in ensemble 'e', [request id: 1] Exceeds maximum queue size"),
        (400, "Request for unknown model: 'm' has no available versions"),
        (404, "Model with requested version is not loaded yet"),
        (503, "Request timeout expired"),
    ],
)
def test_texts_that_mean_busy_are_busy_whatever_their_status(status: int, text: str) -> None:
    answer = answer_to(status, json.dumps({"error": text}).encode())

    assert isinstance(answer, Busy)
    assert text in answer.error


def test_every_text_that_means_busy_is_in_lower_case_and_names_its_program() -> None:
    assert all(text == text.lower() and program for text, program in BUSY_TEXTS)


def test_a_registration_without_busy_statuses_knows_no_busy_texts() -> None:
    server = replace(SERVER, busy_status=())

    answer = answer_to(500, KSERVE["queue full"].body, server=server)

    assert isinstance(answer, Failed)
    assert answer.kind == "error"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"outputs"',
        b'{"outputs": null}',
        b'{"predictions": []}',
        b"{",
        b'{"outputs": [NaN]}',
    ],
)
def test_an_answer_that_has_no_outputs_is_never_a_success(body: bytes) -> None:
    answer = answer_to(200, body)

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"


def test_an_error_in_a_200_is_a_failure_of_the_task() -> None:
    answer = answer_to(200, b'{"outputs": [], "error": "no such voice"}')

    assert isinstance(answer, FailedByBackend)
    assert answer.error == "no such voice"


def test_binary_tensors_are_named_as_what_is_not_supported() -> None:
    answer = answer_to(200, b"\x00\x01", media_type="application/octet-stream")

    assert isinstance(answer, Failed)
    assert "binary" in answer.error


# Streams


def test_a_stream_of_mlserver_is_output_and_its_outputs_together_the_result() -> None:
    opened = reader("infer_stream")
    texts = [part.removeprefix(b"data: ") for part in MLSERVER["streamed"].body.split(b"\n\n") if part.strip()]

    updates = [opened.read(text, 5, "") for text in texts]
    answer = opened.end()

    assert [update.output for update in updates if isinstance(update, Update)] == ["a", "b", "c"]
    assert isinstance(answer, Completed)
    assert [output["data"] for output in json.loads(answer.result)["data"]["outputs"]] == [["a"], ["b"], ["c"]]


def test_a_stream_of_triton_is_folded_into_one_text() -> None:
    opened = reader("generate_stream")

    updates = [opened.read(b'{"model_name": "llm", "text_output": "%s"}' % text, 5, "") for text in (b"It ", b"was")]
    answer = opened.end()

    assert updates == [Update(output="It "), Update(output="was")]
    assert isinstance(answer, Completed)
    assert json.loads(answer.result)["data"] == {"model_name": "llm", "text_output": "It was"}


def test_an_error_in_a_stream_fails_the_task_and_an_empty_stream_is_no_success() -> None:
    failed = reader("generate_stream").read(b'{"error": "no such voice"}', 5, "")
    empty = reader("generate_stream").end()

    assert isinstance(failed, FailedByBackend)
    assert isinstance(empty, Failed)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"model_name": "m", "id": "a2", "outputs": []}', b"{}"])
def test_a_part_that_cannot_be_understood_breaks_the_stream(text: bytes) -> None:
    with pytest.raises(BadAnswer):
        reader("infer_stream").read(text, 5, "")


def test_an_answer_that_streams_without_being_asked_to_is_read_whole() -> None:
    assert Oip().converse(SERVER, call_with({"inputs": []})).open_stream(200, {}) is None


# Health and cancellation


@pytest.mark.parametrize("program", [KSERVE, MLSERVER])
def test_a_model_of_a_real_program_is_well_if_it_is_ready(program: dict[str, Recorded]) -> None:
    ready, unready, missing = (program[case] for case in ("ready", "not ready", "ready, no such model"))

    assert Oip().read_health(ready.status, ready.body).well
    assert not Oip().read_health(unready.status, unready.body).well
    assert "not ready" in Oip().read_health(unready.status, unready.body).reason
    assert not Oip().read_health(missing.status, missing.body).well


def test_a_model_that_says_in_a_200_that_it_is_not_ready_is_not_well() -> None:
    assert not Oip().read_health(200, b'{"name": "m", "ready": false}').well


def test_a_cancellation_closes_the_connection_and_nothing_says_that_it_stopped() -> None:
    conversation = Oip().converse(SERVER, call_with({"inputs": []}))

    assert conversation.cancel() is None
    assert conversation.read_cancel(None) == "requested"


def test_a_server_without_a_model_gets_no_request() -> None:
    server = server_at("/v2")

    refused = Oip().converse(server, call_with({"inputs": []})).begin()

    assert place_of(server).model == ""
    assert isinstance(refused, Failed)
    assert "no model" in refused.error
