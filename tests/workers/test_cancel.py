"""A cancelled task ends at once, wherever it is, and nothing that comes later changes that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from nats.aio.msg import Msg

from taskstream.workers.attempts.in_flight import InFlight
from testkit.backend import BackendServer, accept, echo, hold, status
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .behaviour import called, queue_holds, types


async def cancel(service: Service, task_id: str) -> None:
    answer = await service.alice.post(f"/api/task/{task_id}/cancel", {"reason": "changed my mind"})
    assert (answer.status, answer["taskDetails"]["status"]) == (200, "CANCELLED")
    assert answer["taskDetails"]["error"] == "changed my mind"


async def test_a_waiting_task_that_is_cancelled_is_never_sent(service: Service, backend: BackendServer) -> None:
    cancelled = await service.alice.submit({"payload": "cancelled"})
    await cancel(service, cancelled)
    other = await service.alice.submit({"payload": "other"})

    await service.admin.register(backend, "only")
    await service.alice.ended(other)
    await queue_holds(service, 0)

    assert [call["task_id"] for call in backend.calls] == [other]
    assert types(await service.alice.history(cancelled)) == ["TaskSubmitted", "TaskCancelled"]


async def test_a_task_that_waits_for_its_next_attempt_is_not_tried_again(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.put("/api/types/patient", {"backoffBase": 1.0, "backoffCap": 1.0})
    await service.admin.register(backend, "only")
    await backend.stop()
    task_id = await service.alice.submit({"type": "patient", "payload": 1})
    await service.alice.reaches(task_id, "WAITING")
    await wait_until(lambda: _failed_once(service, task_id), "the first attempt to fail")

    await cancel(service, task_id)
    await backend.start()
    await service.alice.ended(await service.alice.submit({"payload": "other"}))
    await queue_holds(service, 0)

    assert task_id not in [call["task_id"] for call in backend.calls]


async def _failed_once(service: Service, task_id: str) -> bool:
    return "AttemptFailed" in types(await service.alice.history(task_id))


async def test_the_call_of_a_running_task_is_closed_whichever_process_cancels_it(
    nats_url: str, backend: BackendServer
) -> None:
    backend.answer = hold
    async with running_service(nats_url) as working, running_service(nats_url, worker=False) as api_only:
        await working.admin.register(backend, "one", maxConcurrent=1)
        task_id = await working.alice.submit({"payload": 1})
        following = await working.alice.submit({"payload": 2})
        await called(backend, 1)
        backend.answer = echo

        await cancel(api_only, task_id)

        await wait_until(lambda: backend.broken_off == 1, "the backend to see its connection closed")
        assert (await working.alice.ended(following))["status"] == "FINISHED"
        await queue_holds(working, 0)
        assert types(await working.alice.history(task_id))[:3] == ["TaskSubmitted", "AttemptStarted", "TaskCancelled"]


async def fail_then_hold(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    return await (status(500) if task["attempt"] == 1 else hold)(server, task, request)


async def test_a_retry_is_cancelled_though_its_first_attempt_is_still_being_released(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, acks = asyncio.Event(), list[str]()
    ack = InFlight.ack

    async def slow_ack(in_flight: InFlight, message: Msg) -> None:
        await ack(in_flight, message)
        if ".DISPATCH." not in message.reply:
            return
        acks.append(message.reply)
        await released.wait()
        acks.append("released")

    monkeypatch.setattr(InFlight, "ack", slow_ack)
    backend.answer = fail_then_hold
    await service.admin.put("/api/types/quick", {"backoffBase": 0.01, "backoffCap": 0.01})
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"type": "quick", "payload": 1})
    await called(backend, 2)
    assert len(acks) == 1
    released.set()
    await wait_until(lambda: len(acks) == 2, "the first attempt to be released")

    await cancel(service, task_id)

    await wait_until(lambda: backend.broken_off == 1, "the backend to see its connection closed")


async def test_a_report_on_a_cancelled_task_is_refused_and_its_slot_is_free(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = accept
    await service.admin.register(backend, "one", maxConcurrent=1, **{"async": True, "callback": True})
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)
    following = await service.alice.submit({"payload": 2})

    await cancel(service, task_id)
    await called(backend, 2)
    progress, _ = await backend.report(backend.calls[0], "PROCESSING", progress=50)
    final, _ = await backend.report(backend.calls[0], "FINISHED", data="too late")

    assert (progress, final) == (409, 409)
    details = await service.alice.details(task_id)
    assert (details["status"], details["result"]) == ("CANCELLED", None)
    assert (await service.alice.details(following))["status"] == "PROCESSING"


async def test_a_task_cancelled_in_its_call_can_be_retried_at_once(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"payload": 1})
    for round_number in range(1, 6):
        await called(backend, round_number)
        await cancel(service, task_id)
        assert (await service.alice.post(f"/api/task/{task_id}/retry")).status == 200
    await called(backend, 6)
    backend.let_go.set()

    details = await service.alice.ended(task_id)
    await queue_holds(service, 0)

    assert (details["status"], details["attempt"]) == ("FINISHED", 6)
    assert backend.broken_off == 5
