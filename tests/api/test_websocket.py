"""WebSocket: subscriptions over one connection, each with the same events as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from testkit.queue_surface import MODEL
from testkit.service import Client, Service, running_service, token
from testkit.waiting import wait_until

Socket = aiohttp.ClientWebSocketResponse


@contextlib.asynccontextmanager
async def connected(client: Client, query: str = "") -> AsyncIterator[Socket]:
    headers = {"Authorization": f"Bearer {client.bearer}"} if client.bearer else {}
    async with client.session.ws_connect(f"{client.url}/ws{query}", headers=headers) as socket:
        yield socket


async def next_message(socket: Socket) -> dict[str, Any]:
    """Return the next message."""
    found: dict[str, Any] = await socket.receive_json(timeout=60)
    return found


async def ask(socket: Socket, **message: Any) -> dict[str, Any]:
    """Send a message and return the answer."""
    await socket.send_json(message)
    return await next_message(socket)


async def subscribed(socket: Socket, **scope: Any) -> None:
    """Subscribe where no task is active: what comes first is the place to resume after."""
    assert (await ask(socket, type="subscribe", **scope))["type"] == "subscribed"
    reached = await next_message(socket)
    assert (reached["type"], reached["id"].count("-")) == ("reached", 1)


async def test_a_subscription_to_a_task_has_its_state_then_its_events_then_an_end(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})
    name = f"task:{task_id}"
    async with connected(api.alice) as socket:
        assert await ask(socket, type="subscribe", task=task_id) == {"type": "subscribed", "subscription": name}
        state = await next_message(socket)
        await api.alice.post(f"/api/task/{task_id}/cancel")
        cancelled, ended = await next_message(socket), await next_message(socket)

    assert (state["type"], state["subscription"], state["task"]["status"]) == ("state", name, "WAITING")
    assert (cancelled["type"], cancelled["subscription"], cancelled["taskId"]) == ("TaskCancelled", name, task_id)
    assert ended == {"type": "ended", "subscription": name}


async def test_a_byte_order_mark_before_a_message_is_no_error(api: Service) -> None:
    async with connected(api.alice) as socket:
        await socket.send_str('\ufeff{"type":"ping"}')
        assert await next_message(socket) == {"type": "pong"}


async def test_a_subscription_to_a_batch_has_its_tasks_their_events_and_its_end(api: Service) -> None:
    answer = await api.alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}])
    name = f"batch:{answer['batchId']}"
    async with connected(api.alice) as socket, connected(api.bob) as bobs:
        assert (await ask(bobs, type="subscribe", batch=answer["batchId"]))["type"] == "error"
        assert await ask(socket, type="subscribe", batch=answer["batchId"]) == {
            "type": "subscribed",
            "subscription": name,
        }
        first = [await next_message(socket) for _ in range(3)]
        await api.alice.submit({"another": "task"})
        await api.alice.post(f"/api/batches/{answer['batchId']}/cancel")
        rest = [await next_message(socket) for _ in range(4)]

        assert [message["type"] for message in first] == ["batch", "state", "state"]
        assert [message["type"] for message in rest] == ["TaskCancelled", "TaskCancelled", "batch", "ended"]
        assert {message["taskId"] for message in rest[:2]} == set(answer["taskIds"])
        assert {message["subscription"] for message in first + rest} == {name}
        assert rest[2]["batch"]["done"] is True

        await ask(socket, type="subscribe", batch=answer["batchId"], after=rest[0]["id"])
        reached, *again = [await next_message(socket) for _ in range(4)]
        assert (reached["type"], reached["id"]) == ("reached", rest[0]["id"])
        assert again == rest[1:]


async def test_a_stopping_process_closes_the_connection_and_reports_no_task_as_ended(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as service, connected(service.alice) as socket:
        await subscribed(socket, all=True)
        task_id = await service.alice.submit({"payload": 1})
        await ask(socket, type="subscribe", task=task_id)
        await wait_until(lambda: service.container.feeds.hub.listeners == 2, "it to listen")
        service.container.feeds.hub.end()
        async with asyncio.timeout(60):
            types = [message.json()["type"] async for message in socket]

    assert "ended" not in types
    assert socket.close_code == 1001


async def test_a_project_has_the_events_of_its_tasks_alone(api: Service) -> None:
    async with connected(api.alice) as socket:
        await subscribed(socket, project="novel")
        await wait_until(lambda: api.container.feeds.hub.listeners, "it to listen")
        await api.alice.post("/api/projects/other/queue-chapters", headers=MODEL)
        await api.alice.submit({"payload": 1})
        await api.bob.post("/api/projects/novel/queue-chapters", headers=MODEL)
        mine = (await api.alice.post("/api/projects/novel/queue-chapters", headers=MODEL))["taskId"]
        event = await next_message(socket)

    assert (event["type"], event["taskId"], event["subscription"]) == ("TaskSubmitted", mine, "project:novel")


async def test_all_means_the_callers_tasks_and_for_admins_those_of_all_owners(api: Service) -> None:
    async with connected(api.alice) as mine, connected(api.admin) as everybodys:
        await subscribed(mine, all=True)
        await subscribed(everybodys, all=True)
        await wait_until(lambda: api.container.feeds.hub.listeners == 2, "both to listen")
        bobs = await api.bob.submit({"payload": 1})
        alices = await api.alice.submit({"payload": 1})

        assert (await next_message(mine))["taskId"] == alices
        assert [(await next_message(everybodys))["taskId"] for _ in range(2)] == [bobs, alices]


async def test_after_unsubscribing_no_event_comes(api: Service) -> None:
    async with connected(api.alice) as socket:
        await subscribed(socket, all=True)
        assert (await ask(socket, type="unsubscribe", subscription="all"))["type"] == "unsubscribed"
        await wait_until(lambda: not api.container.feeds.hub.listeners, "it to be forgotten")
        await api.alice.submit({"payload": 1})

        assert await ask(socket, type="ping") == {"type": "pong"}


async def test_a_wrong_message_is_answered_with_an_error_and_the_connection_stays(api: Service) -> None:
    of_bob = await api.bob.submit({"payload": 1})
    async with connected(api.alice) as socket:
        for message in (
            "{",
            "[]",
            '{"type":"dance"}',
            '{"type":"subscribe"}',
            '{"type":"subscribe","all":true,"task":"x"}',
            '{"type":"subscribe","task":"x"}',
            f'{{"type":"subscribe","task":"{of_bob}"}}',
            '{"type":"subscribe","task":"x","colour":"red"}',
            '{"type":"ping","x":"' + "a" * 5_000 + '"}',
        ):
            await socket.send_str(message)
            assert (await next_message(socket))["type"] == "error", message
        assert await ask(socket, type="ping") == {"type": "pong"}


async def test_a_token_is_required_in_a_header_or_the_address(api: Service) -> None:
    for query in ("", "?token=x"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(api.anonymous, query):
                pass
        assert refused.value.status == 403
    token = (await api.alice.post("/api/stream-tokens"))["token"]
    async with connected(api.anonymous, f"?token={token}") as socket:
        assert await ask(socket, type="ping") == {"type": "pong"}


async def test_a_slow_reader_is_disconnected_and_others_are_not_delayed(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.api.routes.websocket.PATIENCE_SECONDS", 0.5)
    async with connected(api.alice) as quick:
        await subscribed(quick, all=True)
        url = api.url.replace("http://", "")
        reader, writer = await asyncio.open_connection(*url.split(":"), limit=1024)
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: {url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {api.alice.bearer}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        subscribe = b'{"type":"subscribe","all":true}'
        writer.write(bytes([0x81, 0x80 | len(subscribe)]) + b"\0\0\0\0" + subscribe)
        await wait_until(lambda: api.container.feeds.hub.listeners == 2, "both to listen")
        count = 0
        seen: list[str] = []
        while api.container.feeds.hub.listeners == 2:
            await asyncio.gather(*(api.alice.submit({"payload": "x" * 200_000}) for _ in range(10)))
            count += 10
            seen += [(await next_message(quick))["type"] for _ in range(10)]
        writer.transport.abort()

    assert seen == ["TaskSubmitted"] * count


# Expiry


async def test_a_socket_ends_when_its_token_expires(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, jwt_leeway=0) as service:
        short = service.bearing(token(lifetime_seconds=5))
        given = (await short.post("/api/stream-tokens"))["token"]
        async with connected(short) as one, connected(service.anonymous, f"?token={given}") as two:
            for socket in (one, two):
                await subscribed(socket, all=True)
            for socket in (one, two):
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                assert socket.close_code == 4401


async def test_a_fresh_token_of_the_same_user_keeps_a_socket_open(nats_url: str) -> None:
    """Subscriptions go on. A token of another user, with fewer rights, or of nobody changes nothing."""
    async with running_service(nats_url, worker=False, jwt_leeway=0) as service:
        root = service.bearing(token("root", "admin", lifetime_seconds=5))
        async with connected(root) as socket, connected(root) as other:
            await subscribed(socket, all=True)
            for bad in (token("root"), token("eve", "admin"), token("root", "superuser"), "junk", "a.b.c", "x" * 9000):
                answer = await ask(other, type="token", token=bad)
                assert answer["type"] == "error", answer
                assert bad[:20] not in answer["error"] or bad == "junk"
            fresh = token("root", "admin")
            renewed = await ask(socket, type="token", token=fresh)
            assert renewed["expiresAt"] > (time.time() + 3000) * 1000

            assert (await other.receive()).type is aiohttp.WSMsgType.CLOSE
            assert other.close_code == 4401
            task_id = await service.alice.submit({"a": 1})
            assert (await next_message(socket))["taskId"] == task_id
            stream_token = (await service.bearing(fresh).post("/api/stream-tokens"))["token"]
            assert (await ask(socket, type="token", token=stream_token))["type"] == "token"
