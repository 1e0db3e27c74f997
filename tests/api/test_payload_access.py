"""Payloads and results of other users' tasks: who reads them, and every route that shows them.

A route that is new must be in one of the tables here: each is called for things of alice that have a mark in all
their bodies.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, NamedTuple

import pytest

from taskstream.api.auth.access import WITHHELD
from testkit.backend import BackendServer
from testkit.nats import NatsServer
from testkit.queue_surface import MODEL
from testkit.receiver import HookReceiver
from testkit.service import SECRET, Client, Service, running_service
from tests.api.test_access import signed
from tests.api.test_websocket import ask, connected, next_message

MARK = "the-mark-of-alice"
LAST = "zz-last"
"""Type of the last task, whose name ends the reading of a stream."""

SHOWING = {
    "/api/task/{task_id}",
    "/api/task/{task_id}/payload",
    "/api/task/{task_id}/result",
    "/api/task/{task_id}/events",
    "/api/task/{task_id}/stream",
    "/api/tasks/stream",
    "/api/batches/{batch_id}/tasks",
    "/api/batches/{batch_id}/stream",
    "/api/schedules/{schedule_id}",
    "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/body",
    "/api/queue/tasks/{task_id}",
    "/api/operations",
    "/api/operations/{operation_id}",
    "/api/files/{file_id}",
}
"""Every GET that shows payloads or results. One that is added here must withhold them: see `reads_bodies`."""
OWN = {"/api/queue/tasks", "/api/active-tasks"}
"""Those of the caller's own tasks only."""
REFUSED = {
    "/api/task/{task_id}/payload",
    "/api/task/{task_id}/result",
    "/api/batches/{batch_id}/tasks",
    "/api/webhooks/{webhook_id}/deliveries/{delivery_id}/body",
    "/api/files/{file_id}",
}
"""Those of them that are a 403; the others answer without bodies."""
HAS_NONE = {
    "/api/task/{task_id}/result/file": "files come from servers; the check is that of the result",
    "/api/task/{task_id}/result/file/{number}": "likewise",
    "/api/live": "only what changes from now on: see test_live_topics_show_no_bodies_of_others",
    "/api/events": "the caller's own tasks only, without an end",
}
"""Routes that are not called, with the reason."""


class Told(NamedTuple):
    """Things of alice, each with the mark in its bodies."""

    ids: dict[str, str]
    """By parameter of a path."""
    queue_task: str
    after: str
    """Id of the log before all of them."""


def bearer(subject: str, *roles: str, **claims: Any) -> str:
    return signed(SECRET, sub=subject, roles=list(roles), exp=int(time.time()) + 600, **claims)


async def first_id(client: Client) -> str:
    """Return the id of the present end of the log."""
    async with (
        asyncio.timeout(20),
        client.session.get(
            f"{client.url}/api/tasks/stream", headers={"Authorization": f"Bearer {client.bearer}"}
        ) as response,
    ):
        async for line in response.content:
            if line.startswith(b"id: "):
                return line.removeprefix(b"id: ").decode().strip()
    raise AssertionError("a stream without an id")


async def text_of(client: Client, path: str) -> tuple[int, str]:
    """Return the answer to a GET; of a stream, up to the mention of LAST."""
    async with (
        asyncio.timeout(20),
        client.session.get(client.url + path, headers={"Authorization": f"Bearer {client.bearer}"}) as response,
    ):
        found = ""
        async for line in response.content:
            found += line.decode()
            if "event-stream" in response.headers.get("Content-Type", "") and LAST in found:
                break
        return response.status, found


def update(status: str, **fields: Any) -> dict[str, Any]:
    metadata = {"server_id": "s", "status": status, "progress": 100 if status == "FINISHED" else 50, "message": None}
    return {"data": {"text": MARK}, "metadata": {**metadata, **fields}}


