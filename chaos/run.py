"""One run: start, load, break, heal, wait until it is quiet, gather, check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from .checker import Violation, check
from .collect import Reader
from .evidence import FINAL, ConsumerSeen, Evidence, Probe, in_use, pair
from .injector import Injector
from .journal import Journal, read
from .load import Load, Submitted
from .schedule import BACKENDS, Fault, plan
from .system import LIMITS, System, running

QUIET_SECONDS = 90.0
"""Longest wait after healing until no task is active. A task's attempts take seconds each, see the load."""
POLL_SECONDS = 0.5
LIVE_WITHIN_SECONDS = {1: 30.0, 3: 60.0}
"""By nats-servers: longest wait for dispatch after healing. A JetStream source that has lost its stream's leader tries
again only after 10, 20, … s: in a cluster, ready tasks may reach the queue so late."""
PROBES = {"a task of type default": None, "a task of type batch": "batch"}


class Outcome(Struct, kw_only=True):
    seed: int
    seconds: float
    nodes: int
    faults: list[Fault]
    evidence: Evidence
    violations: list[Violation]
    quiet_seconds: float
    """From healing until nothing was active."""


async def run(seed: int, seconds: float, nodes: int, folder: Path) -> Outcome:
    """Run once in an empty folder, in which the evidence is left."""
    faults = plan(seed, seconds, nodes)
    clients = Journal(folder / "clients.jsonl", synced=True)
    injected = Journal(folder / "faults.jsonl", synced=False)
    async with running(folder, nodes) as system, Load(system.urls, clients, seed) as load:
        async with Reader(system.nats_urls) as reader:
            streams, consumers, resources = await reader.streams(), await reader.consumers(), system.resources()
        load.start()
        await Injector(system, load, injected).run(faults)
        await load.stop()
        healed_at = time.monotonic()
        readiness = await asyncio.gather(*(_until_ready(system, url) for url in system.urls))
        probing = asyncio.create_task(_probe(load, healed_at))
        async with Reader(system.nats_urls) as reader:
            await _until_quiet(reader, healed_at)
            quiet_seconds = time.monotonic() - healed_at
            probes = await probing
            await load.repeat_all()
            await _until_quiet(reader, healed_at)
            await _until_projected(reader)
            evidence = Evidence(
                calls=pair(read(folder / "clients.jsonl")),
                log=await reader.log(),
                backends=_backend_lines(system),
                buckets=[await reader.tasks_bucket(), await reader.registry_bucket()],
                queued=await reader.queued(),
                timed=await reader.timed(),
                probes=[*readiness, *probes],
                live_within_seconds=LIVE_WITHIN_SECONDS[nodes],
                limits=LIMITS,
                streams=(streams, await reader.streams()),
                consumers=(consumers, await _settled(reader, consumers)),
                resources=(resources, system.resources()),
                exits=[str(found) for found in system.exits() if not found.never_ran],
            )
    clients.close()
    injected.close()
    return Outcome(
        seed=seed,
        seconds=seconds,
        nodes=nodes,
        faults=faults,
        evidence=evidence,
        violations=check(evidence),
        quiet_seconds=quiet_seconds,
    )


async def _until_ready(system: System, url: str) -> Probe:
    started = time.monotonic()
    try:
        await system.ready(url)
    except TimeoutError:
        return Probe(f"an API to be ready, {url}", None)
    return Probe("an API to be ready", time.monotonic() - started)


async def _probe(load: Load, since: float) -> list[Probe]:
    """Submit a task of each pool now that everything is healed, and see how long each takes."""
    return list(await asyncio.gather(*(_probe_one(load, since, kind, task_type) for kind, task_type in PROBES.items())))


async def _probe_one(load: Load, since: float, kind: str, task_type: str | None) -> Probe:
    client = load.clients[0]
    mark = f"mk-{client.tenant}-99-{list(PROBES).index(kind)}"
    body = {"payload": {"mark": mark, "do": ["ok"]}, "priority": "high", "timeout": 4, "attempts": 5}
    one = Submitted(key=f"probe {kind}", body=body | ({"type": task_type} if task_type else {}))
    while time.monotonic() - since < QUIET_SECONDS:
        if one.task_id is None:
            await client.submit(one, "repeat")
        else:
            answer = await client.touch("read", one.task_id)
            if answer.status == 200 and answer.body["taskDetails"]["status"] == "FINISHED":
                return Probe(kind, time.monotonic() - since)
        await asyncio.sleep(POLL_SECONDS)
    return Probe(kind, None)


async def _until_quiet(reader: Reader, since: float) -> None:
    """Wait until every task has ended, or patience is spent."""
    while time.monotonic() - since < QUIET_SECONDS:
        last = {entry.task: entry.recorded["event"]["type"] for entry in await reader.log()}
        if all(event in FINAL for event in last.values()):
            return
        await asyncio.sleep(POLL_SECONDS)


async def _until_projected(reader: Reader) -> None:
    """Wait until both projections say that they have reached the ends of their logs."""
    give_up_at = time.monotonic() + 15
    for stream, bucket in (("TASKS", "tasks"), ("SERVERS", "registry")):
        while time.monotonic() < give_up_at:
            if await reader.checkpoint(bucket) >= await reader.last_sequence(stream):
                break
            await asyncio.sleep(POLL_SECONDS)


async def _settled(reader: Reader, before: Sequence[ConsumerSeen]) -> list[ConsumerSeen]:
    """Return the consumers, once as many are in use as were before: a request of a dead process waits for seconds."""
    give_up_at = time.monotonic() + 15
    while True:
        found = await reader.consumers()
        if in_use(found) <= in_use(before) or time.monotonic() > give_up_at:
            return found
        await asyncio.sleep(POLL_SECONDS)


def _backend_lines(system: System) -> list[dict[str, object]]:
    lines = [line for name in BACKENDS for line in read(system.journal_of(name))]
    return sorted(lines, key=lambda line: line["at"])


def describe(faults: Sequence[Fault]) -> str:
    return "\n".join(f"  {fault}" for fault in faults)
