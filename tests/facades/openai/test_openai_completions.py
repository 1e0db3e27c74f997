"""Completions and embeddings through OpenAI's API: the server's own answers, over the tasks of this service."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from testkit.service import Service, running_service
from testkit.vllm import EMBEDDED, WORDS, VllmServer
from testkit.waiting import wait_until

from .openai_calls import CHAT, chat, register, streamed

TASK = "x-taskstream-task"


async def task_of(service: Service, answer: Any) -> dict[str, Any]:
    return await service.alice.details(answer.headers[TASK])


async def test_a_chat_is_answered_with_the_server_s_own_object(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    body = chat(n=2, logprobs=True, top_k=5, tools=[{"type": "function", "function": {"name": "f"}}])

    answer = await service.alice.post(CHAT, body)

    assert answer.status == 200
    assert [choice["message"]["content"] for choice in answer["choices"]] == [WORDS, WORDS]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    assert answer["kv_transfer_params"] is None
    assert vllm.asked == [body]
    details = await task_of(service, answer)
    assert (details["type"], details["status"]) == ("chat", "FINISHED")
    assert answer.headers["x-request-id"]


async def test_prompts_and_texts_are_answered_alike(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    text = await service.alice.post("/openai/v1/completions", {"model": "llama", "prompt": "tell"})
    vectors = await service.alice.post("/openai/v1/embeddings", {"model": "llama", "input": ["a"]})

    assert text["choices"][0]["text"] == WORDS
    assert vectors.body == EMBEDDED
    assert vllm.paths[-1] == "/v1/embeddings"


async def test_a_stream_has_every_chunk_as_the_server_made_it(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    async with streamed(service.alice, "POST", CHAT, chat(stream=True)) as stream:
        events = await stream.rest()

    assert events.pop().data == b"[DONE]"
    chunks = [event.fields for event in events]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == WORDS
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert vllm.asked[-1] == chat(stream=True)


async def test_the_chunk_with_the_usage_comes_if_it_is_asked_for(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    options = {"include_usage": True}

    async with streamed(service.alice, "POST", CHAT, chat(stream=True, stream_options=options)) as stream:
        *_, usage, done = await stream.rest()

    assert usage.fields["usage"] == {"completion_tokens": 7}
    assert done.data == b"[DONE]"


async def test_a_chunk_reaches_the_client_before_the_next_is_made(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    words = WORDS.split(" ")

    async with streamed(service.alice, "POST", CHAT, chat("step", stream=True)) as stream:
        for word in words:
            event = await stream.next()
            assert event is not None
            assert event.fields["choices"][0]["delta"]["content"].strip() == word
            vllm.step()
        assert [event.data for event in await stream.rest()][-1] == b"[DONE]"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_of_the_server_keeps_its_status_and_words(
    service: Service, vllm: VllmServer, status: int, is_stream: bool
) -> None:
    await register(service, vllm)

    answer = await service.alice.post(CHAT, chat(f"refuse {status}", stream=is_stream))

    assert answer.status == status
    assert answer["error"] == {"message": "this was asked for", "type": "Error", "param": None, "code": status}
    assert answer.headers["x-should-retry"] == "false"
    assert len(vllm.asked) == 1


async def test_a_server_that_refuses_this_service_s_key_is_none_of_the_client_s_fault(
    service: Service, vllm: VllmServer
) -> None:
    await register(service, vllm)

    answer = await service.alice.post(CHAT, chat("refuse 401"))

    assert (answer.status, answer["error"]["type"]) == (502, "upstream_error")


async def test_a_server_that_dies_before_its_first_word_is_not_noticed(
    service: Service, vllm: VllmServer, other: VllmServer
) -> None:
    await register(service, vllm)
    vllm.holds = True
    waiting = asyncio.create_task(service.alice.post(CHAT, chat()))
    await wait_until(lambda: vllm.running == 1, "the first server to have the call")
    await register(service, other, "v2")

    await vllm.stop()
    answer = await waiting

    assert answer["choices"][0]["message"]["content"] == WORDS
    assert (await task_of(service, answer))["attempt"] == 2


async def test_a_stream_that_breaks_after_its_first_word_ends_with_an_error(
    service: Service, vllm: VllmServer, other: VllmServer
) -> None:
    await register(service, vllm)
    await register(service, other, "v2")

    async with streamed(service.alice, "POST", CHAT, chat("cut", stream=True)) as stream:
        events = await stream.rest()
        task_id = stream.response.headers[TASK]

    first, last = events
    assert first.fields["choices"][0]["delta"]["content"] == "It"
    assert last.fields["error"]["type"] == "server_error"
    assert len(vllm.asked) + len(other.asked) == 1
    details = await service.alice.ended(task_id)
    assert (details["status"], details["attempt"]) == ("FAILED", 1)


async def test_an_error_within_a_stream_reaches_the_client_in_the_server_s_words(
    service: Service, vllm: VllmServer
) -> None:
    await register(service, vllm)

    async with streamed(service.alice, "POST", CHAT, chat("error 500", stream=True)) as stream:
        *_, last = await stream.rest()

    assert last.fields["error"] == {"message": "out of memory", "type": "Error", "code": 500}


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_hangs_up_frees_the_server(service: Service, vllm: VllmServer, is_stream: bool) -> None:
    await register(service, vllm)
    call = asyncio.create_task(service.alice.post(CHAT, chat("hold", stream=is_stream)))
    await wait_until(lambda: vllm.running == 1, "the call at the server")

    call.cancel()

    await wait_until(lambda: vllm.running == 0, "the server to be free")
    [task] = await service.alice.tasks()
    await service.alice.reaches(task["id"], "CANCELLED")
    [cancelled] = [each for each in await service.alice.history(task["id"]) if each["type"] == "TaskCancelled"]
    assert cancelled["reason"] == "the client hung up"
    assert len(vllm.asked) == 1


async def test_a_call_that_waits_too_long_is_a_504_and_its_task_is_cancelled(nats_url: str, vllm: VllmServer) -> None:
    async with running_service(nats_url, openai_wait=0.2) as service:
        await register(service, vllm)

        answer = await service.alice.post(CHAT, chat("hold"))

        assert answer.status == 504
        assert answer.headers["x-should-retry"] == "false"
        assert "TASKSTREAM_OPENAI_WAIT" in answer["error"]["message"]
        [task] = await service.alice.tasks()
        await service.alice.reaches(task["id"], "CANCELLED")


async def test_the_same_idempotency_key_is_the_same_call(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    headers = {"Idempotency-Key": "once"}

    first = await service.alice.post(CHAT, chat(), headers=headers)
    again = await service.alice.post(CHAT, chat(), headers=headers)
    other = await service.alice.post(CHAT, chat("else"), headers=headers)

    assert again.body == first.body
    assert len(vllm.asked) == 1
    assert (other.status, other["error"]["code"]) == (422, "idempotency_key_reused")


async def test_a_tier_chooses_the_priority(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    found = [
        (await task_of(service, await service.alice.post(CHAT, chat(service_tier=tier))))["priority"]
        for tier in ("flex", "auto", "priority")
    ]

    assert found == ["low", "normal", "high"]


async def test_over_a_quota_a_call_is_a_429_with_a_pause(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    await service.admin.done("PUT", "/api/owners/alice/limits", {"waiting": 1})
    await service.alice.submit({"payload": {}, "delay": 3600})

    answer = await service.alice.post(CHAT, chat())

    assert (answer.status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "model"),
        ({"model": 5, "messages": []}, "model"),
        ({"model": "llama"}, "messages"),
        (chat(stream="yes"), "stream"),
    ],
)
async def test_a_call_that_is_malformed_names_the_parameter(
    service: Service, vllm: VllmServer, body: Any, param: str
) -> None:
    await register(service, vllm)

    answer = await service.alice.post(CHAT, body)

    assert (answer.status, answer["error"]["param"]) == (400, param)


async def test_a_large_answer_comes_whole(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    answer = await service.alice.post(CHAT, chat(n=20_000))

    assert len(answer["choices"]) == 20_000


async def test_models_of_servers_are_listed_and_lead_to_their_type(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    listed = await service.alice.done("GET", "/openai/v1/models")
    unknown = await service.alice.post(CHAT, chat() | {"model": "gpt-5"})

    assert [each["id"] for each in listed["data"]] == ["llama"]
    assert listed["data"][0]["created"] > 0
    assert (unknown.status, unknown["error"]["code"]) == (404, "model_not_found")


async def test_a_server_that_does_not_stream_is_one_chunk(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    vllm.streams = False

    async with streamed(service.alice, "POST", CHAT, chat(stream=True)) as stream:
        chunk, done = await stream.rest()

    assert chunk.fields["choices"][0]["delta"]["content"] == WORDS
    assert chunk.fields["object"] == "chat.completion.chunk"
    assert done.data == b"[DONE]"


async def test_a_type_is_offered_under_its_model(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    await service.admin.done("PUT", "/api/types/chat", {"model": "llama"})
    await service.admin.done("PUT", "/api/types/other", {"model": "acme/other"})

    answer = await service.alice.post(CHAT, chat())
    listed = await service.alice.done("GET", "/openai/v1/models")
    named = await service.alice.done("GET", "/openai/v1/models/acme/other")

    assert answer.status == 200
    assert [each["id"] for each in listed["data"]] == ["acme/other", "llama"]
    assert named["id"] == "acme/other"
    assert (await service.alice.get("/openai/v1/models/other")).status == 404


async def test_a_key_for_some_types_reaches_no_model_of_others(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    await service.admin.done("PUT", "/api/types/resize", {})
    response = await service.alice.done("POST", "/openai/v1/responses", {"model": "llama", "input": "a"})
    keys = [
        (await service.alice.done("POST", "/api/keys", {"name": kind, "roles": ["user"], "types": [kind]}))["key"]
        for kind in ("chat", "resize")
    ]
    chatting, resizing = (service.bearing(key) for key in keys)

    assert (await chatting.post(CHAT, chat())).status == 200
    assert (await chatting.get(f"/openai/v1/responses/{response['id']}")).status == 200
    refused = await resizing.post(CHAT, chat())
    assert (refused.status, refused["error"]["code"]) == (404, "model_not_found")
    assert (await resizing.get(f"/openai/v1/responses/{response['id']}")).status == 404
    assert [each["id"] for each in (await resizing.done("GET", "/openai/v1/models"))["data"]] == ["resize"]
