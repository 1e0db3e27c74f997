"""Calls of OpenAI's API reach a server as their clients made them, and so does its answer come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.backends.dialects.dialect import Completed, Failed, Final, Update
from taskstream.backends.dialects.framing import FRAMINGS, Texts
from taskstream.backends.dialects.openai_responses import chat_of
from taskstream.errors import InvalidInput
from taskstream.events.task import FacadeRequest

from .test_openai_answers import CHAT, SERVER, Asking


def facade(endpoint: str = "chat/completions", *, is_stream: bool = False) -> FacadeRequest:
    return FacadeRequest(name="openai", endpoint=endpoint, is_stream=is_stream)


def streamed_by(asking: Asking, body: bytes) -> tuple[list[str], Any]:
    """Return the parts that a streamed answer is passed on as, and what it ends with."""
    reader = asking.conversation.open_stream(200, {})
    assert reader is not None
    texts = Texts(FRAMINGS["text/event-stream"])
    parts: list[str] = []
    for text in (*texts.feed(body), *texts.rest()):
        found = reader.read(text, 1, "")
        if isinstance(found, Update):
            assert found.parts is not None
            assert found.parts.first == len(parts)
            parts += found.parts.texts()
        elif found is not None:
            return parts, found
    return parts, reader.end()


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions", "embeddings"])
def test_a_call_goes_to_the_endpoint_that_it_was_made_at_as_it_was_made(endpoint: str) -> None:
    body = {"model": "m", "input": "a", "prompt": "b", "n": 2, "logprobs": True, "top_k": 5, "extra": {"x": None}}

    asking = Asking(body, facade=facade(endpoint))

    assert asking.request.url == f"http://s1:8000/v1/{endpoint}"
    assert asking.body == body


def test_a_streamed_call_keeps_its_own_stream_options() -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": False}}

    assert Asking(body, facade=facade(is_stream=True)).body == body


def test_the_answer_is_the_result_byte_for_byte() -> None:
    body = b'{"id": "c-1",  "choices": [{"index": 1, "x": 1.50}], "usage": {"total_tokens": 3}}'

    answer = Asking(facade=facade()).answered(200, body)

    assert isinstance(answer, Completed)
    assert body in answer.result


def test_every_part_of_a_stream_is_passed_on_as_it_came() -> None:
    sent = [
        '{"id":"c-1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
        '{"id":"c-1", "choices":[{"index":0,"delta":{"content":"H\\u00e9"},"logprobs":{"content":[]}}]}',
        '{"id":"c-1","choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"id":"t"}]},"finish_reason":null}]}',
        '{"id":"c-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
        '{"id":"c-1","choices":[],"usage":{"total_tokens":3}}',
    ]
    body = "".join(f"data: {text}\n\n" for text in [*sent, "[DONE]"]).encode()

    parts, end = streamed_by(Asking(CHAT | {"stream": True}, facade=facade(is_stream=True)), body)

    assert parts == sent
    assert isinstance(end, Completed)


def test_an_error_of_the_server_is_kept_as_it_came() -> None:
    body = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'

    failed = Asking(facade=facade()).answered(400, body)

    assert isinstance(failed, Failed)
    assert failed.answer is not None
    assert (failed.answer.status, bytes(failed.answer.body)) == (400, body)


@pytest.mark.parametrize("body", [b"<html>", b'{"error": "' + b"x" * 20_000 + b'"}', b"", b"[1]"])
def test_what_is_no_small_object_is_not_kept(body: bytes) -> None:
    failed = Asking(facade=facade()).answered(500, body)

    assert isinstance(failed, Failed)
    assert failed.answer is not None
    assert (failed.answer.status, bytes(failed.answer.body)) == (500, b"null")


def test_an_error_in_a_stream_is_kept_with_its_code() -> None:
    body = b'data: {"error":{"message":"bad prompt","type":"BadRequestError","code":400}}\n\n'

    parts, failed = streamed_by(Asking(CHAT | {"stream": True}, facade=facade(is_stream=True)), body)

    assert parts == []
    assert isinstance(failed, Failed)
    assert failed.answer is not None
    assert failed.answer.status == 400
    assert json.loads(bytes(failed.answer.body))["error"]["message"] == "bad prompt"


def test_a_task_of_this_service_s_own_api_keeps_no_error_and_no_parts() -> None:
    asking = Asking()
    failed = asking.answered(400, b'{"error":{"message":"no"}}')

    assert isinstance(failed, Failed)
    assert failed.answer is None
    reader = Asking().conversation.open_stream(200, {})
    assert reader is not None
    update = reader.read(b'{"choices":[{"index":0,"delta":{"content":"a"}}]}', 1, "")
    assert isinstance(update, Update)
    assert update.parts is None


def test_a_response_is_asked_for_as_a_chat_completion() -> None:
    body = {
        "model": "m", "input": "hi", "instructions": "be brief", "max_output_tokens": 9, "temperature": 0.5,
        "background": True, "store": True, "metadata": {"a": "b"}, "top_k": 3,
    }  # fmt: skip

    asking = Asking(body, facade=facade("responses", is_stream=True))

    assert asking.request.url == "http://s1:8000/v1/chat/completions"
    assert asking.body == {
        "model": "m",
        "temperature": 0.5,
        "top_k": 3,
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_server_that_is_registered_by_its_responses_is_asked_there() -> None:
    server = replace(SERVER, predict_url="http://s1:8000/v1/responses")
    asking = Asking({"model": "m", "input": "hi"}, server, facade=facade("responses", is_stream=True))
    delta = '{"type":"response.output_text.delta","delta":"hi","sequence_number":7}'
    events = ['{"type":"response.created","response":{}}', delta]
    whole = '{"type":"response.completed","response":{"status":"completed","output":[]}}'
    body = "".join(f"data: {text}\n\n" for text in [*events, whole]).encode()

    parts, end = streamed_by(asking, body)

    assert asking.request.url == "http://s1:8000/v1/responses"
    assert parts == [delta]
    assert isinstance(end, Completed | Final)
    chat = Asking(CHAT, server, facade=facade())
    assert chat.request.url == "http://s1:8000/v1/chat/completions"


def chat(**fields: Any) -> Any:
    raw = {name: Raw(json.dumps(value).encode()) for name, value in fields.items()}
    return {name: json.loads(bytes(value)) for name, value in chat_of(raw).items()}


def test_a_conversation_with_tools_is_translated() -> None:
    found = chat(
        input=[
            {"role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
            {"role": "user", "content": [
                {"type": "input_text", "text": "what is it?"},
                {"type": "input_image", "image_url": "https://x/a.png", "detail": "low"},
            ]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        ],
        tools=[{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": None}],
        tool_choice={"type": "function", "name": "look"},
        text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
        reasoning={"effort": "low"},
        top_logprobs=2,
    )  # fmt: skip

    assert [message["role"] for message in found["messages"]] == ["system", "user", "assistant", "tool"]
    assert found["messages"][0]["content"] == "be brief"
    assert found["messages"][1]["content"][1]["image_url"] == {"url": "https://x/a.png", "detail": "low"}
    assert [call["id"] for call in found["messages"][2]["tool_calls"]] == ["c1", "c2"]
    assert found["messages"][3]["tool_call_id"] == "c1"
    assert found["tools"] == [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    assert found["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert found["response_format"]["json_schema"] == {"name": "s", "schema": {"type": "object"}}
    assert (found["reasoning_effort"], found["logprobs"], found["top_logprobs"]) == ("low", True, 2)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "$.input"),
        ({"input": 5}, "$.input"),
        ({"input": [5]}, "$.input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "$.input[0].role"),
        ({"input": [{"role": "user"}]}, "$.input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "$.input[0].content[0]"),
        ({"input": [{"type": "web_search_call"}]}, "$.input[0].type"),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "$.tools[0].type"),
        ({"input": "a", "tools": [{"type": "function"}], "tool_choice": {"type": "mcp"}}, "$.tool_choice"),
        ({"input": "a", "text": 5}, "$.text"),
    ],
)
def test_what_a_chat_completion_cannot_say_is_refused_with_its_place(fields: Any, path: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        chat(**fields)

    assert raised.value.path == path
