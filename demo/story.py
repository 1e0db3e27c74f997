"""The demo from beginning to end."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from taskstream.api.auth.authenticator import make_token
from taskstream.settings import InvalidSettings

from . import history, progress, summary, workload
from .client import ServiceClient
from .playing import play
from .processes import BackendProcess, DemoFailed, Service, service_on
from .progress import DemoProgress, Meter
from .screen import Screen
from .workload import FEWEST_TASKS, SERVERS, TYPES, UNFIT, VICTIM, DemoTask

TASKS = 300
LOOK_EVERY_SECONDS = 0.25
KILL_AFTER = 1 / 3
"""Part of the tasks that have ended when a server is killed."""
SECONDS_FOR_ALL = 35.0
SECONDS_PER_TASK = 0.15
SETTLING_SECONDS = 10.0
"""How long what follows the last task (a health check, a counter) may take."""
SUBMIT_AT_ONCE = 16


async def run(tasks: int) -> int:
    """Run the demo; return 0 if every task ended as it should, else 1."""
    if tasks < FEWEST_TASKS:
        raise InvalidSettings(f"--tasks {tasks}: the demo needs at least {FEWEST_TASKS}")
    screen = Screen()
    screen.say(screen.style("Taskstream, seen at work", "bold"))
    screen.say(
        f"A service, {len(SERVERS)} backend servers, {tasks} tasks, and a kill -9 in the middle. Ctrl-C ends it."
    )
    if not await play(screen, lambda stack: Story(screen, stack, tasks)):
        return 1
    _ending(screen)
    return 0


class Story:
    def __init__(self, screen: Screen, stack: AsyncExitStack, count: int) -> None:
        self._screen = screen
        self._stack = stack
        self._orders = workload.orders(count)
        self._backends: dict[str, BackendProcess] = {}
        self._service: Service | None = None
        self._admin: ServiceClient
        self._client: ServiceClient
        self._started_at = 0.0

    async def tell(self) -> list[str]:
        """Do everything; return what was not as it should be."""
        await self._start()
        await self._register()
        await self._knock()
        submitted = asyncio.create_task(self._submit())
        try:
            await self._watch(submitted)
            orders = await submitted
        finally:
            submitted.cancel()
        facts = await self._facts(orders)
        self._tell_history(facts, orders)
        self._screen.title("The sum, as the service tells it")
        for line in summary.table(facts):
            self._screen.say(f"  {line}".rstrip())
        return [*summary.complaints(facts, orders), *await self._stop()]

    def log_tail(self) -> str:
        return self._service.tail() if self._service else ""

    # Before

    async def _start(self) -> None:
        say = self._screen.say
        secret = secrets.token_hex(32)
        self._service = service = service_on(self._stack, secret)
        self._screen.title("Starting")
        starting = asyncio.gather(*map(self._start_backend, SERVERS))
        await asyncio.gather(service.start(), starting)
        backends = starting.result()
        self._backends = {backend.plan.server_id: backend for backend in backends}
        session = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))

        def client(subject: str, role: str) -> ServiceClient:
            return ServiceClient(session, service.url, make_token(secret, subject, [role], 3600, time.time()))

        self._admin, self._client = client("admin", "admin"), client("demo", "user")
        say(f"  process {service.pid:>7}  taskstream up  {service.url}  (its docs: {service.url}/docs)")
        for backend in backends:
            plan = backend.plan
            say(f"  process {backend.pid:>7}  server `{plan.server_id}`: {plan.what}")

    async def _start_backend(self, plan: workload.ServerPlan) -> BackendProcess:
        backend = await BackendProcess.start(plan)
        self._stack.push_async_callback(backend.stop)
        return backend

    async def _register(self) -> None:
        for name, body in TYPES.items():
            await self._admin.done("PUT", f"/api/types/{name}", body)
        for backend in self._backends.values():
            await self._admin.done("POST", "/api/servers", backend.plan.registration(backend.port))
        await self._until_servers_are(dict.fromkeys(self._backends, "online"))
        self._screen.say(f"  {len(TYPES)} task types defined, {len(SERVERS)} servers registered, all online")

    async def _knock(self) -> None:
        """See that what does not fit is refused."""
        answer = await self._client.call("POST", "/api/task", UNFIT)
        if answer.status != 400:
            raise DemoFailed(f"a payload against its schema was answered {answer.status}: {answer.body}")
        self._screen.say(f"  a payload that breaks its type's schema is refused: 400 {answer.body['error']}")

    # In the middle

    async def _submit(self) -> dict[str, DemoTask]:
        """Submit everything; return the orders by the ids that the service gave them."""
        gate = asyncio.Semaphore(SUBMIT_AT_ONCE)

        async def submit(order: DemoTask) -> str:
            async with gate:
                answer = await self._client.done("POST", "/api/task", order.body, {"Idempotency-Key": order.key})
                return str(answer["taskId"])

        started = time.monotonic()
        ids = await asyncio.gather(*map(submit, self._orders))
        seconds = time.monotonic() - started
        first = self._orders[0]
        if await submit(first) != ids[0]:
            raise DemoFailed("the same Idempotency-Key gave another task")
        self._screen.say(f"  {len(ids)} tasks submitted in {seconds:.1f} s, each on disk when it was acknowledged;")
        self._screen.say("  the first one once more, by the same Idempotency-Key: the same task")
        self._screen.say()
        return dict(zip(ids, self._orders, strict=True))

    async def _watch(self, submitted: asyncio.Task[dict[str, DemoTask]]) -> None:
        """Show how it goes until all have ended; kill a server on the way."""
        total = len(self._orders)
        self._screen.title("Working")
        meter = Meter()
        self._started_at = time.monotonic()
        give_up_at = self._started_at + SECONDS_FOR_ALL + SECONDS_PER_TASK * total
        killed = False
        while True:
            now = await self._look(total, meter)
            if submitted.done() and submitted.exception() is not None:
                return
            if now.ended >= total:
                self._screen.keep()
                return
            if time.monotonic() > give_up_at:
                self._screen.keep()
                raise DemoFailed(
                    f"{total - now.ended} tasks have not ended in time. The service's log ends:\n{self.log_tail()}"
                )
            if not killed and submitted.done() and now.ended >= KILL_AFTER * total and now.running_on(VICTIM.server_id):
                killed = True
                await self._kill(now)
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _look(self, total: int, meter: Meter) -> DemoProgress:
        tasks, servers = await asyncio.gather(self._client.tasks(), self._admin.servers())
        now = DemoProgress(tasks, servers)
        rate = meter.rate(now.ended)
        self._screen.show(
            progress.block(self._screen, now, total, rate),
            progress.plain(now, total, rate, time.monotonic() - self._started_at),
            last=now.ended >= total,
        )
        return now

    async def _kill(self, now: DemoProgress) -> None:
        backend = self._backends[VICTIM.server_id]
        await backend.kill()
        self._screen.say(
            self._screen.style(
                f"  kill -9 {backend.pid}: server `{VICTIM.server_id}` is gone, with "
                f"{now.running_on(VICTIM.server_id)} tasks in its hands; the others take over",
                "bad",
            )
        )
        self._screen.say()

    # Afterwards

    async def _facts(self, orders: dict[str, DemoTask]) -> summary.DemoFacts:
        """Read everything from the service."""
        await self._until_servers_are({VICTIM.server_id: "offline"})
        histories = await self._client.histories(orders)
        attempts = sum(entry["event"]["type"] == "AttemptStarted" for each in histories.values() for entry in each)
        give_up_at = time.monotonic() + SETTLING_SECONDS
        while True:  # an attempt is counted a moment after its end is in the log
            counters = await self._admin.counters()
            if counters.get("taskstream_attempts_total") == attempts or time.monotonic() > give_up_at:
                break
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        return summary.DemoFacts(await self._client.tasks(), histories, await self._admin.servers(), counters)

    async def _until_servers_are(self, wanted: dict[str, str]) -> None:
        """Wait until servers have the wanted states; whether they do in the end is for the summary to say."""
        give_up_at = time.monotonic() + SETTLING_SECONDS
        while time.monotonic() < give_up_at:
            servers = await self._admin.servers()
            if all(servers.get(name, {}).get("status") == status for name, status in wanted.items()):
                return
            await asyncio.sleep(0.05)

    def _tell_history(self, facts: summary.DemoFacts, orders: dict[str, DemoTask]) -> None:
        histories: dict[str, Sequence[dict[str, Any]]] = dict(facts.histories)
        task_id = history.most_telling(histories, VICTIM.server_id)
        self._screen.title(f"The history of task {orders[task_id].number}, as the log has it")
        for line in history.lines(histories[task_id]):
            self._screen.say(f"  {line}")

    async def _stop(self) -> list[str]:
        """End everything; return what did not end as it should."""
        assert self._service is not None
        for backend in self._backends.values():
            await backend.stop()
        return await self._service.stop()


def _ending(screen: Screen) -> None:
    beside = Path(sys.executable).with_name("taskstream")
    command = "taskstream" if shutil.which("taskstream") else str(_short(beside))
    screen.title(screen.style("Every task ended as it should.", "good"))
    screen.say("  All processes are ended, and the demo's folder is removed. To go on with a service of your own:")
    screen.say()
    screen.say("    export TASKSTREAM_JWT_SECRET=$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')")
    screen.say(f"    {command} up")
    screen.say()
    screen.say("  README.md has a tour of it with curl.")


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
