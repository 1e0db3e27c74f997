"""Files in payloads: checked at submission, sent to servers as links, kept for the tasks that need them."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from taskstream.clock import utc_now
from taskstream.errors import FileInUse
from taskstream.events.file import FileCreated
from taskstream.events.ids import new_ref, parse_file_id
from taskstream.events.subjects import file_root
from taskstream.workers.file_sweeper import SAFE_AGE, FileSweeper
from testkit.backend import BackendServer, finished, hold
from testkit.histories import give, submission
from testkit.puller import Puller, register_pulled
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

CONTENT = b"a picture"
LATER = SAFE_AGE + timedelta(minutes=1)


async def uploaded(client: Client, content: bytes = CONTENT, query: str = "") -> str:
    return str((await client.done("POST", f"/api/files{query}", content))["id"])


async def fetched(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.read()


async def removed(client: Client, task_id: str) -> None:
    await client.done("POST", "/api/tasks/delete", {"ids": [task_id]})


async def sweep(service: Service, after: timedelta = LATER) -> dict[str, int]:
    return dict(await FileSweeper(service.container).run_once(utc_now() + after))


async def read_link(_: BackendServer, task: dict[str, Any], __: web.Request) -> web.StreamResponse:
    """Answer with what is under the link in the payload."""
    status, content = await fetched(task["request"]["image"])
    return web.json_response(finished(task, {"status": status, "content": content.decode(), "n": task["request"]["n"]}))


async def test_a_server_gets_a_link_in_the_place_of_a_file(service: Service, backend: BackendServer) -> None:
    backend.answer = read_link
    await service.admin.register(backend, "any")
    file = await uploaded(service.alice)
    payload = {"image": {"$file": file}, "n": 12345678901234567890}

    task = await service.alice.submit({"payload": payload})
    ended = await service.alice.ended(task)

    assert ended["result"]["data"] == {"status": 200, "content": "a picture", "n": 12345678901234567890}
    assert ended["request"] == payload
    (call,) = backend.calls
    assert call["request"]["image"].startswith(f"{service.url}/api/files/{file}?token=")
    submitted = (await service.alice.history(task))[0]
    assert submitted["files"] == [file]


async def test_a_server_gets_links_to_files_that_were_checked_and_to_no_others(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "any")
    own, of_bob = await uploaded(service.alice), await uploaded(service.bob)
    payload = json.dumps([{"$file": of_bob}, {"$file": own}]).encode()
    asked = submission(payload=payload)
    ref = new_ref("alice", utc_now(), 7)
    await give(service.container.commands, ref, replace(asked, submission=replace(asked.submission, files=(own,))))

    await service.alice.ended(ref.id)

    (call,) = backend.calls
    assert call["request"][0] == {"$file": of_bob}
    assert call["request"][1].startswith(f"{service.url}/api/files/{own}?token=")


async def test_a_hidden_reference_to_another_users_file_is_refused(api: Service) -> None:
    own, of_bob = await uploaded(api.alice), await uploaded(api.bob)
    body = (
        f'{{"payload": {{"a": {{"$file": "{of_bob}"}}, "a": 1, '
        f'"b": {{"\\u0024file": "{own}"}}, "c": {{"$file": "{own}"}}}}}}'
    )

    assert (await api.alice.post("/api/task", body.encode())).status == 400


async def test_a_retry_gets_a_link_of_its_own(service: Service, backend: BackendServer) -> None:
    async def fail_once(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        if task["attempt"] == 1:
            return web.Response(status=500)
        return await read_link(server, task, request)

    backend.answer = fail_once
    await service.admin.register(backend, "any")
    file = await uploaded(service.alice)

    ended = await service.alice.ended(await service.alice.submit({"payload": {"image": {"$file": file}, "n": 1}}))

    assert ended["result"]["data"]["status"] == 200
    first, second = [call["request"]["image"] for call in backend.calls]
    assert first != second


async def test_a_puller_gets_a_link_too(service: Service) -> None:
    await register_pulled(service.admin)
    file = await uploaded(service.alice)
    await service.alice.submit({"payload": {"image": {"$file": file}}})

    taken = await Puller(service.admin).one()

    assert await fetched(taken["input"]["image"]) == (200, CONTENT)


async def test_the_schema_of_a_type_sees_a_url_in_the_place_of_a_file(api: Service) -> None:
    schema = {"type": "object", "properties": {"image": {"type": "string", "format": "uri"}, "n": {"type": "integer"}}}
    await api.admin.done("PUT", "/api/types/picture", {"schema": schema})
    file = {"$file": await uploaded(api.alice)}

    await api.alice.submit({"type": "picture", "payload": {"image": file, "n": 1}})
    refused = await api.alice.refusal("POST", "/api/task", {"type": "picture", "payload": {"image": file, "n": file}})

    assert refused == (400, "$.payload.n")


async def test_what_is_refused_by_a_quota_refers_to_no_file(api: Service) -> None:
    await api.admin.done("PUT", "/api/owners/alice/limits", {"waiting": 1})
    file = await uploaded(api.alice)
    payload = {"payload": {"$file": file}}
    await api.alice.submit({"payload": 1})

    for path, body in (("/api/task", payload), ("/api/tasks/batch", [payload])):
        assert (await api.alice.post(path, body)).status == 429

    log = api.container.commands.files.log
    assert [type(each.recorded.event) for each in await log.load(file_root(parse_file_id(file)))] == [FileCreated]


async def test_a_file_that_is_missing_or_anothers_is_refused_with_its_place(api: Service) -> None:
    of_bob, deleted = await uploaded(api.bob), await uploaded(api.alice)
    await api.alice.done("DELETE", f"/api/files/{deleted}")
    never = deleted.replace(deleted[:10], "0" * 10)

    for missing in (of_bob, deleted, never):
        body = {"payload": {"a": [{"$file": missing}]}}
        assert await api.alice.refusal("POST", "/api/task", body) == (422, "$.payload.a[0].$file")
        assert await api.alice.refusal("POST", "/api/task", {"a": {"$file": missing}}) == (422, "$.a.$file")
        batch = await api.alice.post("/api/tasks/batch", [{"payload": 1}, body])
        assert (batch.status, [each["index"] for each in batch["errors"]]) == (400, [1])
        schedule = {"cron": "@daily", "task": body}
        assert await api.alice.refusal("POST", "/api/schedules", schedule) == (422, "$.task.payload.a[0].$file")
    assert await api.alice.tasks() == []


async def test_a_malformed_reference_is_a_400(api: Service) -> None:
    file = await uploaded(api.alice)
    for value, path in (({"$file": 1}, "$.payload.a.$file"), ({"$file": file, "x": 1}, "$.payload.a")):
        assert await api.alice.refusal("POST", "/api/task", {"payload": {"a": value}}) == (400, path)


async def test_a_repeated_request_finds_its_task_though_its_file_is_gone(api: Service) -> None:
    file = await uploaded(api.alice)
    body, key = {"payload": {"a": {"$file": file}}}, {"Idempotency-Key": "k"}
    task = await api.alice.submit(body, headers=key)
    await api.alice.done("POST", f"/api/task/{task}/cancel")
    await api.alice.done("DELETE", f"/api/files/{file}")

    assert await api.alice.submit(body, headers=key) == task


async def test_a_file_that_an_unfinished_task_needs_is_not_deleted(service: Service, backend: BackendServer) -> None:
    backend.answer = hold
    await service.admin.register(backend, "any")
    file = await uploaded(service.alice)
    task = await service.alice.submit({"payload": {"a": {"$file": file}}})
    batch = await service.alice.done("POST", "/api/tasks/batch", [{"payload": {"a": {"$file": file}}}] * 2)

    refused = await service.alice.delete(f"/api/files/{file}")
    assert refused.status == 409
    for task_id in (task, *batch["taskIds"]):
        assert task_id in refused["detail"]

    backend.let_go.set()
    for task_id in (task, *batch["taskIds"]):
        await service.alice.ended(task_id)
    await service.alice.done("DELETE", f"/api/files/{file}")


async def test_a_submission_and_a_deletion_that_race_leave_no_task_without_its_file(api: Service) -> None:
    for _ in range(12):
        file = await uploaded(api.alice)
        submitted, deleted, again = await asyncio.gather(
            api.alice.post("/api/task", {"payload": {"a": {"$file": file}}}),
            api.alice.delete(f"/api/files/{file}"),
            api.alice.post("/api/task", {"payload": {"b": {"$file": file}}}),
        )
        exists = (await api.alice.get(f"/api/files/{file}/info")).status == 200

        assert exists == (deleted.status == 409)
        assert {submitted.status, again.status} <= ({200} if exists else {422}), (submitted, deleted, again)


async def test_a_file_is_referred_to_by_many_tasks_at_once(api: Service) -> None:
    file = await uploaded(api.alice)

    answers = await asyncio.gather(
        *(api.alice.post("/api/task", {"payload": {"a": {"$file": file}, "n": n}}) for n in range(20))
    )

    assert [answer.status for answer in answers] == [200] * 20


async def test_a_file_ends_with_the_last_task_that_refers_to_it(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "any")
    file, unused = await uploaded(service.alice), await uploaded(service.alice)
    tasks = [await service.alice.submit({"payload": {"a": {"$file": file}}}) for _ in range(2)]
    for task in tasks:
        await service.alice.ended(task)

    await removed(service.alice, tasks[0])
    assert (await sweep(service)).get("files_deleted", 0) == 0
    await removed(service.alice, tasks[1])
    assert (await sweep(service, timedelta(minutes=30))).get("files_deleted", 0) == 0, "young references stay"
    assert (await sweep(service))["files_deleted"] == 1

    assert (await service.alice.get(f"/api/files/{file}/info")).status == 404
    assert (await service.alice.get(f"/api/files/{unused}/info")).status == 200


async def test_a_file_with_a_time_is_kept_until_then_and_ends_then(api: Service) -> None:
    file = await uploaded(api.alice, query="?expiresIn=2h")
    waiting = await uploaded(api.alice, query="?expiresIn=2h")
    task = await api.alice.submit({"payload": {"a": {"$file": waiting}}})
    gone = await api.alice.submit({"payload": {"a": {"$file": file}}})
    await api.alice.done("POST", f"/api/task/{gone}/cancel")
    await removed(api.alice, gone)

    assert (await sweep(api, timedelta(minutes=119))).get("files_deleted", 0) == 0
    assert (await sweep(api, timedelta(hours=4)))["files_deleted"] == 1
    assert (await api.alice.get(f"/api/files/{file}/info")).status == 404
    assert (await api.alice.get(f"/api/files/{waiting}/info")).status == 200, "a task that waits needs it"
    await api.alice.done("POST", f"/api/task/{task}/cancel")
    assert (await sweep(api, timedelta(hours=4)))["files_deleted"] == 1


async def test_an_old_file_ends_by_the_retention_and_its_history_later(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, file_retention=3600.0) as api:
        file = await uploaded(api.alice)
        sweeper = FileSweeper(api.container)

        assert (await sweeper.run_once(utc_now() + timedelta(minutes=59))).get("files_deleted", 0) == 0
        assert (await sweeper.run_once(utc_now() + timedelta(minutes=61)))["files_deleted"] == 1
        entries = (await api.alice.done("GET", "/api/log?log=files"))["entries"]
        assert [entry["event"] for entry in entries if entry["subject"]["id"] == file] == ["FileDeleted", "FileCreated"]
        assert (await sweeper.run_once(utc_now() + timedelta(days=31)))["files_forgotten"] == 1
        assert (await api.container.commands.files.load(parse_file_id(file))).sequence == 0


async def test_references_of_tasks_that_never_came_are_removed(api: Service) -> None:
    kept, file = await uploaded(api.alice), await uploaded(api.alice, query="?expiresIn=9h")
    holds, never = api.container.submissions.file_holds, "0" * 26 + "~alice"
    by = (await api.container.commands.files.history(parse_file_id(kept)))[0].recorded.by
    await holds.refer({parse_file_id(file): (never,)}, by=by, cause="")
    await api.alice.submit({"payload": {"a": {"$file": kept}}})

    assert (await api.alice.delete(f"/api/files/{file}")).status == 409, "it may be about to be submitted"
    assert (await sweep(api, timedelta(minutes=59))).get("references_removed", 0) == 0
    assert (await sweep(api))["references_removed"] == 1
    await api.alice.done("DELETE", f"/api/files/{file}")
    assert (await api.alice.delete(f"/api/files/{kept}")).status == 409


async def test_the_files_of_a_schedule_are_kept_between_its_runs(api: Service) -> None:
    file = await uploaded(api.alice)
    body = {"cron": "@yearly", "task": {"payload": {"a": {"$file": file}}}}
    schedule = (await api.alice.done("POST", "/api/schedules", body))["id"]

    refused = await api.alice.delete(f"/api/files/{file}")
    assert (refused.status, schedule in refused["detail"]) == (409, True)
    assert (await sweep(api, timedelta(days=40))).get("files_deleted", 0) == 0
    run = (await api.alice.done("POST", f"/api/schedules/{schedule}/run"))["taskId"]
    assert (await api.alice.history(run))[0]["files"] == [file]
    await api.alice.done("POST", f"/api/task/{run}/cancel")
    await api.alice.done("DELETE", f"/api/schedules/{schedule}")
    await removed(api.alice, run)
    assert (await sweep(api))["files_deleted"] == 1


async def test_bytes_that_no_file_names_are_swept(api: Service) -> None:
    """A kill between storing the bytes and the event, or in the middle of an upload, leaves bytes."""
    files, kept = api.container.files, await uploaded(api.alice)
    await files.objects.put(f"alice.{'0' * 26}.left", b"x")
    await files.objects.put(f"{kept.partition('~')[2]}.{kept[:26]}.second", b"x")

    assert (await sweep(api, timedelta(hours=2))).get("file_bytes_swept", 0) == 0
    assert (await sweep(api, timedelta(hours=4)))["file_bytes_swept"] == 2
    assert len(await files.objects.descriptions(0, 10)) == 1


async def test_a_file_referred_to_while_it_is_swept_stays(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await uploaded(api.alice, query="?expiresIn=1h")
    files = api.container.files
    delete = files.delete_as_seen

    async def refer_and_delete(*given: Any, **more: Any) -> None:
        await api.alice.submit({"payload": {"a": {"$file": file}}})
        with pytest.raises(FileInUse):
            await delete(*given, **more)
        raise FileInUse

    monkeypatch.setattr(files, "delete_as_seen", refer_and_delete)
    assert (await sweep(api, timedelta(hours=2))).get("files_deleted", 0) == 0
    assert (await api.alice.get(f"/api/files/{file}/info")).status == 200


async def test_a_sweep_walks_on_where_it_stopped(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskstream.workers import file_sweeper

    monkeypatch.setattr(file_sweeper, "LOOKED_AT", 2)
    for _ in range(5):
        await uploaded(api.alice, query="?expiresIn=1h")
    sweeper = FileSweeper(api.container)

    deleted = [(await sweeper.run_once(utc_now() + timedelta(hours=2))).get("files_deleted", 0) for _ in range(4)]

    assert sum(deleted) == 5
    assert max(deleted) == 2
    assert await wait_until(lambda: _nothing(api), "all files to be gone") is True


async def _nothing(service: Service) -> bool:
    return await service.alice.listed("/api/files", "files") == []
