"""Hundreds of tasks on three backends, with a kill -9 of one of them in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from taskstream.settings import InvalidSettings
from testkit.processes import Process, python
from testkit.waiting import NotInTime, wait_until

from . import history, progress, summary, workload
from .progress import DemoProgress, Meter
from .run import Demo, DemoFailed, run
from .screen import Screen
from .workload import FEWEST_TASKS, SERVERS, TYPES, UNFIT, VICTIM, DemoTask

TASKS = 300
LOOK_EVERY_SECONDS = 0.25
KILL_AFTER = 1 / 3
"""Fraction of the tasks that have ended when a backend is killed."""
SECONDS_FOR_ALL = 90.0
SECONDS_PER_TASK = 0.15
SETTLING_SECONDS = 60.0
"""Limit for a health check and a counter after the last task."""
AT_ONCE = 16


async def show(tasks: int) -> int:
    """Run the demo; return 0 if every task ended as it should, else 1."""
    if tasks < FEWEST_TASKS:
        raise InvalidSettings(f"--tasks {tasks}: the demo needs at least {FEWEST_TASKS}")
    screen = Screen()
    screen.say("Taskstream at work", "bold")
    screen.say(f"A service, {len(SERVERS)} backend servers, {tasks} tasks. Ctrl-C ends it.")
    screen.title("Planned failures")
    for line in workload.planned_failures(tasks):
        screen.say(f"  {line}")
    if not await run(screen, lambda stack: TaskDemo(screen, stack, tasks)):
        return 1
    _ending(screen)
    return 0


class TaskDemo(Demo):
    """The demo."""

    def __init__(self, screen: Screen, stack: AsyncExitStack, count: int) -> None:
        super().__init__(screen, stack)
        self._tasks = workload.tasks(count)
        self._backends: dict[str, Process] = {}
        self._started_at = 0.0

    async def run(self) -> list[str]:
        """Show everything and return what went wrong."""
        await self._start()
        await self._register()
        await self._submit_unfit()
        submitted = asyncio.create_task(self._submit())
        try:
            await self._watch(submitted)
            tasks = await submitted
        finally:
            submitted.cancel()
        facts = await self._facts(tasks)
        self._show_history(facts, tasks)
        self.screen.title("The totals, as the service reports them")
        for line in summary.table(facts):
            self.screen.say(f"  {line}".rstrip())
        self.screen.say()
        for line in summary.explanation(facts):
            self.screen.say(f"  {line}", "dim")
        for backend in self._backends.values():
            await backend.shut_down()
        return [*summary.problems(facts, tasks), *await self.stop_service()]

    # Before

    async def _start(self) -> None:
        self.screen.title("Starting")
        names = [plan.server_id for plan in SERVERS]
        started = asyncio.gather(*(self.start_process(name, python("demo.backend", name)) for name in names))
        await asyncio.gather(self.start_service(), started)
        self._backends = dict(zip(names, started.result(), strict=True))
        self._admin, self._client = self.client("admin", "admin"), self.client("demo", "user")
        url = self.service.url
        self.screen.say(f"  process {self.service.pid:>7}  taskstream up  {url}  (its docs: {url}/docs)")
        for plan in SERVERS:
            pid = self._backends[plan.server_id].pid
            self.screen.say(f"  process {pid:>7}  server `{plan.server_id}`: {plan.what}")

    async def _register(self) -> None:
        for name, body in TYPES.items():
            await self._admin.done("PUT", f"/api/types/{name}", body)
        for plan in SERVERS:
            port = int(await self._backends[plan.server_id].first_line())
            await self._admin.done("POST", "/api/servers", plan.registration(port))
        await self._until_servers_are(dict.fromkeys(self._backends, "online"))
        self.screen.say(f"  {len(TYPES)} task types defined, {len(SERVERS)} servers registered, all online")

    async def _submit_unfit(self) -> None:
        """Check that a payload against its schema is refused."""
        answer = await self._client.call("POST", "/api/task", UNFIT)
        if answer.status != 400:
            raise DemoFailed(f"a payload against its schema was answered {answer}")
        self.screen.say(f"  a payload that breaks its type's schema is refused: 400 {answer['error']}")

    # In the middle

    async def _submit(self) -> dict[str, DemoTask]:
        """Submit everything; return the tasks by the ids that the service gave them."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def submit(task: DemoTask) -> str:
            async with slots:
                return await self._client.submit(task.body, headers={"Idempotency-Key": task.key})

        started = time.monotonic()
        ids = await asyncio.gather(*map(submit, self._tasks))
        seconds = time.monotonic() - started
        if await submit(self._tasks[0]) != ids[0]:
            raise DemoFailed("the same Idempotency-Key gave another task")
        self.screen.say(f"  {len(ids)} tasks submitted in {seconds:.1f} s, each on disk when it was acknowledged;")
        self.screen.say("  the first one once more, by the same Idempotency-Key: the same task")
        self.screen.say()
        return dict(zip(ids, self._tasks, strict=True))

    async def _watch(self, submitted: asyncio.Task[dict[str, DemoTask]]) -> None:
        """Show progress until all tasks have ended; kill a backend on the way."""
        total = len(self._tasks)
        self.screen.title("Working")
        meter = Meter()
        self._started_at = time.monotonic()
        give_up_at = self._started_at + SECONDS_FOR_ALL + SECONDS_PER_TASK * total
        killed = False
        while True:
            now = await self._look(total, meter)
            if submitted.done() and submitted.exception() is not None:
                return
            if now.ended >= total:
                self.screen.keep()
                return
            if time.monotonic() > give_up_at:
                self.screen.keep()
                raise DemoFailed(
                    f"{total - now.ended} tasks have not ended in time. The service's log ends:\n{self.service.tail()}"
                )
            if not killed and submitted.done() and now.ended >= KILL_AFTER * total and now.running_on(VICTIM.server_id):
                killed = True
                await self._kill(now)
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _look(self, total: int, meter: Meter) -> DemoProgress:
        tasks, servers = await asyncio.gather(self._client.tasks(), self._servers())
        now = DemoProgress(tasks, servers)
        rate = meter.rate(now.ended)
        self.screen.show(
            progress.block(now, total, rate),
            progress.plain(now, total, rate, time.monotonic() - self._started_at),
            last=now.ended >= total,
        )
        return now

    async def _kill(self, now: DemoProgress) -> None:
        backend = self._backends[VICTIM.server_id]
        pid = backend.pid
        backend.kill()
        self.screen.say(
            f"  kill -9 {pid}: server `{VICTIM.server_id}` is gone, with "
            f"{now.running_on(VICTIM.server_id)} running tasks; the others take over, as planned",
            "bad",
        )
        self.screen.say()

    # Afterwards

    async def _facts(self, tasks: dict[str, DemoTask]) -> summary.DemoFacts:
        """Read everything from the service."""
        await self._until_servers_are({VICTIM.server_id: "offline"})
        slots = asyncio.Semaphore(AT_ONCE)

        async def recorded(task_id: str) -> tuple[str, list[dict[str, Any]]]:
            async with slots:
                return task_id, await self._client.recorded(task_id)

        histories = dict(await asyncio.gather(*map(recorded, tasks)))
        attempts = sum(entry["event"]["type"] == "AttemptStarted" for each in histories.values() for entry in each)
        give_up_at = time.monotonic() + SETTLING_SECONDS
        while True:  # an attempt is counted a moment after its end is in the log
            counters = await self._counters()
            if counters.get("taskstream_attempts_total") == attempts or time.monotonic() > give_up_at:
                break
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        return summary.DemoFacts(await self._client.tasks(), histories, await self._servers(), counters)

    async def _servers(self) -> dict[str, dict[str, Any]]:
        """Return every server by its id."""
        return {server["id"]: server for server in (await self._admin.done("GET", "/api/servers"))["servers"]}

    async def _counters(self) -> dict[str, float]:
        """Return the sums of the counters in /metrics, by name."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(await self._client.done("GET", "/metrics")):
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return sums

    async def _until_servers_are(self, wanted: dict[str, str]) -> None:
        """Wait until servers have these states. After a minute the summary reports what is wrong."""

        async def are_so() -> bool:
            servers = await self._servers()
            return all(servers.get(name, {}).get("status") == status for name, status in wanted.items())

        with contextlib.suppress(NotInTime):
            await wait_until(are_so, "the servers' states", SETTLING_SECONDS)

    def _show_history(self, facts: summary.DemoFacts, tasks: dict[str, DemoTask]) -> None:
        histories: dict[str, Sequence[dict[str, Any]]] = dict(facts.histories)
        task_id = history.richest(histories, VICTIM.server_id)
        self.screen.title(f"The history of task {tasks[task_id].number}, from the log")
        for line in history.lines(histories[task_id]):
            self.screen.say(f"  {line}")


def _ending(screen: Screen) -> None:
    beside = Path(sys.executable).with_name("taskstream")
    command = "taskstream" if shutil.which("taskstream") else str(_short(beside))
    screen.title("Every task ended as it should.", "good")
    screen.say("  All processes have ended, and the demo's folder is removed. To start a service of your own:")
    screen.say()
    screen.say(f"    export TASKSTREAM_JWT_SECRET=$({command} seal-key)")
    screen.say(f"    {command} up")
    screen.say()
    screen.say("  README.md has a tour of it. `taskstream top` shows a service at work.")


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
