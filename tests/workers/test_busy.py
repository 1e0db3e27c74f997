"""Busy is not failed and not dead: no attempt is lost, the server is left alone, and the wait has an end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from testkit.backend import Answerer, BackendServer, echo, finished, status
from testkit.service import Service

from .behaviour import errors, submit_all


def busy_until(count: int, code: int = 503, headers: dict[str, str] | None = None) -> Answerer:
    """Return a behaviour that answers so many calls with a status, and then like `echo`."""

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        busy = len(server.calls) <= count
        return await (status(code, headers=headers) if busy else echo)(server, task, request)

    return answer


def at_most(most: int, work: Answerer = echo) -> Answerer:
    """Return the behaviour of a server that refuses what exceeds a number of tasks at once."""

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return await (status(429) if server.running > most else work)(server, task, request)

    return answer


async def moment(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    await asyncio.sleep(0.05)
    return web.json_response(finished(task, {"echo": task["request"]}))


def turned_away(history: list[dict[str, Any]]) -> int:
    return sum(event.get("kind") == "busy" for event in history if event["type"] == "AttemptReturned")


# No attempt is lost


@pytest.mark.parametrize(
    ("code", "headers", "more"),
    [
        (429, None, {}),
        (503, None, {}),
        (503, {"Retry-After": "1"}, {}),
        (429, {"Retry-After": "0"}, {}),
        (409, None, {"busyStatus": [409, 429, 503]}),
    ],
    ids=["429", "503", "503 with Retry-After", "429 with Retry-After 0", "409 by busyStatus"],
)
async def test_a_busy_server_costs_a_task_no_attempt(
    service: Service, backend: BackendServer, code: int, headers: dict[str, str] | None, more: dict[str, Any]
) -> None:
    backend.answer = busy_until(4, code, headers)
    await service.admin.register(backend, "busy", **more)

    task_id = await service.alice.submit({"payload": 1, "attempts": 1})
    details = await service.alice.ended(task_id)
    history = await service.alice.history(task_id)

    assert (details["status"], details["attempt"]) == ("FINISHED", 5)
    assert errors(history) == []
    assert turned_away(history) == 4
    assert (await service.admin.get("/api/servers/busy"))["circuit"] == "closed"


async def test_a_status_that_the_server_does_not_name_as_busy_is_a_failure(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = status(503)
    await service.admin.register(backend, "own", busyStatus=[409])

    task_id = await service.alice.submit({"payload": 1, "attempts": 1})

    assert (await service.alice.ended(task_id))["status"] == "FAILED"
    assert errors(await service.alice.history(task_id)) == [(1, "error")]


async def test_another_server_takes_the_task_at_once(service: Service, backend: BackendServer) -> None:
    backend.answer = status(429, headers={"Retry-After": "7200"})
    async with BackendServer() as other:
        await service.admin.register(backend, "busy", weight=1)
        await service.admin.register(other, "free")

        tasks = await submit_all(service.alice, [{"payload": number, "attempts": 1} for number in range(20)])
        ended = [await service.alice.ended(task_id) for task_id in tasks]

        assert {(details["status"], details["serverId"]) for details in ended} == {("FINISHED", "free")}
        assert len(backend.calls) <= 10  # those that were sent together before it first answered


# The end of the wait


async def test_the_wait_ends_though_nothing_tries_the_task_again(service: Service, backend: BackendServer) -> None:
    backend.answer = status(503, {"error": "warming up"}, headers={"Retry-After": "300"})
    await service.admin.done("PUT", "/api/types/short", {"busyFor": 1.5})
    await service.admin.register(backend, "busy", types=["short"], maxConcurrent=1)

    task_id = await service.alice.submit({"type": "short", "payload": 1})
    details = await service.alice.ended(task_id)
    history = await service.alice.history(task_id)

    assert details["status"] == "FAILED"
    assert details["error"].startswith("no server has taken it since 20")
    assert "the server answered 503: warming up" in details["error"]
    assert "`busyFor` of its type (1.5 s)" in details["error"]
    assert errors(history) == [(1, "busy")]
    assert len(backend.calls) == 1
    letters = await service.alice.done("GET", "/api/dead-letters?kind=busy")
    assert [each["id"] for each in letters["deadLetters"]] == [task_id]


@pytest.mark.parametrize(("option", "kind"), [("expiresAt", "expired"), ("deadline", "deadline")])
async def test_a_last_instant_ends_the_wait_for_a_busy_server(
    service: Service, backend: BackendServer, option: str, kind: str
) -> None:
    backend.answer = status(429, headers={"Retry-After": "300"})
    await service.admin.register(backend, "busy")

    last = int((time.time() + 2) * 1000)
    task_id = await service.alice.submit({"payload": 1, option: last})
    await service.alice.ended(task_id)

    history = await service.alice.history(task_id)
    assert [event["kind"] for event in history if event["type"] == "TaskFailed"] == [kind]
    assert len(backend.calls) == 1


async def test_a_type_shows_its_busy_for_and_an_hour_without_one(service: Service) -> None:
    assert (await service.admin.put("/api/types/short", {"busyFor": 90}))["busyFor"] == 90
    assert (await service.alice.get("/api/types/default"))["busyFor"] == 3600


@pytest.mark.parametrize("wrong", [[200], [600], [399], ["409"], list(range(400, 421)), 503], ids=str)
async def test_a_busy_status_that_none_can_have_is_refused(
    service: Service, backend: BackendServer, wrong: Any
) -> None:
    body = backend.registration("busy", busyStatus=wrong)

    code, path = await service.admin.refusal("POST", "/api/servers", body)

    assert code == 400
    assert path is not None
    assert path.startswith("$.busyStatus")


async def test_a_server_shows_by_which_statuses_it_is_busy(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "plain")
    await service.admin.register(backend, "own", busyStatus=[503, 409, 409])

    assert (await service.admin.get("/api/servers/plain"))["busyStatus"] == [429, 503]
    assert (await service.admin.get("/api/servers/own"))["busyStatus"] == [409, 503]
