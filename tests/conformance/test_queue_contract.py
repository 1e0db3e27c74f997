"""The contract of the queue surface, line by line: each test is named after the promise it checks.

One service serves all tests. Each has a user of its own, so none sees what another one made.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from taskstream.errors import StoreUnavailable
from taskstream.events.ids import parse_task_id
from taskstream.events.subjects import task_root
from taskstream.projections.active import projection_reaches
from taskstream.streams.jetstream.messages import last_sequence
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer, accept
from testkit.nats import running_nats
from testkit.queue_surface import MODEL, MODEL_AT, MODEL_KEY
from testkit.service import Answer, Client, Service, running_service
from testkit.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUED = {
    "id": str, "type": str, "projectId": str, "projectName": str, "userId": str, "params": dict, "aiConfig": dict,
    "status": str, "progress": int, "createdAt": int, "updatedAt": int,
}  # fmt: skip
OPTIONAL = {"message": str, "error": str, "startedAt": int, "completedAt": int}
ACTIVE = {
    "targetCount": int, "startChapter": int, "completedChapters": list, "failedChapters": list, "currentProgress": int,
    "updatedAtMs": int,
}  # fmt: skip
NULLABLE = {"currentMessage": str, "errorMessage": str} | OPTIONAL
users = itertools.count(1)

CREATING = ["queue-chapters", "queue-outline", "generate-stream", "outline"]


class World(NamedTuple):
    """A service with one server that serves chapters and outlines, and waits for the test to report."""

    service: Service
    backend: BackendServer

    async def call_of(self, task_id: str) -> dict[str, Any]:
        """Wait for the server to be called for a task."""

        def call() -> dict[str, Any] | None:
            return next((call for call in self.backend.calls if call["task_id"] == task_id), None)

        return await wait_until(call, f"the call for {task_id}")

    async def report(self, task_id: str, status: str = "PROCESSING", data: Any = None, **metadata: Any) -> None:
        answered, body = await self.backend.report(await self.call_of(task_id), status, data=data, **metadata)
        assert answered == 200, body

    async def end(self, task_id: str, data: Any = None) -> None:
        await self.report(task_id, "FINISHED", data)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    with running_nats(tmp_path_factory.mktemp("nats")) as nats:
        async with BackendServer(accept) as backend, running_service(nats.url) as service:
            more = {"async": True, "callback": True, "types": ["chapter", "outline"], "maxConcurrent": 1_000}
            await service.admin.register(backend, "writer", **more)
            yield World(service, backend)


@pytest_asyncio.fixture(loop_scope="module")
async def user(world: World) -> Client:
    return world.service.client(f"user {next(users)}")


async def queue(user: Client, project: str = "novel", what: str = "chapters", **body: Any) -> str:
    answer = await user.done("POST", f"/api/projects/{quote(project, safe='')}/queue-{what}", body, headers=MODEL)
    assert answer["success"] is True
    return str(answer["taskId"])


async def read(user: Client, path: str) -> Any:
    answer = await user.done("GET", path)
    assert answer["success"] is True
    return answer


async def shown(user: Client, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await read(user, f"/api/queue/tasks/{task_id}"))["task"]
    return found


async def becomes(user: Client, task_id: str, status: str) -> dict[str, Any]:
    path, wanted = f"/api/queue/tasks/{task_id}", f"{task_id} to be {status}"
    found = await user.until(path, lambda it: it["task"]["status"] == status, wanted)
    return dict(found["task"])


async def listed(user: Client, path: str) -> list[str]:
    return [task["id"] for task in (await read(user, path))["tasks"]]


def assert_refused(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer["success"] is False
    assert answer["error"] == answer["detail"]
    assert answer["status"] == status
    assert "problem+json" in answer.headers["Content-Type"]


class Lines:
    """The messages of an open stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.messages: list[dict[str, Any]] = []

    async def next_comment(self) -> bool:
        """Read a line; return True for a comment."""
        return (await self.response.content.readline()).startswith(b":")

    async def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Read up to a message that fulfils a condition, and return it."""
        async with asyncio.timeout(60):
            async for line in self.response.content:
                if line.startswith(b"data: "):
                    self.messages.append(json.loads(line.removeprefix(b"data: ")))
                    if holds(self.messages[-1]):
                        return self.messages[-1]
        raise AssertionError(f"the stream ended: {self.messages}")

    async def rest(self) -> list[dict[str, Any]]:
        """Read to the end; return all messages."""
        with contextlib.suppress(AssertionError):
            await self.until(lambda _: False)
        return self.messages

    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]


def of_type(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: bool(message["type"] == name)


@contextlib.asynccontextmanager
async def opened(
    user: Client, method: str, path: str, body: Any = None, *, bearer: bool = True
) -> AsyncIterator[Lines]:
    headers = MODEL | ({"Authorization": f"Bearer {user.bearer}"} if bearer else {})
    content = {} if body is None else {"json": body}
    async with user.session.request(method, user.url + path, headers=headers, **content) as response:  # type: ignore[arg-type]
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Lines(response)


@contextlib.asynccontextmanager
async def generating(
    user: Client, project: str = "novel", what: str = "generate-stream", **body: Any
) -> AsyncIterator[Lines]:
    async with opened(user, "POST", f"/api/projects/{quote(project, safe='')}/{what}", body) as lines:
        yield lines


# What every answer has


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/projects", 404),
        ("GET", "/api/projects/novel/nope", 404),
        ("GET", "/api/queue/nope", 404),
        ("GET", "/api/queue/tasks/nope", 404),
        ("POST", "/api/queue/tasks/nope/cancel", 404),
        ("POST", "/api/tasks/nope/cancel", 404),
        ("DELETE", "/api/queue/tasks/nope", 404),
        ("DELETE", "/api/projects/novel/tasks/nope", 404),
        ("POST", "/api/projects/novel/tasks/nope/pause", 404),
        ("PUT", "/api/active-tasks", 405),
        ("DELETE", "/api/events", 405),
        ("PATCH", "/api/projects/novel/queue-chapters", 405),
        ("GET", "/api/tasks/nope/cancel", 405),
        ("POST", "/api/projects/%ff/queue-chapters", 400),
        ("GET", "/api/queue/tasks?limit=0", 400),
    ],
)
async def test_every_answer_carries_success_a_failure_and_error(
    user: Client, method: str, path: str, status: int
) -> None:
    assert_refused(await user.call(method, path, headers=MODEL), status)


async def test_every_answer_carries_success_without_a_token_or_a_role(world: World, user: Client) -> None:
    for method, path in (("GET", "/api/queue/tasks"), ("GET", "/api/events"), ("GET", "/api/projects/x/active-task")):
        assert_refused(await world.service.anonymous.call(method, path), 401)
    assert_refused(await world.service.auditor.post("/api/projects/novel/queue-chapters", {}, headers=MODEL), 403)
    for path in ("/api/active-tasks?token=x", f"/api/active-tasks?token={user.bearer}", "/api/events?token=x.y.z"):
        assert_refused(await world.service.anonymous.get(path), 401)


async def test_a_problem_names_the_path_as_it_was_sent(user: Client) -> None:
    answer = await user.get("/api/projects/%E4%B8%89/nope")
    assert answer["instance"] == "/api/projects/%E4%B8%89/nope"


async def test_every_answer_carries_success_if_a_body_is_too_large_or_compressed(user: Client) -> None:
    path = "/api/projects/novel/queue-chapters"
    assert_refused(await user.post(path, b" " * 1_100_000, headers=MODEL), 413)
    assert_refused(await user.post(path, b"{}", headers=MODEL | {"Content-Encoding": "gzip"}), 415)


async def test_every_answer_carries_success_if_something_fails(
    world: World, user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status in ((StoreUnavailable("away"), 503), (RuntimeError("a bug at 10.0.0.1"), 500)):

        async def fails(*_: Any, failing: Exception = error, **__: Any) -> None:
            raise failing

        monkeypatch.setattr(world.service.container.lists, "page", fails)
        answer = await user.get("/api/active-tasks")
        assert_refused(answer, status)
        assert "10.0.0.1" not in str(answer.body)


async def test_unknown_query_parameters_are_ignored_on_these_routes(user: Client) -> None:
    task_id = await queue(user)
    for path in (
        "/api/queue/tasks", f"/api/queue/tasks/{task_id}", "/api/active-tasks", "/api/projects/novel/active-task",
        "/api/health",
    ):  # fmt: skip
        await read(user, f"{path}?t=1700000000000")
    assert (await user.post("/api/projects/novel/queue-chapters?t=1", {}, headers=MODEL))["success"] is True
    assert (await user.delete("/api/projects/novel/active-tasks?t=1")).body == {"success": True}


# Creating tasks


async def test_queue_chapters_and_queue_outline_answer_success_and_task_id_with_defaults(user: Client) -> None:
    outline = {"targetChapters": 400, "targetWordCount": 100}
    for what, params in (("chapters", {"chaptersToGenerate": 1}), ("outline", outline)):
        for body in ({}, None):
            answer = await user.done("POST", f"/api/projects/novel/queue-{what}", body, headers=MODEL)
            assert answer == {"success": True, "taskId": answer["taskId"]}
            assert (await shown(user, answer["taskId"]))["params"] == params


async def test_custom_prompt_reaches_the_backend(world: World, user: Client) -> None:
    task_id = await queue(user, what="outline", targetChapters=2, customPrompt="in verse")
    assert (await world.call_of(task_id))["request"] == {
        "projectName": "novel", "targetChapters": 2, "targetWordCount": 100, "customPrompt": "in verse",
    }  # fmt: skip


async def test_counts_may_come_as_digits_in_a_string(world: World, user: Client) -> None:
    task_id = await queue(user, chaptersToGenerate="3")
    assert (await shown(user, task_id))["params"] == {"chaptersToGenerate": 3}
    assert (await world.call_of(task_id))["request"]["chaptersToGenerate"] == 3
    outline = await queue(user, what="outline", targetChapters="12", targetWordCount="050")
    assert (await shown(user, outline))["params"] == {"targetChapters": 12, "targetWordCount": 50}
    for count in ("0", "10001", "-1", "1.5", "", "three", 0, 10_001, True, [1]):
        answer = await user.post("/api/projects/novel/queue-chapters", {"chaptersToGenerate": count}, headers=MODEL)
        assert_refused(answer, 400)


@pytest.mark.parametrize("route", CREATING)
async def test_a_request_without_x_ai_headers_is_a_400_missing_ai_configuration(user: Client, route: str) -> None:
    for missing in MODEL:
        headers = {name: value for name, value in MODEL.items() if name != missing}
        answer = await user.post(f"/api/projects/novel/{route}", {}, headers=headers)
        assert_refused(answer, 400)
        assert (answer["error"], answer["path"]) == ("Missing AI configuration", missing)
        assert MODEL_KEY not in str(answer.body)
    assert await listed(user, "/api/queue/tasks") == []


async def test_the_model_reaches_the_backend_and_the_key_nobody_else(world: World, user: Client) -> None:
    path = "/api/projects/novel/queue-chapters"
    task_id = (await user.done("POST", path, {}, headers=MODEL_AT))["taskId"]
    call = await world.call_of(task_id)
    headers = world.backend.headers[world.backend.calls.index(call)]
    assert {name: headers[name] for name in MODEL_AT} == MODEL_AT
    config = {"provider": "openai", "model": "gpt", "baseUrl": MODEL_AT["X-AI-BaseUrl"]}
    assert (await shown(user, task_id))["aiConfig"] == config
    other = await queue(user)
    assert (await shown(user, other))["aiConfig"] == {"provider": "openai", "model": "gpt"}
    for about in ("/api/queue/tasks", "/api/active-tasks", f"/api/task/{task_id}/events"):
        assert MODEL_KEY not in json.dumps((await user.get(about)).body)


@pytest.mark.parametrize("name", ["novel", "Der Prozeß", "三体", "a/b", "a%2Fb", "50 % off?", "🙂", "a&b=c#d", "…"])
async def test_a_project_is_known_by_being_named_any_name_is_one(user: Client, name: str) -> None:
    path = f"/api/projects/{quote(name, safe='')}"
    assert (await read(user, f"{path}/active-task"))["task"] is None
    task_id = (await user.done("POST", f"{path}/queue-chapters", {}, headers=MODEL))["taskId"]
    found = await shown(user, task_id)
    assert found["projectName"] == name
    assert (await read(user, f"{path}/active-task"))["task"]["projectId"] == found["projectId"]
    assert (await user.post(f"{path}/tasks/{task_id}/pause")).body == {"success": True}


async def test_chapter_tasks_of_one_project_run_one_after_another(world: World, user: Client) -> None:
    first, second = await queue(user, "三体"), await queue(user, "三体")
    other, outline = await queue(user, "三体 2"), await queue(user, "三体", "outline")
    third = await queue(user, "三体")
    for task_id in (first, other, outline):
        await world.call_of(task_id)
    why = await user.done("GET", f"/api/task/{second}/why")
    assert ("project", "one of those ends") in [(hold["kind"], hold["release"]) for hold in why["holds"]]
    for ended, following in ((first, second), (second, third)):
        assert not [call for call in world.backend.calls if call["task_id"] == following]
        await world.end(ended)
        await world.call_of(following)


# Reading tasks


async def test_queued_task_has_all_its_fields_and_status_words(world: World, user: Client) -> None:
    waiting, running = await queue(user, "w"), await queue(user, "w")
    waiting, running = running, waiting
    await world.call_of(running)
    await world.report(running, progress=41.9, message="chapter 1")

    task = await becomes(user, running, "processing")

    assert {name: type(task[name]) for name in QUEUED} == QUEUED
    assert task.keys() <= QUEUED.keys() | OPTIONAL.keys()
    assert (task["progress"], task["message"]) == (41, "chapter 1")
    assert (task["type"], task["userId"], task["projectName"]) == ("chapter", "user " + task["userId"][5:], "w")
    assert task["createdAt"] <= task["startedAt"] <= task["updatedAt"]
    pending = await shown(user, waiting)
    assert pending["status"] == "pending"
    assert pending.keys() == QUEUED.keys()
    await world.end(running)
    ended = await becomes(user, running, "completed")
    assert (ended["progress"], ended["message"]) == (100, "Task completed successfully")
    assert ended["completedAt"] >= ended["startedAt"]
    assert "error" not in ended
    await world.call_of(waiting)
    await world.report(waiting, "FAILED", message="no paper")
    assert (await becomes(user, waiting, "failed"))["error"] == "no paper"


async def test_queue_tasks_lists_what_has_not_ended_and_what_ended_lately_oldest_first(
    world: World, user: Client
) -> None:
    done, cancelled = await queue(user, "a"), await queue(user, "b")
    await world.end(done)
    await user.post(f"/api/queue/tasks/{cancelled}/cancel")
    waiting = [await queue(user, "c") for _ in range(3)]

    assert await listed(user, "/api/queue/tasks") == [done, cancelled, *waiting]
    assert await listed(user, "/api/active-tasks") == waiting[::-1]


async def test_another_users_task_is_a_403_and_so_is_one_that_does_not_exist(world: World, user: Client) -> None:
    task_id = await queue(user)
    other = world.service.client("somebody else")
    for name in (task_id, "0" * 26 + "~" + task_id.rpartition("~")[2]):
        for method, path in (
            ("GET", f"/api/queue/tasks/{name}"),
            ("POST", f"/api/queue/tasks/{name}/cancel"),
            ("POST", f"/api/tasks/{name}/cancel"),
            ("DELETE", f"/api/queue/tasks/{name}"),
            ("DELETE", f"/api/projects/novel/tasks/{name}"),
            ("POST", f"/api/projects/novel/tasks/{name}/pause"),
        ):
            assert_refused(await other.call(method, path), 403)
    assert await listed(other, "/api/queue/tasks") == []
    assert (await other.delete("/api/projects/novel/active-tasks")).body == {"success": True}
    assert (await shown(user, task_id))["status"] in ("pending", "processing")


async def test_active_task_has_every_field_also_null_ones(world: World, user: Client) -> None:
    task_id = await queue(user, chaptersToGenerate=7)
    task = (await read(user, "/api/active-tasks"))["tasks"][0]
    assert task.keys() == QUEUED.keys() | ACTIVE.keys() | NULLABLE.keys()
    assert {name: type(task[name]) for name in QUEUED | ACTIVE} == QUEUED | ACTIVE
    assert (task["status"], task["targetCount"], task["startChapter"]) == ("running", 7, 1)
    assert (task["completedChapters"], task["failedChapters"]) == ([], [])
    assert [task[name] for name in ("message", "error", "completedAt", "currentMessage", "errorMessage")] == [None] * 5
    await world.report(task_id, progress=10, message="first", custom_data={"chapterIndex": 11})
    for number, status in ((11, "complete"), (12, "error"), (13, "complete"), (12, "complete"), (14, "error")):
        custom_data = {"chapterIndex": number, "status": status}
        await world.report(task_id, progress=60, message=f"{number}", custom_data=custom_data)

    def is_there(answer: Any) -> bool:
        return bool(answer["task"]["failedChapters"] == [14])

    task = (await user.until("/api/projects/novel/active-task", is_there, "the last chapter"))["task"]
    assert task["completedChapters"] == [11, 12, 13]
    assert (task["startChapter"], task["currentProgress"], task["currentMessage"]) == (11, 60, "14")
    assert task["updatedAtMs"] == task["updatedAt"] >= task["startedAt"]
    assert task["status"] == "running"


async def test_a_hostile_custom_data_makes_no_large_list_and_fails_nothing(world: World, user: Client) -> None:
    task_id = await queue(user)
    for custom_data in (
        {"chapterIndex": 2**62, "status": "complete"}, {"chapterIndex": -1, "status": "complete"},
        {"chapterIndex": "1", "status": "complete"}, {"chapterIndex": [1]}, ["chapterIndex"], "chapterIndex",
        {"chapterIndex": 1e300}, {"chapterIndex": 3, "status": ["complete"], "title": {"a": 1}},
    ):  # fmt: skip
        await world.report(task_id, message="odd", custom_data=custom_data)
    found = await user.until(
        "/api/projects/novel/active-task", lambda it: it["task"]["startChapter"] == 3, "the last report"
    )
    assert (found["task"]["completedChapters"], found["task"]["failedChapters"]) == ([], [])


async def test_active_task_of_a_project_is_the_newest_running_one_or_null(world: World, user: Client) -> None:
    assert await read(user, "/api/projects/novel/active-task") == {"success": True, "task": None}
    first, second = await queue(user), await queue(user)
    await queue(user, "other")
    assert (await read(user, "/api/projects/novel/active-task"))["task"]["id"] == second
    await user.post(f"/api/queue/tasks/{second}/cancel")
    assert (await read(user, "/api/projects/novel/active-task"))["task"]["id"] == first
    await world.end(first)
    assert (await read(user, "/api/projects/novel/active-task"))["task"] is None


# Cancelling and deleting


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/queue/tasks/{}/cancel"),
        ("POST", "/api/tasks/{}/cancel"),
        ("DELETE", "/api/projects/novel/tasks/{}"),
    ],
)
async def test_cancel_shows_failed_cancelled_by_user_and_changes_no_ended_task(
    world: World, user: Client, method: str, path: str
) -> None:
    ended = await queue(user)
    await world.end(ended)
    before = await becomes(user, ended, "completed")
    task_id = await queue(user)
    for _ in range(2):
        assert (await user.call(method, path.format(task_id))).body == {"success": True}
        assert (await user.call(method, path.format(ended))).body == {"success": True}

    task = await shown(user, task_id)
    assert (task["status"], task["error"]) == ("failed", "Cancelled by user")
    assert await shown(user, ended) == before
    if "projects" in path:
        assert_refused(await user.call(method, path.format(task_id).replace("novel", "other")), 404)


async def test_cancel_under_api_tasks_answers_our_own_bulk_route_too(user: Client) -> None:
    task_id = await user.submit({"a": 1})
    assert (await user.post("/api/tasks/cancel", {"ids": [task_id]}))["done"] == 1
    other = await user.submit({"a": 1})
    assert (await user.post(f"/api/tasks/{other}/cancel")).body == {"success": True}
    assert (await user.details(other))["status"] == "CANCELLED"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "active-tasks"), ("POST", "active-tasks/cancel")])
async def test_the_stop_button_cancels_what_runs_or_waits_in_the_project(
    world: World, user: Client, method: str, path: str
) -> None:
    mine = [await queue(user), await queue(user), await queue(user, what="outline")]
    other = await queue(user, "other")
    await world.call_of(mine[0])

    assert (await user.call(method, f"/api/projects/novel/{path}")).body == {"success": True}

    assert await listed(user, "/api/active-tasks") == [other]
    for task_id in mine:
        assert (await shown(user, task_id))["error"] == "Cancelled by user"
    assert (await user.call(method, "/api/projects/nothing%20here/" + path)).body == {"success": True}


async def test_pause_answers_success_and_the_task_goes_on(world: World, user: Client) -> None:
    task_id = await queue(user)
    await world.call_of(task_id)
    assert (await user.post(f"/api/projects/novel/tasks/{task_id}/pause")).body == {"success": True}
    assert (await shown(user, task_id))["status"] == "processing"
    await world.end(task_id)
    await becomes(user, task_id, "completed")
    assert (await user.post(f"/api/projects/novel/tasks/{task_id}/pause")).body == {"success": True}
    assert_refused(await user.post(f"/api/projects/other/tasks/{task_id}/pause"), 404)


async def test_delete_is_gone_from_every_list_and_the_history_stays_for_auditors(world: World, user: Client) -> None:
    ended, running = await queue(user, "a"), await queue(user, "b")
    await world.end(ended)
    for task_id in (ended, running, running):
        assert (await user.delete(f"/api/queue/tasks/{task_id}")).body == {"success": True}

    for path in ("/api/queue/tasks", "/api/active-tasks"):
        assert await listed(user, path) == []
    assert (await read(user, "/api/projects/b/active-task"))["task"] is None
    assert_refused(await user.get(f"/api/queue/tasks/{ended}"), 404)
    assert (await world.service.auditor.history(running))[-1]["type"] == "TaskDeleted"


# Streams


async def test_active_tasks_stream_sends_active_tasks_at_each_change(world: World, user: Client) -> None:
    first = await queue(user, "a")
    async with opened(user, "GET", f"/api/active-tasks?stream=1&token={user.bearer}", bearer=False) as lines:
        present = await lines.until(of_type("active_tasks"))
        assert [task["id"] for task in present["tasks"]] == [first]
        assert present["tasks"][0].keys() == QUEUED.keys() | ACTIVE.keys() | NULLABLE.keys()
        second = await queue(user, "b")
        await lines.until(lambda it: [task["id"] for task in it["tasks"]] == [second, first])
        await world.report(first, progress=30, message="on", custom_data={"chapterIndex": 1, "status": "complete"})
        found = await lines.until(lambda it: it["tasks"][-1]["currentProgress"] == 30)
        assert found["tasks"][-1]["completedChapters"] == [1]
        await user.submit({"not": "a project's"})
        await world.end(first)
        await lines.until(lambda it: [task["id"] for task in it["tasks"]] == [second])
        await user.delete("/api/projects/b/active-tasks")
        await lines.until(lambda it: it["tasks"] == [])


async def test_events_sends_progress_and_log_of_the_callers_tasks(world: World, user: Client) -> None:
    before = await queue(user, "a")
    async with opened(user, "GET", f"/api/events?token={user.bearer}", bearer=False) as lines:
        assert (await lines.until(of_type("progress")))["taskId"] == before
        await queue(world.service.client("somebody else"), "a")
        task_id = await queue(user, "三体")
        await lines.until(lambda it: it["taskId"] == task_id and it["type"] == "log")
        await world.report(task_id, progress=12.5, message="so far", custom_data={"chapterIndex": 1}, log="a line")
        found = await lines.until(lambda it: it.get("message") == "so far")
        assert (found["type"], found["progress"], found["chapterIndex"]) == ("progress", 12, 1)
        assert (found["projectName"], found["status"]) == ("三体", "processing")
        assert (await lines.until(of_type("log")))["message"] == "a line"
        await world.end(task_id)
        found = await lines.until(lambda it: it.get("status") == "completed")
        assert (found["progress"], found["message"]) == (100, "Task completed successfully")
        assert {message["taskId"] for message in lines.messages} == {before, task_id}


async def test_health_answers_without_a_token(world: World) -> None:
    answer = await world.service.anonymous.get("/api/health?t=1")
    assert (answer.status, answer.body) == (200, {"success": True, "status": "ok"})


async def test_generate_stream_sends_each_chapter_and_done_with_generated_and_failed(
    world: World, user: Client
) -> None:
    async with generating(user, chaptersToGenerate="2") as lines:
        task_id = (await lines.until(of_type("task_created")))["taskId"]
        first = {"chapterIndex": 1, "status": "complete", "title": "One", "preview": "It was", "wordCount": 900}
        for custom_data in ({"chapterIndex": 1}, first, {"chapterIndex": 2, "status": "error", "error": "no idea"}):
            await world.report(task_id, progress=50, message="on", custom_data=custom_data)
        await world.end(task_id, {"anything": True})
        messages = await lines.rest()

    def progress(current: int, index: int, status: str) -> dict[str, Any]:
        about = {"chapterIndex": index, "status": status, "message": "on"}
        return {"type": "progress", "current": current, "total": 2, **about}

    assert messages == [
        {"type": "start", "total": 2},
        {"type": "task_created", "taskId": task_id},
        progress(0, 1, "generating"),
        progress(1, 1, "complete"),
        {"type": "chapter_complete", "chapterIndex": 1, "title": "One", "preview": "It was", "wordCount": 900},
        progress(2, 2, "error"),
        {"type": "chapter_error", "chapterIndex": 2, "error": "no idea"},
        {
            "type": "done", "success": True, "generated": [{"chapter": 1, "title": "One", "wordCount": 900}],
            "failedChapters": [2], "totalGenerated": 1, "totalFailed": 1, "taskId": task_id,
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "generated", "failed", "totals"),
    [
        (None, [], [], (0, 0)),
        ({"generated": "many", "failedChapters": {}, "totalGenerated": "2"}, [], [], (0, 0)),
        ({"generated": [{"chapter": 3, "title": "T"}], "failedChapters": [4]}, [(3, "T")], [4], (1, 1)),
        ({"chapters": [{"chapterIndex": 1, "content": "x" * 200_000}, 7]}, [], [], (0, 0)),
        ({"chapters": [{"chapterIndex": 1, "content": "x" * 200_000}], "totalFailed": 2}, [(1, "")], [], (1, 2)),
    ],
    ids=["nothing", "odd", "generated", "odd chapters", "large"],
)
async def test_done_of_a_backend_that_reports_no_chapters_says_what_the_result_tells(
    world: World, user: Client, data: Any, generated: list[Any], failed: list[int], totals: tuple[int, int]
) -> None:
    async with generating(user) as lines:
        await world.end((await lines.until(of_type("task_created")))["taskId"], data)
        done = (await lines.rest())[-1]
    assert done["type"] == "done"
    assert [(part["chapter"], part["title"]) for part in done["generated"]] == generated
    assert done["failedChapters"] == failed
    assert (done["totalGenerated"], done["totalFailed"]) == totals


@pytest.mark.parametrize("what", ["generate-stream", "outline"])
async def test_error_is_the_last_event_no_done_after_it(world: World, user: Client, what: str) -> None:
    async with generating(user, what=what) as lines:
        await lines.until(of_type("start"))
        task_id = (await read(user, "/api/projects/novel/active-task"))["task"]["id"]
        await world.report(task_id, "FAILED", message="no such model")
        last = (await lines.rest())[-1]
    assert (last["type"], last["error"]) == ("error", "no such model")
    async with generating(user, what=what) as lines:
        await lines.until(of_type("start"))
        await user.delete("/api/projects/novel/active-tasks")
        last = (await lines.rest())[-1]
    assert (last["type"], last["error"]) == ("error", "Cancelled by user")


async def test_posting_again_takes_up_the_projects_task_then_on(world: World, user: Client) -> None:
    async with generating(user, chaptersToGenerate=3) as lines:
        task_id = (await lines.until(of_type("task_created")))["taskId"]
        done = {"chapterIndex": 1, "status": "complete", "title": "One", "wordCount": 5}
        await world.report(task_id, progress=33, message="one", custom_data=done)
        await lines.until(of_type("chapter_complete"))
    async with generating(user, chaptersToGenerate=3) as lines:  # closing it did not stop the task
        resumed = await lines.until(of_type("task_resumed"))
        await world.report(task_id, progress=66, message="two", custom_data={**done, "chapterIndex": 2, "title": "Two"})
        await world.end(task_id)
        messages = await lines.rest()
    assert (resumed["taskId"], resumed["current"], resumed["completedChapters"]) == (task_id, 1, [1])
    assert lines.types() == ["start", "task_resumed", "progress", "chapter_complete", "done"]
    assert [part["title"] for part in messages[-1]["generated"]] == ["One", "Two"]
    async with generating(user) as lines:  # it has ended: this is a new one
        assert (await lines.until(of_type("task_created")))["taskId"] != task_id


@pytest.mark.parametrize("what", ["generate-stream", "outline"])
async def test_requests_at_the_same_time_make_one_task_again_and_again(world: World, user: Client, what: str) -> None:
    for number in range(4):
        async with contextlib.AsyncExitStack() as stack:
            bodies = [{"chaptersToGenerate": count} for count in (1, 1, 2, 3)]
            streams = [stack.enter_async_context(generating(user, what=what, **body)) for body in bodies]
            opened_streams = await asyncio.gather(*streams)
            found = await listed(user, "/api/queue/tasks")
            assert len(found) == number + 1
            await world.end(found[-1])
            ends = [(await lines.rest())[-1] for lines in opened_streams]
            assert {(end["type"], end["taskId"]) for end in ends} == {("done", found[-1])}


async def test_generate_stream_takes_up_a_queued_task_too(world: World, user: Client) -> None:
    task_id = await queue(user, chaptersToGenerate=4)
    async with generating(user) as lines:
        resumed = await lines.until(of_type("task_resumed"))
    assert (resumed["taskId"], resumed["total"]) == (task_id, 4)


async def test_outline_sends_start_progress_volume_complete_and_done_with_the_outline(
    world: World, user: Client
) -> None:
    outline = [{"chapterIndex": number, "summary": "s" * 100} for number in range(1_000)]  # too large for an event
    async with generating(user, what="outline", targetChapters=50) as lines:
        await lines.until(of_type("start"))
        task_id = (await read(user, "/api/projects/novel/active-task"))["task"]["id"]
        volume = {"volumeIndex": 1, "status": "complete", "title": "I", "chapterCount": 25}
        await world.report(task_id, progress=50, message="half", custom_data=volume)
        await world.end(task_id, {"outline": outline})
        messages = await lines.rest()
    assert messages == [
        {"type": "start", "total": 50, "taskId": task_id},
        {"type": "progress", "current": 25, "total": 50, "progress": 50, "message": "half"},
        {"type": "volume_complete", "volumeIndex": 1, "volumeTitle": "I", "chapterCount": 25},
        {"type": "done", "success": True, "outline": outline, "taskId": task_id},
    ]


async def test_streams_send_heartbeats_while_nothing_happens(user: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("stream", "activity"):
        monkeypatch.setattr(f"taskstream.api.legacy.{module}.HEARTBEAT_SECONDS", 0.05)
    async with generating(user, "a") as lines:
        await lines.until(of_type("heartbeat"))
    for method, path in (
        ("POST", "/api/projects/a/outline"), ("GET", "/api/active-tasks?stream=1"), ("GET", "/api/events"),
    ):  # fmt: skip
        async with opened(user, method, path) as lines:
            await wait_until(lines.next_comment, "a heartbeat")
            await wait_until(lines.next_comment, "one more")


async def test_streams_count_towards_the_limits_of_the_user(
    world: World, user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.service.container.open_streams, "of_one", 1)
    async with opened(user, "GET", "/api/events") as lines:
        await queue(user)
        await lines.until(of_type("progress"))
        for method, path in (
            ("GET", "/api/events"), ("GET", "/api/active-tasks?stream=1"),
            ("POST", "/api/projects/new/generate-stream"), ("POST", "/api/projects/new/outline"),
        ):  # fmt: skip
            assert_refused(await user.call(method, path, headers=MODEL), 429)
    assert len(await listed(user, "/api/queue/tasks")) == 1


async def test_polling_reads_views_and_no_histories(
    world: World, user: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await queue(user)
    await world.report(task_id, progress=7, message="m")
    container = world.service.container
    log, root = container.commands.tasks.log, task_root(parse_task_id(task_id))
    await container.reports.flush(parse_task_id(task_id))
    await projection_reaches(container.buckets.tasks, await last_sequence(container.reading, TASKS, ">"), 30)
    histories, load = [], log.load

    async def noted(of: str) -> Any:
        histories.append(of)
        return await load(of)

    monkeypatch.setattr(log, "load", noted)
    for path in ("/api/active-tasks", "/api/queue/tasks", "/api/projects/novel/active-task"):
        await read(user, path)
    assert (await shown(user, task_id))["progress"] == 7
    assert root not in histories
