"""Tokens with the role `service`: what the one token of an older backend can do, and what one of a server can."""

from __future__ import annotations

import time
from typing import Any

import pytest

from testkit.backend import BackendServer, accept
from testkit.service import SECRET, Service, token
from tests.api.test_access import signed

SHOWN = {"id", "status", "async", "callback", "types", "maxConcurrent", "lastHeartbeat"}
SECRET_URL = "http://127.0.0.1:9/inside"


def of_service(subject: str, **claims: Any) -> str:
    return signed(SECRET, sub=subject, roles=["service"], exp=int(time.time()) + 600, **claims)


@pytest.fixture
async def servers(api: Service) -> Service:
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        body = {"id": name, "name": "n", "provider": "p", "endpoints": {"predict": SECRET_URL}, "apiKey": "k" * 20}
        await api.admin.done("POST", "/api/servers", body)
    return api


async def heartbeat(api: Service, bearer: str, server_id: str) -> int:
    return (await api.bearing(bearer).post(f"/api/servers/{server_id}/heartbeat", {})).status


async def test_an_older_backends_token_sends_heartbeats_for_any_server_and_reads_the_list(servers: Service) -> None:
    older = servers.bearing(of_service("a backend"))

    for name in ("gpu-1", "gpu-2", "gpu-3"):
        assert await heartbeat(servers, older.bearer or "", name) == 200
    listed = await older.done("GET", "/api/servers")

    assert [server["id"] for server in listed["servers"]] == ["gpu-1", "gpu-2", "gpu-3"]
    assert all(server.keys() == SHOWN for server in listed["servers"])
    assert (await older.done("GET", "/api/servers/gpu-1")).keys() == SHOWN
    assert "inside" not in str(listed)


@pytest.mark.parametrize(
    ("subject", "claims", "own"),
    [
        ("gpu-1", {}, ["gpu-1"]),
        ("a backend", {"servers": ["gpu-1", "gpu-3"]}, ["gpu-1", "gpu-3"]),
        ("gpu-1", {"servers": ["gpu-2"]}, ["gpu-2"]),
        ("gpu-1", {"servers": []}, []),
    ],
)
async def test_a_token_that_names_servers_acts_for_these_only(
    servers: Service, subject: str, claims: dict[str, Any], own: list[str]
) -> None:
    client = servers.bearing(of_service(subject, **claims))

    for name in ("gpu-1", "gpu-2", "gpu-3"):
        expected = 200 if name in own else 403
        assert await heartbeat(servers, client.bearer or "", name) == expected
        assert (await client.get(f"/api/servers/{name}")).status == expected
    assert [server["id"] for server in (await client.done("GET", "/api/servers"))["servers"]] == own


async def test_the_role_service_opens_nothing_else_of_servers_and_users_nothing(servers: Service) -> None:
    client = servers.bearing(of_service("gpu-1"))
    for method, path in (
        ("DELETE", "/api/servers/gpu-1"),
        ("POST", "/api/servers/gpu-1/drain"),
        ("POST", "/api/servers"),
        ("PATCH", "/api/servers/gpu-1"),
        ("POST", "/api/servers/cleanup"),
    ):
        assert (await client.call(method, path, {})).status == 403, path
    assert (await servers.alice.get("/api/servers")).status == 403
    for user in (servers.alice, servers.auditor):
        assert (await user.post("/api/servers/gpu-1/heartbeat", {})).status == 403


async def test_a_service_token_reads_the_tasks_it_may_update_and_no_others(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = accept
    await service.admin.register(backend, "gpu-1", callback=True, **{"async": True})
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.reaches(task_id, "PROCESSING")
    path, update = f"/api/task/{task_id}", {"metadata": {"status": "PROCESSING", "progress": 5}}
    final = {"metadata": {"status": "FAILED"}}
    for bearer, expected in (
        (of_service("a backend"), 200),
        (of_service("gpu-1"), 200),
        (of_service("x", servers=["gpu-1"]), 200),
        (of_service("x", servers=["gpu-2"]), 404),
        (of_service("x", servers=[]), 404),
        (token("bob"), 404),
    ):
        client = service.bearing(bearer)
        assert (await client.get(path)).status == expected
        assert (await client.put(path, update if expected == 200 else final)).status == expected
    assert (await service.alice.details(task_id))["status"] == "PROCESSING"
