"""`python -m chaos.recovery`: kills NATS, or everything, and measures how soon the service works again.

A trial kills every nats-server with kill -9, alone or together with every process of the service, and starts it again
after an outage. The clock runs from NATS' own readiness, see `until_nats_is_ready`, until tasks that are submitted then
have ended, one for each queue. The outages differ, so that no fixed period of the service can be met by luck.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec
import nats
import nats.errors
from nats.aio.client import Client as NatsClient

from taskstream.settings import PREFIX, Settings
from testkit.service import Client, token
from testkit.waiting import wait_until

from .evidence import Recovery
from .load import Client as LoadClient
from .load import Submitted
from .schedule import OURS, nats_names
from .system import System, ready

ALLOWED_SECONDS = 2.0
"""From NATS' readiness until the first new task of each queue has ended."""
RUNS = 20
SHORTEST_OUTAGE_SECONDS = 0.2
LONGEST_OUTAGE_SECONDS = 7.5
"""Longer than any request of the service stays with NATS."""
WAITS = "nats.error"
"""Logged by a process that has started and finds no NATS."""
LIVE_PERIOD_SECONDS = 0.1
LIVE_SECONDS = 2.0
"""How soon `/health/live` must be answered, also on a busy machine."""
ASK_SECONDS = 0.5
JOURNALED_POLL_SECONDS = 0.1
IN_A_RUN_SECONDS = 0.5
"""Outage of a kill in a run with faults: so short that a pull outlives it by seconds."""
USUAL = ("lease_ttl", "ack_wait", "reconcile_interval", "health_interval", "health_retries", "health_retry_delay")
"""Settings with their defaults, which the other runs shorten: a short period would hide what waits for it."""


class UsualSystem(System):
    """A system whose periods are the defaults."""

    def _environment(self, name: str, number: int) -> dict[str, str]:
        usual = {PREFIX + setting.upper(): str(getattr(Settings(), setting)) for setting in USUAL}
        return super()._environment(name, number) | usual


QUEUES = tuple((task_type, priority) for task_type in ("default", "batch") for priority in ("high", "normal", "low"))
"""Type and priority of the tasks that are submitted: one for each queue that the workers serve."""


class Tasks(Protocol):
    """One new task for each of QUEUES."""

    ids: list[str]

    async def submit(self) -> None:
        """Submit all, again where it is refused; return once all are accepted. Raises NotInTime."""

    async def end(self) -> None:
        """Return once all have succeeded. Raises NotInTime."""


class PlainTasks:
    """Tasks of the command's own client."""

    def __init__(self, client: Client) -> None:
        self.ids: list[str] = []
        self._client = client

    async def submit(self) -> None:
        """Submit all."""
        self.ids = list(await asyncio.gather(*(self._submit(*queue) for queue in QUEUES)))

    async def _submit(self, task_type: str, priority: str) -> str:
        payload = {"mark": "recovery", "do": ["ok"], "seconds": 0.0}
        body = {"type": task_type, "priority": priority, "payload": payload}

        async def accepted() -> str | None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                answer = await self._client.post("/api/task", body)
                return str(answer["taskId"]) if answer.status == 200 else None
            return None

        return await wait_until(accepted, "a task to be accepted")

    async def end(self) -> None:
        """Wait for all."""
        await asyncio.gather(*map(self._end, self.ids))

    async def _end(self, task_id: str) -> None:
        async def has_ended() -> bool:
            answer = await self._client.get(f"/api/task/{task_id}")
            return answer.status == 200 and answer["taskDetails"]["status"] == "FINISHED"

        await wait_until(has_ended, f"the end of {task_id}")


class JournaledTasks:
    """Tasks of a client of the load, whose calls are evidence."""

    numbers = itertools.count(1_000)

    def __init__(self, client: LoadClient) -> None:
        self._client = client
        self._submitted: list[Submitted] = []

    @property
    def ids(self) -> list[str]:
        """The tasks, once accepted."""
        return [one.task_id for one in self._submitted if one.task_id is not None]

    async def submit(self) -> None:
        """Submit one after the other, as the client does."""
        for task_type, priority in QUEUES:
            number = next(self.numbers)
            payload = {"mark": f"mk-{self._client.tenant}-99-{number}", "do": ["ok"]}
            body = {"payload": payload, "type": task_type, "priority": priority, "timeout": 4, "attempts": 5}
            one = Submitted(key=f"recovery {number}", body=body)
            self._submitted.append(one)
            await wait_until(lambda one=one: self._accepted(one), "a task to be accepted")  # type: ignore[misc]

    async def _accepted(self, one: Submitted) -> bool:
        if one.task_id is None:
            await self._client.submit(one, "repeat")
        return one.task_id is not None

    async def end(self) -> None:
        """Wait for all."""
        for task_id in self.ids:
            await wait_until(lambda task_id=task_id: self._has_ended(task_id), f"the end of {task_id}")  # type: ignore[misc]

    async def _has_ended(self, task_id: str) -> bool:
        await asyncio.sleep(JOURNALED_POLL_SECONDS)  # each look is a line on the disk
        answer = await self._client.touch("read", task_id)
        return answer.status == 200 and answer.body["taskDetails"]["status"] == "FINISHED"


