"""Limits on open streams: what is over them is refused with what to do, nothing leaks, and others are well served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from taskstream.errors import StoreUnavailable
from testkit.service import Service, running_service
from testkit.sse import opened, received
from testkit.waiting import wait_until

USER_STREAMS = 6
MAX_STREAMS = 10


@pytest.fixture
async def limited(nats_url: str) -> AsyncIterator[Service]:
    """An API with few places; it gives all of them back at the end of each test."""
    settings = {"user_streams": USER_STREAMS, "max_streams": MAX_STREAMS}
    async with running_service(nats_url, worker=False, **settings) as service:
        yield service
        await given_back(service)


async def given_back(service: Service) -> None:
    await wait_until(lambda: not len(service.container.open_streams), "every place to be given back")
    await wait_until(lambda: not service.container.feeds.hub.listeners, "every listener to be gone")


async def is_served(service: Service) -> None:
    """Submit and read as bob."""
    task_id = await service.bob.submit({"payload": 1})
    assert (await service.bob.details(task_id))["status"] == "WAITING"
    assert (await service.bob.get("/api/tasks")).status == 200


def authorization(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.alice.bearer}"}


async def test_streams_over_a_users_limit_are_refused_and_others_are_served(limited: Service) -> None:
    """As with 1,500 streams of one user: the limit is what counts."""
    task_id = await limited.alice.submit({"payload": 1})
    paths = ["/api/tasks/stream", f"/api/task/{task_id}/stream"]
    async with contextlib.AsyncExitStack() as stack:
        tries = [
            await stack.enter_async_context(opened(limited.alice, paths[number % 2]))
            for number in range(5 * USER_STREAMS)
        ]
        statuses = [stream.response.status for stream in tries]
        assert statuses == [200] * USER_STREAMS + [429] * (4 * USER_STREAMS)
        refused = tries[-1].response
        assert refused.headers["RateLimit-Policy"] == f'"streams";q={USER_STREAMS}'
        assert refused.headers["RateLimit"] == '"streams";r=0;t=5'
        assert refused.headers["Retry-After"] == "5"
        problem = await refused.json(content_type=None)
        assert problem["violated-policies"] == ["streams"]
        assert "/api/tasks/stream" in problem["detail"]
        await is_served(limited)
        async with opened(limited.bob, "/api/tasks/stream") as stream:
            assert (await received(stream, 1))[0].type == "state"
        page = (await limited.alice.get("/metrics")).body
        assert f"taskstream_streams_open {float(USER_STREAMS)}" in page or "taskstream_streams_open 7.0" in page


async def test_over_the_limit_of_the_process_streams_are_a_503_and_all_else_goes_on(limited: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for user in (limited.alice, limited.alice, limited.admin, limited.auditor) * 3:
            stream = await stack.enter_async_context(opened(user, "/api/tasks/stream"))
        assert stream.response.status == 503
        assert "Retry-After" in stream.response.headers
        async with opened(limited.bob, "/api/tasks/stream") as stream:
            assert stream.response.status == 503
        await is_served(limited)


async def test_over_the_limit_of_the_process_sockets_are_closed_with_1013(limited: Service) -> None:
    url, headers = f"{limited.bob.url}/ws", {"Authorization": f"Bearer {limited.bob.bearer}"}
    async with contextlib.AsyncExitStack() as stack:
        socket = await stack.enter_async_context(limited.bob.session.ws_connect(url, headers=headers))
        for user in (limited.alice, limited.admin, limited.auditor) * 3:
            await stack.enter_async_context(opened(user, "/api/tasks/stream"))

        await socket.send_json({"type": "subscribe", "all": True})
        answer = await socket.receive_json(timeout=30)
        assert (answer["type"], "Retry-After" in answer["error"]) == ("error", False)  # a socket has no headers

        other = await stack.enter_async_context(limited.bob.session.ws_connect(url, headers=headers))
        message = await other.receive(timeout=30)
        assert (message.type, other.close_code) == (aiohttp.WSMsgType.CLOSE, 1013)
        await is_served(limited)


async def test_a_wait_takes_a_place_and_a_submit_without_one_is_answered_at_once(limited: Service) -> None:
    task_id = await limited.alice.submit({"payload": 1})
    waits = [asyncio.create_task(limited.alice.get(f"/api/task/{task_id}?wait=60")) for _ in range(USER_STREAMS)]
    await wait_until(lambda: limited.container.open_streams.of("alice") == USER_STREAMS, "all to wait")

    assert (await limited.alice.get(f"/api/task/{task_id}?wait=60")).status == 429
    submitted = await limited.alice.post("/api/task", {"payload": 2}, headers={"Prefer": "wait=60"})
    assert (submitted.status, submitted["taskDetails"]["status"]) == (200, "WAITING")

    await limited.alice.post(f"/api/task/{task_id}/cancel")
    assert {answer.status for answer in await asyncio.gather(*waits)} == {200}
    assert (await limited.alice.get(f"/api/task/{task_id}?wait=60")).status == 200  # it has ended: no wait


async def test_sockets_and_subscriptions_over_the_limit_are_refused(limited: Service) -> None:
    ids = [await limited.alice.submit({"payload": number}) for number in range(USER_STREAMS)]
    url, headers = f"{limited.alice.url}/ws", authorization(limited)
    async with contextlib.AsyncExitStack() as stack:
        socket = await stack.enter_async_context(limited.alice.session.ws_connect(url, headers=headers))
        answers = []
        for task_id in ids:
            await socket.send_json({"type": "subscribe", "task": task_id})
        while len(answers) < USER_STREAMS:
            answer = await socket.receive_json(timeout=30)
            answers += [answer["type"]] * (answer["type"] in ("subscribed", "error"))
        assert answers == ["subscribed"] * (USER_STREAMS - 1) + ["error"]

        other = await stack.enter_async_context(limited.alice.session.ws_connect(url, headers=headers))
        message = await other.receive(timeout=30)
        assert (message.type, other.close_code) == (aiohttp.WSMsgType.CLOSE, 4429)

        await socket.send_json({"type": "unsubscribe", "subscription": f"task:{ids[0]}"})
        await wait_until(lambda: limited.container.open_streams.of("alice") == USER_STREAMS - 1, "a place")
        another = await stack.enter_async_context(limited.alice.session.ws_connect(url, headers=headers))
        await another.send_json({"type": "ping"})
        assert (await another.receive_json(timeout=30))["type"] == "pong"
        await is_served(limited)


async def test_no_place_leaks_whatever_a_stream_ends_with(limited: Service) -> None:
    """More rounds than there are places: a leak would be a 429."""
    ended = await limited.alice.submit({"payload": 1})
    await limited.alice.post(f"/api/task/{ended}/cancel")
    headers = authorization(limited)
    host, port = limited.alice.url.removeprefix("http://").split(":")
    request = f"GET /api/tasks/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {limited.alice.bearer}\r\n\r\n"
    for _ in range(2 * USER_STREAMS):
        assert (await limited.alice.get("/api/task/none/stream")).status == 404
        async with opened(limited.alice, f"/api/task/{ended}/stream") as stream:
            assert [sent.type async for sent in stream] == ["state"]
        assert (await limited.alice.get("/api/tasks/stream?event=Nothing")).status == 400
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.encode())  # gone before the first byte
        await writer.drain()
        writer.transport.abort()
        async with limited.alice.session.ws_connect(f"{limited.alice.url}/ws", headers=headers) as socket:
            await socket.send_json({"type": "subscribe", "task": "none"})
            assert (await socket.receive_json(timeout=30))["type"] == "error"
            await socket.send_json({"type": "subscribe", "all": True})
            await socket.send_json({"type": "unsubscribe", "subscription": "all"})
        await given_back(limited)


async def test_a_wait_whose_client_has_gone_gives_its_place_back(limited: Service) -> None:
    """The longest wait is a minute: a client that gives up sooner and asks again would use up its places."""
    task_id = await limited.alice.submit({"payload": 1})
    host, port = limited.alice.url.removeprefix("http://").split(":")
    common = f" HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {limited.alice.bearer}\r\n"
    waits = (
        f"GET /api/task/{task_id}?wait=60{common}\r\n",
        f'POST /api/task{common}Prefer: wait=60\r\nContent-Length: 14\r\n\r\n{{"payload": 1}}',
    )
    for request in waits:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.encode())
        await wait_until(lambda: len(limited.container.open_streams) == 1, "the wait to have a place")
        writer.transport.abort()
        await given_back(limited)


async def test_a_start_that_fails_gives_its_place_back(limited: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(event_id: str | None) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(limited.container.feeds, "start", fails)
    for _ in range(2 * USER_STREAMS):
        assert (await limited.alice.get("/api/tasks/stream")).status == 503
    assert not len(limited.container.open_streams)
