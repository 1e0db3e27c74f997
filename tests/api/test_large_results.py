"""Large results: streamed where they are asked for, links everywhere else, and no burden for other users."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from taskstream.clock import utc_now
from taskstream.events.ids import parse_task_id
from taskstream.streams import objects
from testkit.backend import BackendServer, finished
from testkit.receiver import HookReceiver, register
from testkit.service import Answer, Client, Service, running_service
from testkit.sse import opened
from testkit.waiting import wait_until

DATA = "x" * 300_000
"""Three parts of an object."""


MEGABYTES = 8
"""Of a result that does not fit in the buffers of a client that reads nothing."""


async def large(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Answer with DATA, or as many megabytes as the payload says."""
    size = task["request"].get("megabytes", 0) if isinstance(task["request"], dict) else 0
    return web.json_response(finished(task, "x" * size * 1_000_000 or DATA))


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    """A service that stores every result of these tests as an object."""
    async with running_service(nats_url, inline_result=1_000) as service:
        yield service


async def ended(service: Service, backend: BackendServer, payload: Any = 1) -> tuple[str, dict[str, Any]]:
    """Return a task with a large result, and the event that ended it."""
    backend.answer = large
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": payload})
    await service.alice.ended(task_id)
    return task_id, (await service.alice.recorded(task_id))[-1]


async def raw(client: Client, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    headers = {"Authorization": f"Bearer {client.bearer}", **headers} if client.bearer else headers
    async with client.session.get(client.url + path, headers=headers) as response:
        return response.status, response.headers, await response.read()


async def test_a_large_result_is_in_its_place_and_alone_byte_for_byte(service: Service, backend: BackendServer) -> None:
    task_id, recorded = await ended(service, backend, {"text": '"result":null, "é"'})
    path = f"/api/task/{task_id}"

    status, headers, whole = await raw(service.alice, path)
    _, alone_headers, alone = await raw(service.alice, f"{path}/result")

    details = json.loads(whole)["taskDetails"]
    assert (status, headers["Content-Length"]) == (200, str(len(whole)))
    assert (details["request"], details["result"]["data"]) == ({"text": '"result":null, "é"'}, DATA)
    assert alone_headers["Content-Type"] == "application/json"
    assert int(alone_headers["Content-Length"]) == len(alone) == recorded["event"]["result"]["bytes"]
    assert alone in whole
    assert json.loads(alone) == details["result"]
    for known, of in ((headers, path), (alone_headers, f"{path}/result")):
        again, _, body = await raw(service.alice, of, **{"If-None-Match": known["ETag"]})
        assert (again, body) == (304, b"")
    head = await service.alice.call("HEAD", f"{path}/result")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(alone)))


async def test_a_result_alone_is_for_those_who_may_read_the_task(service: Service, backend: BackendServer) -> None:
    task_id, recorded = await ended(service, backend)
    path = f"/api/task/{task_id}/result"

    for client in (service.alice, service.admin, service.auditor, service.client("worker", "service")):
        assert (await client.get(path)).status == 200
    assert (await service.bob.get(path)).status == 404
    assert (await service.anonymous.get(path)).status == 401
    assert (await service.alice.get(f"{path}?sequence={recorded['sequence']}")).status == 200
    assert (await service.alice.get(f"{path}?sequence={recorded['sequence'] - 1}")).status == 404
    assert (await service.alice.get(f"{path}/file")).status == 404


async def test_a_link_opens_one_result_for_a_time(service: Service, backend: BackendServer) -> None:
    task_id, recorded = await ended(service, backend)
    other_id = await service.alice.submit({"payload": 2})
    await service.alice.ended(other_id)
    links, ref = service.container.links, parse_task_id(task_id)
    until = utc_now() + timedelta(minutes=1)

    def path(until: Any = until) -> str:
        url: str = links.result(ref, recorded["sequence"], 1, until)["$ref"]
        return url.removeprefix(service.url)

    assert (await service.anonymous.done("GET", path()))["data"] == DATA
    expired = path(utc_now() - timedelta(seconds=1))
    token = path().partition("&token=")[2]
    of_a_stream = (await service.alice.done("POST", "/api/stream-tokens"))["token"]
    assert [
        (await service.anonymous.get(wrong)).status
        for wrong in (
            expired,
            path()[:-6],
            f"{path().partition('&')[0]}&token={of_a_stream}",
            path().replace(task_id, other_id),
            path().replace(f"sequence={recorded['sequence']}", "sequence=1"),
            f"/api/task/{task_id}/result/file?token={token}",
            f"/api/task/{task_id}?token={token}",
            f"/api/task/{task_id}/events?token={token}",
            f"/api/task/{task_id}/stream?token={token}",
        )
    ] == [401, 401, 401, 403, 403, 404, 401, 401, 401]