class Recoveries:
    """Kills and measures in a running system. Use as an async context manager."""

    def __init__(self, system: System, tasks: Callable[[], Tasks] | None = None) -> None:
        """`tasks`: makes tasks; the default are those of a client of its own."""
        self._system = system
        self._nats_names = nats_names(system.nodes)
        self._stack = AsyncExitStack()
        self._clients: list[Client] = []
        self._streams: list[str] = []
        self._tasks = tasks or (lambda: PlainTasks(self._clients[0]))

    async def __aenter__(self) -> Recoveries:
        timeout = aiohttp.ClientTimeout(total=30)
        session = await self._stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        self._clients = [Client(session, url, token("recovery")) for url in self._system.urls]
        client = await nats.connect(self._system.nats_urls)
        self._streams = [str(one) for one in (await _asked(client, "STREAM.NAMES"))["streams"]]
        await client.close()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def recover(self, outage_seconds: float, *, everything: bool = False) -> Recovery:
        """Kill NATS, or everything; start it again after an outage; return how soon new tasks were done.

        Of everything, the processes of the service are started first: the outage begins once each waits for NATS.
        """
        processes = self._system.processes
        ours = OURS if everything else ()
        calm = self._tasks()
        calm_from = time.monotonic()
        await calm.submit()
        await calm.end()
        calm_seconds = time.monotonic() - calm_from
        async with AsyncExitStack() as held:
            for name in (*self._nats_names, *ours):
                await held.enter_async_context(processes[name].busy)
            if not everything:
                watch = await held.enter_async_context(self._watched(is_up=True))
            await asyncio.gather(*(processes[name].take_down() for name in (*self._nats_names, *ours)))
            if everything:
                watch = await held.enter_async_context(self._watched(is_up=False))
            for name in ours:
                processes[name].start()
            await asyncio.gather(*(processes[name].logged(WAITS) for name in ours))
            await asyncio.sleep(outage_seconds)
            for name in self._nats_names:
                processes[name].start()
            await until_nats_is_ready(self._system.nats_urls, self._streams)
            ready_at, ready_at_epoch = time.monotonic(), time.time()
            if everything:
                await asyncio.gather(*map(ready, self._system.urls[:1]))
            up_at = time.monotonic()
            tasks = self._tasks()
            await tasks.submit()
            submitted_at = time.monotonic()
            await tasks.end()
            done_at = time.monotonic()
        await asyncio.gather(*map(ready, self._system.urls))
        return Recovery(
            everything=everything,
            outage_seconds=outage_seconds,
            calm_seconds=calm_seconds,
            ready_at=ready_at_epoch,
            calm_tasks=calm.ids,
            tasks=tasks.ids,
            up_seconds=up_at - ready_at,
            submit_seconds=submitted_at - ready_at,
            done_seconds=done_at - ready_at,
            live_missed=watch.missed,
            live_slowest_seconds=watch.slowest,
            said_unready=watch.said_unready,
        )

    @contextlib.asynccontextmanager
    async def _watched(self, *, is_up: bool) -> AsyncIterator[Watch]:
        """Ask every API for its health until the end of the block. `is_up`: it answers from the beginning."""
        watch = Watch()
        asking = [asyncio.create_task(watch.run(client, is_up=is_up)) for client in self._clients]
        try:
            yield watch
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


class Watch:
    """The answers of APIs about their health."""

    def __init__(self) -> None:
        self.missed = 0
        """Requests for `/health/live` that were not answered with 200 in LIVE_SECONDS."""
        self.slowest = 0.0
        self.said_unready = False
        """`/health/ready` was a 503 with a reason."""

    async def run(self, client: Client, *, is_up: bool) -> None:
        """Ask until cancelled."""
        while True:
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(LIVE_SECONDS):
                    answered = (await client.get("/health/live")).status == 200
            except (aiohttp.ClientError, OSError, TimeoutError):
                answered = False
            is_up = is_up or answered
            if is_up:
                self.missed += not answered
                self.slowest = max(self.slowest, time.monotonic() - asked_at)
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(LIVE_SECONDS):
                        answer = await client.get("/health/ready")
                        self.said_unready |= answer.status == 503 and bool(answer["warnings"])
            await asyncio.sleep(LIVE_PERIOD_SECONDS)


