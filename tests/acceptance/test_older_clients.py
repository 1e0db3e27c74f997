"""The two older apps write a novel each, with the service killed in the middle and started again.

Each client does what its app does, and is as strict: a missing field or an unknown word ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from examples.novel_backend import NovelBackend, register
from testkit.processes import Processes, clients_of
from testkit.queue_surface import MODEL
from testkit.service import Client
from testkit.waiting import wait_until

POLL_SECONDS = 0.1
"""The apps poll every 3.5 and 4 s."""
CHAPTERS = 4
SECONDS_A_CHAPTER = 0.4
LOST = (aiohttp.ClientError, TimeoutError, ConnectionError)
QUEUED = frozenset({"pending", "processing", "completed", "failed"})


async def messages(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


class App:
    """What both apps have: a token, a project, and answers with `success`."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._path = f"/api/projects/{quote(project, safe='')}"
        self.task_ids: set[str] = set()
        self.outages = 0

    async def _fetch(self, method: str, path: str, body: Any = None) -> Any:
        """Return an answer; None while the service is away."""
        try:
            answer = await self._client.call(method, path, body, headers=MODEL)
        except LOST:
            answer = None
        if answer is None or answer.status == 503:
            self.outages += 1
            await asyncio.sleep(POLL_SECONDS)
            return None
        assert answer.body["success"] is True, answer
        return answer.body


class WebApp(App):
    """Queues tasks, polls the queue with `?t=`, and listens with two EventSources, whose token is in the address."""

    def __init__(self, client: Client, project: str) -> None:
        super().__init__(client, project)
        self.heard: list[dict[str, Any]] = []
        self.lists = 0

    async def write(self) -> list[dict[str, Any]]:
        """Queue an outline and chapters; return both tasks once they have ended."""
        assert (await self._fetch("GET", "/api/health"))["status"] == "ok"
        sources = [asyncio.create_task(self._source(path)) for path in ("/api/events?", "/api/active-tasks?stream=1&")]
        bodies = {"outline": {"targetChapters": "30"}, "chapters": {"chaptersToGenerate": str(CHAPTERS)}}
        try:
            for what, body in bodies.items():
                self.task_ids.add((await self._fetch("POST", f"{self._path}/queue-{what}", body))["taskId"])
            while True:
                tasks = await self._poll()
                if tasks is not None and all(task["status"] in ("completed", "failed") for task in tasks):
                    return tasks
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for source in sources:
                source.cancel()

    async def _poll(self) -> list[dict[str, Any]] | None:
        answer = await self._fetch("GET", f"/api/queue/tasks?t={len(self.heard)}")
        if answer is None:
            return None
        tasks: list[dict[str, Any]] = answer["tasks"]
        assert {task["id"] for task in tasks} == self.task_ids
        for task in tasks:
            assert task["status"] in QUEUED
            assert 0 <= task["progress"] <= 100
            assert task["aiConfig"]["model"] == MODEL["X-AI-Model"]
        return tasks

    async def _source(self, path: str) -> None:
        """Listen, and connect again as a browser does."""
        while True:
            with contextlib.suppress(*LOST):
                async with self._client.session.get(f"{self._client.url}{path}token={self._client.bearer}") as response:
                    async for message in messages(response):
                        self.heard.append(message)
            await asyncio.sleep(POLL_SECONDS)


