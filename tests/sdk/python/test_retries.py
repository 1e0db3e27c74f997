"""What the Python client does about refusals, cuts and expired tokens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web

from taskstream_client import (
    AsyncClient,
    BadAnswer,
    BadSettings,
    Client,
    Ended,
    RateLimited,
    Refused,
    Retries,
    Unauthorized,
    Unavailable,
)
from taskstream_client.client import core_of
from taskstream_client.drivers import Awaited
from testkit.program import Program
from testkit.service import Service, running_service, token

TASK = {"id": "01K~alice", "status": "WAITING", "createdAt": 1767225605000}
ANSWER = {"taskId": "01K~alice", "taskDetails": TASK}


class Clock:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    async with Program() as program:
        yield program


def client_of(program: Program, clock: Clock, bearer: Any = "token", **retries: Any) -> AsyncClient:
    """Return a client whose pauses take no time."""
    core = core_of(program.base_url, bearer, 60.0, 300.0, Retries(chance=lambda: 0.0, **retries), clock=clock)
    return AsyncClient.over(core, Awaited(core.url, sleep=clock.sleep))


def answers(*each: Any) -> Any:
    """Return a handler that answers with one after the other, and then always with the last."""
    left = list(each)

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if callable(answer):
            found: web.StreamResponse = await answer(request)
            return found
        status, headers, body = answer
        return web.json_response(body, status=status, headers=headers)

    return handle


async def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_submission_is_repeated_with_one_key_after_what_passes(program: Program, status: int) -> None:
    clock = Clock()
    program.answers["/api/task"] = answers((status, {"Retry-After": "7"}, {}), cut, (200, {}, ANSWER))

    async with client_of(program, clock) as client:
        assert (await client.submit("shout", {})).id == "01K~alice"

    assert clock.pauses == [7.0, 0.5]
    keys = {asked.headers["Idempotency-Key"] for asked in program.asked}
    assert (len(program.asked), len(keys)) == (3, 1)


async def test_the_pause_that_the_service_asks_for_is_obeyed_within_the_timeout(program: Program) -> None:
    clock = Clock()
    program.answers["/api/task"] = answers((429, {"Retry-After": "25"}, {"detail": "4 of 4 waiting tasks"}))

    async with client_of(program, clock) as client:
        with pytest.raises(RateLimited, match=r"4 of 4 waiting tasks.*3 tries within 60 s") as limited:
            await client.submit("shout", {})

    assert clock.pauses == [25.0, 25.0]
    assert limited.value.retry_after == 25


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422])
async def test_what_was_refused_is_not_sent_again(program: Program, status: int) -> None:
    program.answers["/api/task"] = answers((status, {}, {"detail": "no", "path": "$.payload"}))

    async with client_of(program, Clock()) as client:
        with pytest.raises(Exception, match=rf"answered {status}: no at \$\.payload"):
            await client.submit("shout", {})

    assert len(program.asked) == 1


async def test_a_webhook_is_not_created_twice_by_a_lost_answer(program: Program) -> None:
    program.answers["/api/webhooks"] = answers(cut)

    async with client_of(program, Clock()) as client:
        with pytest.raises(Unavailable, match="was not answered"):
            await client.webhooks.create("https://example.org/hook")

    assert len(program.asked) == 1


async def test_the_number_of_retries_may_be_limited(program: Program) -> None:
    program.answers["/api/task"] = answers((503, {}, {}))

    async with client_of(program, Clock(), most=2) as client:
        with pytest.raises(Unavailable):
            await client.submit("shout", {})

    assert len(program.asked) == 3


def jwt(expires_at: float) -> str:
    """Return an unsigned token; clients read its end only."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at}).encode()).decode().rstrip("=")
    return f"e30.{claims}.x"


async def test_a_token_is_renewed_before_it_expires_and_once_if_it_is_refused(program: Program) -> None:
    given: list[str] = []
    soon, later = jwt(10), jwt(10_000)

    async def provide() -> str:
        given.append([soon, later, later + "2", later + "3"][len(given)])
        return given[-1]

    core = core_of(program.base_url, provide, 60.0, 300.0, Retries(chance=lambda: 0.0), now=lambda: 0.0)
    async with AsyncClient.over(core, Awaited(core.url)) as client:
        program.answers["/api/me"] = answers((200, {}, {"subject": "alice"}))
        await client.me()
        await client.me()
        assert given == [soon, later], "the first was about to expire"
        program.answers["/api/me"] = answers((401, {}, {}), (200, {}, {"subject": "alice"}))
        await client.me()
        assert given[2:] == [later + "2"]
        program.answers["/api/me"] = answers((401, {}, {"detail": "expired"}))
        with pytest.raises(Unauthorized, match="Set TASKSTREAM_TOKEN"):
            await client.me()

    bearers = [asked.headers["Authorization"].removeprefix("Bearer ") for asked in program.asked]
    assert bearers == [soon, later, later, later + "2", later + "2", later + "3"]


