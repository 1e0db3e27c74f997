"""The queue surface over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from taskstream.api.legacy import submission
from taskstream.api.legacy.stream import chapter_lines
from taskstream.api.schemas.legacy_queue import ChaptersBody
from taskstream.clock import random_bits, utc_now
from taskstream.events.envelope import Actor
from taskstream.events.ids import new_ref, parse_task_id
from taskstream.events.task import ModelChoice
from taskstream.push import attempt_reports
from taskstream.streams.jetstream.messages import read
from taskstream.wire.trace import NO_CONTEXT
from testkit.backend import BackendServer, accept, finished, hold, status
from testkit.queue_surface import MODEL_AT as MODEL
from testkit.queue_surface import MODEL_KEY as KEY
from testkit.service import Answer, Service, running_service
from testkit.waiting import wait_until


async def queue(service: Service, project: str = "novel", chapters: int = 1, **headers: str) -> str:
    """Queue chapters as alice; return the task's id."""
    path = f"/api/projects/{quote(project, safe='')}/queue-chapters"
    answer = await service.alice.done("POST", path, {"chaptersToGenerate": chapters}, headers=MODEL | headers)
    assert answer["success"] is True
    return str(answer["taskId"])


async def shown(service: Service, task_id: str) -> dict[str, Any]:
    answer = await service.alice.done("GET", f"/api/queue/tasks/{task_id}")
    assert answer["success"] is True
    found: dict[str, Any] = answer["task"]
    return found


async def listed(service: Service, path: str = "/api/queue/tasks") -> list[str]:
    answer = await service.alice.done("GET", path)
    assert answer["success"] is True
    return [task["id"] for task in answer["tasks"]]


async def becomes(service: Service, task_id: str, status: str) -> dict[str, Any]:
    path, wanted = f"/api/queue/tasks/{task_id}", f"{task_id} to be {status}"
    found = await service.alice.until(path, lambda it: it["task"]["status"] == status, wanted)
    return dict(found["task"])


async def keys_gone(service: Service) -> None:
    """Wait until no key of a task is stored."""

    async def gone() -> bool:
        return not await service.container.buckets.secrets.scan("task.>")

    await wait_until(gone, "the keys to be destroyed")


# Submission


async def test_a_chapter_task_shows_the_fields_that_clients_know(api: Service) -> None:
    task = await shown(api, await queue(api, chapters=3))

    assert task["type"] == "chapter"
    assert task["status"] == "pending"
    assert task["projectName"] == "novel"
    assert task["userId"] == "alice"
    assert task["params"] == {"chaptersToGenerate": 3}
    assert task["progress"] == 0
    assert task["createdAt"] == task["updatedAt"] > 1_600_000_000_000
    assert {"error", "message", "startedAt", "completedAt"}.isdisjoint(task)


async def test_what_a_body_leaves_out_has_the_defaults_of_the_contract(api: Service) -> None:
    chapter = await api.alice.done("POST", "/api/projects/novel/queue-chapters", headers=MODEL)
    outline = await api.alice.done("POST", "/api/projects/novel/queue-outline", {}, headers=MODEL)

    assert (await shown(api, chapter["taskId"]))["params"] == {"chaptersToGenerate": 1}
    task = await shown(api, outline["taskId"])
    assert task["type"] == "outline"
    assert task["params"] == {"targetChapters": 400, "targetWordCount": 100}


async def test_a_project_is_called_anything(api: Service) -> None:
    for name in ("novel", "Der Prozeß", "三体", "a/b", "a%2Fb", "50 % off?", "🙂", "a&b=c#d"):
        assert (await shown(api, await queue(api, name)))["projectName"] == name


async def test_two_projects_have_two_ids_and_one_project_has_one(api: Service) -> None:
    ids = [(await shown(api, await queue(api, name)))["projectId"] for name in ("a b", "a/b", "a b")]

    assert ids[0] == ids[2] != ids[1]


async def test_a_bad_name_or_body_is_refused_in_the_form_of_both_contracts(api: Service) -> None:
    for name in ("%ff", "%00", "a" * 257):
        assert_refused(await api.alice.post(f"/api/projects/{name}/queue-chapters", {}, headers=MODEL), 400)
    for body in ({"chaptersToGenerate": 0}, {"chaptersToGenerate": "many"}, [], b"{"):
        assert_refused(await api.alice.post("/api/projects/novel/queue-chapters", body, headers=MODEL), 400)


