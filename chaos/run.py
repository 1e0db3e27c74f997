"""One run: start, load, break, heal, wait until it is quiet, gather, check."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from testkit.waiting import NotInTime

from .checker import Violation, check
from .collect import Reader
from .evidence import ConsumerSeen, Evidence, Probe, Recovery, corruptions, faults, in_use, jumps
from .expectations import RECOVERIES, of_run
from .holds import OWNERS as HOLDING
from .holds import SHARED_LIMITS, TYPES, Holds
from .hostile import Hostile
from .injector import Injector
from .journal import Journal, read
from .load import Load, Submitted
from .machine import Machine
from .quiet import (
    POLL_SECONDS,
    QUIET_SECONDS,
    Before,
    common_evidence,
    until_fired,
    until_projected,
    until_quiet,
)
from .receivers import Receivers
from .recovery import IN_A_RUN_SECONDS, JournaledTasks, Recoveries
from .schedule import Fault
from .subscribers import Subscribers
from .system import GRACE_SECONDS, System, ready, running

WARM_UP_SECONDS = 2.0
"""Of load before the first fault: connections are open and caches have something in them."""
WARM_EVENTS = 150
"""Events in the log of tasks of a system that is warm: on a busy machine they take longer than WARM_UP_SECONDS."""
LONGEST_WARM_UP_SECONDS = 20.0
LIVE_WITHIN_SECONDS = 90.0
"""Longest wait for dispatch after healing."""
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


async def run(seed: int, seconds: float, nodes: int, planned: list[Fault], machine: Machine, folder: Path) -> Outcome:
    """Run once in an empty folder, in which the evidence is left. The seed says what clients do."""
    clients = Journal(folder / "clients.jsonl", synced=True)
    injected = Journal(folder / "faults.jsonl", synced=False)
    async with (
        running(folder, nodes, machine) as system,
        Load(system.urls, clients, seed) as load,
        Receivers(system.urls[0], system.receiver_ports, seed) as receivers,
        Subscribers(system.urls, system.links_to_apis, lambda: load.recent, seed) as subscribers,
    ):
        holds = Holds(system.urls, load.session, clients, seed)
        hostile = Hostile(system.urls, load.session, clients, seed)
        await holds.start()
        load.start()
        hostile.start()
        receivers.start()
        subscribers.start()
        async with Reader(system.nats_urls) as reader:
            before = Before(await reader.streams(), await _warmed_up(reader), system.resources())
        injector = Injector(system, load, injected)
        await injector.run(planned)
        await asyncio.gather(load.stop(), holds.stop(), hostile.stop())
        await receivers.reform()
        healed_at = time.monotonic()
        # A worker whose clock is ahead sets timers so much too late; the timers stay when the clock is put right.
        patience = QUIET_SECONDS + max([0.0, *(fault.ahead for fault in planned)])
        readiness = await asyncio.gather(*(_until_ready(url) for url in system.urls))
        await injector.until_up()
        probing = asyncio.create_task(_probe(load, healed_at))
        async with Reader(system.nats_urls) as reader:
            await until_fired(reader, holds.recurring)
            await until_quiet(reader, healed_at, patience)
            quiet_seconds = time.monotonic() - healed_at
            probes = await probing
            recoveries = await _recoveries(system, load)
            await asyncio.gather(load.repeat_all(), holds.repeat_all())
            await until_quiet(reader, healed_at, patience)
            await load.close_out()
            await until_projected(reader)
            log = await reader.log()
            heard, received = await asyncio.gather(subscribers.finish(log), receivers.finish(log))
            broken = read(folder / "faults.jsonl")
            common = await common_evidence(system, reader, before)
            evidence = Evidence(
                **common | {"types": common["types"] | TYPES},
                heard=heard,
                received=received,
                probes=[*readiness, *probes],
                recoveries=recoveries,
                live_within_seconds=LIVE_WITHIN_SECONDS,
                shared_limits=list(SHARED_LIMITS),
                recurring=[replace(one, events=await reader.schedule_events(one.id)) for one in holds.recurring],
                grace_seconds=GRACE_SECONDS,
                was_full=any(fault.kind == "disk_full" for fault in planned),
                faults=faults(broken),
                expected=of_run(seconds, planned, HOLDING, subscribers.lasting, receivers.names, len(SHARED_LIMITS)),
                jumps=jumps(broken),
                corruptions=corruptions(broken),
            )
    clients.close()
    injected.close()
    return Outcome(
        seed=seed,
        seconds=seconds,
        nodes=nodes,
        faults=planned,
        evidence=evidence,
        violations=check(evidence),
        quiet_seconds=quiet_seconds,
    )


async def _recoveries(system: System, load: Load) -> list[Recovery]:
    """Kill NATS a few times in a quiet system, and see how soon it works again."""
    async with Recoveries(system, lambda: JournaledTasks(load.clients[0])) as recoveries:
        return [await recoveries.recover(IN_A_RUN_SECONDS) for _ in range(RECOVERIES)]


async def _warmed_up(reader: Reader) -> list[ConsumerSeen]:
    """Let the load run for a while; return the consumers when most were in use: one may be between two requests."""
    readings = []
    began = time.monotonic()
    while (spent := time.monotonic() - began) < LONGEST_WARM_UP_SECONDS:
        if spent >= WARM_UP_SECONDS and len(await reader.positions()) >= WARM_EVENTS:
            break
        readings.append(await reader.consumers())
        await asyncio.sleep(POLL_SECONDS / 2)
    return max(readings, key=lambda seen: in_use(seen).total())


async def _until_ready(url: str) -> Probe:
    started = time.monotonic()
    try:
        await ready(url)
    except NotInTime:
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
