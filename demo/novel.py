"""A novel being written: an outline and five chapters, watched live, with a kill -9 of the service in the middle."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from testkit.processes import environment
from testkit.queue_surface import MODEL
from testkit.sse import ResumedStream
from testkit.waiting import wait_until

from .run import Demo, run
from .screen import Screen

NOVEL_BACKEND = Path(__file__).parents[1] / "examples" / "novel_backend.py"
PROJECT = "The Lamp at Skerry"
CHAPTERS = 5
OUTLINED = 40
SECONDS_A_CHAPTER = 0.8
KILL_AFTER_CHAPTER = 2
PATIENCE_SECONDS = 180.0
BAR_COLUMNS = 28
REDRAW_SECONDS = 0.1
ENDS = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})


async def show() -> int:
    """Run the demo; return 0 if all was written, else 1."""
    screen = Screen()
    screen.say("Taskstream writes a novel", "bold")
    screen.say(
        f"One service, one backend that writes, {CHAPTERS} chapters, and a kill -9 in the middle. Ctrl-C ends it."
    )
    if not await run(screen, lambda stack: Novel(screen, stack)):
        return 1
    screen.title("All was written, once. The subscribers missed nothing.", "good")
    screen.say("  The backend is examples/novel_backend.py; docs/backends.md says how to write one.")
    return 0


class Job:
    """A task and what its event stream has shown so far."""

    def __init__(self, name: str, task_id: str, stream: ResumedStream) -> None:
        self.name = name
        self.task_id = task_id
        self.stream = stream
        self.percent = 0.0
        self.message = "waiting"
        self.written: list[int] = []
        """Completed chapters, in the order of their events."""
        self.result: dict[str, Any] | None = None
        self.ended = ""


class Novel(Demo):
    """The demo."""

    async def run(self) -> list[str]:
        """Show everything and return what went wrong."""
        self._jobs: list[Job] = []
        self._crash_now = asyncio.Event()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._start()
            self.screen.title(f"Writing “{PROJECT}”")
            drawing = asyncio.create_task(self._draw())
            try:
                await asyncio.gather(*map(self._watch, self._jobs), self._crash())
            finally:
                drawing.cancel()
            self._show(last=True)
            self.screen.keep()
            return [*await self._summary(), *await self.stop_service()]

    async def _start(self) -> None:
        say = self.screen.say
        self.screen.title("Starting")
        await self.start_service()
        service = self.service
        say(f"  process {service.pid:>7}  taskstream up  {service.url}")
        admin, self._author = self.client("admin", "admin"), self.client("author", "user")
        options = ("--service", service.url, "--seconds", str(SECONDS_A_CHAPTER))
        secret = environment({}) | {"NOVEL_TOKEN": str(admin.bearer)}
        writer = await self.start_process("writer", [sys.executable, str(NOVEL_BACKEND), *options], secret)
        say(f"  process {writer.pid:>7}  novel_backend, which has registered itself")

        async def is_online() -> bool:
            servers = (await admin.done("GET", "/api/servers"))["servers"]
            return any(server["status"] == "online" for server in servers)

        await wait_until(is_online, "the backend to be online")
        for name, path, body in (
            ("outline", "queue-outline", {"targetChapters": OUTLINED, "targetWordCount": 20}),
            ("chapters", "queue-chapters", {"chaptersToGenerate": CHAPTERS}),
        ):
            answer = await self._author.done("POST", f"/api/projects/{PROJECT}/{path}", body, headers=MODEL)
            task_id = answer["taskId"]
            stream = ResumedStream(self._author, f"/api/task/{task_id}/stream", 0)
            self._jobs.append(Job(name, task_id, stream))
            say(f"  queued: {name}, task {task_id}")

    # In the middle

    async def _watch(self, job: Job) -> None:
        async for sent in job.stream:
            if sent.type == "state":
                continue
            event = sent.data["event"]
            match event["type"]:
                case "ProgressReported":
                    self._record(job, event)
                case "TaskSucceeded":
                    job.percent, job.message, job.ended = 100.0, "written", "succeeded"
                    job.result = event["result"]["inline"]["data"]
                case "TaskFailed" | "TaskCancelled":
                    job.message = job.ended = event.get("error", "cancelled")
            if event["type"] in ENDS:
                break
        if job is self._jobs[-1]:
            self._crash_now.set()  # also if it has failed before its second chapter

    def _record(self, job: Job, event: dict[str, Any]) -> None:
        job.percent = event.get("progress", job.percent)
        job.message = event.get("message") or job.message
        chapter = event.get("custom_data") or {}
        if chapter.get("status") == "complete" and "chapterIndex" in chapter:  # else a part of the outline
            index = chapter["chapterIndex"]
            job.written.append(index)
            self.screen.say(f"  chapter {index}: “{chapter['title']}”, {chapter['wordCount']} words")
            self.screen.say(f"      {chapter['preview'][:70]}…", "dim")
            if index >= KILL_AFTER_CHAPTER:
                self._crash_now.set()

    async def _crash(self) -> None:
        await self._crash_now.wait()
        pid = self.service.pid
        self.service.kill()
        self.screen.say(f"  kill -9 {pid}: the service is gone; the backend writes on", "bad")
        await self.service.serve()
        self.screen.say(f"  process {self.service.pid}: taskstream up again", "warn")

    async def _draw(self) -> None:
        while True:
            self._show()
            await asyncio.sleep(REDRAW_SECONDS)

    def _show(self, *, last: bool = False) -> None:
        block: list[RenderableType] = [Text()]
        bars = Table.grid(padding=(0, 1))
        bars.add_column(width=1)
        for job in self._jobs:
            bar = ProgressBar(total=100, completed=job.percent, width=BAR_COLUMNS, complete_style="green")
            bars.add_row("", job.name, bar, f"{job.percent:.0f} %", Text(job.message[:28], no_wrap=True))
        block.append(bars)
        plain = "  " + "; ".join(f"{job.name} {job.percent:.0f} %, {job.message}" for job in self._jobs)
        self.screen.show(block, plain, last=last)

    # Afterwards

    async def _summary(self) -> list[str]:
        """Print the result; return what is missing."""
        self.screen.title("The result")
        outline, chapters = self._jobs
        problems = [f"{job.name} ended: {job.ended}" for job in self._jobs if job.ended != "succeeded"]
        for chapter in (chapters.result or {}).get("chapters", []):
            self.screen.say(f"  {chapter['chapterIndex']}. {chapter['title']} ({chapter['wordCount']} words)")
        parts = len((outline.result or {}).get("outline", []))
        self.screen.say(f"  an outline of {parts} chapters")
        if parts != OUTLINED:
            problems.append(f"the outline has {parts} chapters and should have {OUTLINED}")
        if (chapters.result or {}).get("totalGenerated") != CHAPTERS:
            problems.append(f"the result does not have {CHAPTERS} chapters: {chapters.result}")
        if sorted(set(chapters.written)) != list(range(1, CHAPTERS + 1)):
            problems.append(f"the event stream completed these chapters: {chapters.written}")
        if not chapters.stream.breaks:
            problems.append("the service was killed, but no event stream was cut off")
        for job in self._jobs:
            events = [event["type"] for event in await self._author.history(job.task_id)]
            self.screen.say(f"  {job.name}: {len(events)} events in the log, {events.count('AttemptStarted')} attempt")
            if (ends := sum(event in ENDS for event in events)) != 1:
                problems.append(f"{job.name} ended {ends} times")
        self.screen.say(f"  the event stream was cut off {chapters.stream.breaks} times, and resumed")
        return problems
