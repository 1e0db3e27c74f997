"""Answers of the OpenAI family, as programs gave them, and what they mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects import is_checked
from taskstream.backends.dialects.dialect import (
    BadAnswer,
    Busy,
    Call,
    Completed,
    Conversation,
    Failed,
    Next,
    Reply,
    Request,
    Turn,
    Update,
)
from taskstream.backends.dialects.framing import FRAMINGS, Texts
from taskstream.backends.dialects.openai import OpenAI, model_names
from taskstream.events.server import ServerRegistered
from taskstream.events.task import ModelChoice

from .recorded_answers import Recorded, recorded_answers
from .wire_fixtures import chat_part, vllm_metrics

OPENAI = OpenAI()
SERVER = ServerRegistered(server_id="s1", name="", provider="", predict_url="http://s1:8000/v1", dialect="openai")
LITELLM = recorded_answers("openai", "litellm-1.108.7")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def call_of(payload: Any, **more: Any) -> Call:
    return Call(
        task_id="0" * 26 + "~alice",
        task_type="chat",
        attempt=2,
        payload=Raw(json.dumps(payload).encode()),
        deadline=datetime.now(UTC) + timedelta(seconds=10),
        callback_url="http://us/api/task/t1",
        callback_token="token",
        api_key="key-of-the-server",
        **more,
    )


class Asking:
    """One attempt without a network."""

    def __init__(self, payload: Any = CHAT, server: ServerRegistered = SERVER, **more: Any) -> None:
        self.conversation: Conversation = OPENAI.converse(server, call_of(payload, **more))
        first = self.conversation.begin()
        assert isinstance(first, Request)
        self.request = first
        self.output: list[str] = []

    @property
    def body(self) -> Any:
        return json.loads(self.request.body or b"")

    def answered(self, status: int, body: bytes, content_type: str = "application/json") -> Turn:
        """Return what follows an answer, as the transport would have it read."""
        media_type = content_type.partition(";")[0]
        reader = self.conversation.open_stream(status, {}) if media_type in FRAMINGS else None
        if reader is None:
            return self.conversation.read(Reply(status=status, headers={"Content-Type": content_type}, body=body))
        texts = Texts(FRAMINGS[media_type])
        for text in (*texts.feed(body), *texts.rest()):
            found = reader.read(text, 1, "")
            if isinstance(found, Update):
                self.output.append(found.output)
            elif found is not None:
                return found
        return reader.end()

    def recorded(self, answer: Recorded) -> Turn:
        return self.answered(answer.status, answer.body, answer.content_type)


def data_of(turn: Turn) -> Any:
    assert isinstance(turn, Completed), turn
    return json.loads(turn.result)["data"]


def stream(*parts: bytes, done: bool = True) -> bytes:
    return b"".join(parts) + (b"data: [DONE]\n\n" if done else b"")


def error_part(error: Any) -> bytes:
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


# litellm


@pytest.mark.parametrize(
    ("payload", "streamed", "whole"),
    [
        (CHAT, "chat-streamed", "chat"),
        ({"prompt": "hi"}, "completion-streamed", "completion"),
    ],
)
def test_litellm_s_stream_folds_to_its_answer_without_one(payload: Any, streamed: str, whole: str) -> None:
    asking = Asking(payload)
    folded = data_of(asking.recorded(LITELLM[streamed]))
    unary = data_of(Asking(payload).recorded(LITELLM[whole]))

    differ = {"id", "created", "usage"}
    choices = [{name: value for name, value in choice.items() if value is not None} for choice in unary["choices"]]
    assert folded["choices"] == choices
    assert {k: v for k, v in folded.items() if k not in differ | {"choices"}} == {
        k: v for k, v in unary.items() if k not in differ | {"choices"}
    }
    assert folded["usage"]["total_tokens"] == 17
    assert "".join(asking.output) == "It was a dark and stormy night."


def test_litellm_s_tool_calls_are_whole() -> None:
    message = data_of(Asking().recorded(LITELLM["upstream-tools"]))["choices"][0]["message"]

    function = {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert message["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]


def test_litellm_s_responses_are_those_that_the_stream_completes() -> None:
    payload = {"url": "/v1/responses", "body": {"input": "hi"}}
    asking = Asking(payload)
    streamed = data_of(asking.recorded(LITELLM["responses-streamed-through"]))
    whole = data_of(Asking(payload).recorded(LITELLM["responses"]))

    assert asking.output == ["It ", "was."]
    assert streamed["output"][0]["content"][0]["text"] == "It was."
    assert (streamed["status"], streamed["object"], whole["object"]) == ("completed", "response", "response")


def test_other_endpoints_answer_in_one_piece() -> None:
    assert data_of(Asking({"input": "hi"}).recorded(LITELLM["embeddings"]))["object"] == "list"


@pytest.mark.parametrize(
    ("case", "kind", "reason"),
    [
        ("rate-limited", "busy", "mock rate limit error"),
        ("upstream-429", "busy", "slow down"),
        ("upstream-503", "busy", "overloaded"),
        ("internal", "error", "mock internal server error"),
        ("upstream-away", "error", "Connection error"),
        ("upstream-cut", "error", "Connection error"),
        ("upstream-error", "error", "CUDA out of memory"),
        ("responses-streamed", "error", "Error processing stream start"),
        ("context", "rejected", "mock context window exceeded"),
        ("unknown-model", "rejected", "Invalid model name passed in model=nobody"),
        ("no-messages", "rejected", "Missing required parameter: 'messages'"),
    ],
)
def test_litellm_s_failures_mean_what_they_say(case: str, kind: str, reason: str) -> None:
    answer = Asking().recorded(LITELLM[case])

    assert isinstance(answer, Failed | Busy)
    assert ("busy" if isinstance(answer, Busy) else answer.kind) == kind
    assert reason in answer.error


def test_litellm_s_models_are_found() -> None:
    names = model_names(LITELLM["models"].body)

    assert names is not None
    assert {"mock-chat", "fake-upstream"} <= set(names)


# The request


def test_a_request_names_the_attempt_and_not_its_owner() -> None:
    request = Asking().request

    assert request.url == "http://s1:8000/v1/chat/completions"
    assert request.headers["X-Request-Id"] == "0" * 26 + "-2"


def test_the_submitter_s_model_is_used_where_the_payload_names_none() -> None:
    payload = {"messages": CHAT["messages"]}

    assert Asking(payload, model=ModelChoice(model="m2")).body["model"] == "m2"
    assert "model" not in Asking(payload).body


def test_a_payload_for_no_endpoint_is_rejected_without_a_request() -> None:
    begun = OPENAI.converse(SERVER, call_of({"url": "/v1/files", "body": {}})).begin()

    assert isinstance(begun, Failed)
    assert (begun.kind, begun.is_neutral) == ("rejected", True)
    assert "$.payload.url" in begun.error


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unknown field: stream_options", "type": "BadRequestError", "code": 400}},
        {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted", "input": {}}]},
    ],
)
def test_a_server_that_refuses_to_stream_as_asked_is_asked_in_another_way(body: Any) -> None:
    asking = Asking()
    refusal = json.dumps(body).encode()
    plain = asking.answered(400, refusal)
    whole = asking.answered(400, refusal)
    refused = asking.answered(400, refusal)

    assert isinstance(plain, Next)
    assert isinstance(whole, Next)
    asked = [json.loads(turn.request.body or b"") for turn in (plain, whole)]
    assert [(body["stream"], "stream_options" in body) for body in (asking.body, *asked)] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert isinstance(refused, Failed)
    assert refused.kind == "rejected"


def test_an_error_of_an_upstream_is_not_about_the_stream() -> None:
    answer = Asking().answered(400, b'{"error": {"message": "bad upstream"}}')

    assert isinstance(answer, Failed)


# Whole answers


@pytest.mark.parametrize("status", [400, 404, 413, 422, 501])
def test_these_statuses_are_for_good(status: int) -> None:
    answer = Asking().answered(status, b'{"error": {"message": "no such model"}}')

    assert isinstance(answer, Failed)
    assert (answer.kind, "no such model" in answer.error) == ("rejected", True)


def test_a_failure_of_the_model_behind_tei_is_tried_again() -> None:
    body = b'{"error": "CUDA error", "error_type": "backend"}'
    whole, in_stream = (
        Asking().answered(424, body),
        Asking().answered(200, error_part({"code": 424}), "text/event-stream"),
    )

    assert isinstance(whole, Failed)
    assert isinstance(in_stream, Failed)
    assert (whole.kind, in_stream.kind) == ("error", "error")


def test_a_server_that_ignores_stream_is_read_whole() -> None:
    whole = {"object": "chat.completion", "choices": []}

    assert data_of(Asking().answered(200, json.dumps(whole).encode())) == whole


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        (CHAT, b"{}"),
        (CHAT, b'{"choices": 1}'),
        (CHAT, b"[]"),
        (CHAT, b"ok"),
        (CHAT, b""),
        ({"input": "a"}, b'{"embedding": []}'),
        ({"url": "/v1/responses", "body": {}}, b'{"output": [], "status": "in_progress"}'),
        ({"url": "/v1/responses", "body": {}}, b'{"output": [], "status": "failed", "error": null}'),
    ],
)
def test_what_is_no_answer_of_the_endpoint_is_no_success(payload: Any, body: bytes) -> None:
    answer = Asking(payload).answered(200, body)

    assert isinstance(answer, Failed)
    assert answer.kind == "bad_answer"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "x", "code": 400}, "rejected"),
        ({"message": "x", "code": "422"}, "rejected"),
        ({"message": "x", "code": 501}, "rejected"),
        ({"message": "x", "code": 408}, "error"),
        ({"message": "x", "code": 500}, "error"),
        ({"message": "x", "code": 429}, "busy"),
        ({"message": "x", "status": 503}, "busy"),
        ({"message": "x", "type": "invalid_request_error", "code": "context_length_exceeded"}, "rejected"),
        ({"message": "x", "type": "rate_limit_error"}, "busy"),
        ({"message": "x", "type": "server_error", "code": None}, "error"),
        ({"message": "x", "code": True}, "error"),
        ("x", "error"),
        ([1], "error"),
    ],
)
def test_an_error_object_counts_as_its_code_says_wherever_it_is(error: Any, kind: str) -> None:
    def kind_of(turn: Turn) -> str:
        assert isinstance(turn, Failed | Busy)
        return "busy" if isinstance(turn, Busy) else turn.kind

    whole = Asking().answered(200, json.dumps({"error": error}).encode())
    first = Asking().answered(200, error_part(error), "text/event-stream")
    later = Asking().answered(200, stream(chat_part("It "), error_part(error)), "text/event-stream")

    assert (kind_of(whole), kind_of(first)) == (kind, kind)
    assert kind_of(later) == ("error" if kind == "busy" else kind)


def test_an_older_server_s_error_is_an_object_of_its_own() -> None:
    body = b'data: {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}\n\n'

    answer = Asking().answered(200, body, "text/event-stream")

    assert isinstance(answer, Failed)
    assert (answer.kind, "too long" in answer.error) == ("rejected", True)


def test_statuses_of_busy_servers_are_those_of_the_registration() -> None:
    server = replace(SERVER, busy_status=(529,))
    asking = Asking(server=server)

    assert isinstance(asking.answered(200, error_part({"code": 529}), "text/event-stream"), Busy)
    assert isinstance(asking.answered(200, error_part({"code": 503}), "text/event-stream"), Failed)


# Streams


@pytest.mark.parametrize(
    ("body", "is_whole"),
    [
        (stream(chat_part("It "), done=False), False),
        (stream(chat_part("It "), chat_part("", finish_reason="stop"), done=False), True),
        (stream(chat_part("It ")), True),
        (stream(), False),
        (b"", False),
    ],
)
def test_a_stream_has_ended_well_with_done_or_a_finish_reason(body: bytes, is_whole: bool) -> None:
    answer = Asking().answered(200, body, "text/event-stream")

    assert isinstance(answer, Completed if is_whole else Failed)
    assert is_whole or (isinstance(answer, Failed) and answer.kind == "bad_answer")


@pytest.mark.parametrize("text", [b"1", b'{"detail": "x"}', b'{"choices": [{"index": 0, "delta": {"x": NaN}}]}', b"{"])
def test_what_is_no_part_of_a_stream_ends_the_attempt(text: bytes) -> None:
    with pytest.raises(BadAnswer):
        Asking().answered(200, b"data: " + text + b"\n\n", "text/event-stream")


def test_a_key_that_comes_in_pieces_is_not_in_the_result() -> None:
    body = stream(chat_part("key-of-the"), chat_part("-server"), chat_part("", finish_reason="stop"))

    result = data_of(Asking().answered(200, body, "text/event-stream"))

    assert result["choices"][0]["message"]["content"] == "[key removed]"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}, "error"),
        ({"type": "response.failed", "response": {"error": {"code": "invalid_prompt", "message": "x"}}}, "rejected"),
        ({"type": "response.failed"}, "error"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "x"}, "busy"),
        ({"type": "error", "error": {"code": 400, "message": "x"}}, "rejected"),
        ({"error": {"code": 400, "message": "x"}}, "rejected"),
        ({"type": "response.in_progress"}, "bad_answer"),
    ],
)
def test_a_response_that_fails_is_no_success(event: Any, kind: str) -> None:
    body = b"data: " + json.dumps(event).encode() + b"\n\n"

    answer = Asking({"url": "/v1/responses", "body": {}}).answered(200, body, "text/event-stream")

    assert isinstance(answer, Failed | Busy)
    assert ("busy" if isinstance(answer, Busy) else answer.kind) == kind


@pytest.mark.parametrize("text", [b"{}", b'{"type": "response.completed"}', b'{"type": "response.output_text.delta"}'])
def test_what_is_no_event_of_a_response_ends_the_attempt(text: bytes) -> None:
    with pytest.raises(BadAnswer):
        Asking({"url": "/v1/responses", "body": {}}).answered(200, b"data: " + text + b"\n\n", "text/event-stream")


def test_an_incomplete_response_is_a_result() -> None:
    response = {"object": "response", "status": "incomplete", "output": []}
    body = b"data: " + json.dumps({"type": "response.incomplete", "response": response}).encode() + b"\n\n"

    assert data_of(Asking({"url": "/v1/responses", "body": {}}).answered(200, body, "text/event-stream")) == response


# Cancellation and health


def cancelled(body: bytes, status: int = 200) -> Any:
    return Asking().conversation.read_cancel(Reply(status=status, headers={}, body=body))


def test_a_cancellation_looks_at_the_metrics_until_nothing_runs() -> None:
    request = Asking().conversation.cancel()
    taken = (
        vllm_metrics(1),
        vllm_metrics(0, waiting=1),
        b"sglang:num_running_reqs 2.0",
        b"llamacpp:requests_processing 1",
    )

    assert request is not None
    assert (request.method, request.url) == ("GET", "http://s1:8000/metrics")
    for body in taken:
        assert isinstance(cancelled(body), Next)
    for body in (vllm_metrics(0), b'sglang:num_running_reqs{a="}"} 0.0\nsglang:num_queue_reqs 0.0\n'):
        assert cancelled(body) == "confirmed"


def test_a_server_that_runs_several_tasks_is_not_looked_at_for_long() -> None:
    busy = Reply(status=200, headers={}, body=vllm_metrics(1))
    shared = Asking().conversation
    alone = Asking(server=replace(SERVER, max_concurrent=1)).conversation

    assert [shared.read_cancel(busy) for _ in range(4)][-1] == "requested"
    assert all(isinstance(alone.read_cancel(busy), Next) for _ in range(20))


@pytest.mark.parametrize("body", [b"", b"\xff", b"vllm:num_requests_running NaN", b"vllm:num_requests_running 1e999"])
def test_without_a_count_a_cancellation_is_requested(body: bytes) -> None:
    assert cancelled(body) == cancelled(b"", 404) == Asking().conversation.read_cancel(None) == "requested"


def test_the_list_of_models_is_the_health_check_unless_another_is_registered() -> None:
    listed = OPENAI.health(replace(SERVER, predict_url="http://s1/v1/embeddings"), "key-of-the-server")
    own = OPENAI.health(replace(SERVER, health_url="http://s1/health"))

    assert is_checked(SERVER)
    assert listed is not None
    assert own is not None
    assert (listed.url, listed.headers) == ("http://s1/v1/models", {"Authorization": "Bearer key-of-the-server"})
    assert own.url == "http://s1/health"
    assert OPENAI.health_needs_key(SERVER)
    assert not OPENAI.health_needs_key(replace(SERVER, health_url="http://s1/health"))
    assert OPENAI.health_needs_key(replace(SERVER, health_url="http://s1/health", health_auth=True))


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"data": {}}', b"[" * 5000])
def test_only_a_list_of_models_is_healthy(body: bytes) -> None:
    assert not OPENAI.read_health_of(SERVER, 200, body).well
    assert OPENAI.read_health_of(replace(SERVER, health_url="http://s1/health"), 200, body).well
    assert OPENAI.read_health_of(SERVER, 200, b'{"object": "list", "data": []}').well
    assert not OPENAI.read_health_of(SERVER, 503, b'{"object": "list", "data": []}').well
