"""Users who choose whatever could hurt others: they may hurt themselves alone.

Timeouts and deadlines of milliseconds; payloads on which every server breaks; a hundred attempts of high priority;
claims of a server for tasks of their own. Every such task has a deadline, so nothing of it stays.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from .journal import Journal
from .load import Client, Submitted
from .schedule import BACKENDS

OWNERS = ("mallory", "trudy")
NOWHERE = {"zone": "nowhere"}
"""Labels that no server has: tasks that require them wait, and may be claimed."""
POISON = ("garbage", "error", "die", "no_json")
"""Payloads that break a server, each named after its answer: the same at each attempt."""
WORK_SECONDS = 0.2
"""Longer than the timeouts and deadlines chosen."""
MOST_ATTEMPTS = 100
LAST_SECONDS = 4.0
"""How soon the deadline of a task is."""
PAUSE_SECONDS = 2.0
"""Between two choices of a client, on average."""
BURST = {"timeouts": 3, "deadlines": 5, "poison": 2, "greed": 2, "claims": 3}
"""By choice: how often a client makes it in a burst."""
CHOICES = tuple(BURST)


class HostileClient(Client):
    """A client that does harm if it can."""

    async def choose(self, choice: str, ends_at: float) -> None:
        """Make one hostile choice; its tasks end by an instant (seconds since the epoch)."""
        match choice:
            case "timeouts":
                await self._submit_with({"timeout": 0.01, "attempts": 3}, "ok", ends_at)
            case "deadlines":
                await self._submit_with({"attempts": 5}, "ok", time.time() + self._chance.uniform(0.02, WORK_SECONDS))
            case "poison":
                await self._submit_with({"attempts": 10}, self._chance.choice(POISON), ends_at)
            case "greed":
                options = {"attempts": MOST_ATTEMPTS, "priority": "high"}
                await self._submit_with(options, self._chance.choice(POISON), ends_at)
            case "claims":
                one = await self._submit_with({"require": NOWHERE}, "ok", ends_at)
                if one.task_id:
                    await self._claim(one.task_id, self._chance.choice(BACKENDS))

    async def _submit_with(self, options: dict[str, Any], orders: str, ends_at: float) -> Submitted:
        seconds = WORK_SECONDS if orders == "ok" else 0
        payload = {"mark": self.new_mark(), "do": [orders], "seconds": seconds}
        body = {"payload": payload, "deadline": round(1000 * ends_at), **options}
        one = Submitted(key=f"key of {payload['mark']}", body=body)
        await self.submit(one)
        return one

    async def _claim(self, task_id: str, server: str) -> None:
        """Report on an own task that waits, as if a server had it."""
        body = {"metadata": {"server_id": server, "status": "PROCESSING", "progress": 1}}
        await self.call("claim", "PUT", f"/api/task/{task_id}", body, task=task_id)

    async def burst(self, choices: Sequence[str], ends_at: float) -> None:
        """Make many such choices at once."""
        counts = [(choice, BURST[choice]) for choice in choices]
        await asyncio.gather(*(self.choose(choice, ends_at) for choice, count in counts for _ in range(count)))


class Hostile:
    """These clients together; use within `Load`, whose session they call with."""

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession, journal: Journal, seed: int) -> None:
        self.clients = [HostileClient(owner, 0, urls, session, journal, seed) for owner in OWNERS]
        self._seed = seed
        self._running: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        self._running = [asyncio.create_task(self._run(client)) for client in self.clients]

    async def stop(self) -> None:
        """Let the calls under way end, and make no more."""
        self._stopping = True
        await asyncio.gather(*self._running)

    async def _run(self, client: HostileClient) -> None:
        chance = random.Random(f"{self._seed}/{client.tenant}/choices")
        while not self._stopping:
            await client.choose(chance.choice(CHOICES), time.time() + LAST_SECONDS)
            await asyncio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
