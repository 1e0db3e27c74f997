"""An attempt that comes to nothing: which get another, when, on which server, and what is kept of them."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from testkit.backend import Answerer, BackendServer, accept, at_first, echo, finished, hold, status
from testkit.http_server import break_off
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import called, errors, queue_holds, submit_all, types

CALLBACK: dict[str, Any] = {"async": True, "callback": True}


async def reset(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    return break_off(request)


async def no_http(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    return break_off(request, b"SSH-2.0-OpenSSH_9.6\r\n")


async def reset_in_the_middle(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"data": "and then')
    assert request.transport is not None
    request.transport.abort()
    return response


async def trickle(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    """Send a byte now and then, without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def garbage(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x00\xff<html>", content_type="application/json")


async def failed(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    return web.json_response(finished(task, None, status="FAILED", message="the model said no"))


# Which failures get another try


COME_TO_NOTHING: dict[str, tuple[Answerer, str]] = {
    "408": (status(408), "error"),
    "425": (status(425), "error"),
    "500": (status(500), "error"),
    "502": (status(502), "error"),
    "redirect": (status(307, headers={"Location": "/predict"}), "bad_answer"),
    "garbage": (garbage, "bad_answer"),
    "no-http": (no_http, "unreachable"),
    "reset": (reset, "unreachable"),
    "reset-in-the-middle": (reset_in_the_middle, "unreachable"),
}


async def test_an_attempt_that_came_to_nothing_is_made_again(service: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:
        tasks = {}
        backends = {}
        for name, (answer, _) in COME_TO_NOTHING.items():
            backends[name] = await stack.enter_async_context(BackendServer(at_first(answer)))
            await service.admin.register(backends[name], name, types=[name])
            tasks[name] = await service.alice.submit({"type": name, "payload": 1})

        ended = {name: await service.alice.ended(task_id) for name, task_id in tasks.items()}
        failures = {name: errors(await service.alice.history(task_id)) for name, task_id in tasks.items()}

        assert {(details["status"], details["attempt"]) for details in ended.values()} == {("FINISHED", 2)}
        assert failures == {name: [(1, kind)] for name, (_, kind) in COME_TO_NOTHING.items()}
        assert {name: len(backend.calls) for name, backend in backends.items()} == dict.fromkeys(COME_TO_NOTHING, 2)


async def test_a_request_that_a_server_refuses_fails_at_once(service: Service, backend: BackendServer) -> None:
    async def refuse(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return await status(task["request"], {"error": "no such model"})(server, task, request)

    backend.answer = refuse
    await service.admin.register(backend, "only")
    codes = [400, 401, 403, 404, 409, 413, 422]

    tasks = await submit_all(service.alice, [{"payload": code} for code in codes])

    for code, task_id in zip(codes, tasks, strict=True):
        details = await service.alice.ended(task_id)
        assert details["status"] == "FAILED"
        assert details["error"] == f"the server answered {code}: no such model"
        assert errors(await service.alice.history(task_id)) == [(1, "rejected")]
    assert len(backend.calls) == len(codes)


async def test_a_task_that_its_server_reports_as_failed_is_not_tried_again(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = failed
    await service.admin.register(backend, "only")

    task_id = await service.alice.submit({"payload": 1})
    details = await service.alice.ended(task_id)

    assert (details["status"], details["error"]) == ("FAILED", "the model said no")
    assert details["result"]["metadata"]["status"] == "FAILED"
    assert errors(await service.alice.history(task_id)) == [(1, "failed")]


async def test_a_server_that_is_gone_is_unreachable_and_its_address_is_told_to_nobody(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "only")
    await backend.stop()

    task_id = await service.alice.submit({"payload": 1, "attempts": 1})
    details = await service.alice.ended(task_id)

    assert details["error"] == "the server could not be reached"
    assert errors(await service.alice.history(task_id)) == [(1, "unreachable")]


async def test_exhausted_attempts_leave_every_error_in_the_history(service: Service, backend: BackendServer) -> None:
    async def worse_and_worse(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.json_response({"error": f"reason {len(server.calls)}"}, status=499 + len(server.calls))

    backend.answer = worse_and_worse
    await service.admin.register(backend, "only")

    task_id = await service.alice.submit({"payload": 1})
    details = await service.alice.ended(task_id)
    history = await service.alice.history(task_id)

    assert (details["status"], details["error"]) == ("FAILED", "the server answered 502: reason 3")
    assert [event["error"] for event in history if "error" in event] == [
        "the server answered 500: reason 1",
        "the server answered 501: reason 2",
        "the server answered 502: reason 3",
    ]
    assert [event["server_id"] for event in history if event["type"].endswith("Failed")] == ["only"] * 3


async def test_another_server_is_preferred_for_another_try(service: Service, backend: BackendServer) -> None:
    backend.answer = status(500)
    async with BackendServer() as other:
        await service.admin.register(backend, "bad")
        await service.admin.register(other, "good")

        tasks = await submit_all(service.alice, [{"payload": number} for number in range(4)])
        ended = [await service.alice.ended(task_id) for task_id in tasks]

        assert {(details["status"], details["serverId"]) for details in ended} == {("FINISHED", "good")}
        for task_id in tasks:
            failures = errors(await service.alice.history(task_id))
            assert failures in ([], [(1, "error")])  # never twice on the bad one
        assert backend.calls


# When


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_task_is_not_sent_again_before_the_server_wants_it(
    service: Service, backend: BackendServer, form: str
) -> None:
    arrived: list[float] = []

    async def fail_once(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        arrived.append(time.time())
        wanted = "1" if form == "seconds" else email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2))
        return await at_first(status(500, headers={"Retry-After": wanted}))(server, task, request)

    backend.answer = fail_once
    await service.admin.register(backend, "only")

    task_id = await service.alice.submit({"payload": 1})
    details = await service.alice.ended(task_id)
    history = (await service.alice.get(f"/api/task/{task_id}/events"))["events"]

    assert details["status"] == "FINISHED"
    failed_at, retry_at = next(
        (datetime.fromisoformat(entry["at"]), datetime.fromisoformat(entry["event"]["retry_at"]))
        for entry in history
        if entry["event"]["type"] == "AttemptFailed"
    )
    assert retry_at - failed_at >= timedelta(seconds=0.9)  # a date has whole seconds
    assert arrived[1] >= retry_at.timestamp() - 0.01


@pytest.mark.parametrize("answer", [hold, trickle])
async def test_one_attempt_may_take_no_longer_than_its_timeout(
    service: Service, backend: BackendServer, answer: Answerer
) -> None:
    backend.answer = at_first(answer)
    await service.admin.register(backend, "slow")

    task_id = await service.alice.submit({"payload": 1, "timeout": 0.3})
    details = await service.alice.ended(task_id)

    assert (details["status"], details["attempt"]) == ("FINISHED", 2)
    assert errors(await service.alice.history(task_id)) == [(1, "timeout")]
    assert backend.broken_off == 1


async def test_a_callback_server_that_never_reports_loses_the_attempt_at_its_deadline(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = accept
    await service.admin.register(backend, "forgetful", **CALLBACK)

    task_id = await service.alice.submit({"payload": 1, "timeout": 0.3, "attempts": 2})
    details = await service.alice.ended(task_id)

    assert details["error"] == "the server did not report before the attempt's deadline"
    assert errors(await service.alice.history(task_id)) == [(1, "timeout"), (2, "timeout")]


# Reports that come late, early or twice


async def test_a_late_report_of_an_older_attempt_changes_nothing(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    await service.admin.register(backend, "slow", **CALLBACK)
    assert (await service.admin.put("/api/types/slow", {"timeout": 0.3, "attempts": 2})).status == 200
    task_id = await service.alice.submit({"type": "slow", "payload": 1})
    await called(backend, 2)
    old, new = backend.calls

    late, _ = await backend.report(old, "FINISHED", data="old")
    still = await service.alice.details(task_id)
    current, _ = await backend.report(new, "FINISHED", data="new")
    too_late, _ = await backend.report(old, "FINISHED", data="old")

    assert (late, current, too_late) == (409, 200, 409)
    assert still["status"] == "PROCESSING"
    assert (await service.alice.details(task_id))["result"]["data"] == "new"


async def test_the_same_final_report_again_is_no_contradiction_and_another_is(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = accept
    await service.admin.register(backend, "stuttering", **CALLBACK)
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)
    sent = backend.calls[0]

    answers = await asyncio.gather(*(backend.report(sent, "FINISHED", data={"n": 1}) for _ in range(5)))
    other, _ = await backend.report(sent, "FINISHED", data={"n": 2})
    contrary, _ = await backend.report(sent, "FAILED", message="no")

    assert [code for code, _ in answers] == [200] * 5
    assert (other, contrary) == (409, 409)
    assert types(await service.alice.history(task_id)).count("TaskSucceeded") == 1


async def test_an_answer_that_comes_after_the_owner_ended_the_task_changes_nothing(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "slow")
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)

    update = {"data": "by hand", "metadata": {"server_id": "alice", "status": "FINISHED"}}
    assert (await service.alice.put(f"/api/task/{task_id}", update)).status == 200
    backend.let_go.set()
    await queue_holds(service, 0)

    assert (await service.alice.details(task_id))["result"]["data"] == "by hand"
    assert types(await service.alice.history(task_id)).count("TaskSucceeded") == 1


# Large answers


async def test_a_large_result_comes_back_as_if_it_were_small(service: Service, backend: BackendServer) -> None:
    large = {"pixels": "x" * 700_000}

    async def answer(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.json_response(finished(task, large))

    backend.answer = answer
    await service.admin.register(backend, "sync", types=["sync"])
    sync = await service.alice.submit({"type": "sync", "payload": 1})
    assert (await service.alice.ended(sync))["result"]["data"] == large

    async with BackendServer(accept) as other:
        await service.admin.register(other, "callback", types=["callback"], **CALLBACK)
        callback = await service.alice.submit({"type": "callback", "payload": 1})
        await called(other, 1)
        assert (await other.report(other.calls[0], "FINISHED", data=large))[0] == 200
        assert (await service.alice.details(callback))["result"]["data"] == large

    for task_id in (sync, callback):
        stored = (await service.alice.history(task_id))[-1]["result"]
        assert stored["bytes"] > 700_000
        assert stored["$ref"]


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_beyond_the_limit_is_not_read_to_its_end(
    nats_url: str, backend: BackendServer, announced: bool
) -> None:
    sent = 0

    async def endless(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": str(10**12)} if announced else {})
        await response.prepare(request)
        while sent < 50_000_000:
            await response.write(b" " * 65_536)
            sent += 65_536
        return response

    backend.answer = at_first(endless)
    async with running_service(nats_url, max_result=100_000) as service:
        await service.admin.register(backend, "endless")
        task_id = await service.alice.submit({"payload": 1})

        assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        assert errors(await service.alice.history(task_id)) == [(1, "bad_answer")]
    assert sent < 50_000_000


# By hand


async def test_a_failed_task_can_be_retried_with_a_fresh_budget(service: Service, backend: BackendServer) -> None:
    backend.answer = status(500)
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"payload": {"again": True}, "attempts": 2})
    assert (await service.alice.ended(task_id))["status"] == "FAILED"

    retried = await service.alice.post(f"/api/task/{task_id}/retry", {"reason": "disk replaced"})
    assert (retried.status, retried["taskDetails"]["status"]) == (200, "WAITING")
    await wait_until(lambda: len(backend.calls) >= 4, "two more attempts")
    assert (await service.alice.ended(task_id))["status"] == "FAILED"
    assert errors(await service.alice.history(task_id)) == [(1, "error"), (2, "error"), (3, "error"), (4, "error")]

    backend.answer = echo
    assert (await service.alice.post(f"/api/task/{task_id}/retry")).status == 200
    assert (await service.alice.ended(task_id))["result"]["data"] == {"echo": {"again": True}}
    assert (await service.alice.post(f"/api/task/{task_id}/retry")).status == 409