async def test_a_stream_whose_token_expires_goes_on_with_a_new_one(nats_url: str) -> None:
    async with running_service(nats_url, jwt_leeway=0) as service:
        await _stream_over_an_expiry(service)


async def _stream_over_an_expiry(service: Service) -> None:
    given: list[str] = []

    def provide() -> str:
        given.append(token("alice", lifetime_seconds=2 if not given else 3600))
        return given[-1]

    async with AsyncClient(service.url, provide) as client, AsyncClient(service.url, token("alice")) as other:
        client._core.credentials._now = lambda: 0.0  # does not notice that the token is about to expire
        task = await other.submit("shout", {}, delay=3600)
        found = []
        async for update in client.stream(task.id):
            found.append(update)
            if len(given) == 1 and len(found) == 1:
                cancel = asyncio.create_task(_cancel_when_renewed(other, task.id, given))
        await cancel

    assert isinstance(found[-1], Ended)
    assert [type(update).__name__ for update in found] == ["State", "Ended"]


async def _cancel_when_renewed(client: AsyncClient, task_id: str, given: list[str]) -> None:
    while len(given) < 2:
        await asyncio.sleep(0.05)
    await client.cancel(task_id)


async def test_a_blocking_client_needs_a_blocking_token(program: Program) -> None:
    async def provide() -> str:
        return "token"

    with Client(program.base_url, provide) as client, pytest.raises(BadSettings, match="AsyncClient"):
        await asyncio.to_thread(client.me)


async def test_a_page_in_place_of_the_service_is_told(program: Program) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>login</html>", content_type="text/html")

    program.answers["/api/me"] = page
    program.answers["/api/task/x"] = answers((200, {}, {"other": 1}))

    async with client_of(program, Clock()) as client:
        with pytest.raises(BadAnswer, match="TASKSTREAM_URL"):
            await client.me()
        with pytest.raises(BadAnswer, match="taskDetails"):
            await client.tasks.get("x")


async def test_an_unreachable_service_is_named(program: Program) -> None:
    await program.stop()

    async with client_of(program, Clock()) as client:
        with pytest.raises(Unavailable, match=f"Is the service at {program.base_url} up"):
            await client.me()


@pytest.mark.parametrize("url", ["", "tasks.example.com", "ftp://a"])
def test_a_url_that_is_none_is_refused_with_the_setting(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKSTREAM_URL", raising=False)

    with pytest.raises(BadSettings, match="TASKSTREAM_URL"):
        Client(url)


async def test_a_redirect_never_gets_the_token(program: Program) -> None:
    async with Program() as elsewhere:
        program.answers["/api/me"] = answers((307, {"Location": f"{elsewhere.base_url}/api/me"}, {}))

        async with client_of(program, Clock()) as client:
            with pytest.raises(BadAnswer):
                await client.me()

        assert elsewhere.asked == []


async def test_a_client_of_httpx_is_used_and_left_open(service: Service) -> None:
    async with httpx.AsyncClient(headers={"X-Request-Id": "mine"}) as http:
        async with AsyncClient(service.url, token("alice"), http=http) as client:
            with pytest.raises(Refused) as refused:
                await client.submit("", {})

        assert refused.value.request_id == "mine"
        assert not http.is_closed


async def test_a_quota_that_is_used_up_is_waited_for(service: Service, root: AsyncClient) -> None:
    """On the real service: the 429 comes from it."""
    async with AsyncClient(service.url, token("bob")) as bob:
        await root.request("PUT", "/api/owners/bob/limits", body={"waiting": 1})
        first = await bob.submit("shout", {}, delay=3600)
        with pytest.raises(RateLimited, match="waiting"):
            await bob.submit("shout", {}, delay=3600, timeout=0.1)
        second = asyncio.create_task(bob.submit("shout", {}, delay=3600))
        await bob.cancel(first.id)

        assert (await second).status == "WAITING"
