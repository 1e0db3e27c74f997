"""The contract that older clients have of servers, line by line: names, words, statuses and times."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from testkit.backend import BackendServer
from testkit.nats import running_nats
from testkit.service import Service, running_service
from testkit.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")
ISO_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SECOND_CHECK = 600.0
"""Seconds between checks: what a test sees of checks is the first one."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def older(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service that all tests of this module share; each has servers of its own."""
    with running_nats(tmp_path_factory.mktemp("nats")) as nats:
        async with running_service(nats.url, health_interval=SECOND_CHECK) as service:
            yield service


class Answering(BackendServer):
    """A backend whose health check has a status."""

    code = 200

    async def _health(self, _: web.Request) -> web.Response:
        self.health_checks += 1
        return web.Response(status=self.code, headers={"Location": "/health"})


def as_older_clients_send_it(server_id: str, url: str, *, health: bool = True) -> dict[str, Any]:
    endpoints = {"predict": f"{url}/predict"} | ({"health": f"{url}/health"} if health else {})
    return {"id": server_id, "name": "GPU", "provider": "a", "endpoints": endpoints, "async": False, "callback": False}


async def listed(service: Service) -> dict[str, Any]:
    answer = await service.admin.get("/api/servers")
    assert answer.status == 200
    return {server["id"]: server for server in answer["servers"]}


async def test_post_registers_and_the_same_id_again_replaces(older: Service) -> None:
    body = as_older_clients_send_it("twice", "http://127.0.0.1:9")

    for name in ("first", "second"):
        answer = await older.admin.post("/api/servers", {**body, "name": name})
        assert (answer.status, answer["id"], answer["success"]) == (200, "twice", True)

    assert (await listed(older))["twice"]["name"] == "second"


async def test_a_registration_without_maxconcurrent_gets_10(older: Service) -> None:
    await older.admin.done("POST", "/api/servers", as_older_clients_send_it("ten", "http://127.0.0.1:9"))

    assert (await older.admin.get("/api/servers/ten"))["maxConcurrent"] == 10


async def test_get_lists_the_servers_and_reads_one_with_its_status(older: Service) -> None:
    body = as_older_clients_send_it("shown", "http://127.0.0.1:9")
    await older.admin.done("POST", "/api/servers", body)

    one = await older.admin.get("/api/servers/shown")

    for shown in (one.body, (await listed(older))["shown"]):
        assert shown.items() >= body.items()
        assert shown["status"] == "offline"


@pytest.mark.parametrize(
    "body",
    [None, {}, {"status": "busy"}, {"activeTasks": 2}, {"status": "idle", "activeTasks": 0, "metrics": {"a": 1}}],
)
async def test_a_heartbeat_is_answered_with_its_time_in_utc(older: Service, body: Any) -> None:
    registered = as_older_clients_send_it("beats", "http://127.0.0.1:9", health=False)
    await older.admin.done("POST", "/api/servers", registered)

    answer = await older.admin.post("/api/servers/beats/heartbeat", body)

    assert answer.status == 200
    assert answer.body.keys() == {"id", "success", "lastHeartbeat"}
    assert (answer["id"], answer["success"]) == ("beats", True)
    assert ISO_UTC.fullmatch(answer["lastHeartbeat"])
    assert (await older.admin.get("/api/servers/beats"))["status"] == "online"


async def test_delete_removes(older: Service) -> None:
    await older.admin.done("POST", "/api/servers", as_older_clients_send_it("gone", "http://127.0.0.1:9"))

    answer = await older.admin.delete("/api/servers/gone")

    assert (answer.status, answer.body) == (200, {"id": "gone", "success": True})
    assert "gone" not in await listed(older)
    assert (await older.admin.get("/api/servers/gone")).status == 404


async def test_cleanup_names_the_servers_it_removed(older: Service) -> None:
    await older.admin.done("POST", "/api/servers", as_older_clients_send_it("stale", "http://127.0.0.1:9"))

    recent = await older.admin.post("/api/servers/cleanup", {})
    old = await older.admin.post("/api/servers/cleanup", {"maxAgeMins": 0})

    assert (recent.status, recent.body) == (200, {"success": True, "removedServers": []})
    assert old.body.keys() == {"success", "removedServers"}
    assert "stale" in old["removedServers"]
    assert "stale" not in await listed(older)


@pytest.mark.parametrize("code", [200, 204, 299])
async def test_a_new_server_is_online_once_its_first_check_at_once_succeeds(older: Service, code: int) -> None:
    async with Answering() as backend:
        backend.code = code
        await older.admin.done("POST", "/api/servers", as_older_clients_send_it(f"new-{code}", backend.url))

        await older.admin.server_is(f"new-{code}", "online")

        assert backend.health_checks == 1


@pytest.mark.parametrize("code", [302, 404, 500])
async def test_an_answer_other_than_2xx_is_not_healthy(older: Service, code: int) -> None:
    async with Answering() as backend:
        backend.code = code
        await older.admin.done("POST", "/api/servers", as_older_clients_send_it(f"ill-{code}", backend.url))

        shown = await older.admin.until(
            f"/api/servers/ill-{code}", lambda server: server["statusReason"] != "not checked yet", "its first check"
        )

    assert (shown["status"], shown["statusReason"]) == ("offline", f"health check answered {code}")


@pytest.mark.parametrize(
    ("host", "reason"),
    [("nowhere.invalid", "the server's name does not resolve"), ("127.0.0.1:9", "the server could not be reached")],
)
async def test_a_health_address_that_does_not_answer_is_accepted_and_listed(
    older: Service, host: str, reason: str
) -> None:
    server_id = f"at-{host.replace(':', '-')}"
    await older.admin.done("POST", "/api/servers", as_older_clients_send_it(server_id, f"http://{host}"))

    async def said() -> Any:
        shown = (await listed(older))[server_id]
        return shown if shown["statusReason"] != "not checked yet" else None

    shown = await wait_until(said, "the first check")
    assert (shown["status"], shown["statusReason"]) == ("offline", reason)


async def test_every_call_needs_the_role_admin(older: Service) -> None:
    calls = [
        ("POST", ""), ("GET", ""), ("GET", "/a"), ("DELETE", "/a"), ("POST", "/cleanup"), ("PATCH", "/a"),
        ("POST", "/a/restore"),
    ]  # fmt: skip
    for method, path in calls:
        assert (await older.alice.call(method, f"/api/servers{path}", {})).status == 403
        assert (await older.anonymous.call(method, f"/api/servers{path}", {})).status == 401