async def until_nats_is_ready(urls: Sequence[str], streams: Sequence[str]) -> None:
    """Wait until every nats-server answers for each stream, and each stream and durable consumer has a leader.

    Other consumers were in the memory of a killed server; their readers make new ones. Raises NotInTime.
    """

    async def is_ready(url: str) -> bool:
        try:
            client = await nats.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=_say_nothing)
        except (nats.errors.Error, OSError):
            return False
        try:
            infos = [await _asked(client, f"STREAM.INFO.{stream}") for stream in streams]
            for stream in streams:
                found = (await _asked(client, f"CONSUMER.LIST.{stream}"))["consumers"]
                infos += [each for each in found if each["config"].get("durable_name")]
            return len(urls) == 1 or all(info["cluster"].get("leader") for info in infos)
        except (nats.errors.Error, KeyError):
            return False
        finally:
            await client.close()

    async def all_ready() -> bool:
        return all(await asyncio.gather(*map(is_ready, urls)))

    await wait_until(all_ready, "NATS to be ready")


async def _asked(client: NatsClient, name: str) -> dict[str, Any]:
    """Return the answer of JetStream. Raises nats.errors.Error if there is none, or a refusal."""
    answer = await client.request(f"$JS.API.{name}", timeout=ASK_SECONDS)
    found: dict[str, Any] = msgspec.json.decode(answer.data)
    if "error" in found or found.get("missing"):
        raise nats.errors.Error(name)
    return found


async def _say_nothing(_: Exception) -> None:
    pass


def outages(runs: int) -> list[float]:
    """Return outages of different lengths, spread evenly."""
    step = (LONGEST_OUTAGE_SECONDS - SHORTEST_OUTAGE_SECONDS) / max(1, runs - 1)
    return [round(SHORTEST_OUTAGE_SECONDS + step * number, 2) for number in range(runs)]


def shown(recovery: Recovery) -> str:
    """Return one line."""
    what = "everything" if recovery.everything else "NATS alone"
    return (
        f"{what}, away for {recovery.outage_seconds:.2f} s: new tasks done {recovery.done_seconds:.2f} s after "
        f"NATS was ready (API ready at {recovery.up_seconds:.2f}, accepted at {recovery.submit_seconds:.2f}; "
        f"{recovery.calm_seconds:.2f} s for the same when calm); /health/live {recovery.live_missed} missed, "
        f"slowest {recovery.live_slowest_seconds:.2f} s; /health/ready "
        f"{'said why' if recovery.said_unready else 'was not asked while NATS was away'}"
    )


async def measure(folder: Path, runs: int, nodes: int, kinds: Sequence[bool]) -> list[Recovery]:
    """Run in an empty folder; print each recovery as it is measured. `kinds`: whether everything is killed."""
    found = []
    async with AsyncExitStack() as stack:
        system = UsualSystem(folder, nodes)
        await system.start(stack)
        recoveries = await stack.enter_async_context(Recoveries(system))
        for everything in kinds:
            for outage_seconds in outages(runs):
                found.append(await recoveries.recover(outage_seconds, everything=everything))
                print(shown(found[-1]), flush=True)
    return found


def main() -> int:
    options = _parser().parse_args()
    kinds = {"nats": [False], "everything": [True], "both": [False, True]}[options.kill]
    with tempfile.TemporaryDirectory(prefix="taskstream-recovery-") as folder:
        found = asyncio.run(measure(options.keep or Path(folder), options.runs, options.nodes, kinds))
    for everything in kinds:
        taken = sorted(one.done_seconds for one in found if one.everything is everything)
        what = f"{'everything' if everything else 'NATS alone'}, {options.nodes} nodes, {len(taken)} runs"
        print(f"{what}: worst {taken[-1]:.2f} s, median {taken[len(taken) // 2]:.2f} s")
    missed = sum(one.live_missed for one in found)
    print(f"/health/live: {missed} missed; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    late = sum(one.done_seconds > ALLOWED_SECONDS for one in found)
    print(f"{late} of {len(found)} took more than {ALLOWED_SECONDS:g} s")
    return int(missed > 0 or late > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.recovery", description="Kill NATS, or everything; measure.")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"kills of each kind (default: {RUNS})")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="nats-servers")
    parser.add_argument("--kill", choices=("nats", "everything", "both"), default="both", help="what is killed")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs in this empty folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
