"""Busy is not failed and not dead: no attempt is lost, the server is left alone, and the wait has an end."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import sys
import time
from typing import Any

import pytest
from aiohttp import web

from taskstream.backends.egress import EgressPolicy
from taskstream.clock import utc_now
from taskstream.events.ids import parse_task_id
from taskstream.streams.jetstream.messages import list_subjects
from taskstream.streams.topology.definitions import TIMERS
from testkit.backend import Answerer, BackendServer, echo, finished, status
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import called, errors, submit_all
from .test_fleet import names, recorded


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


# The server: paused, and sent as many as it takes


async def test_a_server_with_a_smaller_limit_than_registered_settles(service: Service, backend: BackendServer) -> None:
    """Bounds the log too: a refused attempt is two events."""
    backend.answer = at_most(3, moment)
    await service.admin.register(backend, "small", maxConcurrent=10)

    tasks = await submit_all(service.alice, [{"payload": number, "attempts": 1} for number in range(100)])
    ended = [await service.alice.ended(task_id) for task_id in tasks]
    refused = sum([turned_away(await service.alice.history(task_id)) for task_id in tasks])

    assert {details["status"] for details in ended} == {"FINISHED"}
    assert refused <= 20
    assert len(backend.calls) == len(tasks) + refused


async def test_a_server_that_stays_busy_does_not_fill_the_log(service: Service, backend: BackendServer) -> None:
    backend.answer = status(503)
    await service.admin.register(backend, "busy", maxConcurrent=10)

    tasks = await submit_all(service.alice, [{"payload": number} for number in range(30)])
    await wait_until(lambda: len(backend.calls) >= 6, "the first to be refused, then one for each pause")

    # Each call but those sent together at first followed a pause, and each call is two events.
    events = [event["type"] for task_id in tasks for event in await service.alice.history(task_id)]
    of_calls = [event for event in events if event in ("AttemptStarted", "AttemptReturned")]
    assert len(of_calls) <= 2 * (len(backend.calls) + 1)
    shown = await service.admin.until(
        "/api/servers/busy", lambda server: server["busySince"] is not None, "the server to be shown as busy"
    )
    assert shown["currentLimit"] == 1


async def test_work_goes_on_as_soon_as_a_pause_ends(service: Service, backend: BackendServer) -> None:
    """Also if news of tasks is all that could wake the worker: none comes during the pause."""
    backend.answer = busy_until(1)
    await service.admin.register(backend, "once", maxConcurrent=1)
    tasks = await submit_all(service.alice, [{"payload": number} for number in range(5)])

    for task_id in tasks:
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"

    started = [
        entry["at"]
        for task_id in tasks
        for entry in await service.alice.recorded(task_id)
        if entry["event"]["type"] == "AttemptStarted"
    ]
    assert len(started) == 6


async def test_why_says_that_all_servers_are_busy_since_when_and_when_the_next_try_is(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = status(503, headers={"Retry-After": "60"})
    async with BackendServer(backend.answer) as other:
        await service.admin.register(backend, "one")
        await service.admin.register(other, "two")
        task_id = await service.alice.submit({"payload": 1})

        def both_busy(answer: dict[str, Any]) -> bool:
            return [hold["kind"] for hold in answer["holds"]] == ["server-busy"] and "both busy" in answer["summary"]

        found = await service.admin.until(f"/api/task/{task_id}/why", both_busy, "both servers to be busy")

        [held] = found["holds"]
        assert re.fullmatch(r"2 servers could take it, both busy since \d\d:\d\d:\d\d UTC", held["text"])
        assert re.search(r"next try in \d+ s; it fails at 20.* if none does", held["release"])
        assert held["data"]["until"] > held["data"]["busySince"]
        assert held["data"]["failsAt"] >= held["data"]["busySince"] + 3_600_000
        assert {(each["verdict"], each["since"] is None) for each in found["servers"]} == {("busy", False)}
        assert found["lastError"] == "the server answered 503: status 503"
        shown = await service.admin.get("/api/servers/one")
        assert (shown["currentLimit"], shown["busySince"] is None, shown["nextTryAt"] is None) == (1, False, False)


async def test_a_server_that_takes_tasks_again_is_not_shown_as_busy(service: Service, backend: BackendServer) -> None:
    backend.answer = busy_until(3)
    await service.admin.register(backend, "warm", maxConcurrent=2)
    await service.alice.ended(await service.alice.submit({"payload": 1}))

    await service.admin.until(
        "/api/servers/warm",
        lambda server: (server["busySince"], server["nextTryAt"], server["currentLimit"]) == (None, None, 2),
        "no sign of its busy time",
    )


async def test_the_refusals_of_one_owners_tasks_do_not_pause_the_server_for_others(
    service: Service, backend: BackendServer
) -> None:
    """The rate limit of an owner's model key comes as a 429 of the server."""

    async def by_owner(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        alices = task["request"] == "alice"
        return await (status(429, headers={"Retry-After": "3600"}) if alices else moment)(server, task, request)

    backend.answer = by_owner
    await service.admin.register(backend, "shared", maxConcurrent=4)
    await service.bob.ended(await service.bob.submit({"payload": "bob"}))
    alices = await submit_all(service.alice, [{"payload": "alice"} for _ in range(10)])
    await called(backend, 2)

    for _ in range(10):
        bobs = await submit_all(service.bob, [{"payload": "bob"} for _ in range(10)])
        for task_id in bobs:
            assert (await service.bob.ended(task_id))["status"] == "FINISHED"

    assert sum([turned_away(await service.alice.history(task_id)) for task_id in alices]) <= 15


# Errors of our own

LACKS = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL]


