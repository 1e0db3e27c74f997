"""A task ends as its server reports it, whatever else is wrong with the report; read by the real service."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from testkit.backend import Answerer, BackendServer, accept
from testkit.service import Service

from .behaviour import errors

FAILED: list[Any] = [
    {"metadata": {"status": "FAILED", "message": "CUDA OOM"}},
    {"metadata": {"status": "FAILED", "message": "CUDA OOM"}, "backend_task_id": 123},
    {"metadata": {"status": "FAILED", "message": "CUDA OOM", "progress": "40%"}},
    {"metadata": {"status": "FAILED", "message": {"message": "CUDA OOM", "code": 2}}},
    {"metadata": {"status": "failed", "message": "CUDA OOM"}, "data": None},
    {"task_id": None, "backend_task_id": "b7", "status": "FAILED", "message": "CUDA OOM"},
]
NO_RESULT: list[Any] = [
    {"data": {"a": 1}, "metadata": {"status": "PROCESSING"}},
    {"data": {"a": 1}, "metadata": {"status": "done"}},
    {"data": {"a": 1}, "metadata": {"status": None}},
]


def answering(body: Any, status: int = 200) -> Answerer:
    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


def streaming(*parts: Any) -> Answerer:
    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        lines = b"".join(web.json_response(part).body + b"\n" for part in parts)  # type: ignore[operator]
        return web.Response(body=b"\xef\xbb\xbf" + lines, content_type="application/x-ndjson")

    return answer


@pytest.mark.parametrize("body", FAILED, ids=str)
async def test_a_task_whose_server_reports_failure_never_ends_as_finished(
    service: Service, backend: BackendServer, body: Any
) -> None:
    backend.answer = answering(body)
    await service.admin.register(backend, "only")

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert (details["status"], details["error"], details["failureKind"]) == ("FAILED", "CUDA OOM", "failed")
    assert details["result"]["metadata"]["status"] == "FAILED"
    assert len(backend.calls) == 1


@pytest.mark.parametrize("body", NO_RESULT, ids=str)
async def test_a_status_that_is_no_end_never_ends_a_task_as_finished(
    service: Service, backend: BackendServer, body: Any
) -> None:
    backend.answer = answering(body)
    await service.admin.register(backend, "only")

    details = await service.alice.ended(await service.alice.submit({"payload": 1, "attempts": 2}))

    assert details["status"] == "FAILED"
    assert errors(await service.alice.history(details["id"])) == [(1, "bad_answer"), (2, "bad_answer")]


async def test_a_finished_run_is_never_lost_over_a_cosmetic_field(service: Service, backend: BackendServer) -> None:
    """100 / 6, six times, is 100.00000000000001."""
    progress = sum([100 / 6] * 6)
    backend.answer = streaming(
        {"progress": progress, "message": "m" * 2_001, "output": "It was \ud83d"},
        {"data": {"text": "dark \ud83d"}, "metadata": {"status": "FINISHED", "progress": progress, "log": 7}},
    )
    await service.admin.register(backend, "only")

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert progress > 100
    assert (details["status"], details["attempt"]) == ("FINISHED", 1)
    assert details["result"]["data"] == {"text": "dark \ufffd"}
    assert details["result"]["metadata"]["progress"] == 100
    reported, end = (await service.alice.history(details["id"]))[-2:]
    assert (reported["progress"], reported["output"]) == (100, "It was \ufffd")
    assert reported["notes"] == ["message: shortened from 2,001 to 2,000 characters"]
    assert end["notes"] == ["log: left out; must be text, given: a number"]


async def test_a_202_with_a_final_result_is_final_for_a_server_that_reports(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = answering({"data": 5, "metadata": {"status": "FINISHED"}}, 202)
    await service.admin.register(backend, "only", **{"async": True, "callback": True})

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert (details["status"], details["result"]["data"]) == ("FINISHED", 5)


async def test_an_acceptance_is_no_result_of_a_server_without_callbacks(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = accept
    await service.admin.register(backend, "only")

    details = await service.alice.ended(await service.alice.submit({"payload": 1, "attempts": 1}))

    assert details["status"] == "FAILED"
    assert "reports PROCESSING. Register a server that reports later with `callback: true`" in details["error"]
