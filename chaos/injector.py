"""Does to a running system what a schedule says, and puts it right again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp
import nats
import nats.errors

from .disk import lose_power
from .journal import Journal
from .load import Load
from .schedule import APIS, Fault
from .system import System

API_SECONDS = 2.0
UP_SECONDS = 60.0
"""How long an API that was started again is watched until it is ready."""
DRIFT_STEP_SECONDS = 0.1


class Injector:
    def __init__(self, system: System, load: Load, journal: Journal) -> None:
        self._system = system
        self._load = load
        self._journal = journal
        self._watching: list[asyncio.Task[None]] = []

    async def run(self, faults: Sequence[Fault]) -> None:
        """Do all of it, each at its time from now; return when the last is put right."""
        # A service that has run for a while: what its start wrote, the kernel has long put on the disks.
        await asyncio.gather(*(disk.sync() for disk in self._system.disks.values()))
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._at(started, fault))

    async def until_up(self) -> None:
        """Wait until every API that was started again has been seen to be ready."""
        await asyncio.gather(*self._watching)

    async def _at(self, started: float, fault: Fault) -> None:
        await asyncio.sleep(started + fault.at - time.monotonic())
        self._journal.write(
            what="begin", kind=fault.kind, target=fault.target, duration=fault.duration, ahead=fault.ahead
        )
        try:
            await self._do(fault)
        finally:
            self._journal.write(what="end", kind=fault.kind, target=fault.target)
            if fault.target in APIS and fault.kind in ("kill", "restart"):
                self._watching.append(asyncio.create_task(self._watch(fault.target)))

    async def _watch(self, api: str) -> None:
        """Write down when an API answers again."""
        give_up_at = time.monotonic() + UP_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=API_SECONDS)) as session:
            while time.monotonic() < give_up_at:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(f"{self._system.urls[APIS.index(api)]}/health/ready") as answer:
                        if answer.status == HTTPStatus.OK:
                            self._journal.write(what="up", target=api)
                            return
                await asyncio.sleep(DRIFT_STEP_SECONDS)

    async def _do(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                process = self._system.processes[fault.target]
                async with process.busy:
                    await process.take_down()
                    await asyncio.sleep(fault.duration)
                    process.start()
            case "restart":
                process = self._system.processes[fault.target]
                async with process.busy:
                    await process.shut_down()
                    process.start()
            case "stop":
                process = self._system.processes[fault.target]
                process.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.duration)
                process.signal(signal.SIGCONT)
            case "cut" | "delay" | "half_open" | "corrupt":
                link = self._system.links[fault.target]
                link.set(fault.kind)
                await asyncio.sleep(fault.duration)
                link.set("pass")
            case "isolate":
                await self._system.isolate(fault.target)
                await asyncio.sleep(fault.duration)
                await self._system.rejoin(fault.target)
            case "power_cut":
                process = self._system.processes[fault.target]
                async with process.busy:
                    await lose_power(process, self._system.disks[fault.target], fault.duration)
            case "disk_full":
                await self._fill_disk(fault)
            case "clock":
                clock = self._system.clocks[fault.target]
                clock.set(fault.ahead)
                await asyncio.sleep(fault.duration)
                clock.set(0.0)
            case "drift":
                await self._drift(fault)
            case "step_down":
                await self._ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{fault.target}")
            case "delete_consumer":
                await self._ask(f"$JS.API.CONSUMER.DELETE.{fault.target}")
            case "burst":
                self._load.burst = True
                await asyncio.sleep(fault.duration)
                self._load.burst = False

    async def _fill_disk(self, fault: Fault) -> None:
        process, disk = self._system.processes[fault.target], self._system.disks[fault.target]
        disk.fill()
        await asyncio.sleep(fault.duration)
        await self._look(fault)
        async with process.busy:  # after a power cut that came meanwhile
            disk.relieve()  # NATS finds out about the room at its next start
            await process.shut_down()
            process.start()

    async def _look(self, fault: Fault) -> None:
        """Write down what each API says of its readiness."""
        timeout = aiohttp.ClientTimeout(total=API_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for api, url in zip(APIS, self._system.urls, strict=True):
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(f"{url}/health/ready") as answer:
                        said = await answer.text()
                        self._journal.write(
                            what="look", kind=fault.kind, target=fault.target, api=api, status=answer.status, said=said
                        )

    async def _drift(self, fault: Fault) -> None:
        clock = self._system.clocks[fault.target]
        steps = max(1, round(fault.duration / DRIFT_STEP_SECONDS))
        for step in range(1, steps + 1):
            clock.set(fault.ahead * step / steps)
            await asyncio.sleep(fault.duration / steps)
        clock.set(0.0)

    async def _ask(self, subject: str) -> None:
        """Ask JetStream, if it can be asked just now."""
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            client = await nats.connect(
                self._system.nats_urls, allow_reconnect=False, connect_timeout=1, error_cb=_say_nothing
            )
            try:
                answer = await client.request(subject, timeout=API_SECONDS)
                self._journal.write(what="answer", target=subject, said=answer.data.decode()[:200])
            finally:
                await client.close()


async def _say_nothing(_: Exception) -> None:
    pass
