"""Results as files: uploads by the server of an attempt, and answers in several parts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
from aiohttp import web

from taskstream.clock import utc_now
from taskstream.workers.file_sweeper import SAFE_AGE, FileSweeper
from testkit.backend import BackendServer, finished, hold, reporting
from testkit.puller import Puller, register_pulled
from testkit.service import Client, Service, running_service

VIDEO = b"a video" * 100_000


async def stored(url: str, token: str, content: bytes = VIDEO, query: str = "?name=v.mp4&type=video/mp4") -> Any:
    """Store a file for a task as its server does; return status and answer."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/files{query}", data=content, headers=headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def bytes_of(client: Client, path: str) -> bytes:
    headers = {"Authorization": f"Bearer {client.bearer}"}
    async with client.session.get(client.url + path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def upload_and_report(server: BackendServer, task: dict[str, Any]) -> None:
    status, file = await stored(task["callback_url"], task["callback_token"])
    assert status == 200, file
    await server.report(task, "FINISHED", data={"video": {"$file": file["id"]}, "n": 1.0})


async def test_a_server_stores_files_and_names_them_in_its_result(service: Service, backend: BackendServer) -> None:
    backend.answer = reporting(upload_and_report)
    await service.admin.register(backend, "any", callback=True)

    task = await service.alice.submit({"payload": 1})
    data = (await service.alice.ended(task))["result"]["data"]

    (file,) = await service.alice.listed("/api/files", "files")
    assert data["video"] == {
        "$file": file["id"],
        "$ref": f"/api/files/{file['id']}",
        "name": "v.mp4",
        "mediaType": "video/mp4",
        "bytes": len(VIDEO),
    }
    assert (file["taskId"], file["owner"]) == (task, "alice")
    assert await bytes_of(service.alice, data["video"]["$ref"]) == VIDEO
    assert (await service.bob.get(data["video"]["$ref"])).status == 404


async def test_the_files_of_a_result_live_as_long_as_its_task(service: Service, backend: BackendServer) -> None:
    backend.answer = reporting(upload_and_report)
    await service.admin.register(backend, "any", callback=True)
    task = await service.alice.submit({"payload": 1})
    file = (await service.alice.ended(task))["result"]["data"]["video"]["$file"]
    sweeper = FileSweeper(service.container)

    assert (await sweeper.run_once(utc_now() + timedelta(days=300))).get("files_deleted", 0) == 0
    await service.alice.done("POST", "/api/tasks/delete", {"ids": [task]})
    assert (await sweeper.run_once(utc_now() + SAFE_AGE))["files_deleted"] == 1
    assert (await service.alice.get(f"/api/files/{file}/info")).status == 404


async def test_a_puller_stores_files_too(service: Service) -> None:
    await register_pulled(service.admin)
    puller = Puller(service.admin)
    task = await service.alice.submit({"payload": 1})
    taken = await puller.one()
    url = f"{service.url}/api/attempts/{taken['attempt']}"

    status, file = await stored(url, taken["token"])
    assert (status, file["taskId"]) == (200, task)
    again = await stored(url, "x" * 22)
    assert again[0] == 401
    await puller.told(taken, "done", {"result": {"video": {"$file": file["id"]}}})

    data = (await service.alice.ended(task))["result"]["data"]
    assert await bytes_of(service.alice, data["video"]["$ref"]) == VIDEO
    assert (await stored(url, taken["token"]))[0] == 409


async def test_only_the_present_attempt_stores_files(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "any", callback=True)
    task = await service.alice.submit({"payload": 1})
    await service.alice.reaches(task, "PROCESSING")
    (call,) = backend.calls
    url = call["callback_url"]

    assert (await stored(url, "y" * 22))[0] == 401
    assert (await stored(f"{service.url}/api/task/{'0' * 26}~alice", call["callback_token"]))[0] == 401
    assert (await service.bob.post(f"/api/task/{task}/files", b"x")).status == 404
    assert (await stored(url, call["callback_token"], b"1"))[0] == 200
    await service.alice.done("POST", f"/api/task/{task}/cancel")
    assert (await stored(url, call["callback_token"]))[0] == 409
    backend.let_go.set()


async def test_files_of_a_server_count_for_the_owner_of_the_task(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, owner_stored=1_000_000, max_file=900_000) as service:
        backend.answer = hold
        await service.admin.register(backend, "any", callback=True)
        task = await service.alice.submit({"payload": 1})
        await service.alice.reaches(task, "PROCESSING")
        (call,) = backend.calls

        statuses = [(await stored(call["callback_url"], call["callback_token"], b"x" * 600_000))[0] for _ in range(2)]
        too_large = await stored(call["callback_url"], call["callback_token"], b"x" * 900_001)

        assert statuses == [200, 429]
        assert too_large[0] == 413
        assert [file["owner"] for file in await service.alice.listed("/api/files", "files")] == ["alice"]
        backend.let_go.set()


async def test_a_result_that_names_a_missing_file_or_anothers_says_so(service: Service, backend: BackendServer) -> None:
    of_bob = (await service.bob.done("POST", "/api/files", b"x"))["id"]
    own = (await service.alice.done("POST", "/api/files", b"x"))["id"]
    never = own.replace(own[:10], "0" * 10)

    async def name_them(_: BackendServer, task: dict[str, Any], __: web.Request) -> web.StreamResponse:
        return web.json_response(finished(task, [{"$file": each} for each in (of_bob, never, own)]))

    backend.answer = name_them
    await service.admin.register(backend, "any")
    task = await service.alice.submit({"payload": 1})
    data = (await service.alice.ended(task))["result"]["data"]

    assert data[:2] == [{"$file": of_bob}, {"$file": never}]
    assert data[2]["$ref"] == f"/api/files/{own}"
    (note,) = (await service.alice.history(task))[-1]["notes"]
    assert of_bob in note
    assert never in note
    assert (await service.alice.delete(f"/api/files/{own}")).status == 200, "the task has ended"


async def test_an_answer_in_several_parts_is_a_result_with_files(service: Service, backend: BackendServer) -> None:
    async def answer_in_parts(_: BackendServer, __: dict[str, Any], request: web.Request) -> web.StreamResponse:
        with aiohttp.MultipartWriter("mixed") as parts:
            parts.append_json({"label": "cat"})
            picture = parts.append(b"\x89PNG", {"Content-Type": "image/png"})  # type: ignore[arg-type]
            picture.set_content_disposition("attachment", name="picture", filename="a.png")
            response = web.StreamResponse(headers={"Content-Type": parts.content_type})
            await response.prepare(request)
            await parts.write(response)  # type: ignore[arg-type]
            await response.write_eof()
        return response

    backend.answer = answer_in_parts
    await service.admin.register(backend, "any")
    task = await service.alice.submit({"payload": 1})
    data = (await service.alice.ended(task))["result"]["data"]

    assert data["label"] == "cat"
    assert data["picture"] == {"$ref": f"/api/task/{task}/result/file/0", "mediaType": "image/png", "bytes": 4}
    assert await bytes_of(service.alice, data["picture"]["$ref"]) == b"\x89PNG"


async def test_uploads_of_one_attempt_with_one_key_are_one_file(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "any", callback=True)
    task = await service.alice.submit({"payload": 1})
    await service.alice.reaches(task, "PROCESSING")
    (call,) = backend.calls
    client = service.bearing(call["callback_token"])

    path, key = f"/api/task/{task}/files", {"Idempotency-Key": "frame 1"}
    answers = await asyncio.gather(*(client.post(path, b"x", headers=key) for _ in range(3)))

    assert len({answer["id"] for answer in answers}) == 1
    assert (await service.alice.done("POST", "/api/files", b"y", headers=key))["id"] != answers[0]["id"]
    backend.let_go.set()
