"""The floor: what three synced appends a task cost with bare nats-py, one process, 64 callers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import nats

from taskstream.streams.embedded import EmbeddedNats

from .processes import cpu_seconds

TASKS = 3000
CALLERS = 64
PAYLOAD = b"x" * 400


async def measure_floor() -> dict[str, float]:
    """Return rate and CPU of three plain publishes a task, each acknowledged and synced."""
    with tempfile.TemporaryDirectory(prefix="taskstream-floor-") as folder:
        async with EmbeddedNats(Path(folder)) as server:
            client = await nats.connect(server.url)
            stream = client.jetstream()
            await stream.add_stream(name="FLOOR", subjects=["floor.>"])
            numbers = iter(range(TASKS))

            async def caller() -> None:
                for number in numbers:
                    for event in ("submitted", "started", "ended"):
                        await stream.publish(f"floor.{number}.{event}", PAYLOAD)

            assert server.pid is not None
            nats_before, started, ours_before = cpu_seconds(server.pid), time.perf_counter(), time.process_time()
            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            seconds = time.perf_counter() - started
            ours = time.process_time() - ours_before
            theirs = cpu_seconds(server.pid) - nats_before
            await client.close()
    return {
        "floor_three_publishes_tasks_per_second": TASKS / seconds,
        "floor_three_publishes_cpu_ms_per_task": (ours + theirs) / TASKS * 1000,
    }