async def test_a_bad_model_header_is_refused_and_its_value_not_repeated(api: Service) -> None:
    for name, value in (
        ("X-AI-BaseUrl", "ftp://example.org"),
        ("X-AI-BaseUrl", "https://user:pass@example.org"),
        ("X-AI-Model", "m" * 129),
        ("X-AI-Key", "k" * 4_097),
    ):
        answer = await api.alice.post("/api/projects/novel/queue-chapters", {}, headers=MODEL | {name: value})
        assert_refused(answer, 400)
        assert name in answer["error"]
        assert value not in str(answer.body)


async def test_the_same_idempotency_key_is_the_same_task(api: Service) -> None:
    headers = MODEL | {"Idempotency-Key": "k1", "X-AI-Key": "first"}
    first = await api.alice.post("/api/projects/novel/queue-chapters", {}, headers=headers)
    again = await api.alice.post("/api/projects/novel/queue-chapters", {}, headers=headers)
    other = await api.alice.post("/api/projects/other/queue-chapters", {}, headers=headers)

    assert first["taskId"] == again["taskId"]
    assert_refused(other, 422)
    assert len(await api.container.buckets.secrets.scan("task.>")) == 1


async def test_a_queued_task_is_a_task_of_the_task_surface_too(api: Service) -> None:
    task_id = await queue(api, chapters=2)

    details = await api.alice.details(task_id)

    assert (details["status"], details["type"]) == ("WAITING", "chapter")
    assert details["request"] == {"projectName": "novel", "chaptersToGenerate": 2}


# Answers


async def test_lists_have_what_has_not_ended_and_what_ended_lately(api: Service) -> None:
    """Complete at once, and in the order of the contract: oldest first, and newest first those that are active."""
    waiting, cancelled = await queue(api), await queue(api)
    await api.alice.submit({"a": 1})
    await api.alice.post(f"/api/queue/tasks/{cancelled}/cancel")
    more = [await queue(api, chapters=number) for number in range(1, 31)]

    assert await listed(api) == [waiting, cancelled, *more]
    assert await listed(api, "/api/active-tasks") == [*more[::-1], waiting]


async def test_another_users_tasks_are_not_shown(api: Service) -> None:
    task_id = await queue(api)

    for answer in (
        await api.bob.get(f"/api/queue/tasks/{task_id}"),
        await api.bob.post(f"/api/queue/tasks/{task_id}/cancel"),
        await api.bob.delete(f"/api/queue/tasks/{task_id}"),
    ):
        assert_refused(answer, 403)
    assert (await api.bob.get("/api/queue/tasks"))["tasks"] == []
    assert (await api.bob.get("/api/active-tasks"))["tasks"] == []


async def test_a_task_without_a_project_is_not_in_the_queue(api: Service) -> None:
    assert_refused(await api.alice.get(f"/api/queue/tasks/{await api.alice.submit({'a': 1})}"), 404)


async def test_without_a_token_or_a_role_both_contracts_refuse(api: Service) -> None:
    assert_refused(await api.anonymous.get("/api/queue/tasks"), 401)
    assert_refused(await api.auditor.post("/api/projects/novel/queue-chapters", {}), 403)


# Cancel and delete


async def test_a_cancelled_task_shows_as_failed_by_its_user(api: Service) -> None:
    task_id = await queue(api)

    for _ in range(2):
        answer = await api.alice.post(f"/api/queue/tasks/{task_id}/cancel")
        assert (answer.status, answer.body) == (200, {"success": True})

    task = await shown(api, task_id)
    assert (task["status"], task["error"]) == ("failed", "Cancelled by user")
    assert task["completedAt"] >= task["createdAt"]


async def test_a_deleted_task_is_gone_and_its_history_stays_for_auditors(api: Service) -> None:
    task_id = await queue(api)

    for _ in range(2):
        assert (await api.alice.delete(f"/api/queue/tasks/{task_id}")).body == {"success": True}

    assert await listed(api) == []
    assert_refused(await api.alice.get(f"/api/queue/tasks/{task_id}"), 404)
    assert (await api.alice.get(f"/api/task/{task_id}")).status == 404
    assert (await api.alice.get(f"/api/task/{task_id}/events")).status == 404
    assert (await api.alice.get("/api/tasks"))["tasks"] == []
    kinds = [event["type"] for event in await api.auditor.history(task_id)]
    assert kinds == ["TaskSubmitted", "TaskCancelled", "TaskDeleted"]
    assert [task["id"] for task in (await api.auditor.get("/api/tasks?owner=alice"))["tasks"]] == [task_id]


