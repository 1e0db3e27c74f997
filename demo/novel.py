"""A novel being written: an outline and five chapters, followed live, with a kill -9 of the service in the middle."""

from __future__ import annotations

import asyncio
import secrets
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from taskstream.api.auth.authenticator import make_token
from taskstream.nats_server.server import end

from .client import ServiceClient
from .following import Follower
from .playing import play
from .processes import START_SECONDS, DemoFailed, Service, service_on, start_python
from .screen import Screen

NOVEL_BACKEND = Path(__file__).parents[1] / "examples" / "novel_backend.py"
PROJECT = "The Lamp at Skerry"
CHAPTERS = 5
OUTLINED = 40
SECONDS_A_CHAPTER = 0.8
KILL_AFTER_CHAPTER = 2
PATIENCE_SECONDS = 60.0
BAR_COLUMNS = 40
REDRAW_SECONDS = 0.1
ONLINE_POLL_SECONDS = 0.05


async def run() -> int:
    """Run the demo; return 0 if all was written, else 1."""
    screen = Screen()
    screen.say(screen.style("Taskstream, seen writing a novel", "bold"))
    screen.say(f"A service, a server that writes, {CHAPTERS} chapters, and a kill -9 in the middle. Ctrl-C ends it.")
    if not await play(screen, lambda stack: Novel(screen, stack)):
        return 1
    screen.title(screen.style("All was written, once, and nobody who followed missed a thing.", "good"))
    screen.say("  The server is examples/novel_backend.py; docs/backends.md says how to write one.")
    return 0


class Job:
    """A task that is followed: how far it is, and what it came to."""

    def __init__(self, name: str, task_id: str, follower: Follower) -> None:
        self.name = name
        self.task_id = task_id
        self.follower = follower
        self.percent = 0.0
        self.message = "waiting"
        self.written: list[int] = []
        """Chapters that are complete, in order of the news."""
        self.result: dict[str, Any] | None = None
        self.ended = ""


