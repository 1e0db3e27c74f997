"""`python -m chaos.rolling`: every process restarted in turn under load, as an upgrade does, and no request may fail.

A clear 503 with `Retry-After` is no failure; a request that is broken off, times out or meets any other 5xx is one.
Afterwards the checker looks at the evidence as after any other run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import nats
import nats.errors
from msgspec import Struct

from taskstream.settings import PREFIX
from testkit.service import token

from .balancer import Balancer, Passage
from .checker import Violation, check
from .collect import Reader
from .evidence import Evidence, Fault
from .expectations import of_rolling
from .journal import Journal
from .load import CLIENTS_PER_TENANT, TENANTS, Client, Submitted
from .machine import Machine
from .quiet import Before, common_evidence, until_projected, until_quiet
from .schedule import APIS, WORKERS, nats_names
from .system import System, ready

DRAIN_SECONDS = 1.5
"""Several of the balancer's probes."""
PAUSE_SECONDS = 0.1
"""Between two calls of a client, on average."""
IMPATIENT = 8
"""Clients that never pause, while APIs are restarted."""
STEADY_SECONDS = 2.0
"""Load before the first restart and after the last."""
BACK_SECONDS = 180.0
POLL_SECONDS = 0.1
STARTED = b'"event": "worker.started"'
SHOWN = 10


class Restart(Struct, frozen=True):
    name: str
    asked_at: float
    """When it was asked to end, in seconds since the epoch."""
    seconds: float
    """From then until it did its work again."""


class Rolled(Struct, kw_only=True):
    """The result of a rolling restart."""

    restarts: list[Restart]
    passages: list[Passage]
    violations: list[Violation]

    @property
    def unavailable(self) -> int:
        return sum(passage.status == 503 for passage in self.passages)

    @property
    def longest_answer_seconds(self) -> float:
        return max(passage.ended_at - passage.began_at for passage in self.passages)

    @property
    def longest_unavailable_seconds(self) -> float:
        """The longest time in which there were answers and none but 503."""
        longest, served_at = 0.0, self.passages[0].began_at
        refused = False
        for passage in sorted(self.passages, key=lambda each: each.ended_at):
            if passage.status == 503:
                refused = True
            elif passage.status:
                longest = max(longest, passage.ended_at - served_at) if refused else longest
                served_at, refused = passage.ended_at, False
        return longest

    def __str__(self) -> str:
        restarts = ", ".join(f"{restart.name} {restart.seconds:.1f} s" for restart in self.restarts)
        verdict = f"{len(self.violations)} VIOLATIONS" if self.violations else "held"
        failed = sum(bool(passage.failure) for passage in self.passages)
        return (
            f"{verdict}: {len(self.passages)} requests, {failed} failed, "
            f"{self.unavailable} unavailable (503), longest time of only 503 {self.longest_unavailable_seconds:.1f} s, "
            f"longest answer {self.longest_answer_seconds:.1f} s\nrestarted: {restarts}"
        )


class SteadyClient(Client):
    """A client whose tasks are short and go well."""

    def _new(self) -> Submitted:
        mark = self.new_mark()
        payload = {"mark": mark, "do": ["ok"], "seconds": round(self._chance.random() * 0.1, 3)}
        body: dict[str, Any] = {"payload": payload, "timeout": 4, "attempts": 5}
        if self._chance.random() < 0.3:
            body["type"] = "batch"
        return Submitted(key=f"key of {mark}" if self._chance.random() < 0.75 else None, body=body)


class RollingSystem(System):
    """A system whose APIs drain, for as long as is said."""

    def __init__(self, folder: Path, nodes: int, drain_seconds: float) -> None:
        super().__init__(folder, nodes, Machine())
        self._drain_seconds = drain_seconds

    def _environment(self, name: str, number: int) -> dict[str, str]:
        return super()._environment(name, number) | {f"{PREFIX}DRAIN": str(self._drain_seconds)}


async def roll(nodes: int, drain_seconds: float, folder: Path, seed: int = 1) -> Rolled:
    """Restart every process once, in an empty folder; the seed says what clients do."""
    journal = Journal(folder / "clients.jsonl", synced=True)
    async with AsyncExitStack() as stack:
        system = RollingSystem(folder, nodes, drain_seconds)
        await system.start(stack)
        async with Reader(system.nats_urls) as reader:
            before = Before(await reader.streams(), await reader.consumers(), system.resources())
        balancer = await stack.enter_async_context(Balancer(system.urls))
        for url in system.urls:
            await balancer.is_in_rotation(url)
        async with _load(balancer, journal, seed):
            await asyncio.sleep(STEADY_SECONDS)
            restarts = await _restart(system, balancer, (*nats_names(nodes), *WORKERS))
            async with _impatience(balancer):
                restarts += await _restart(system, balancer, APIS)
            await asyncio.sleep(STEADY_SECONDS)
        async with Reader(system.nats_urls) as reader:
            await until_quiet(reader, time.monotonic())
            await until_projected(reader)
            evidence = Evidence(
                **await common_evidence(system, reader, before),
                faults=[Fault("restart", each.name, each.asked_at, each.asked_at + each.seconds) for each in restarts],
                expected=of_rolling([each.name for each in restarts]),
            )
    journal.close()
    failed = [Violation("requests-are-answered", str(one)) for one in balancer.passages if one.failure]
    return Rolled(restarts=restarts, passages=balancer.passages, violations=[*failed, *check(evidence)])