# Calls of a server


@contextlib.asynccontextmanager
async def writing(nats_url: str, backend: BackendServer, **more: Any) -> AsyncIterator[Service]:
    async with running_service(nats_url) as service:
        await service.admin.register(backend, "writer", types=["chapter", "outline"], **more)
        yield service


async def test_a_chapter_is_written_by_a_server_of_its_type(nats_url: str) -> None:
    async with BackendServer() as backend, writing(nats_url, backend) as service:
        task = await becomes(service, await queue(service, chapters=2), "completed")

        assert task["progress"] == 100
        assert backend.calls[0]["request"] == {"projectName": "novel", "chaptersToGenerate": 2}
        assert {name: backend.headers[0][name] for name in MODEL} == MODEL


async def test_progress_is_shown_as_the_server_reports_it(nats_url: str) -> None:
    async with (
        BackendServer(accept) as backend,
        writing(nats_url, backend, callback=True, **{"async": True}) as service,
    ):
        task_id = await queue(service, chapters=2)
        await wait_until(lambda: backend.calls, "the call")
        await backend.report(backend.calls[0], "PROCESSING", progress=50, message="chapter 1 of 2")

        task = await shown(service, task_id)

        assert (task["status"], task["progress"], task["message"]) == ("processing", 50, "chapter 1 of 2")
        assert task["startedAt"] >= task["createdAt"]


async def test_cancelling_closes_the_call(nats_url: str) -> None:
    async with BackendServer(hold) as backend, writing(nats_url, backend) as service:
        task_id = await queue(service)
        await wait_until(lambda: backend.running, "the call")
        await service.alice.post(f"/api/queue/tasks/{task_id}/cancel")

        await wait_until(lambda: backend.broken_off, "the call to be broken off")


async def test_an_attempt_has_the_types_time_for_each_chapter(api: Service) -> None:
    await api.admin.put("/api/types/chapter", {"timeout": 100})

    for chapters in (1, 7):
        submitted = (await api.auditor.history(await queue(api, chapters=chapters)))[0]
        assert submitted["policy"]["timeout"] == f"PT{100 * chapters}S"


# The key


async def everything_stored(service: Service) -> bytes:
    """Return all that is in the log, in the buckets and in answers about tasks."""
    container = service.container
    found = b""
    for stream in ("TASKS", "SERVERS", "DISPATCH", "RETRIES", "TIMERS", "KV_tasks", "KV_registry", "KV_secrets"):
        found += b"".join(position.data for position in await read(container.reading, stream, ">"))
    for path in ("/api/queue/tasks", "/api/tasks", "/api/active-tasks"):
        found += str((await service.alice.get(path)).body).encode()
    return found


@pytest.mark.parametrize("kind", ["result", "refusal", "callback"])
async def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_log(nats_url: str, kind: str) -> None:
    said = {"error": f"bad key {KEY}"}
    answers = {"result": status(200, {"said": f"I got {KEY}"}), "refusal": status(400, said), "callback": accept}
    more = {"callback": True, "async": True} if kind == "callback" else {}
    async with BackendServer(answers[kind]) as backend, writing(nats_url, backend, **more) as service:
        task_id = await queue(service)
        if kind == "callback":
            await wait_until(lambda: backend.calls, "the call")
            await backend.report(backend.calls[0], "PROCESSING", message=f"using {KEY}")
            await backend.report(backend.calls[0], "FINISHED", data={"said": KEY})
        await becomes(service, task_id, "failed" if kind == "refusal" else "completed")

        assert backend.headers[0]["X-AI-Key"] == KEY
        stored = await everything_stored(service) + str(await service.alice.details(task_id)).encode()
        assert KEY.encode() not in stored
        assert b"0123456789" not in stored
        assert b"[key removed]" in stored


