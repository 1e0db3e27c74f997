"""Clients whose tasks something holds: limits, concurrency keys, parents, times; and recurring schedules.

Each submits by itself what shares a limit or waits for its time, and batches whose tasks depend on each other and on
tasks that were there before. What they do is journaled as what the other clients do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
from msgspec import Struct

from testkit.dags import CHOICES
from testkit.service import Client as Caller
from testkit.service import token

from .evidence import Recurring, SharedLimit
from .journal import Journal
from .load import Answer, Client, Submitted
from .schedule import MODEL_TYPE

OWNERS = ("erin", "frank")
SHARED_LIMITS = (
    SharedLimit("owner", "erin", concurrency=3, per_second=6, burst=3),
    SharedLimit("type", "limited", concurrency=2, per_second=5, burst=2),
    SharedLimit("key", "keyed", concurrency=1),
    SharedLimit("key", "paired", concurrency=2),
    SharedLimit("key", "newest", concurrency=1),
)
TYPES: dict[str, dict[str, Any]] = {
    "limited": {"attempts": 4, "pool": "batch", "concurrency": 2, "perSecond": 5, "burst": 2},
    "keyed": {"attempts": 4, "pool": "default"},
    "paired": {"attempts": 4, "pool": "batch", "keyConcurrency": 2},
    "newest": {"attempts": 4, "pool": "default", "onConflict": "replace"},
}
OWNER_LIMITS: dict[str, dict[str, Any]] = {"erin": {"concurrency": 3, "perSecond": 6, "burst": 3}}
KEYS = ("red", "green")
PAUSE_SECONDS = 0.45
"""Between two calls of a client, on average."""
LARGEST_BATCH = 7
LATEST_START_SECONDS = 2.0
LAST_SECONDS = (2.5, 6.0)
"""How soon a task's last instant is, at the earliest and at the latest."""
ORDERS = (("ok",),) * 8 + (("error", "ok"), ("die", "ok"), ("busy", "ok"), ("hang", "ok"))
FAILURES = (("reject",), ("error",))
FAILURE_CHANCE = 0.2
"""Of a task of a batch, to fail if it runs."""
OPERATIONS = {"limited": 3, "keyed": 3, "timed": 3, "child": 1, "batch": 1.2, "repeat": 0.5, "cancel": 0.7}
SETTLE_SECONDS = 40.0
"""How long it may take to be answered once all is healed."""
POLL_SECONDS = 0.3


class Schedule(Struct, frozen=True):
    owner: str
    every_seconds: int
    options: dict[str, Any]
    task: dict[str, Any]


SCHEDULES = (
    Schedule("erin", 1, {"missed": "catch_up", "catchUp": 100}, {}),
    Schedule("frank", 2, {"missed": "catch_up", "catchUp": 100}, {"type": "limited"}),
    Schedule("frank", 1, {"missed": "catch_up", "catchUp": 100}, {"type": MODEL_TYPE}),
    Schedule("frank", 2, {"missed": "skip"}, {"type": "keyed", "concurrencyKey": "clock"}),
)


