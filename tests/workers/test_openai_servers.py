"""Servers of the dialect `openai`, end to end: tasks of a server that speaks as vLLM does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.service import Service
from testkit.vllm import WORDS, VllmServer
from testkit.waiting import wait_until

from .behaviour import types

KEY = "sk-of-the-vllm-server"


@pytest.fixture
async def vllm() -> AsyncIterator[VllmServer]:
    async with VllmServer(key=KEY) as found:
        yield found


@pytest.fixture
async def others() -> AsyncIterator[VllmServer]:
    async with VllmServer("mistral", "qwen") as found:
        yield found


def registration(vllm: VllmServer, server_id: str = "v1", **more: Any) -> dict[str, Any]:
    endpoints = {"predict": f"{vllm.base_url}/v1"}
    named = {"id": server_id, "name": server_id, "provider": "vllm", "dialect": "openai"}
    return {**named, "endpoints": endpoints, "apiKey": vllm.key or None, **more}


async def register(service: Service, vllm: VllmServer, server_id: str = "v1", **more: Any) -> None:
    await service.admin.done("POST", "/api/servers", registration(vllm, server_id, **more))
    await service.admin.server_is(server_id, "online")


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"payload": {"messages": [{"role": "user", "content": text}], **more}}


async def test_a_chat_is_one_object_and_its_text_is_seen_as_it_comes(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    task_id = await service.alice.submit(chat("tell"))
    details = await service.alice.ended(task_id)

    result = details["result"]["data"]
    assert result["object"] == "chat.completion"
    assert result["choices"][0]["message"] == {"role": "assistant", "content": WORDS}
    assert result["usage"] == {"completion_tokens": 7}
    output = "".join(event.get("output", "") for event in await service.alice.history(task_id))
    assert output == WORDS


async def test_a_payload_may_name_its_endpoint(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)

    line = {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "tell"}}
    details = await service.alice.ended(await service.alice.submit({"payload": line}))
    refused = await service.alice.ended(await service.alice.submit({"payload": {"url": "/v1/files", "body": {}}}))

    assert details["result"]["data"]["choices"][0]["text"] == WORDS
    assert refused["status"] == "FAILED"
    assert "$.payload.url" in refused["error"]
    assert "/v1/files" not in vllm.paths


async def test_a_cancelled_task_frees_its_place_on_the_server(service: Service, vllm: VllmServer) -> None:
    await register(service, vllm)
    task_id = await service.alice.submit(chat("hold"))
    await wait_until(lambda: vllm.running == 1, "the task to run")

    await service.alice.post(f"/api/task/{task_id}/cancel")

    shown = await service.alice.until(
        f"/api/task/{task_id}", lambda body: body["taskDetails"]["cancelOutcome"], "what became of it"
    )
    assert shown["taskDetails"]["cancelOutcome"] == "confirmed"
    assert vllm.running == 0


@pytest.mark.parametrize(("wish", "attempts"), [("error 500", 2), ("cut", 2), ("error 400", 1)])
async def test_a_failure_within_the_stream_is_none_of_success(
    service: Service, vllm: VllmServer, wish: str, attempts: int
) -> None:
    await register(service, vllm)

    details = await service.alice.ended(await service.alice.submit({**chat(wish), "attempts": 2}))

    assert details["status"] == "FAILED"
    assert len(vllm.asked) == attempts
    assert wish == "cut" or "out of memory" in details["error"]


async def test_a_task_whose_server_is_killed_is_tried_on_another(
    service: Service, vllm: VllmServer, others: VllmServer
) -> None:
    await register(service, vllm)
    vllm.holds = True
    task_id = await service.alice.submit(chat("tell"))
    await wait_until(lambda: vllm.running == 1, "the task to run")
    await register(service, others, "v2")

    await vllm.stop()

    details = await service.alice.ended(task_id)
    assert (details["status"], details["serverId"]) == ("FINISHED", "v2")
    assert details["result"]["data"]["choices"][0]["message"]["content"] == WORDS
    assert len(others.asked) == 1


async def test_a_task_waits_for_a_full_server_and_loses_no_attempt(service: Service, vllm: VllmServer) -> None:
    vllm.most = 0
    await register(service, vllm)
    task_id = await service.alice.submit({**chat("tell"), "attempts": 1})

    async def returned() -> bool:
        return "AttemptReturned" in types(await service.alice.history(task_id))

    await wait_until(returned, "the server to be busy")
    vllm.most = 1

    assert (await service.alice.ended(task_id))["status"] == "FINISHED"


async def test_the_list_of_models_is_the_health_check_whatever_heartbeats_say(
    service: Service, vllm: VllmServer
) -> None:
    vllm.is_healthy = False
    await service.admin.done("POST", "/api/servers", registration(vllm))
    await service.admin.done("POST", "/api/servers/v1/heartbeat", {})

    found = await service.admin.until("/api/servers/v1", lambda server: "503" in server["statusReason"], "a check")
    assert found["status"] == "offline"

    vllm.is_healthy = True
    await service.admin.server_is("v1", "online")


# Models


async def serves(service: Service, server_id: str, *models: str) -> None:
    """Wait until a server is known to serve these models."""
    await service.admin.until(
        f"/api/servers/{server_id}", lambda server: server["servedModels"] == list(models), f"{server_id} to serve"
    )


async def test_a_task_goes_to_the_server_that_serves_its_model(
    service: Service, vllm: VllmServer, others: VllmServer
) -> None:
    await register(service, vllm, "v1", models="discover")
    await register(service, others, "v2", models="discover")
    await serves(service, "v2", "mistral", "qwen")

    for model in ("qwen", "llama", "mistral", "llama"):
        details = await service.alice.ended(await service.alice.submit(chat("tell", model=model)))
        assert details["status"] == "FINISHED"

    assert [body["model"] for body in vllm.asked] == ["llama", "llama"]
    assert [body["model"] for body in others.asked] == ["qwen", "mistral"]


async def test_a_task_whose_model_nobody_serves_waits_until_one_does(
    service: Service, vllm: VllmServer, others: VllmServer
) -> None:
    await register(service, vllm, "v1", models="discover")
    await register(service, others, "v2", models=["mistral"])
    await serves(service, "v1", "llama")
    waiting = await service.alice.submit(chat("tell", model="phi"))
    other = await service.alice.ended(await service.alice.submit(chat("tell", model="llama")))

    why = await service.alice.until(f"/api/task/{waiting}/why", lambda body: body["holds"], "the reason")

    assert other["status"] == "FINISHED"
    assert "no server of its type serves the model 'phi'; served: llama, mistral" in why["summary"]
    assert why["verdicts"] == [{"verdict": "model-missing", "text": "do not serve its model", "count": 2}]
    assert why["holds"][0]["data"] | {"model": "phi", "models": ["llama", "mistral"]} == why["holds"][0]["data"]

    vllm.models.append("phi")
    assert (await service.alice.ended(waiting))["status"] == "FINISHED"
    assert [body["model"] for body in vllm.asked] == ["llama", "phi"]


async def test_models_are_recorded_when_they_change_and_kept_while_none_are_listed(
    service: Service, vllm: VllmServer
) -> None:
    health = {"predict": f"{vllm.base_url}/v1", "health": f"{vllm.base_url}/metrics"}
    await register(service, vllm, models="discover", endpoints=health)
    await serves(service, "v1", "llama")
    vllm.is_healthy = False
    asked = vllm.paths.count("/v1/models")
    await wait_until(lambda: vllm.paths.count("/v1/models") > asked + 2, "further checks")

    stored = await service.container.commands.servers.history("v1")

    assert types([{"type": type(each.recorded.event).__name__} for each in stored]).count("ModelsFound") == 1
    assert (await service.admin.get("/api/servers/v1"))["servedModels"] == ["llama"]


async def test_models_are_part_of_the_registration(service: Service, vllm: VllmServer) -> None:
    named = registration(vllm, models=["b", "a"])
    refused = await service.admin.refusal("POST", "/api/servers", {**named, "dialect": None, "models": "discover"})
    await service.admin.done("POST", "/api/servers", named)
    before = await service.admin.get("/api/servers/v1")
    sent_back = await service.admin.done("POST", "/api/servers", {**before.body, "apiKey": vllm.key})
    left_out = await service.admin.done("POST", "/api/servers", registration(vllm))
    await service.admin.done("PATCH", "/api/servers/v1", {"models": "discover"})
    after = await service.admin.get("/api/servers/v1")

    assert refused == (400, "$.models")
    assert (before["models"], before["servedModels"]) == (["a", "b"], ["a", "b"])
    assert sent_back["reset"] == []
    assert "models" in left_out["reset"]
    assert after["models"] == "discover"


# Sessions


async def test_tasks_of_a_session_go_to_the_same_server_and_to_another_if_it_is_full(
    service: Service, vllm: VllmServer, others: VllmServer
) -> None:
    await service.admin.done("PUT", "/api/types/chat", {"sessionAffinity": True})
    await register(service, vllm, "v1", maxConcurrent=1)
    await register(service, others, "v2", maxConcurrent=1)

    async def served_by(user: str) -> str:
        details = await service.alice.ended(await service.alice.submit({**chat("tell", user=user), "type": "chat"}))
        return str(details["serverId"])

    first = {user: await served_by(user) for user in ("ann", "ben", "cem", "dee", "eve", "fay")}
    again = {user: await served_by(user) for user in first}
    full = vllm if first["ann"] == "v1" else others
    await service.alice.submit({**chat("hold", user="ann"), "type": "chat"})
    await wait_until(lambda: full.running == 1, "the server to be full")
    elsewhere = await served_by("ann")

    assert again == first
    assert set(first.values()) == {"v1", "v2"}
    assert elsewhere != first["ann"]
