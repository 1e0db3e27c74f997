"""What became of a cancelled attempt is recorded after the cancellation, and shown with the task."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp import web

from taskstream.backends.dialects import DIALECTS
from taskstream.backends.dialects.dialect import Call, Conversation, Reply, Request
from taskstream.backends.dialects.taskstream import Taskstream
from taskstream.events.server import ServerRegistered
from taskstream.events.task import CancelOutcome
from testkit.backend import BackendServer, accept, finished, hold
from testkit.legality import check_history
from testkit.queue_surface import MODEL
from testkit.service import Service
from testkit.waiting import wait_until

from .behaviour import called, queue_holds, types

CLOSED = "the connection was closed"


async def cancel(service: Service, task_id: str) -> None:
    assert (await service.alice.post(f"/api/task/{task_id}/cancel", {"reason": "changed my mind"})).status == 200


async def reported(service: Service, task_id: str) -> dict[str, Any]:
    """Return the event that reports what became of the attempt, once it is there."""

    async def look() -> dict[str, Any] | None:
        last = (await service.alice.history(task_id))[-1]
        return last if last["type"] == "CancelReported" else None

    return await wait_until(look, "what became of the attempt")


async def test_a_closed_call_is_reported_and_shown_wherever_the_task_is(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)
    assert (await service.alice.details(task_id))["cancelOutcome"] is None

    await cancel(service, task_id)

    event = await reported(service, task_id)
    assert event == {
        "type": "CancelReported",
        "attempt": 1,
        "server_id": "one",
        "outcome": "requested",
        "detail": CLOSED,
    }
    details = await service.alice.details(task_id)
    why = await service.alice.get(f"/api/task/{task_id}/why")
    page = await service.alice.get("/api/tasks?status=CANCELLED")
    assert (details["status"], details["cancelOutcome"]) == ("CANCELLED", "requested")
    assert (why["ended"]["cancelOutcome"], why["ended"]["cancelDetail"]) == ("requested", CLOSED)
    assert why["ended"]["by"]["id"] == "alice"
    assert [task["cancelOutcome"] for task in page["tasks"]] == ["requested"]
    check_history(await service.alice.recorded(task_id))


async def test_a_server_that_reports_by_callback_cannot_be_told(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    await service.admin.register(backend, "one", callback=True)
    task_id = await service.alice.submit({"payload": 1})
    await wait_until(lambda: _is_accepted(service, task_id), "the acceptance")

    await cancel(service, task_id)

    history = await service.alice.history(task_id)
    assert types(history)[-2:] == ["TaskCancelled", "CancelReported"]
    assert (history[-1]["server_id"], history[-1]["outcome"]) == ("one", "impossible")
    assert (await service.alice.details(task_id))["cancelOutcome"] == "impossible"


async def _is_accepted(service: Service, task_id: str) -> bool:
    return "AttemptAccepted" in types(await service.alice.history(task_id))


async def test_a_retry_forgets_what_became_of_the_attempt_before(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)
    await cancel(service, task_id)
    await reported(service, task_id)

    await service.alice.post(f"/api/task/{task_id}/retry")
    await called(backend, 2)
    assert (await service.alice.details(task_id))["cancelOutcome"] is None
    backend.let_go.set()

    assert (await service.alice.ended(task_id))["status"] == "FINISHED"
    await queue_holds(service, 0)
    check_history(await service.alice.recorded(task_id))


async def test_a_task_deleted_while_it_runs_stays_deleted(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one", maxConcurrent=1)
    path = "/api/projects/novel/queue-chapters"
    answer = await service.alice.done("POST", path, {"chaptersToGenerate": 1}, headers=MODEL)
    task_id = str(answer["taskId"])
    await called(backend, 1)

    assert (await service.alice.delete(f"/api/queue/tasks/{task_id}")).status == 200
    await wait_until(lambda: backend.broken_off == 1, "the backend to see its connection closed")
    await queue_holds(service, 0)

    assert (await service.alice.get(f"/api/task/{task_id}")).status == 404
    assert types(await service.auditor.history(task_id))[-1] == "TaskDeleted"


# A dialect that cancels by a request


class Telling(Conversation):
    """The dialect `taskstream`, with a request that stops an attempt."""

    def __init__(self, spoken: Conversation, server: ServerRegistered, call: Call) -> None:
        self._spoken = spoken
        self._server = server
        self._call = call

    def begin(self) -> Request:
        return self._spoken.begin()

    def read(self, reply: Reply) -> Any:
        return self._spoken.read(reply)

    def cancel(self) -> Request:
        body = msgspec.json.encode({"task_id": self._call.task_id, "cancel": self._call.attempt})
        return Request(method="POST", url=self._server.predict_url, body=body)

    def read_cancel(self, reply: Reply | None) -> CancelOutcome:
        return "confirmed" if reply is not None and reply.status == 200 else "unconfirmed"


class TellingDialect(Taskstream):
    name = "telling"

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return Telling(super().converse(server, call), server, call)


def stops(code: int) -> Any:
    """Return a behaviour that answers nothing but a cancellation."""

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        if "cancel" in task:
            return web.json_response({"detail": "said the server"}, status=code)
        return await hold(server, task, request)

    return answer


@pytest.mark.parametrize(("code", "outcome"), [(200, "confirmed"), (404, "unconfirmed")])
@pytest.mark.parametrize("named_by", ["server", "type"])
async def test_the_dialect_of_a_server_or_of_its_type_tells_it_to_stop(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch, named_by: str, code: int, outcome: str
) -> None:
    monkeypatch.setitem(DIALECTS, "telling", TellingDialect())
    backend.answer = stops(code)
    named = {"dialect": "telling"}
    await service.admin.put("/api/types/told", named if named_by == "type" else {})
    await service.admin.register(backend, "one", **(named if named_by == "server" else {}))
    task_id = await service.alice.submit({"type": "told", "payload": 1})
    await called(backend, 1)

    await cancel(service, task_id)

    event = await reported(service, task_id)
    assert (event["outcome"], event["detail"]) == (outcome, f"the server answered {code}: said the server")
    assert backend.calls[1] == {"task_id": task_id, "cancel": 1}


async def test_an_answer_that_comes_before_the_cancellation_is_read_confirms_the_end(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has the cancellation, and this worker learns of it only when the server has answered."""
    cancelled = asyncio.Event()

    async def answer_late(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        await cancelled.wait()
        return web.json_response(finished(task, 1))

    monkeypatch.setattr("taskstream.workers.attempts.runner.AttemptRunner.cancel_call", lambda *_: None)
    backend.answer = answer_late
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    await called(backend, 1)

    await cancel(service, task_id)
    cancelled.set()

    event = await reported(service, task_id)
    assert (event["outcome"], event["detail"]) == ("confirmed", "the server had ended before it could be told")
