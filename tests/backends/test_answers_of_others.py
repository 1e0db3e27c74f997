"""A server that sends an answer nobody asked for: it is nobody's. For calls, health checks, webhooks and keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import aiohttp
import pytest
from msgspec import Raw

from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import dialect_of
from taskstream.backends.dialects.dialect import Answer, Call, Completed, Failed
from taskstream.backends.egress import EgressPolicy
from taskstream.commands.webhook import Registered
from taskstream.events.ids import WebhookRef
from taskstream.events.server import ServerRegistered
from taskstream.events.webhook import WebhookSettings
from taskstream.vault.secrets import SecretStore, new_signing_secret
from taskstream.webhooks.client import WebhookClient
from testkit.raw_server import RawRequest, RawServer, answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = 20


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with EgressPolicy(allow_private=True).session() as session:
        yield session


async def elsewhere() -> None:
    """Let the event loop read what has arrived: a round trip between two other sockets."""
    async with RawServer(lambda _: answer(b"")) as other, aiohttp.ClientSession() as session:
        await (await session.get(other.url)).read()


# Calls


def named(task_id: str) -> bytes:
    """Return the answer of a server that names the task, as the contract has it."""
    data = {"of": task_id[:26]}
    return answer(json.dumps({"task_id": task_id, "data": data, "metadata": {"status": "FINISHED"}}).encode())


def plain(task_id: str) -> bytes:
    """Return the answer of a server that only sends its result."""
    return answer(json.dumps({"of": task_id[:26]}).encode())


def task_of(request: RawRequest) -> str:
    return str(json.loads(request.body)["task_id"])


class Caller:
    """Two owners' tasks, called in turn."""

    def __init__(self, session: aiohttp.ClientSession, server: RawServer) -> None:
        self._client = BackendClient(session, 1_000_000, 5.0)
        self.server = ServerRegistered(
            server_id="gpu-1",
            name="gpu-1",
            provider="test",
            predict_url=f"{server.url}/predict",
            health_url=f"{server.url}/health",
        )
        self._calls = 0

    async def call(self) -> tuple[str, Answer]:
        """Return the next task and what came of it."""
        self._calls += 1
        task_id = f"{self._calls:026d}~{('alice', 'bob')[self._calls % 2]}"

        async def on_update(_: Any) -> None:
            raise AssertionError

        call = Call(
            task_id=task_id,
            task_type="default",
            attempt=1,
            payload=Raw(b"{}"),
            deadline=datetime.now(UTC) + timedelta(seconds=60),
            callback_url="",
            callback_token="",
        )
        return task_id, await self._client.call(dialect_of(self.server), self.server, call, on_update)

    async def is_well(self) -> bool:
        return (await self._client.probe(self.server)).well


def is_own(task_id: str, outcome: Answer) -> bool:
    return isinstance(outcome, Completed) and json.loads(outcome.result)["data"]["of"] == task_id[:26]


@pytest.mark.parametrize("form", [named, plain])
@pytest.mark.parametrize("is_read", [True, False], ids=["read by the event loop", "in the socket"])
async def test_results_are_the_tasks_own_though_a_server_answers_twice(
    session: aiohttp.ClientSession, form: Callable[[str], bytes], is_read: bool
) -> None:
    async with RawServer(lambda request: form(task_of(request))) as server:
        caller = Caller(session, server)
        results = []
        for _ in range(TASKS):
            results.append(await caller.call())
            server.connections[-1].send(form(results[-1][0]))
            if is_read:
                await elsewhere()

    assert [outcome for task_id, outcome in results if not is_own(task_id, outcome)] == []


@pytest.mark.parametrize("form", [named, plain])
async def test_results_are_the_tasks_own_though_two_answers_come_together(
    session: aiohttp.ClientSession, form: Callable[[str], bytes]
) -> None:
    async with RawServer(lambda request: 2 * form(task_of(request))) as server:
        caller = Caller(session, server)
        results = [await caller.call() for _ in range(TASKS)]

    assert [outcome for task_id, outcome in results if not is_own(task_id, outcome)] == []


@pytest.mark.parametrize("form", [named, plain])
async def test_no_task_gets_another_ones_answer_that_comes_after_its_request(
    session: aiohttp.ClientSession, form: Callable[[str], bytes]
) -> None:
    """The answer before comes again when the next request is under way, where no look at the connection finds it."""
    earlier: dict[object, bytes] = {}

    def respond(request: RawRequest) -> bytes:
        again = earlier.get(request.connection, b"")
        earlier[request.connection] = form(task_of(request))
        return again + earlier[request.connection]

    async with RawServer(respond) as server:
        caller = Caller(session, server)
        results = [await caller.call() for _ in range(TASKS)]

    failed = [outcome for task_id, outcome in results if not is_own(task_id, outcome)]
    assert all(isinstance(outcome, Failed) for outcome in failed)  # and is tried again
    assert len(failed) <= 1  # from then on, each call has a connection of its own