@pytest.mark.parametrize("end", ["completed", "cancelled", "deleted"])
async def test_the_key_is_destroyed_when_the_task_ends(nats_url: str, end: str) -> None:
    async with BackendServer(hold) as backend, writing(nats_url, backend) as service:
        task_id = await queue(service)
        await wait_until(lambda: backend.running, "the call")
        assert len(await service.container.buckets.secrets.scan("task.>")) == 1
        match end:
            case "completed":
                backend.let_go.set()
                await becomes(service, task_id, "completed")
            case "cancelled":
                await service.alice.post(f"/api/queue/tasks/{task_id}/cancel")
            case _:
                await service.alice.delete(f"/api/queue/tasks/{task_id}")

        await keys_gone(service)


async def test_a_key_left_over_by_a_crash_is_destroyed(nats_url: str) -> None:
    async with running_service(nats_url) as service:
        ended = await queue(service)
        await service.alice.post(f"/api/queue/tasks/{ended}/cancel")

        await service.container.secrets.put(parse_task_id(ended), "left")
        await service.container.secrets.put(new_ref("alice", utc_now(), random_bits(80)), "never submitted")

        await keys_gone(service)


async def test_a_task_whose_key_is_destroyed_is_not_retried(api: Service) -> None:
    task_id = await queue(api)
    await api.alice.post(f"/api/queue/tasks/{task_id}/cancel")

    answer = await api.alice.post(f"/api/task/{task_id}/retry")

    assert answer.status == 409
    assert "submit the task again" in answer["error"]


def assert_refused(answer: Answer, status: int) -> None:
    """Assert a refusal as both contracts have it."""
    assert answer.status == status, answer
    assert answer["success"] is False
    assert answer["status"] == status
    assert answer["error"] == answer["detail"]


# generate-stream


