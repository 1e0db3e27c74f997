"""The fleet over HTTP: admins only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec import structs
from structlog.testing import capture_logs

from taskstream.backends.dialects import DIALECTS
from testkit.backend import BackendServer, hold
from testkit.nats import NatsServer
from testkit.service import Service, running_service

GPU: dict[str, Any] = {
    "id": "gpu-1",
    "name": "GPU 1",
    "provider": "example",
    "endpoints": {"predict": "http://127.0.0.1:9/predict", "health": "http://127.0.0.1:9/health"},
}
KEY = "sk-very-secret-of-the-backend"


def is_recent(text: str) -> bool:
    assert text.endswith("Z")
    return abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 60


async def test_a_registered_server_is_listed_with_its_settings(api: Service) -> None:
    more = {"async": True, "callback": True, "types": ["a", "b", "a"], "maxConcurrent": 3, "weight": 2}

    answer = await api.admin.post("/api/servers", {**GPU, **more, "labels": {"zone": "eu"}})
    found = await api.admin.get("/api/servers/gpu-1")
    listed = await api.admin.get("/api/servers")

    assert (answer.status, answer.body) == (200, {"id": "gpu-1", "success": True, "reset": []})
    assert found.body.items() >= {**GPU, **more, "types": ["a", "b"], "labels": {"zone": "eu"}}.items()
    assert found["status"] == "offline"
    assert found["lastHeartbeat"] is None
    assert is_recent(found["registeredAt"])
    assert listed["servers"] == [found.body]


async def test_settings_left_out_have_their_defaults(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "endpoints": {"predict": "http://127.0.0.1:9/"}})

    found = (await api.admin.get("/api/servers/gpu-1")).body

    assert (found["async"], found["callback"], found["types"]) == (False, False, [])
    assert (found["maxConcurrent"], found["weight"], found["hasApiKey"]) == (10, 1, False)
    assert found["endpoints"]["health"] is None


async def test_a_server_goes_online_by_its_check_which_a_heartbeat_leaves(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "echo")

    found = (await service.admin.get("/api/servers/echo")).body

    assert is_recent(found["lastHeartbeat"])
    assert found["latencyMs"] > 0

    await service.admin.post("/api/servers/echo/heartbeat", {"activeTasks": 2})

    after = (await service.admin.get("/api/servers/echo")).body
    assert after["latencyMs"] is not None
    assert after["lastHeartbeat"] >= found["lastHeartbeat"]


async def test_the_same_id_again_replaces_the_server(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "weight": 5, "apiKey": KEY})
    answer = await api.admin.post("/api/servers", {**GPU, "name": "renamed"})

    assert answer.status == 200
    servers = (await api.admin.get("/api/servers"))["servers"]
    assert len(servers) == 1
    assert (servers[0]["name"], servers[0]["weight"], servers[0]["hasApiKey"]) == ("renamed", 1, False)


async def test_a_heartbeat_counts_only_without_a_health_endpoint(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "endpoints": {"predict": "http://127.0.0.1:9/"}})

    empty = await api.admin.post("/api/servers/gpu-1/heartbeat")
    full = await api.admin.post(
        "/api/servers/gpu-1/heartbeat", {"status": "busy", "activeTasks": 3, "metrics": {"gpu": 0.9}, "more": 1}
    )
    found = (await api.admin.get("/api/servers/gpu-1")).body

    for answer in (empty, full):
        assert (answer.status, answer["id"], answer["success"]) == (200, "gpu-1", True)
        assert is_recent(answer["lastHeartbeat"])
    assert found["lastHeartbeat"] == full["lastHeartbeat"]
    assert (found["status"], found["reportedActiveTasks"], found["metrics"]) == ("online", 3, {"gpu": 0.9})
    assert found["activeTasks"] == 0  # the service runs none on it

    await api.admin.post("/api/servers", GPU)  # with a health endpoint, which decides alone
    await api.admin.post("/api/servers/gpu-1/heartbeat", {})
    assert (await api.admin.get("/api/servers/gpu-1"))["status"] == "offline"


async def test_metrics_of_a_heartbeat_have_a_limit(api: Service) -> None:
    await api.admin.post("/api/servers", GPU)
    most = {"a": "x" * (8 * 1024 - len('{"a":""}'))}
    await api.admin.done("POST", "/api/servers/gpu-1/heartbeat", {"metrics": most})

    refused = await api.admin.post("/api/servers/gpu-1/heartbeat", {"metrics": {"a": most["a"] + "x"}})

    assert (refused.status, refused["path"]) == (400, "$.metrics")
    assert (await api.admin.get("/api/servers/gpu-1")).body["metrics"] == most


async def test_a_removed_server_is_gone(api: Service) -> None:
    await api.admin.post("/api/servers", GPU)

    answer = await api.admin.delete("/api/servers/gpu-1")

    assert (answer.status, answer.body) == (200, {"id": "gpu-1", "success": True})
    assert (await api.admin.get("/api/servers"))["servers"] == []
    assert (await api.admin.get("/api/servers/gpu-1")).status == 404
    assert (await api.admin.delete("/api/servers/gpu-1")).status == 404


async def test_cleanup_removes_what_has_been_offline_for_too_long(api: Service, backend: BackendServer) -> None:
    await api.admin.post("/api/servers", GPU)
    await api.admin.post("/api/servers", backend.registration("alive", health=False))
    await api.admin.post("/api/servers/alive/heartbeat")

    young = await api.admin.post("/api/servers/cleanup")
    old = await api.admin.post("/api/servers/cleanup", {"maxAgeMins": 0})

    assert (young.status, young.body) == (200, {"success": True, "removedServers": []})
    assert old.body == {"success": True, "removedServers": ["gpu-1"]}
    assert [server["id"] for server in (await api.admin.get("/api/servers"))["servers"]] == ["alive"]


async def test_concurrent_cleanups_all_succeed(api: Service) -> None:
    for number in range(5):
        await api.admin.post("/api/servers", {**GPU, "id": f"gpu-{number}"})

    answers = await asyncio.gather(*(api.admin.post("/api/servers/cleanup", {"maxAgeMins": 0}) for _ in range(4)))

    assert [answer.status for answer in answers] == [200] * 4
    assert {name for answer in answers for name in answer["removedServers"]} == {f"gpu-{n}" for n in range(5)}


async def test_maintenance_begins_and_ends_with_its_reason(api: Service) -> None:
    await api.admin.post("/api/servers", GPU)

    begun = await api.admin.post("/api/servers/gpu-1/maintenance", {"maintenance": True, "reason": "new driver"})
    during = (await api.admin.get("/api/servers/gpu-1")).body
    ended = await api.admin.post("/api/servers/gpu-1/maintenance", {"maintenance": False})
    after = (await api.admin.get("/api/servers/gpu-1")).body

    assert begun.body == {"id": "gpu-1", "success": True, "maintenance": True}
    assert ended.body == {"id": "gpu-1", "success": True, "maintenance": False}
    assert (during["maintenance"], during["maintenanceReason"]) == (True, "new driver")
    assert (after["maintenance"], after["maintenanceReason"]) == (False, None)


async def test_a_server_that_is_not_there_is_a_404_by_its_name(api: Service) -> None:
    for method, path, body in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", {"weight": 3}),
        ("POST", "/restore", {"apiKey": "k"}),
        ("POST", "/heartbeat", None),
        ("POST", "/maintenance", {"maintenance": True}),
    ]:
        answer = await api.admin.call(method, f"/api/servers/nope{path}", body)
        assert (answer.status, answer["error"]) == (404, "no server 'nope'"), path


async def test_a_list_of_servers_pages_by_id(api: Service) -> None:
    for number in range(5):
        await api.admin.post("/api/servers", {**GPU, "id": f"gpu-{number}"})

    pages = await api.admin.pages("/api/servers", "servers", "limit=3")

    assert [[server["id"] for server in page] for page in pages] == [["gpu-0", "gpu-1", "gpu-2"], ["gpu-3", "gpu-4"]]


WRONG_BODIES = [
    ({}, "$.id"),
    ({**GPU, "id": ""}, "$.id"),
    ({**GPU, "id": "a/b"}, "$.id"),
    ({**GPU, "id": ".."}, "$.id"),
    ({**GPU, "id": "cleanup"}, "$.id"),
    ({**GPU, "id": "a\n"}, "$.id"),
    ({**GPU, "id": "a" * 129}, "$.id"),
    ({**GPU, "name": 5}, "$.name"),
    ({**GPU, "provider": None}, "$.provider"),
    ({**GPU, "endpoints": {}}, "$.endpoints.predict"),
    ({**GPU, "endpoints": {"predict": "ftp://a.example/"}}, "$.endpoints.predict"),
    ({**GPU, "endpoints": {"predict": "http://u:p@a.example/"}}, "$.endpoints.predict"),
    ({**GPU, "endpoints": {"predict": "http://a.example/", "health": "file:///etc/passwd"}}, "$.endpoints.health"),
    ({**GPU, "async": "yes"}, "$.async"),
    ({**GPU, "types": "a"}, "$.types"),
    ({**GPU, "maxConcurrent": 0}, "$.maxConcurrent"),
    ({**GPU, "weight": 1.5}, "$.weight"),
    ({**GPU, "apiKey": ""}, "$.apiKey"),
    ({**GPU, "apiKey": "a\r\nX-Other: b"}, "$.apiKey"),
    ({**GPU, "endpoints": {**GPU["endpoints"], "health": ""}}, "$.endpoints.health"),
    ({**GPU, "endpoints": {"predict": "http://127.0.0.1:9/", "heath": "http://127.0.0.1:9/"}}, "$.endpoints.heath"),
    ({**GPU, "maxConcurent": 3}, "$.maxConcurent"),
    ({**GPU, "authHeader": "X API Key"}, "$.authHeader"),
    ({**GPU, "authHeader": "content-LENGTH"}, "$.authHeader"),
    ({**GPU, "authHeader": "X-AI-Key"}, "$.authHeader"),
    ({**GPU, "removeAfter": 0}, "$.removeAfter"),
    ({**GPU, "dialect": "corba"}, "$.dialect"),
    ({**GPU, "healthExpect": {}}, "$.healthExpect"),
    ({**GPU, "healthExpect": {"status": []}}, "$.healthExpect.status"),
    ({**GPU, "healthExpect": {"json": {"status": "ok"}}}, "$.healthExpect.json"),
    ({**GPU, "healthExpect": {"json": {"$.a": [1]}}}, "$.healthExpect.json[...]"),
]


async def test_an_unknown_field_is_refused_with_the_name_that_was_meant(api: Service) -> None:
    for body, path, meant in [
        ({**GPU, "maxConcurent": 3}, "$.maxConcurent", "did you mean `maxConcurrent`?"),
        ({**GPU, "endpoints": {**GPU["endpoints"], "heath": "http://a/"}}, "$.endpoints.heath", "`health`?"),
    ]:
        answer = await api.admin.post("/api/servers", body)
        assert (answer.status, answer["path"]) == (400, path)
        assert meant in answer["error"]


async def test_a_dialect_that_does_not_exist_is_refused_with_those_that_do(api: Service) -> None:
    for method, path, body in (
        ("POST", "/api/servers", {**GPU, "dialect": "corba"}),
        ("PUT", "/api/types/speech", {"dialect": "corba"}),
    ):
        answer = await api.admin.call(method, path, body)
        assert (answer.status, answer["path"]) == (400, "$.dialect")
        assert all(name in answer["error"] for name in DIALECTS)


async def test_the_state_that_a_server_is_shown_with_may_be_sent_along(api: Service) -> None:
    older = {**GPU, "status": "online", "lastHeartbeat": "2024-01-02T03:04:05Z", "activeTasks": 3, "metrics": {}}
    assert (await api.admin.post("/api/servers", older)).status == 200
    await api.admin.call(
        "PATCH", "/api/servers/gpu-1",
        {"removeAfter": 9, "overflow": {"waiting": 3}, "healthExpect": {"status": [200, 204]}, "authHeader": "X-Key",
         "dialect": "taskstream", "model": None},
    )  # fmt: skip

    shown = (await api.admin.get("/api/servers/gpu-1")).body
    again = await api.admin.post("/api/servers", shown)

    assert (again.status, again["reset"]) == (200, [])
    after = (await api.admin.get("/api/servers/gpu-1")).body
    assert {**after, "registeredAt": "", "statusSince": ""} == {**shown, "registeredAt": "", "statusSince": ""}


async def test_a_replacement_says_which_settings_it_reset(api: Service) -> None:
    more = {"maxConcurrent": 3, "labels": {"gpu": "a100"}, "apiKey": KEY, "removeAfter": None, "weight": 2}
    await api.admin.post("/api/servers", {**GPU, **more})

    answer = await api.admin.post(
        "/api/servers", {**GPU, "endpoints": {"predict": "http://127.0.0.1:9/p"}, "weight": 1}
    )

    assert answer["reset"] == ["apiKey", "labels", "maxConcurrent", "removeAfter", "endpoints.health"]
    assert (await api.admin.post("/api/servers", {**GPU, "weight": 1}))["reset"] == []


async def test_one_setting_is_changed_and_all_others_stay(api: Service) -> None:
    more = {"maxConcurrent": 3, "labels": {"gpu": "a100"}, "apiKey": KEY, "types": ["a"], "async": True}
    await api.admin.post("/api/servers", {**GPU, **more})
    before = (await api.admin.get("/api/servers/gpu-1")).body

    for change, shown in [
        ({"weight": 7}, {"weight": 7}),
        ({"endpoints": {"health": None}}, {"endpoints": {**GPU["endpoints"], "health": None}}),
        ({"endpoints": {"health": GPU["endpoints"]["health"]}}, {"endpoints": GPU["endpoints"]}),
        ({"async": False}, {"async": False}),
        ({"types": []}, {"types": []}),
        ({"removeAfter": 60}, {"removeAfter": 60}),
        ({"removeAfter": None}, {"removeAfter": None}),
        ({"busyStatus": []}, {"busyStatus": []}),
        ({"busyStatus": None}, {"busyStatus": [429, 503]}),
        ({"healthExpect": {"json": {"$.ok": True}}}, {"healthExpect": {"json": {"$.ok": True}}}),
        ({"healthExpect": None}, {"healthExpect": None}),
        ({"authHeader": "X-API-Key"}, {"authHeader": "X-API-Key"}),
        ({"dialect": "taskstream"}, {"dialect": "taskstream"}),
        ({"dialect": None}, {"dialect": None}),
        ({"apiKey": None, "authHeader": None}, {"hasApiKey": False, "authHeader": None}),
        ({}, {}),
    ]:
        answer = await api.admin.call("PATCH", "/api/servers/gpu-1", change)
        assert answer.status == 200, (change, answer)
        before |= shown
        volatile = {name: answer[name] for name in ("registeredAt", "statusSince", "statusReason", "offlineSince")}
        assert answer.body == before | volatile, change


async def test_a_change_that_is_wrong_is_refused_by_its_path_and_changes_nothing(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    before = (await api.admin.get("/api/servers/gpu-1")).body

    for body, path in [
        ({"id": "gpu-2"}, "$.id"),
        ({"name": None}, "$.name"),
        ({"maxConcurent": 3}, "$.maxConcurent"),
        ({"endpoints": {"predict": None}}, "$.endpoints.predict"),
        ({"endpoints": {"predict": "ftp://a/"}}, "$.endpoints.predict"),
        ({"apiKey": ""}, "$.apiKey"),
        ({"dialect": "corba"}, "$.dialect"),
        ({"apiKey": "k", "weight": 0}, "$.weight"),
    ]:
        assert await api.admin.refusal("PATCH", "/api/servers/gpu-1", body) == (400, path), body
    assert (await api.admin.get("/api/servers/gpu-1")).body == before
    assert (await api.admin.call("PATCH", "/api/servers/nope", {"apiKey": KEY})).status == 404
    assert await api.container.buckets.secrets.scan("server.nope.*") == []


async def test_changes_at_once_are_all_kept(api: Service) -> None:
    await api.admin.post("/api/servers", GPU)
    changes = [{"weight": 7}, {"maxConcurrent": 3}, {"labels": {"a": "b"}}, {"apiKey": KEY}, {"apiKey": KEY + "2"}]

    answers = await asyncio.gather(*(api.admin.call("PATCH", "/api/servers/gpu-1", change) for change in changes))

    assert [answer.status for answer in answers] == [200] * 5
    found = (await api.admin.get("/api/servers/gpu-1")).body
    assert (found["weight"], found["maxConcurrent"], found["labels"], found["hasApiKey"]) == (7, 3, {"a": "b"}, True)
    assert len(await api.container.buckets.secrets.scan("server.gpu-1.*")) == 1


async def test_a_wrong_registration_is_refused_by_its_path(api: Service) -> None:
    for body, path in WRONG_BODIES:
        assert await api.admin.refusal("POST", "/api/servers", body) == (400, path), body
    assert (await api.admin.get("/api/servers"))["servers"] == []


async def test_other_wrong_bodies_are_refused_by_their_path(api: Service) -> None:
    await api.admin.post("/api/servers", GPU)
    for call, body, path in [
        ("gpu-1/heartbeat", {"activeTasks": -1}, "$.activeTasks"),
        ("gpu-1/heartbeat", {"metrics": []}, "$.metrics"),
        ("gpu-1/maintenance", {}, "$.maintenance"),
        ("gpu-1/maintenance", {"maintenance": "on"}, "$.maintenance"),
        ("cleanup", {"maxAgeMins": -1}, "$.maxAgeMins"),
        ("cleanup", {"maxAge": 1}, "$.maxAge"),
    ]:
        assert await api.admin.refusal("POST", f"/api/servers/{call}", body) == (400, path), (call, body)


async def test_ids_of_any_script_work_in_paths(api: Service) -> None:
    for server_id in ("Größe 1", "服务器", "a.b", "*", ">", "a=2Eb", "😀"):
        assert (await api.admin.post("/api/servers", {**GPU, "id": server_id})).status == 200
        assert (await api.admin.get(f"/api/servers/{server_id}"))["id"] == server_id
        assert (await api.admin.delete(f"/api/servers/{server_id}"))["id"] == server_id
        assert (await api.admin.get("/api/servers"))["servers"] == []


@pytest.fixture
async def guarded(nats_url: str) -> AsyncIterator[Service]:
    """An API that does not take private backends."""
    async with running_service(nats_url, worker=False, allow_private_backends=False) as service:
        yield service


async def test_private_addresses_are_refused_unless_allowed(guarded: Service) -> None:
    for host in (
        "127.0.0.1", "127.0.0.1:8080", "[::1]", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254",
        "0.0.0.0", "[fd00::1]", "[fe80::1]", "[::ffff:127.0.0.1]", "224.0.0.1", "localhost", "127.1", "2130706433",
        "①②⑦.⓪.⓪.①",
    ):  # fmt: skip
        for name in ("predict", "health"):
            endpoints = {"predict": "http://93.184.215.14/", "health": "http://93.184.215.14/", name: f"http://{host}/"}
            refused = await guarded.admin.refusal("POST", "/api/servers", {**GPU, "endpoints": endpoints})
            assert refused == (400, f"$.endpoints.{name}"), host
    assert (await guarded.admin.get("/api/servers"))["servers"] == []


async def test_an_api_key_reaches_the_backend_and_is_shown_nowhere(
    nats: NatsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_service(nats.url, log_level="debug") as service, BackendServer() as backend:
        admin = service.admin
        registered = await admin.post("/api/servers", backend.registration("gpu-1", apiKey=KEY))
        await admin.server_is("gpu-1", "online")
        task_id = await service.alice.submit({"a": 1})
        await service.alice.ended(task_id)
        shown = [
            registered,
            await admin.get("/api/servers"),
            await admin.get("/api/servers/gpu-1"),
            await admin.post("/api/servers", {**GPU, "apiKey": KEY, "weight": "wrong"}),
            await admin.post("/api/servers", {**GPU, "apiKey": KEY, "endpoints": {"predict": "nonsense"}}),
            await admin.post("/api/servers", {**GPU, "apiKey": [KEY]}),
            await admin.get(f"/api/task/{task_id}/events"),
            await admin.get("/metrics"),
            await admin.get("/health/ready"),
        ]

        assert backend.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert (await admin.get("/api/servers/gpu-1"))["hasApiKey"] is True
        assert all(KEY not in repr(answer) for answer in shown)
    files = [path for path in nats.folder.rglob("*") if path.is_file()]
    assert any(b"gpu-1" in path.read_bytes() for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    output = capfd.readouterr()
    assert "container.ready" in output.out + output.err
    assert KEY not in output.out + output.err


async def test_a_sealed_key_is_kept_replaced_and_removed_with_its_registration(api: Service) -> None:
    async def key_ids() -> list[str]:
        return [entry.key for entry in await api.container.buckets.secrets.scan("server.gpu-1.*")]

    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    [first] = await key_ids()
    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    assert await key_ids() == [first]

    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY + "2"})
    [second] = await key_ids()
    assert second != first

    await api.admin.post("/api/servers", GPU)
    assert await key_ids() == []

    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    assert len(await key_ids()) == 1
    await api.admin.delete("/api/servers/gpu-1")
    assert await key_ids() == []


async def test_a_key_sent_again_while_another_request_replaces_it_is_not_lost(api: Service) -> None:
    """The same key is sealed once. Another request that replaces it destroys it; the first must seal it again."""
    secrets = api.container.secrets
    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    put = secrets.put
    replacements = iter([KEY + "2", None])

    async def put_and_lose_the_race(*arguments: Any) -> str:
        found = await put(*arguments)
        if arguments[1] == KEY and (other := next(replacements, "")) != "":
            await api.admin.done("PATCH", "/api/servers/gpu-1", {"apiKey": other})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "put", put_and_lose_the_race)
        await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})

    [entry] = await api.container.buckets.secrets.scan("server.gpu-1.*")
    assert await secrets.get("gpu-1", entry.key.rpartition(".")[2]) == KEY
    assert (await api.admin.get("/api/servers/gpu-1")).body["hasApiKey"] is True


# Removal and return


async def test_a_server_that_cleanup_removed_comes_back_as_it_was_with_a_heartbeat(api: Service) -> None:
    more = {"labels": {"gpu": "a100"}, "maxConcurrent": 3, "apiKey": KEY, "authHeader": "X-Key"}
    await api.admin.post("/api/servers", {**GPU, **more})
    await api.admin.post("/api/servers/gpu-1/maintenance", {"maintenance": True, "reason": "new driver"})
    before = (await api.admin.get("/api/servers/gpu-1")).body
    await api.admin.post("/api/servers/cleanup", {"maxAgeMins": 0})

    assert (await api.admin.get("/api/servers"))["servers"] == []
    for method, path in (("GET", ""), ("POST", "/maintenance"), ("PATCH", "")):
        assert (await api.admin.call(method, f"/api/servers/gpu-1{path}", {"maintenance": True})).status in (400, 404)
    (listed,) = (await api.admin.get("/api/servers?removed=true"))["servers"]
    assert {**listed, "removed": None} == before
    info = listed["removed"]
    assert is_recent(info.pop("since"))
    assert info == {
        "reason": "offline for more than 0 min", "by": {"kind": "user", "id": "root"}, "returns": True,
        "restorable": True, "lastCheck": None, "lastCheckReason": None, "nextCheck": None,
    }  # fmt: skip

    heartbeat = await api.admin.post("/api/servers/gpu-1/heartbeat", {})

    assert (heartbeat.status, heartbeat["success"]) == (200, True)
    after = (await api.admin.get("/api/servers/gpu-1")).body
    moving = ("statusSince", "offlineSince", "lastHeartbeat")
    assert {k: v for k, v in after.items() if k not in moving} == {k: v for k, v in before.items() if k not in moving}
    assert (await api.admin.get("/api/servers?removed=true"))["servers"] == []
    assert len(await api.container.buckets.secrets.scan("server.gpu-1.*")) == 1


async def test_a_removal_by_an_admin_is_undone_by_an_admin_only(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "weight": 3, "endpoints": {"predict": "http://127.0.0.1:9/"}})
    await api.admin.delete("/api/servers/gpu-1")

    assert (await api.admin.post("/api/servers/gpu-1/heartbeat")).status == 404
    (listed,) = (await api.admin.get("/api/servers?removed=true"))["servers"]
    restored = await api.admin.post("/api/servers/gpu-1/restore")

    assert (listed["removed"]["returns"], listed["removed"]["restorable"]) == (False, True)
    assert listed["removed"]["reason"] == "removed by root"
    assert (restored.status, restored["weight"], restored["removed"]) == (200, 3, None)
    assert (await api.admin.post("/api/servers/gpu-1/restore")).status == 200
    assert (await api.alice.post("/api/servers/gpu-1/restore")).status == 403


async def test_a_restore_says_that_a_destroyed_key_must_be_given_again(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    await api.admin.delete("/api/servers/gpu-1")
    (listed,) = (await api.admin.get("/api/servers?removed=true"))["servers"]

    refused = await api.admin.post("/api/servers/gpu-1/restore")
    wrong = await api.admin.refusal("POST", "/api/servers/gpu-1/restore", {"apikey": KEY})
    restored = await api.admin.post("/api/servers/gpu-1/restore", {"apiKey": KEY})
    other = await api.admin.post("/api/servers/gpu-1/restore", {"apiKey": KEY + "2"})

    assert listed["removed"]["restorable"] is False
    assert (refused.status, "send `apiKey`" in refused["error"]) == (409, True)
    assert wrong == (400, "$.apikey")
    assert (restored.status, restored["hasApiKey"]) == (200, True)
    assert (other.status, "PATCH" in other["error"]) == (409, True)
    await api.admin.delete("/api/servers/gpu-1")
    assert (await api.admin.post("/api/servers/gpu-1/restore", {"apiKey": None}))["hasApiKey"] is False
    assert await api.container.buckets.secrets.scan("server.gpu-1.*") == []


async def test_an_admin_makes_an_automatic_removal_final(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY})
    await api.admin.post("/api/servers/cleanup", {"maxAgeMins": 0})

    assert (await api.admin.delete("/api/servers/gpu-1")).status == 200

    assert (await api.admin.post("/api/servers/gpu-1/heartbeat")).status == 404
    assert await api.container.buckets.secrets.scan("server.gpu-1.*") == []


async def test_a_registration_replaces_a_removed_server_and_its_key(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "apiKey": KEY, "weight": 3})
    await api.admin.post("/api/servers/cleanup", {"maxAgeMins": 0})

    answer = await api.admin.post("/api/servers", GPU)

    assert answer["reset"] == ["apiKey", "weight"]
    assert (await api.admin.get("/api/servers?removed=true"))["servers"] == []
    assert await api.container.buckets.secrets.scan("server.gpu-1.*") == []


async def test_a_removal_and_a_return_are_in_log_and_metrics_with_the_reason(api: Service) -> None:
    async def counted() -> dict[str, float]:
        lines = str((await api.admin.get("/metrics")).body).splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith("taskstream_servers_re"))
        return {name: float(value) for name, _, value in found if "_created" not in name}

    await api.admin.post("/api/servers", GPU)
    before = await counted()
    with capture_logs() as logged:
        await api.admin.post("/api/servers/cleanup", {"maxAgeMins": 0})
        await api.admin.post("/api/servers/gpu-1/restore")
        await api.admin.delete("/api/servers/gpu-1")
    after = await counted()

    said = [(line["event"], line["reason"]) for line in logged if str(line["event"]).startswith("server.")]
    assert said == [
        ("server.removed", "offline for more than 0 min"),
        ("server.restored", "restored by root"),
        ("server.removed", "removed by root"),
    ]
    assert all(line["log_level"] == "warning" for line in logged if str(line["event"]).startswith("server."))
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert {name: by for name, by in grown.items() if by} == {
        'taskstream_servers_removed_total{reason="cleanup"}': 1,
        'taskstream_servers_removed_total{reason="deleted"}': 1,
        "taskstream_servers_restored_total": 1,
    }


async def test_a_server_that_an_older_version_removed_is_restored_too(api: Service) -> None:
    await api.admin.post("/api/servers", {**GPU, "weight": 3, "apiKey": KEY})
    await api.admin.delete("/api/servers/gpu-1")
    (removed,) = api.container.fleet.removed()
    older = msgspec.json.encode({"sequence": 2, "state": structs.replace(removed, before=None, by=None)})
    api.container.fleet._servers.restore("gpu-1", older)

    (listed,) = (await api.admin.get("/api/servers?removed=true"))["servers"]
    refused = await api.admin.post("/api/servers/gpu-1/restore")
    restored = await api.admin.post("/api/servers/gpu-1/restore", {"apiKey": KEY})

    assert (listed["weight"], listed["removed"]["restorable"], refused.status) == (3, False, 409)
    assert (restored.status, restored["weight"], restored["hasApiKey"]) == (200, 3, True)
    assert [server["id"] for server in (await api.admin.get("/api/servers"))["servers"]] == ["gpu-1"]


async def test_active_tasks_are_those_that_the_service_runs_there(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "gpu-1")
    await service.admin.post("/api/servers/gpu-1/heartbeat", {"activeTasks": 7})
    for number in range(2):
        await service.alice.submit({"payload": number})

    shown = await service.admin.until("/api/servers/gpu-1", lambda server: server["activeTasks"] == 2, "two tasks")

    assert shown["reportedActiveTasks"] == 7
    (listed,) = (await service.admin.get("/api/servers"))["servers"]
    assert (listed["activeTasks"], listed["reportedActiveTasks"]) == (2, 7)