async def tell(service: Service, receiver: HookReceiver) -> Told:
    """Have alice make one of everything."""
    after = await first_id(service.admin)
    alice = service.alice
    await service.admin.done("PUT", "/api/types/marked", {"indexed": ["$.customer"]})
    hook = (await alice.done("POST", "/api/webhooks", {"url": receiver.url, "events": ["ended"]}))["webhook"]["id"]
    task = await alice.submit({"type": "marked", "payload": {"customer": MARK}})
    await alice.done(
        "PUT", f"/api/task/{task}", update("PROCESSING", custom_data={"part": MARK}, output=MARK, log=MARK)
    )
    await alice.done("PUT", f"/api/task/{task}", update("FINISHED"))
    batch = await alice.done("POST", "/api/tasks/batch", [{"type": "marked", "payload": {"customer": MARK}}])
    await alice.done("PUT", f"/api/task/{batch['taskIds'][0]}", update("FINISHED"))
    schedule = await alice.done(
        "POST", "/api/schedules", {"name": "s", "cron": "0 0 1 1 *", "task": {"payload": {"text": MARK}}}
    )
    queued = await alice.done("POST", "/api/projects/novel/queue-outline", {"customPrompt": MARK}, headers=MODEL)
    path = f"/api/webhooks/{hook}/deliveries?status=delivered"
    deliveries = (await alice.until(path, lambda it: it["deliveries"], "a delivery"))["deliveries"]
    operation = await alice.done(
        "POST", "/api/operations", {"action": "retry", "filter": {"payload": {"customer": MARK}}}
    )
    file = await alice.done("POST", "/api/files", MARK.encode())
    await alice.submit({"type": LAST, "payload": 1})
    ids = {
        "task_id": task,
        "batch_id": batch["batchId"],
        "schedule_id": schedule["id"],
        "webhook_id": hook,
        "delivery_id": deliveries[0]["id"],
        "operation_id": operation["id"],
        "file_id": file["id"],
        "key_id": (await alice.done("POST", "/api/keys", {"name": "a key", "roles": ["user"]}))["details"]["id"],
        "server_id": "gpu-1",
        "name": "marked",
        "owner": "alice",
        "number": "0",
    }
    return Told(ids, queued["taskId"], after)


async def answers(client: Client, told: Told) -> dict[str, tuple[int, str]]:
    """Return the answer to every documented GET."""
    document = (await client.done("GET", "/openapi.json"))["paths"]
    queries = {
        "/api/batches/{batch_id}/tasks": "?results=true",
        "/api/tasks/stream": f"?after={told.after}",
        "/api/batches/{batch_id}/stream": f"?after={told.after}",
    }
    found = {}
    for path, operations in document.items():
        if not path.startswith("/api/") or "get" not in operations or path in HAS_NONE:
            continue
        ids = told.ids | ({"task_id": told.queue_task} if path.startswith("/api/queue") else {})
        named = re.sub(r"\{(\w+)\}", lambda each, ids=ids: ids[each[1]], path)
        found[path] = await text_of(client, named + queries.get(path, ""))
    return found


@pytest.fixture
async def told(service: Service, backend: BackendServer) -> Told:
    await service.admin.done("POST", "/api/servers", backend.registration("gpu-1", types=["nothing"]))
    async with HookReceiver() as receiver:
        return await tell(service, receiver)


async def test_every_route_that_shows_bodies_is_listed_and_withholds_them(service: Service, told: Told) -> None:
    shown = await answers(service.admin, told)
    failed = {path: status for path, (status, _) in shown.items() if status != 200}
    assert failed.keys() <= {"/api/projects/{name}/active-task"}, failed
    assert {path for path, (_, text) in shown.items() if MARK in text} == SHOWING

    for role in ("admin", "auditor"):
        withheld = await answers(service.bearing(bearer("eve", role, payloads=False)), told)
        assert {path for path, (_, text) in withheld.items() if MARK in text} == set()
        assert {path for path, (status, _) in withheld.items() if status == 403 and shown[path][0] == 200} >= REFUSED
        for path in SHOWING - REFUSED:
            assert withheld[path][0] == 200, path


async def test_what_is_withheld_is_said(service: Service, told: Told) -> None:
    client = service.bearing(bearer("eve", "auditor", payloads=False))
    task, batch = told.ids["task_id"], told.ids["batch_id"]

    details = (await client.done("GET", f"/api/task/{task}"))["taskDetails"]
    assert (details["request"], details["result"], details["withheld"]) == (None, None, WITHHELD)
    for path in (f"/api/task/{task}/payload", f"/api/batches/{batch}/tasks?results=true"):
        answer = await client.get(path)
        assert (answer.status, answer["detail"]) == (403, WITHHELD)
    assert "withheld" not in (await service.alice.done("GET", f"/api/task/{task}"))["taskDetails"]
    assert (await client.done("GET", f"/api/task/{task}?bodies=false"))["taskDetails"]["requestBytes"] > 20
    events = (await client.done("GET", f"/api/task/{task}/events"))["events"]
    assert events == (await client.done("GET", f"/api/task/{task}/events?bodies=false"))["events"]
    schedule = await client.done("GET", f"/api/schedules/{told.ids['schedule_id']}")
    assert (schedule["task"], schedule["withheld"]) == ({}, WITHHELD)


