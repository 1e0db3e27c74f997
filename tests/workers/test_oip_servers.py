"""A server of the dialect `oip`, end to end: it answers as KServe was recorded, and has no health address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from testkit.http_server import HttpServer
from testkit.service import Service
from tests.backends.recorded_answers import recorded_answers

KSERVE = recorded_answers("oip", "kserve-0.21.0")
INFERENCE = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}


class KServe(HttpServer):
    """Answers as KServe did, with the id of each request."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ready = True
        self.connections: set[object] = set()
        """Of inferences."""
        self.answers = ["success"]
        """What to answer with to the next requests; the last one from then on."""
        self.asked: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v2/models/echo/ready":
            found = KSERVE["ready" if self.is_ready else "not ready"]
        elif request.path == "/v2/models/echo/infer":
            self.asked.append(await request.json())
            self.connections.add(request.transport)
            found = KSERVE[self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]
        else:
            found = KSERVE["server" if request.path == "/v2" else "no such model"]
        body = found.body.replace(b'"a1"', b'"%s"' % self.asked[-1]["id"].encode()) if self.asked else found.body
        return web.Response(status=found.status, body=body, content_type="application/json")


@pytest.fixture
async def kserve() -> AsyncIterator[KServe]:
    async with KServe() as found:
        yield found


def registration(kserve: KServe, **more: Any) -> dict[str, Any]:
    endpoints = {"predict": f"{kserve.base_url}/v2/models/echo/infer"}
    return {"id": "k1", "name": "k1", "provider": "kserve", "dialect": "oip", "endpoints": endpoints} | more


async def test_a_model_that_is_ready_is_online_and_its_answer_is_the_result(service: Service, kserve: KServe) -> None:
    await service.admin.done("POST", "/api/servers", registration(kserve))
    await service.admin.server_is("k1", "online")

    details = await service.alice.ended(await service.alice.submit(INFERENCE))

    assert details["status"] == "FINISHED"
    assert details["result"]["data"]["outputs"][0]["data"] == ["you said hello"]
    assert "alice" not in kserve.asked[0]["id"]


async def test_an_answer_with_its_own_id_leaves_its_connection_to_the_next(service: Service, kserve: KServe) -> None:
    await service.admin.done("POST", "/api/servers", registration(kserve, maxConcurrent=1))

    for _ in range(3):
        await service.alice.ended(await service.alice.submit(INFERENCE))

    assert len(kserve.connections) == 1


async def test_a_full_queue_costs_no_attempt_and_a_refusal_ends_the_task(service: Service, kserve: KServe) -> None:
    kserve.answers = ["queue full", "refused by the model"]
    await service.admin.done("POST", "/api/servers", registration(kserve))

    details = await service.alice.ended(await service.alice.submit(INFERENCE))

    assert details["status"] == "FAILED"
    assert "no such voice" in details["error"]
    assert len(kserve.asked) == 2


async def test_a_model_that_is_not_ready_is_offline_whatever_heartbeats_say(service: Service, kserve: KServe) -> None:
    kserve.is_ready = False
    await service.admin.done("POST", "/api/servers", registration(kserve))
    await service.admin.done("POST", "/api/servers/k1/heartbeat", {})

    found = await service.admin.until(
        "/api/servers/k1", lambda server: "not ready" in server["statusReason"], "a check"
    )
    assert found["status"] == "offline"

    kserve.is_ready = True
    await service.admin.server_is("k1", "online")


async def test_a_registration_must_name_its_model_and_only_if_it_has_one(service: Service, kserve: KServe) -> None:
    base = {"endpoints": {"predict": kserve.base_url}}

    refused = await service.admin.refusal("POST", "/api/servers", registration(kserve, **base))
    needless = await service.admin.refusal(
        "POST", "/api/servers", registration(kserve, dialect="taskstream", model="m")
    )
    await service.admin.done("POST", "/api/servers", registration(kserve, **base, model="echo"))
    unnamed = await service.admin.refusal("PATCH", "/api/servers/k1", {"model": None})

    assert refused == unnamed == (400, "$.endpoints.predict")
    assert needless == (400, "$.model")
    await service.admin.server_is("k1", "online")