class HoldingClient(Client):
    """A client whose tasks are held for one reason or another."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._batches: list[tuple[str, list[dict[str, Any]]]] = []
        """Those that were sent, with their keys."""

    async def submit_held(self) -> None:
        """Submit something that is held, or do something to what was submitted."""
        operation = self._chance.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        match operation:
            case "batch":
                await self._submit_batch(f"batch {len(self._batches)} of {self.tenant}", self._batch())
            case "repeat" if self._batches:
                await self._submit_batch(*self._chance.choice(self._batches[-5:]))
            case "cancel" if self.recent:
                await self.touch("cancel", self._chance.choice(self.recent[-5:]))
            case "limited" | "keyed" | "timed" | "child":
                body = self._body() | getattr(self, f"_{operation}")()
                key = f"key of {body['payload']['mark']}" if self._chance.random() < 0.75 else None
                await self.submit(Submitted(key=key, body=body))
            case _:
                pass

    async def repeat_all(self) -> None:
        """Submit once more what was submitted under a key: what was acknowledged is what it was, be it too late now.

        A run in which chance chose no batch gets one here.
        """
        if not self._batches:
            await self._submit_batch(f"batch 0 of {self.tenant}", self._batch())
        for key, bodies in self._batches[-5:]:
            await self._submit_batch(key, bodies)
        for one in [one for one in self.submitted if one.key and one.task_id][-15:]:
            await self.submit(one, "repeat")

    def _body(self, orders: Sequence[str] = ()) -> dict[str, Any]:
        mark = self.new_mark()
        seconds = round(self._chance.random() * 0.4, 2)
        payload = {"mark": mark, "do": orders or self._chance.choice(ORDERS), "seconds": seconds}
        return {"payload": payload, "timeout": 3, "attempts": 4}

    def _limited(self) -> dict[str, Any]:
        return {"type": "limited", "priority": self._chance.choice(("high", "normal", "low"))}

    def _keyed(self) -> dict[str, Any]:
        task_type = self._chance.choice(("keyed", "keyed", "paired", "newest"))
        return {"type": task_type, "concurrencyKey": self._chance.choice(KEYS)}

    def _timed(self) -> dict[str, Any]:
        now = time.time()
        first = round(1000 * (now + self._chance.random() * LATEST_START_SECONDS))
        last = round(1000 * (now + self._chance.uniform(*LAST_SECONDS)))
        chosen: dict[str, Any] = self._chance.choice(
            ({"runAt": first}, {"expiresAt": last}, {"deadline": last}, {"runAt": first, "deadline": last})
        )
        return chosen

    def _child(self) -> dict[str, Any]:
        parents = self._chance.sample(self.recent, min(len(self.recent), self._chance.randint(1, 3)))
        return {"dependsOn": parents, "onParentFailure": self._chance.choice(CHOICES)}

    def _batch(self) -> list[dict[str, Any]]:
        """Return tasks that depend on those before them, and now and then on one that was there."""
        bodies = []
        for place in range(self._chance.randint(2, LARGEST_BATCH)):
            fails = self._chance.random() < FAILURE_CHANCE
            body = self._body(self._chance.choice(FAILURES) if fails else ())
            parents: list[Any] = self._chance.sample(range(place), min(place, self._chance.randint(0, 3)))
            if self.recent and self._chance.random() < 0.1:
                parents.append(self._chance.choice(self.recent))
            body |= {"dependsOn": parents, "onParentFailure": self._chance.choice(CHOICES)}
            if self._chance.random() < 0.2:
                body |= {"type": "limited"}
            bodies.append(body)
        return bodies

    async def _submit_batch(self, key: str, bodies: list[dict[str, Any]]) -> None:
        if all(key != other for other, _ in self._batches):
            self._batches.append((key, bodies))
        for _ in range(3):
            headers = {"Idempotency-Key": key}
            answer = await self.call("batch", "POST", "/api/tasks/batch", bodies, headers, key=f"of {key}")
            if answer.status == 200:
                return
            await asyncio.sleep(0.3)

    # Schedules

    async def create(self, number: int, schedule: Schedule) -> Recurring:
        """Create a schedule; try until it is there."""
        mark = f"mk-{self.tenant}-9{self.number}-{number}"
        step = f"/{schedule.every_seconds}" if schedule.every_seconds > 1 else ""
        task = {"payload": {"mark": mark, "do": ["ok"], "seconds": 0.05}, "timeout": 3, "attempts": 5}
        body = {"cron": f"*{step} * * * * *", "task": task | schedule.task, **schedule.options}
        headers = {"Idempotency-Key": mark}
        answer = await self._insist("schedule", "/api/schedules", body, headers)
        catch_up = schedule.options.get("catchUp")
        return Recurring(id=answer.body["id"], every_seconds=schedule.every_seconds, catch_up=catch_up)

    async def pause(self, recurring: Recurring) -> None:
        """Have a schedule run no more; try until it is so."""
        await self._insist("schedule", f"/api/schedules/{recurring.id}/pause", {}, {})

    async def _insist(self, operation: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        give_up_at = time.monotonic() + SETTLE_SECONDS
        while True:
            answer = await self.call(operation, "POST", path, body, headers)
            if answer.status == 200:
                return answer
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{path}: {answer}")
            await asyncio.sleep(POLL_SECONDS)


class Holds:
    """These clients together, and the limits they are under; use within `Load`, whose session they call with."""

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession, journal: Journal, seed: int) -> None:
        self.clients = [HoldingClient(owner, 0, urls, session, journal, seed) for owner in OWNERS]
        self.recurring: list[Recurring] = []
        self._urls = urls
        self._session = session
        self._seed = seed
        self._owners: dict[str, HoldingClient] = {}
        """By schedule."""
        self._running: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Set the limits, create the schedules, and begin to submit."""
        admin = Caller(self._session, self._urls[0], token("root", "admin"))
        settings = {f"/api/types/{name}": body for name, body in TYPES.items()}
        settings |= {f"/api/owners/{owner}/limits": body for owner, body in OWNER_LIMITS.items()}
        for path, body in settings.items():
            await admin.done("PUT", path, body)
        by_name = {client.tenant: client for client in self.clients}
        self.recurring = list(
            await asyncio.gather(
                *(by_name[schedule.owner].create(number, schedule) for number, schedule in enumerate(SCHEDULES))
            )
        )
        self._owners = {
            one.id: by_name[schedule.owner] for one, schedule in zip(self.recurring, SCHEDULES, strict=True)
        }
        self._running = [asyncio.create_task(self._run(client)) for client in self.clients]

    async def stop(self) -> None:
        """Let the calls under way end, make no more, and have the schedules run no more."""
        self._stopping = True
        await asyncio.gather(*self._running)
        await asyncio.gather(*(self._owners[one.id].pause(one) for one in self.recurring))

    async def repeat_all(self) -> None:
        for client in self.clients:
            await client.repeat_all()

    async def _run(self, client: HoldingClient) -> None:
        pause = random.Random(f"{self._seed}/{client.tenant}/pause")
        while not self._stopping:
            await client.submit_held()
            await asyncio.sleep(pause.expovariate(1 / PAUSE_SECONDS))