class Lacking:
    """Sockets for calls: so many times none can be opened, with this error."""

    def __init__(self) -> None:
        self.times, self.code = 0, 0

    def open_socket(self, info: Any) -> socket.socket:
        if self.times:
            self.times -= 1
            raise OSError(self.code, os.strerror(self.code))
        return socket.socket(*info[:3])


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> Lacking:
    lacking = Lacking()
    monkeypatch.setattr(EgressPolicy, "_open_socket", lacking.open_socket)
    return lacking


@pytest.mark.parametrize("code", LACKS, ids=errno.errorcode.get)
async def test_a_lack_of_this_process_counts_neither_against_the_task_nor_the_server(
    lacking: Lacking, nats_url: str, backend: BackendServer, code: int
) -> None:
    async with running_service(nats_url, circuit_failures=1) as service:
        await service.admin.register(backend, "well", health=False, online=False)
        await service.admin.post("/api/servers/well/heartbeat")
        lacking.times, lacking.code = 3, code

        task_id = await service.alice.submit({"payload": 1, "attempts": 1})
        details = await service.alice.ended(task_id)
        history = await service.alice.history(task_id)

        assert (details["status"], details["attempt"]) == ("FINISHED", 4)
        assert errors(history) == []
        assert [event["kind"] for event in history if event["type"] == "AttemptReturned"] == ["unsent"] * 3
        shown = await service.admin.get("/api/servers/well")
        assert (shown["circuit"], shown["busySince"]) == ("closed", None)
        assert len(backend.calls) == 1


async def test_a_health_check_that_cannot_be_sent_says_nothing_about_the_server(
    lacking: Lacking, nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url, health_interval=0.1) as service:
        await service.admin.register(backend, "well")
        lacking.times, lacking.code = 5, errno.EMFILE

        seen = backend.health_checks
        await wait_until(lambda: backend.health_checks >= seen + 2, "checks after those that could not be sent")

        assert lacking.times == 0
        assert names(await recorded(service, "well")) == ["ServerRegistered", "ServerWentOnline"]


OUT_OF_DESCRIPTORS = """
import asyncio, os, resource, sys
from datetime import UTC, datetime, timedelta
from msgspec import Raw
from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import dialect_of
from taskstream.backends.dialects.dialect import Call
from taskstream.events.server import ServerRegistered
from taskstream.wire.connections import open_session

async def main():
    async with open_session() as session:
        client = BackendClient(session, 1000, 5.0)
        call = Call(task_id="t", task_type="d", attempt=1, payload=Raw(b"1"), callback_url="", callback_token="",
                    deadline=datetime.now(UTC) + timedelta(seconds=20))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for host in sys.argv[1:]:
            server = ServerRegistered(server_id="s", name="s", provider="p", predict_url=f"http://{host}:9/predict",
                                      health_url=f"http://{host}:9/health")
            answer = await client.call(dialect_of(server), server, call, None)
            print(type(answer).__name__, (await client.probe(server)).is_ours)

asyncio.run(main())
"""


async def test_a_process_without_descriptors_blames_no_server() -> None:
    """With a real limit. A name is resolved first, and the resolver does not say what it lacks."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OUT_OF_DESCRIPTORS, "127.0.0.1", "backend.example", stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()

    assert printed.decode().split("\n") == ["Unsent True", "Unsent True", ""]


# What a crash leaves


async def test_a_stale_timer_of_the_wait_changes_nothing_and_an_early_one_is_set_again(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = status(503, headers={"Retry-After": "300"})
    await service.admin.register(backend, "busy")
    waiting = await service.alice.submit({"payload": 1})
    await wait_until(lambda: len(backend.calls) == 1, "the call")
    await service.alice.reaches(waiting, "WAITING")
    cancelled = await service.alice.submit({"payload": 2})
    await service.alice.post(f"/api/task/{cancelled}/cancel")
    timers, reading = service.container.timers, service.container.reading

    for task_id in (waiting, cancelled):
        await timers.watch_busy_wait(parse_task_id(task_id), utc_now())

    async def timers_left() -> list[str] | None:
        left = await list_subjects(reading, TIMERS, "*.busy.>")
        return left if [subject.split(".")[0] for subject in left] == ["timer"] else None

    [left] = await wait_until(timers_left, "both timers to be handled, and that of the waiting task to be set again")
    assert left.endswith(parse_task_id(waiting).unique)
    assert (await service.alice.details(waiting))["status"] == "WAITING"
    assert (await service.alice.details(cancelled))["status"] == "CANCELLED"