async def test_a_stream_tells_the_sizes_of_withheld_bodies(service: Service, told: Told) -> None:
    client = service.bearing(bearer("eve", "admin", payloads=False))
    _, text = await text_of(client, f"/api/tasks/stream?after={told.after}")

    sent = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    submitted = next(each for each in sent if each["type"] == "TaskSubmitted")
    assert submitted["sizes"] == {"payload": len(json.dumps({"customer": MARK})), "indexed": len(MARK)}
    assert submitted["event"].keys().isdisjoint({"payload", "indexed", "fingerprint"})
    assert submitted["event"]["type"] == "TaskSubmitted"


async def test_live_topics_show_no_bodies_of_others(service: Service, told: Told) -> None:
    restricted = bearer("eve", "admin", payloads=False)
    task = await service.alice.submit({"type": "marked", "payload": {"customer": MARK}})
    query = f"?topic=task:{task}&topic=log:&topic=tasks:type=marked"
    seen = ""
    async with (
        asyncio.timeout(60),
        service.admin.session.get(
            f"{service.url}/api/live{query}", headers={"Authorization": f"Bearer {restricted}"}
        ) as response,
    ):
        assert response.status == 200, await response.text()
        has_reported = False
        async for line in response.content:
            seen += line.decode()
            if not has_reported:
                has_reported = True
                await service.alice.done("PUT", f"/api/task/{task}", update("PROCESSING", output=MARK))
                await service.alice.done("PUT", f"/api/task/{task}", update("FINISHED"))
            if "TaskSucceeded" in seen and "FINISHED" in seen:
                break
    assert MARK not in seen


async def test_a_websocket_withholds_bodies_and_takes_no_token_that_reads_less(service: Service, told: Told) -> None:
    restricted = service.bearing(bearer("eve", "admin", payloads=False))
    async with connected(restricted) as socket:
        await ask(socket, type="subscribe", task=told.ids["task_id"])
        state = await next_message(socket)
        assert (state["task"]["request"], state["task"]["withheld"]) == (None, WITHHELD)
        await ask(socket, type="subscribe", all=True, after=told.after)
        seen = ""
        while LAST not in seen:
            seen += json.dumps(await next_message(socket))
        assert MARK not in seen
    async with connected(service.bearing(bearer("eve", "admin"))) as socket:
        answer = await ask(socket, type="token", token=bearer("eve", "admin", payloads=False))
        assert answer["type"] == "error"
        assert "payloads" in answer["error"]


async def test_a_stream_token_reads_what_its_jwt_reads(service: Service, told: Told) -> None:
    path = f"/api/task/{told.ids['task_id']}/stream"
    for claims, is_shown in (({}, True), ({"payloads": False}, False)):
        made = await service.bearing(bearer("eve", "auditor", **claims)).done("POST", "/api/stream-tokens")
        async with service.anonymous.session.get(f"{service.url}{path}?token={made['token']}") as response:
            assert (MARK in await response.text()) is is_shown


async def test_a_command_to_anothers_task_shows_no_bodies(service: Service, told: Told) -> None:
    client = service.bearing(bearer("eve", "admin", payloads=False))
    task = await service.alice.submit({"type": "marked", "payload": {"customer": MARK}})
    schedule = f"/api/schedules/{told.ids['schedule_id']}"

    for method, path, body in [
        ("POST", f"/api/task/{task}/cancel", None),
        ("POST", f"/api/task/{task}/retry", None),
        ("PUT", f"/api/task/{task}", update("PROCESSING")),
        ("PATCH", schedule, {"description": "d"}),
        ("POST", f"{schedule}/pause", None),
        ("POST", f"{schedule}/resume", None),
    ]:
        answer = await client.done(method, path, body)
        assert MARK not in str(answer), path
        assert WITHHELD in str(answer), path


