"""What a task costs, counted: messages in and out of NATS, events and bytes, writes to the bucket of views, decodes.

The limits are what was measured, and a margin for a busy machine. A change that exceeds one makes every task dearer.

Time says how busy a machine is, counts say what the service does. Each scenario submits tasks on an idle service, waits
until all have ended and their views are written, and divides by the number of tasks. What the service does without
tasks (leases, reports, renewed pulls) is measured first, and subtracted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from taskstream.events.codec import task_codec
from taskstream.projections import unwritten
from taskstream.projections.checkpoint import CHECKPOINT
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.messages import last_position, stream_info
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer, at_first, status
from testkit.nats import NatsServer
from testkit.service import Service, running_service
from testkit.waiting import wait_until

QUIET: dict[str, Any] = {
    "health_interval": 3_600.0,
    "reconcile_interval": 3_600.0,
    "lease_ttl": 60.0,
    "ack_wait": 600.0,
    "circuit_failures": 1_000,
}
"""Settings with which a service does little without tasks."""
IDLE_SECONDS = 1.0
HELD_MILLISECONDS = 1_000
PAYLOAD = "x" * 300
SLOTS = 16


class Cost(NamedTuple):
    """Counts per task."""

    messages_in: float
    """To NATS, from all clients."""
    messages_out: float
    """From NATS, to all clients."""
    events: float
    event_bytes: float
    """In the stream of tasks, with subjects and headers."""
    view_writes: float
    """Keys written to KV_tasks, each counted as often as it was written."""
    decodes: float
    """Events decoded, by all parts of API and worker together: each is decoded once in a process."""


ALONE = Cost(messages_in=10.5, messages_out=16, events=3, event_bytes=2_500, view_writes=2.5, decodes=3.2)
"""A task at a time: submitted, started and succeeded, each a message with an answer. Nobody shares its checkpoints."""
IN_A_BURST = Cost(messages_in=6.5, messages_out=11, events=3, event_bytes=2_700, view_writes=1.3, decodes=3.2)
"""Two hundred at once, all of one owner: none is held, and their events share batches, each with one answer."""
HELD = Cost(messages_in=9, messages_out=16, events=4.5, event_bytes=3_250, view_writes=1.5, decodes=4.2)
"""Held until their start time: the scheduler adds an event to each, and a fence to each batch of these."""
RETRIED = Cost(messages_in=15.5, messages_out=29, events=5, event_bytes=3_750, view_writes=1.5, decodes=5.2)
"""Failed once: one more start, a failure, a timer, and a second message in the queue."""
IN_A_BATCH = Cost(messages_in=6.5, messages_out=11, events=3, event_bytes=2_800, view_writes=1.3, decodes=3.2)
"""Submitted by one request of two hundred, in one batch."""


class Counter:
    """Counts what NATS does, over a connection of its own, which it leaves out."""

    def __init__(self, service: Service, backend: BackendServer, connection: Connection, monitor_url: str) -> None:
        self.service = service
        self.backend = backend
        self._connection = connection
        self._monitor_url = monitor_url
        self._per_second = Cost(0, 0, 0, 0, 0, 0)

    async def look(self) -> Cost:
        """Return all counts so far."""
        async with aiohttp.ClientSession() as session, session.get(f"{self._monitor_url}/varz") as answer:
            found = await answer.json()
        own = dict(self._connection.client.stats)
        tasks = (await stream_info(self._connection, TASKS))["state"]
        views = (await stream_info(self._connection, "KV_tasks"))["state"]
        return Cost(
            messages_in=found["in_msgs"] - own["out_msgs"],
            messages_out=found["out_msgs"] - own["in_msgs"],
            events=tasks["last_seq"],
            event_bytes=tasks["bytes"],
            view_writes=views["last_seq"],
            decodes=task_codec.decodes,
        )

    async def settle(self) -> None:
        """Wait until the views reflect the log."""

        async def reflects_all() -> bool:
            last = (await stream_info(self._connection, TASKS))["state"]["last_seq"]
            written = await last_position(self._connection, "KV_tasks", f"$KV.tasks.{CHECKPOINT}")
            return written is not None and int(written.data) >= last

        await wait_until(reflects_all, "the views to reflect the log")

    async def idle(self) -> None:
        """Measure what the service does without tasks."""
        await self.settle()
        before, began = await self.look(), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        self._per_second = _each(await self.look(), before, time.monotonic() - began)

    async def cost(self, count: int, submit: Callable[[], Awaitable[object]], calls: int = 1) -> Cost:
        """Return the cost of each of `count` tasks, which `submit` submits and which take so many calls."""
        self.backend.calls.clear()
        before, began = await self.look(), time.monotonic()
        await submit()
        await wait_until(lambda: len(self.backend.calls) == count * calls, "the calls")
        await self.settle()
        seconds = time.monotonic() - began
        found = _each(await self.look(), before, count)
        return Cost(*(each - idle * seconds / count for each, idle in zip(found, self._per_second, strict=True)))


def _each(now: Cost, before: Cost, count: float) -> Cost:
    return Cost(*((after - first) / count for after, first in zip(now, before, strict=True)))


@pytest.fixture
async def counter(tmp_path: Path, backend: BackendServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counter]:
    # On a busy machine tasks take so long that their views are written before they end.
    monkeypatch.setattr(unwritten, "REST_SECONDS", 3_600.0)
    monkeypatch.setattr(unwritten, "LONGEST_SECONDS", 3_600.0)
    nats = NatsServer(tmp_path / "nats", more="http: 127.0.0.1:-1").start()
    connection = await open_connection(nats.url, "counter")
    async with running_service(nats.url, **QUIET) as service:
        await service.admin.register(backend, "s", maxConcurrent=SLOTS)
        counter = Counter(service, backend, connection, nats.monitor_url)
        await service.alice.ended(await service.alice.submit({"payload": "first"}))
        await counter.idle()
        yield counter
    await connection.close()
    nats.stop()


async def test_a_task_costs_no_more_than_it_must(counter: Counter) -> None:
    alice, backend = counter.service.alice, counter.backend

    async def one_by_one() -> None:
        for number in range(1, 11):
            await alice.submit({"payload": PAYLOAD})
            await wait_until(lambda number=number: len(backend.calls) == number, "the call")  # type: ignore[misc]

    async def at_once(count: int, **options: Any) -> None:
        await asyncio.gather(*(alice.submit({"payload": PAYLOAD, **options}) for _ in range(count)))

    async def held() -> None:
        await at_once(20, runAt=int(time.time() * 1000) + HELD_MILLISECONDS)

    async def in_a_batch() -> None:
        await alice.done("POST", "/api/tasks/batch", [{"payload": PAYLOAD}] * 200)

    costs = {
        "ALONE": (await counter.cost(10, one_by_one), ALONE),
        "IN_A_BURST": (await counter.cost(200, lambda: at_once(200)), IN_A_BURST),
        "HELD": (await counter.cost(20, held), HELD),
        "IN_A_BATCH": (await counter.cost(200, in_a_batch), IN_A_BATCH),
    }
    backend.answer = at_first(status(500))
    costs["RETRIED"] = (await counter.cost(20, lambda: at_once(20), calls=2), RETRIED)
    for name, (cost, _) in costs.items():
        print(name, *(f"{field} {value:.1f}" for field, value in cost._asdict().items()))  # shown if it fails
    exceeded = {
        f"{name}.{field}": (round(value, 1), most)
        for name, (cost, limit) in costs.items()
        for field, value, most in zip(Cost._fields, cost, limit, strict=True)
        if value > most
    }
    assert exceeded == {}