@contextlib.asynccontextmanager
async def _load(balancer: Balancer, journal: Journal, seed: int) -> AsyncIterator[None]:
    """Have clients call until the end of the block, and let their last calls end."""
    stopped = asyncio.Event()
    clients = [
        SteadyClient(tenant, number, [""], balancer, journal, seed)  # type: ignore[arg-type]
        for tenant in TENANTS
        for number in range(CLIENTS_PER_TENANT)
    ]

    async def work(client: Client) -> None:
        pause = random.Random(f"{seed}/{client.tenant}/{client.number}/pause")
        while not stopped.is_set():
            await client.operate([task for other in clients if other.tenant != client.tenant for task in other.recent])
            await asyncio.sleep(pause.expovariate(1 / PAUSE_SECONDS))

    async with asyncio.TaskGroup() as running:
        for client in clients:
            running.create_task(work(client))
        yield
        stopped.set()


@contextlib.asynccontextmanager
async def _impatience(balancer: Balancer) -> AsyncIterator[None]:
    """Until the end of the block, have more clients call without a pause: some request is always on its way."""
    headers = {"Authorization": f"Bearer {token(TENANTS[0])}"}
    stopped = asyncio.Event()

    async def call() -> None:
        while not stopped.is_set():
            # The balancer's own notes have the result.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with balancer.request("GET", "/api/types", json=None, headers=headers) as reply:
                    await asyncio.sleep(POLL_SECONDS if reply.status == 503 else 0)

    async with asyncio.TaskGroup() as running:
        for _ in range(IMPATIENT):
            running.create_task(call())
        yield
        stopped.set()


async def _restart(system: System, balancer: Balancer, names: Sequence[str]) -> list[Restart]:
    """Restart one process after the other, each once the one before is back at its work."""
    restarts = []
    for name in names:
        asked_at, began_at = time.time(), time.monotonic()
        process = system.processes[name]
        started_before = _times_started(system, name)
        async with process.busy, asyncio.timeout(BACK_SECONDS):
            await process.shut_down()
            process.start()
            if name in APIS:
                url = system.urls[APIS.index(name)]
                await ready(url)
                await balancer.is_in_rotation(url)
            elif name in WORKERS:
                while _times_started(system, name) == started_before:
                    await asyncio.sleep(POLL_SECONDS)
            else:
                await in_sync(system)
        restarts.append(Restart(name, asked_at, time.monotonic() - began_at))
    return restarts


def _times_started(system: System, worker: str) -> int:
    return (system.folder / f"{worker}.log").read_bytes().count(STARTED)


async def in_sync(system: System) -> None:
    """Wait until every stream and durable consumer has a leader, and all its replicas have caught up at some moment."""
    client = await _connected(system.nats_urls)
    try:
        behind = await _groups(client)
        while behind is None or any(behind.values()):
            await asyncio.sleep(POLL_SECONDS)
            found = await _groups(client)
            if found is None or behind is None:
                behind = found
            else:
                behind = {name: late and behind.get(name, True) for name, late in found.items()}
    finally:
        await client.close()


async def _connected(urls: list[str]) -> nats.NATS:
    """Connect to every server in turn, and return a connection to the last: none may be left behind."""
    client = None
    for url in urls:
        if client is not None:
            await client.close()
        client = await nats.connect(url, name="chaos", allow_reconnect=False, error_cb=_quietly)
    assert client is not None
    return client


async def _quietly(_: Exception) -> None:
    """A server that is on its way up is no news."""


async def _groups(client: nats.NATS) -> dict[str, bool] | None:
    """Return whether any replica is behind, by stream and by stream and consumer; None while NATS cannot answer."""
    found: dict[str, bool] = {}
    try:
        for stream in await _all(client, "STREAM.LIST", "streams"):
            name = stream["config"]["name"]
            found[name] = _is_behind(stream)
            for consumer in await _all(client, f"CONSUMER.LIST.{name}", "consumers"):
                if consumer["config"].get("durable_name"):
                    found[f"{name} {consumer['name']}"] = _is_behind(consumer)
    except (nats.errors.Error, KeyError):
        return None
    return found


async def _all(client: nats.NATS, name: str, field: str) -> list[dict[str, Any]]:
    """Return all pages of a list. Raises KeyError where JetStream answers with an error."""
    found: list[dict[str, Any]] = []
    for offset in itertools.count(step=1):
        answer = await client.request(f"$JS.API.{name}", msgspec.json.encode({"offset": len(found)}), timeout=5)
        page = msgspec.json.decode(answer.data)
        found += page[field] or []
        if len(found) >= page["total"] or not page[field] or offset > 100:
            break
    return found


def _is_behind(info: dict[str, Any]) -> bool:
    cluster = info.get("cluster") or {}
    replicas = cluster.get("replicas") or []
    wanted = info["config"].get("num_replicas") or 0
    if len(replicas) + 1 < wanted:
        return True
    return any(replica.get("offline") or not replica.get("current") for replica in replicas)


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="taskstream-rolling-") as folder:
        rolled = asyncio.run(roll(options.nodes, options.drain, options.keep or Path(folder), options.seed))
    print(rolled)
    for violation in rolled.violations[:SHOWN]:
        print(f"[{violation.check}] {violation.task} {violation.what}")
    return 1 if rolled.violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.rolling", description="Restart all in turn, under load.")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3, help="nats-servers (default: 3)")
    parser.add_argument(
        "--drain", type=float, default=DRAIN_SECONDS, help=f"TASKSTREAM_DRAIN of the APIs (default: {DRAIN_SECONDS:g})"
    )
    parser.add_argument("--seed", type=int, default=1, help="what clients do")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs and journals in this empty folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
