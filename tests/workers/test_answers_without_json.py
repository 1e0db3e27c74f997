"""A successful answer without JSON ends the task; its bytes are a file that the owner can read."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from taskstream.commands.task_commands import DeleteTask
from taskstream.events.envelope import Actor
from taskstream.events.ids import parse_task_id
from taskstream.streams.jetstream.api import api
from testkit.backend import Answerer, BackendServer, at_first
from testkit.service import Client, Service

from .behaviour import errors

PNG = b"\x89PNG\r\n\x1a\n\x00\xff" * 200_000
"""More than the object store keeps in one part, and than is read at once."""


def answering(body: bytes, content_type: str, status: int = 200) -> Answerer:
    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": content_type})

    return answer


async def read_file(client: Client, path: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"Authorization": f"Bearer {client.bearer}"}
    async with client.session.get(client.url + path, headers=headers) as response:
        return response.status, dict(response.headers), await response.read()


@pytest.mark.parametrize(
    ("status", "content_type", "body", "data"),
    [
        (204, "text/plain", b"", None),
        (200, "text/plain", b"", None),
        (200, "text/plain; charset=utf-8", "It was dark, naïve \U0001f319".encode(), "It was dark, naïve \U0001f319"),
        (201, "text/html", b'{"from": "Flask"}', {"from": "Flask"}),
    ],
)
async def test_an_answer_without_json_is_a_result_and_is_paid_once(
    service: Service, backend: BackendServer, status: int, content_type: str, body: bytes, data: Any
) -> None:
    backend.answer = answering(body, content_type, status)
    await service.admin.register(backend, "only")

    details = await service.alice.ended(await service.alice.submit({"payload": 1}))

    assert (details["status"], details["attempt"], details["result"]["data"]) == ("FINISHED", 1, data)
    assert len(backend.calls) == 1


async def test_an_image_is_a_file_that_owner_and_admin_read_and_nobody_else(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = answering(PNG, "image/png; x=y")
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"payload": 1})

    details = await service.alice.ended(task_id)

    path = f"/api/task/{task_id}/result/file"
    assert (details["status"], len(backend.calls)) == ("FINISHED", 1)
    assert details["result"]["data"] == {"$ref": path, "mediaType": "image/png", "bytes": len(PNG)}
    for client in (service.alice, service.admin):
        code, headers, content = await read_file(client, path)
        assert (code, content) == (200, PNG)
        assert headers["Content-Type"] == "image/png"
        assert headers["Content-Length"] == str(len(PNG))
        assert headers["Content-Disposition"] == "attachment"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "sandbox"
    assert (await service.bob.get(path)).status == 404
    assert (await service.bearing("A" * 22).get(path)).status == 401
    deletion = DeleteTask(reason="no longer wanted")
    await service.container.commands.task(parse_task_id(task_id), deletion, by=Actor("user", "alice"))
    assert (await service.alice.get(path)).status == 404


async def test_a_result_without_a_file_has_none(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.ended(task_id)

    for name in (task_id, "0" * 26 + "~YWxpY2U", "x"):
        assert (await service.alice.get(f"/api/task/{name}/result/file")).status == 404


async def test_a_file_of_a_server_runs_nothing_in_a_browser(service: Service, backend: BackendServer) -> None:
    backend.answer = answering(b"<svg onload='alert(1)'/>", "image/svg+xml")
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.ended(task_id)

    code, headers, _ = await read_file(service.alice, f"/api/task/{task_id}/result/file")

    assert (code, headers["Content-Disposition"], headers["Content-Security-Policy"]) == (200, "attachment", "sandbox")


async def test_a_type_may_accept_json_only(service: Service, backend: BackendServer) -> None:
    backend.answer = at_first(answering(PNG, "image/png"))
    defined = await service.admin.done("PUT", "/api/types/tables", {"accepts": "json"})
    await service.admin.register(backend, "only", types=["tables"])

    task_id = await service.alice.submit({"type": "tables", "payload": 1})
    details = await service.alice.ended(task_id)

    assert defined["accepts"] == "json"
    assert (await service.admin.done("GET", "/api/types/default"))["accepts"] == "any"
    assert (details["status"], details["attempt"]) == ("FINISHED", 2)
    history = await service.alice.history(task_id)
    assert errors(history) == [(1, "bad_answer")]
    assert [event["error"] for event in history if "error" in event] == [
        "the server answered 200, and the answer is image/png; the task's type accepts JSON only"
    ]


async def test_what_a_type_accepts_is_a_known_word(service: Service) -> None:
    assert await service.admin.refusal("PUT", "/api/types/tables", {"accepts": "xml"}) == (400, "$.accepts")


async def test_a_file_whose_parts_are_missing_is_a_503_and_never_a_shorter_file(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = answering(PNG, "image/png")
    await service.admin.register(backend, "only")
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.ended(task_id)

    await api(service.container.appending, "STREAM.PURGE.OBJ_results", {"filter": "$O.results.C.>"})
    answer = await service.alice.get(f"/api/task/{task_id}/result/file")

    assert answer.status == 503