async def test_a_filter_by_a_payload_of_others_needs_the_permission(service: Service, told: Told) -> None:
    """Which tasks have a value shows the value."""
    query = f"payload.customer={MARK}"
    restricted = service.bearing(bearer("eve", "admin", payloads=False))
    assert len((await service.admin.done("GET", f"/api/tasks?{query}"))["tasks"]) == 2
    for path in (
        f"/api/tasks?{query}",
        f"/api/tasks?{query}&owner=alice",
        f"/api/tasks/count?{query}",
        f"/api/dead-letters?{query}",
    ):
        answer = await restricted.get(path)
        assert (answer.status, answer.body.get("detail")) == (403, WITHHELD), path
    body = {"filter": {"payload": {"customer": MARK}, "owner": "*"}, "dryRun": True}
    assert (await restricted.post("/api/tasks/cancel", body)).status == 403
    assert (await restricted.get(f"/api/tasks?{query}&owner=eve")).status == 200
    own = service.bearing(bearer("alice", "user", payloads=False))
    assert len((await own.done("GET", f"/api/tasks?{query}"))["tasks"]) == 2


async def test_an_admin_without_the_permission_sends_no_results_elsewhere(service: Service, told: Told) -> None:
    path = f"/api/webhooks/{told.ids['webhook_id']}"
    restricted = service.bearing(bearer("eve", "admin", payloads=False))
    webhook = await restricted.done("GET", path)
    elsewhere = {"url": "http://127.0.0.1:1/mine"}

    assert (await restricted.call("PATCH", path, elsewhere)).status == 403
    assert (await restricted.done("PATCH", path, {"url": webhook["url"], "description": "d"}))["description"] == "d"
    assert (await service.admin.done("PATCH", path, elsewhere))["url"] == elsewhere["url"]


async def test_ones_own_bodies_are_always_readable(service: Service, told: Told) -> None:
    shown = await answers(service.bearing(bearer("alice", "user", payloads=False)), told)

    assert {path for path, (_, text) in shown.items() if MARK in text} == SHOWING | OWN


async def test_an_admin_takes_attempts_of_pullers_only_with_the_permission(service: Service) -> None:
    await service.admin.done("POST", "/api/servers", {"id": "p", "name": "p", "provider": "p", "mode": "pull"})
    restricted = service.bearing(bearer("eve", "admin", payloads=False))

    assert (await restricted.post("/api/attempts/take", {"server": "p", "wait": 0})).status == 403
    assert (await service.admin.post("/api/attempts/take", {"server": "p", "wait": 0})).status == 200
    puller = service.bearing(bearer("p", "service", payloads=False))
    assert (await puller.post("/api/attempts/take", {"server": "p", "wait": 0})).status == 200


async def test_where_payloads_are_granted_only_the_claim_opens_them(nats: NatsServer) -> None:
    async with running_service(nats.url, payload_access="granted", worker=False) as service:
        task = await service.alice.submit({"payload": {"text": MARK}})
        for roles in (["admin"], ["auditor"], ["service"]):
            for claims, is_shown in (({}, False), ({"payloads": False}, False), ({"payloads": True}, True)):
                client = service.bearing(bearer("eve", *roles, **claims))
                details = (await client.done("GET", f"/api/task/{task}"))["taskDetails"]
                assert (details["request"] == {"text": MARK}) is is_shown, (roles, claims)
                status = (await client.get(f"/api/task/{task}/payload")).status
                assert status == (200 if is_shown else 403), (roles, claims)
                may = (await client.done("GET", "/api/me"))["may"]["readPayloads"]
                assert may is (is_shown and roles != ["service"]), (roles, claims)
        assert (await service.alice.done("GET", f"/api/task/{task}/payload")) == {"text": MARK}
        assert (await service.bob.get(f"/api/task/{task}/payload")).status == 404
        granted = service.bearing(bearer("bob", "user", payloads=True))
        assert (await granted.get(f"/api/task/{task}/payload")).status == 404  # it opens no task of others


async def test_a_claim_of_another_type_is_no_permission(api: Service) -> None:
    for value in ("true", 1, [True]):
        assert (await api.bearing(bearer("eve", "admin", payloads=value)).get("/api/me")).status == 401