class Novel:
    def __init__(self, screen: Screen, stack: AsyncExitStack) -> None:
        self._screen = screen
        self._stack = stack
        self._service: Service | None = None
        self._client: ServiceClient
        self._jobs: list[Job] = []
        self._reached = asyncio.Event()
        """The chapter after which the service is killed is written."""

    async def tell(self) -> list[str]:
        """Do everything; return what was not as it should be."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._start()
            self._screen.title(f"Writing “{PROJECT}”")
            drawing = asyncio.create_task(self._draw())
            try:
                await asyncio.gather(*map(self._follow, self._jobs), self._crash())
            finally:
                drawing.cancel()
            self._show(last=True)
            self._screen.keep()
            return [*await self._sum(), *await self._stop()]

    def log_tail(self) -> str:
        return self._service.tail() if self._service else ""

    async def _start(self) -> None:
        say = self._screen.say
        secret = secrets.token_hex(32)

        def token(subject: str, role: str) -> str:
            return make_token(secret, subject, [role], 3600, time.time())

        self._service = service = service_on(self._stack, secret)
        self._screen.title("Starting")
        await service.start()
        say(f"  process {service.pid:>7}  taskstream up  {service.url}")
        writer = await self._start_writer(service.url, token("admin", "admin"))
        say(f"  process {writer.pid:>7}  novel_backend, which has registered itself")
        session = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        self._client = ServiceClient(session, service.url, token("author", "user"))
        await self._until_online(ServiceClient(session, service.url, token("admin", "admin")))
        for name, path, body in (
            ("outline", "queue-outline", {"targetChapters": OUTLINED, "targetWordCount": 20}),
            ("chapters", "queue-chapters", {"chaptersToGenerate": CHAPTERS}),
        ):
            answer = await self._client.done("POST", f"/api/projects/{PROJECT}/{path}", body)
            follower = Follower(session, service.url, token("author", "user"), answer["taskId"])
            self._jobs.append(Job(name, answer["taskId"], follower))
            say(f"  queued: {name}, task {answer['taskId']}")

    async def _start_writer(self, service_url: str, token: str) -> Process:
        process = await start_python(
            *(str(NOVEL_BACKEND), "--service", service_url, "--seconds", str(SECONDS_A_CHAPTER)),
            settings={},
            stdout=PIPE,
            stderr=DEVNULL,
            more={"NOVEL_TOKEN": token},
        )
        self._stack.push_async_callback(end, process)
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            if not await process.stdout.readline():
                raise DemoFailed("the server that writes did not start")
        return process

    async def _until_online(self, admin: ServiceClient) -> None:
        while True:
            if any(server["status"] == "online" for server in (await admin.servers()).values()):
                return
            await asyncio.sleep(ONLINE_POLL_SECONDS)

    # In the middle

    async def _follow(self, job: Job) -> None:
        async for event in job.follower.events():
            match event["type"]:
                case "ProgressReported":
                    self._note(job, event)
                case "TaskSucceeded":
                    job.percent, job.message, job.ended = 100.0, "written", "succeeded"
                    job.result = event["result"]["inline"]["data"]
                case "TaskFailed" | "TaskCancelled":
                    job.message = job.ended = event.get("error", "cancelled")
                case _:
                    pass
        if job is self._jobs[-1]:
            self._reached.set()  # it failed before: then nothing more is to be waited for

    def _note(self, job: Job, event: dict[str, Any]) -> None:
        job.percent = event.get("progress", job.percent)
        job.message = event.get("message") or job.message
        chapter = event.get("custom_data") or {}
        if chapter.get("status") == "complete":
            index = chapter["chapterIndex"]
            job.written.append(index)
            self._screen.say(f"  chapter {index}: “{chapter['title']}”, {chapter['wordCount']} words")
            self._screen.say(self._screen.style(f"      {chapter['preview'][:80]}…", "dim"))
            if index >= KILL_AFTER_CHAPTER:
                self._reached.set()

    async def _crash(self) -> None:
        assert self._service is not None
        await self._reached.wait()
        pid = self._service.pid
        await self._service.kill()
        self._screen.say(self._screen.style(f"  kill -9 {pid}: the service is gone; the server writes on", "bad"))
        await self._service.start()
        self._screen.say(self._screen.style(f"  process {self._service.pid}: taskstream up, as before", "warn"))

    async def _draw(self) -> None:
        while True:
            self._show()
            await asyncio.sleep(REDRAW_SECONDS)

    def _show(self, *, last: bool = False) -> None:
        block = [""]
        for job in self._jobs:
            filled = round(BAR_COLUMNS * job.percent / 100)
            bar = self._screen.style("█" * filled, "good") + self._screen.style("░" * (BAR_COLUMNS - filled), "dim")
            block.append(f"  {job.name:<9} {bar} {job.percent:>4.0f} %  {job.message[:28]}")
        plain = "  " + "; ".join(f"{job.name} {job.percent:.0f} %, {job.message}" for job in self._jobs)
        self._screen.show(block, plain, last=last)

    # Afterwards

    async def _sum(self) -> list[str]:
        """Say what there is; return what is missing."""
        self._screen.title("The result")
        outline, chapters = self._jobs
        problems = [f"{job.name} ended: {job.ended}" for job in self._jobs if job.ended != "succeeded"]
        for chapter in (chapters.result or {}).get("chapters", []):
            self._screen.say(f"  {chapter['chapterIndex']}. {chapter['title']} ({chapter['wordCount']} words)")
        parts = len((outline.result or {}).get("outline", []))
        self._screen.say(f"  an outline of {parts} chapters")
        if parts != OUTLINED:
            problems.append(f"{parts} chapters were outlined, {OUTLINED} were wanted")
        if (chapters.result or {}).get("totalGenerated") != CHAPTERS:
            problems.append(f"the result is not of {CHAPTERS} chapters: {chapters.result}")
        if sorted(set(chapters.written)) != list(range(1, CHAPTERS + 1)):
            problems.append(f"followed live, these chapters were complete: {chapters.written}")
        if not chapters.follower.breaks:
            problems.append("the service was killed, and who followed did not notice")
        for job in self._jobs:
            history = await self._client.history(job.task_id)
            endings = [entry for entry in history if entry["event"]["type"] in ("TaskSucceeded", "TaskFailed")]
            attempts = sum(entry["event"]["type"] == "AttemptStarted" for entry in history)
            self._screen.say(f"  {job.name}: {len(history)} events in the log, {attempts} attempt")
            if len(endings) != 1:
                problems.append(f"{job.name} ended {len(endings)} times")
        self._screen.say(f"  who followed was cut off {chapters.follower.breaks} times, and resumed")
        return problems

    async def _stop(self) -> list[str]:
        assert self._service is not None
        return await self._service.stop()
