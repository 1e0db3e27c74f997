"""Does to a running system what a schedule says, and puts it right again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence

import nats
import nats.errors

from .journal import Journal
from .load import Load
from .schedule import Fault, nats_names
from .system import System

API_SECONDS = 2.0


class Injector:
    def __init__(self, system: System, load: Load, journal: Journal) -> None:
        self._system = system
        self._load = load
        self._journal = journal

    async def run(self, faults: Sequence[Fault]) -> None:
        """Do all of it, each at its time from now; return when the last is put right."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._at(started, fault))

    async def _at(self, started: float, fault: Fault) -> None:
        await asyncio.sleep(started + fault.at - time.monotonic())
        self._journal.write(what="begin", kind=fault.kind, target=fault.target, duration=fault.duration)
        try:
            await self._do(fault)
        finally:
            self._journal.write(what="end", kind=fault.kind, target=fault.target)

    async def _do(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                process = self._system.processes[fault.target]
                async with process.busy:
                    await process.kill()
                    await asyncio.sleep(fault.duration)
                    await process.start()
            case "restart":
                process = self._system.processes[fault.target]
                async with process.busy:
                    await process.terminate()
                    await process.start()
            case "stop":
                process = self._system.processes[fault.target]
                process.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.duration)
                process.signal(signal.SIGCONT)
            case "cut" | "delay" | "half_open":
                await self._spoil([fault.target], fault.kind, fault.duration)
            case "isolate":
                others = [name for name in nats_names(self._system.nodes) if name != fault.target]
                ways = [f"{fault.target}>{other}" for other in others] + [f"{other}>{fault.target}" for other in others]
                await self._spoil(ways, "cut", fault.duration)
            case "step_down":
                await self._ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{fault.target}")
            case "delete_consumer":
                await self._ask(f"$JS.API.CONSUMER.DELETE.{fault.target}")
            case "burst":
                self._load.burst = True
                await asyncio.sleep(fault.duration)
                self._load.burst = False

    async def _spoil(self, names: Sequence[str], mode: str, seconds: float) -> None:
        for name in names:
            self._system.links[name].set(mode)  # type: ignore[arg-type]
        await asyncio.sleep(seconds)
        for name in names:
            self._system.links[name].set("pass")

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