async def test_what_is_pushed_has_a_link_and_no_name_of_an_object(service: Service, backend: BackendServer) -> None:
    """Histories, streams, WebSockets and webhooks."""
    backend.answer = large
    await service.admin.register(backend, "one")
    headers = {"Authorization": f"Bearer {service.alice.bearer}"}
    async with HookReceiver() as receiver:
        await register(service.alice, receiver)
        async with (
            opened(service.alice, "/api/tasks/stream") as stream,
            service.alice.session.ws_connect(f"{service.url}/ws", headers=headers) as web_socket,
        ):
            await web_socket.send_json({"type": "subscribe", "all": True})
            assert (await web_socket.receive_json(timeout=60))["type"] == "subscribed"
            task_id = await service.alice.submit({"payload": 1})
            pushed = [await anext(sent.data async for sent in stream if sent.type == "TaskSucceeded")]
            while pushed[-1]["type"] != "TaskSucceeded" or len(pushed) == 1:
                pushed.append(await web_socket.receive_json(timeout=60))
        pushed.append((await receiver.has(1))[0].body["data"])
    pushed.append((await service.alice.recorded(task_id))[-1])
    async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
        state = (await anext(aiter(stream))).data

    links = [state["task"]["result"], *(one["event"]["result"] for one in pushed if "result" in one.get("event", {}))]
    assert (len(links), links[0].keys()) == (5, {"$ref", "bytes"})
    assert all(link == links[0] for link in links)
    assert "object_name" not in json.dumps([state, pushed])
    assert (await service.alice.done("GET", links[0]["$ref"].removeprefix(service.url)))["data"] == DATA


@contextlib.asynccontextmanager
async def silent(client: Client, path: str) -> AsyncIterator[None]:
    """Ask for a path and read nothing of the answer."""
    host, port = client.url.removeprefix("http://").split(":")
    with socket.socket() as raw_socket:
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw_socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw_socket, (host, int(port)))
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {client.bearer}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(raw_socket, request.encode())
        yield


async def test_reads_of_large_results_do_not_disturb_another_user(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many reads at once, and clients that read nothing: another user reads and submits."""
    monkeypatch.setattr(objects, "HELD_SECONDS", 0.2)
    task_id, _ = await ended(service, backend, {"megabytes": MEGABYTES})
    turns, path = service.container.objects.turns, f"/api/task/{task_id}"
    most = 0

    async def work_of_bob() -> list[Answer]:
        nonlocal most
        answers = []
        for number in range(8):
            answers.append(await service.bob.post("/api/task", {"payload": number}))
            answers.append(await service.bob.get(f"/api/task/{answers[-1]['taskId']}"))
            answers.append(await service.bob.get("/api/tasks"))
            most = max(most, turns.taken)
        return answers

    async with contextlib.AsyncExitStack() as clients:
        for _ in range(4):
            await clients.enter_async_context(silent(service.alice, f"{path}/result"))
        answers, *found = await asyncio.gather(work_of_bob(), *(raw(service.alice, path) for _ in range(8)))

    assert all(answer.status == 200 for answer in answers)
    assert all(status == 200 and len(body) > MEGABYTES * 1_000_000 for status, _, body in found)
    assert 0 < most <= objects.WINDOWS_OF_ONE_USER
    container = service.container
    connections = (container.appending, container.reading, container.consuming, container.storing)
    assert [connection.client.stats["reconnects"] for connection in connections] == [0, 0, 0, 0]
    await wait_until(lambda: turns.taken == 0, "all turns to end")


async def test_more_reads_than_may_wait_are_told_to_come_later(service: Service, backend: BackendServer) -> None:
    task_id, _ = await ended(service, backend)
    turns = service.container.objects.turns
    for _ in range(objects.WINDOWS_OF_ONE_USER):
        await turns.take("alice", 1)
    waiting = [asyncio.create_task(turns.take("alice", 60)) for _ in range(objects.MOST_WAITING)]
    await asyncio.sleep(0)

    refused = await service.alice.get(f"/api/task/{task_id}")
    of_another = await service.admin.get(f"/api/task/{task_id}")

    assert (refused.status, refused.headers["Retry-After"], of_another.status) == (503, "2", 200)
    assert refused["detail"].startswith("too many large results")
    for each in waiting:
        each.cancel()