class MobileApp(App):
    """Generates over a stream, posts again when that breaks off, and polls its activity screen."""

    def __init__(self, client: Client, project: str) -> None:
        super().__init__(client, project)
        self.chapters: dict[int, dict[str, Any]] = {}
        self.resumed = 0
        self.screens: list[dict[str, Any]] = []

    async def write(self) -> dict[str, Any]:
        """Generate chapters; return the `done` of the stream."""
        screen = asyncio.create_task(self._activity())
        try:
            while True:
                with contextlib.suppress(*LOST):
                    if (done := await self._generate()) is not None:
                        return done
                self.outages += 1
                await asyncio.sleep(POLL_SECONDS)
        finally:
            screen.cancel()

    async def _generate(self) -> dict[str, Any] | None:
        headers = MODEL | {"Authorization": f"Bearer {self._client.bearer}"}
        url, body = f"{self._client.url}{self._path}/generate-stream", {"chaptersToGenerate": CHAPTERS}
        async with self._client.session.post(url, json=body, headers=headers) as response:
            if response.status == 503:
                return None
            assert response.status == 200, await response.text()
            async for message in messages(response):
                match message["type"]:
                    case "task_created":
                        self.task_ids.add(message["taskId"])
                    case "task_resumed":
                        self.task_ids.add(message["taskId"])
                        self.resumed += 1
                    case "chapter_complete":
                        self.chapters[message["chapterIndex"]] = message
                        await self._leave_and_return()
                    case "done":
                        return message
                    case "error":
                        assert "the task goes on" in message["error"], message
                    case "start" | "progress" | "heartbeat":
                        pass
                    case other:
                        raise AssertionError(f"the app knows no {other}")
        return None

    async def _leave_and_return(self) -> None:
        for task_id in self.task_ids:
            await self._fetch("POST", f"{self._path}/tasks/{task_id}/pause")

    async def _activity(self) -> None:
        """Poll the activity screen, which dies of a missing field."""
        while True:
            for path in ("/api/active-tasks", f"{self._path}/active-task"):
                answer = await self._fetch("GET", f"{path}?t={len(self.screens)}")
                for task in answer["tasks"] if answer and "tasks" in answer else [answer and answer["task"]]:
                    if task is not None:
                        self.screens.append(self._shown(task))
            await asyncio.sleep(POLL_SECONDS)

    def _shown(self, task: dict[str, Any]) -> dict[str, Any]:
        assert task["status"] in ("running", "paused")
        numbers = [*task["completedChapters"], *task["failedChapters"]]
        assert all(isinstance(number, int) for number in [*numbers, task["targetCount"], task["startChapter"]])
        nullable = ("currentMessage", "errorMessage", "message", "error", "startedAt", "completedAt")
        return {
            "project": task["projectName"], "of": task["targetCount"], "done": numbers, "at": task["updatedAtMs"],
            "percent": task["currentProgress"], **{name: task[name] for name in nullable},
        }  # fmt: skip


async def test_both_older_apps_write_to_the_end_though_the_service_is_killed(processes: Processes) -> None:
    runner = web.AppRunner(NovelBackend("novel-1", SECONDS_A_CHAPTER).app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        up = await processes.up()
        async with clients_of(up.url) as service:
            await register(up.url, str(service.admin.bearer), "novel-1", f"http://127.0.0.1:{runner.addresses[0][1]}")
            await service.admin.server_is("novel-1", "online")
            browser, mobile = WebApp(service.alice, "三体"), MobileApp(service.bob, "Der Prozeß")
            writing = asyncio.gather(browser.write(), mobile.write())
            await wait_until(lambda: mobile.chapters or writing.done(), "a chapter")

            up.kill_all()
            await processes.up(up.port)
            tasks, done = await writing

            outline, chapters = tasks
            assert [task["status"] for task in tasks] == ["completed", "completed"], tasks
            assert (outline["type"], outline["message"]) == ("outline", "Task completed successfully")
            assert chapters["params"] == {"chaptersToGenerate": CHAPTERS}
            assert browser.outages
            assert {"progress", "log", "active_tasks"} <= {message["type"] for message in browser.heard}

            assert (done["success"], done["totalGenerated"], done["totalFailed"]) == (True, CHAPTERS, 0)
            assert [part["chapter"] for part in done["generated"]] == list(range(1, CHAPTERS + 1))
            assert all(part["title"] for part in done["generated"])
            assert (len(mobile.task_ids), mobile.resumed >= 1) == (1, True)
            assert any(screen["done"] for screen in mobile.screens)
            assert len((await service.bob.done("GET", "/api/queue/tasks"))["tasks"]) == 1
    finally:
        await runner.cleanup()