async def generated(service: Service, project: str, **body: Any) -> list[dict[str, Any]]:
    """Generate, and return all messages until the end."""
    url = f"{service.url}/api/projects/{project}/generate-stream"
    headers = MODEL | {"Authorization": f"Bearer {service.alice.bearer}"}
    async with service.alice.session.post(url, json=body, headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = [line.decode() async for line in response.content]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def chapters_written(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Report two chapters, one written and one not, and answer."""
    written = {"chapterIndex": 1, "status": "complete", "title": "One", "preview": "It was", "wordCount": 900}
    missing = {"chapterIndex": 2, "status": "error", "error": "no idea"}
    await server.report(task, "PROCESSING", progress=0, message="chapter 1", custom_data={"chapterIndex": 1})
    await server.report(task, "PROCESSING", progress=50, message="chapter 1 is done", custom_data=written)
    await server.report(task, "PROCESSING", progress=100, message="chapter 2 failed", custom_data=missing)
    return web.json_response(finished(task, {"totalGenerated": 1, "totalFailed": 1}))


async def test_generate_stream_reports_each_chapter_in_the_older_format(nats_url: str) -> None:
    async with BackendServer(chapters_written) as backend, writing(nats_url, backend, callback=True) as service:
        messages = await generated(service, "novel", chaptersToGenerate=2)

    task_id = backend.calls[0]["task_id"]
    assert messages == [
        {"type": "start", "total": 2},
        {"type": "task_created", "taskId": task_id},
        progress(0, 1, "generating", "chapter 1"),
        progress(1, 1, "complete", "chapter 1 is done"),
        {"type": "chapter_complete", "chapterIndex": 1, "title": "One", "preview": "It was", "wordCount": 900},
        progress(2, 2, "error", "chapter 2 failed"),
        {"type": "chapter_error", "chapterIndex": 2, "error": "no idea"},
        {
            "type": "done",
            "success": True,
            "generated": [{"chapter": 1, "title": "One", "wordCount": 900}],
            "failedChapters": [2],
            "totalGenerated": 1,
            "totalFailed": 1,
            "taskId": task_id,
        },
    ]


def progress(current: int, index: int, status: str, message: str) -> dict[str, Any]:
    fields = {"current": current, "total": 2, "chapterIndex": index, "status": status, "message": message}
    return {"type": "progress", **fields}


async def test_generate_stream_reports_a_failure(nats_url: str) -> None:
    async with BackendServer(status(400, {"error": "no such model"})) as backend, writing(nats_url, backend) as service:
        messages = await generated(service, "novel")

    assert [entry["type"] for entry in messages] == ["start", "task_created", "error"]
    assert "no such model" in messages[2]["error"]


async def test_a_stream_taken_up_after_a_cancellation_ends_with_it(nats_url: str) -> None:
    """Also if what became of the cancelled attempt is in the log by then."""
    async with BackendServer(hold) as backend, writing(nats_url, backend) as service:
        task_id = await queue(service)
        await wait_until(lambda: backend.running, "the call")
        await service.alice.post(f"/api/task/{task_id}/cancel", {"reason": "changed my mind"})

        async def is_reported() -> bool:
            return (await service.alice.history(task_id))[-1]["type"] == "CancelReported"

        await wait_until(is_reported, "what became of the attempt")
        ref = parse_task_id(task_id)
        (listed_task,) = await service.container.tasks.views([ref])
        lines = [line async for line in chapter_lines(service.container, listed_task, is_new=False)]

    messages = [json.loads(line.decode().removeprefix("data: ")) for line in lines]
    assert [message["type"] for message in messages] == ["start", "task_resumed", "error"]
    assert messages[-1]["error"] == "changed my mind"


async def test_closing_a_generate_stream_does_not_stop_the_task(nats_url: str) -> None:
    async with BackendServer(hold) as backend, writing(nats_url, backend) as service:
        url = f"{service.url}/api/projects/novel/generate-stream"
        headers = MODEL | {"Authorization": f"Bearer {service.alice.bearer}"}
        async with service.alice.session.post(url, headers=headers) as response:
            await response.content.readline()
            await wait_until(lambda: backend.running, "the call")
        backend.let_go.set()

        await becomes(service, backend.calls[0]["task_id"], "completed")


# Chapters and simultaneous requests


async def test_the_end_of_every_chapter_is_kept_however_quickly_they_are_reported(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports that follow each other quickly are one event of the log."""
    monkeypatch.setattr(attempt_reports, "PER_SECOND", 0.001)  # so the reports are quick on any machine
    async with (
        BackendServer(accept) as backend,
        writing(nats_url, backend, callback=True, **{"async": True}) as service,
    ):
        task_id = await queue(service, chapters=30)
        await wait_until(lambda: backend.calls, "the call")
        for number in range(1, 31):
            ended = {"chapterIndex": number, "status": "error" if number % 7 == 0 else "complete"}
            for custom_data in ({"chapterIndex": number}, ended):
                await backend.report(backend.calls[0], "PROCESSING", custom_data=custom_data)
        await backend.report(backend.calls[0], "PROCESSING", message="last")

        await service.container.reports.flush(parse_task_id(task_id))
        found = await service.alice.done("GET", "/api/projects/novel/active-task")
        events = [event for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"]

        assert len(events) <= attempt_reports.BURST + 1
        assert found["task"]["failedChapters"] == [7, 14, 21, 28]
        assert found["task"]["completedChapters"] == [number for number in range(1, 31) if number % 7]


@pytest.mark.parametrize("ends", [False, True], ids=["runs", "ended"])
@pytest.mark.parametrize("stage", ["_unused_number", "_running", "submit_with_key"])
async def test_whichever_request_is_delayed_where_one_task_is_made(
    api: Service, monkeypatch: pytest.MonkeyPatch, stage: str, ends: bool
) -> None:
    """One request stops before a step of its own, and another one runs to its end meanwhile."""
    may_go, has_stopped = asyncio.Event(), asyncio.Event()
    step = getattr(submission, stage)

    async def stops_once(*given: Any) -> Any:
        if not has_stopped.is_set():
            has_stopped.set()
            await may_go.wait()
        return await step(*given)

    def generated_by(chapters: int) -> Any:
        asked = submission.queue_request(
            "alice",
            "novel",
            ModelChoice(),
            ChaptersBody(chapters_to_generate=chapters),
            repeatable=False,
            trace=NO_CONTEXT,
        )
        return submission.generate(api.container, asked, "key", {"by": Actor("user", "alice"), "cause": "test"})

    monkeypatch.setattr(submission, stage, stops_once)
    delayed = asyncio.create_task(generated_by(1))
    await has_stopped.wait()
    first = await generated_by(2)
    if ends:
        await api.alice.post(f"/api/queue/tasks/{first.ref.id}/cancel")
    may_go.set()
    second = await delayed

    assert first.is_new
    # A request that has not read anything yet comes after the other one, and its task is over.
    is_later = ends and stage == "_unused_number"
    assert (second.ref == first.ref, second.is_new) == ((not is_later), is_later)
    assert len(await listed(api)) == 1 + is_later