async def test_a_stray_400_fails_no_task(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda request: named(task_of(request))) as server:
        caller = Caller(session, server)
        for _ in range(TASKS):
            task_id, outcome = await caller.call()
            assert is_own(task_id, outcome)
            server.connections[-1].send(answer(b'{"error": "bad request"}', "400 Bad Request"))


async def test_a_server_that_names_tasks_is_called_over_one_connection(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda request: named(task_of(request))) as server:
        caller = Caller(session, server)
        for _ in range(TASKS):
            await caller.call()

    assert len(server.connections) == 1


async def test_a_server_that_does_not_name_tasks_has_a_connection_for_each(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda request: plain(task_of(request))) as server:
        caller = Caller(session, server)
        for _ in range(TASKS):
            await caller.call()

    assert len(server.connections) == TASKS


# Health checks


@pytest.mark.parametrize(("status", "stray"), [("200 OK", "500 Oh No"), ("500 Oh No", "200 OK")])
async def test_a_stray_answer_decides_no_health_check(session: aiohttp.ClientSession, status: str, stray: str) -> None:
    def respond(request: RawRequest) -> bytes:
        return named(task_of(request)) if request.body else answer(b"", status)

    async with RawServer(respond) as server:
        caller = Caller(session, server)
        for ask in (caller.is_well, caller.call, caller.is_well, caller.is_well):
            for connection in server.connections:
                connection.send(answer(b"", stray))
            found = await ask()
            if isinstance(found, bool):
                assert found == (status == "200 OK")


# Webhooks


class OneSecret:
    """Secrets, of which there is one."""

    secret = new_signing_secret()

    async def get(self, holder: WebhookRef, secret_id: str) -> str:
        return self.secret


class Sender:
    """Messages to a receiver."""

    def __init__(self, session: aiohttp.ClientSession, server: RawServer) -> None:
        self._client = WebhookClient(EgressPolicy(allow_private=True), session, cast(SecretStore, OneSecret()), 5.0)
        self._ref = WebhookRef("alice", "0" * 26)
        self._webhook = Registered(
            webhook_id=self._ref.id,
            owner="alice",
            settings=WebhookSettings(url=f"{server.url}/hook", events=("ended",)),
            created_at=NOW,
            changed_at=NOW,
            active=True,
            after=0,
            secret_id="s",
        )
        self._messages = 0

    async def send(self) -> int | None:
        self._messages += 1
        outcome = await self._client.send(self._ref, self._webhook, f"msg_{self._messages}", b"{}")
        return outcome.answer.status


@pytest.mark.parametrize("stray", ["410 Gone", "400 Bad Request", "500 Oh No"])
@pytest.mark.parametrize("crosses", [False, True], ids=["before the next message", "after it"])
async def test_a_stray_answer_refuses_no_webhook_message(
    session: aiohttp.ClientSession, stray: str, crosses: bool
) -> None:
    async with RawServer(
        lambda request: (answer(b"", stray) if crosses and request.nth > 1 else b"") + answer(b"", "204 No Content")
    ) as server:
        sender = Sender(session, server)
        for _ in range(TASKS):
            assert await sender.send() == 204
            if not crosses:
                server.connections[-1].send(answer(b"", stray))


async def test_a_receivers_own_410_is_believed(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda _: answer(b"", "204 No Content")) as server:
        sender = Sender(session, server)
        assert await sender.send() == 204
        server.respond = lambda _: answer(b"", "410 Gone")
        assert await sender.send() == 410
        assert [request.nth for request in server.requests] == [1, 2, 1]  # asked again on a new connection


async def test_a_receiver_that_accepts_is_called_over_one_connection(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda _: answer(b"{}")) as server:
        sender = Sender(session, server)
        for _ in range(TASKS):
            assert await sender.send() == 200

    assert len(server.connections) == 1


async def test_messages_at_once_are_each_delivered(session: aiohttp.ClientSession) -> None:
    async with RawServer(lambda _: answer(b"", "204 No Content")) as server:
        sender = Sender(session, server)
        for _ in range(3):
            assert set(await asyncio.gather(*(sender.send() for _ in range(4)))) == {204}

    assert len(server.requests) == 12
    assert len(server.connections) == 4
