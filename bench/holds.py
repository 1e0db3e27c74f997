"""Held tasks and their release: a wide fan-out, a deep chain, and what tasks beyond their owner's window cost.

Instants are those of the log. `unheld` tasks are of so many types that none of their windows is ever full; `windowed`
ones are of one type, so that most of them are beyond it. As their owner is alone, they go to the bulk queue, unheld;
`windowed_share_held` shows how many were held nevertheless.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from datetime import datetime
from typing import Any

import msgspec

from taskstream.events.codec import task_codec
from taskstream.events.subjects import SCHEDULER_FENCE
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import read
from taskstream.streams.log import decode
from taskstream.streams.topology.definitions import TASKS

from .report import Runs, progress
from .service import OWNER, Bench, running

MOST_RUNS = 3
HELD = f"task.{OWNER}.*.submitted.*.*.held"
RELEASED = f"task.{OWNER}.*.queued.*.*"
SETTINGS = {"OWNER_WAITING": "0"}


async def measure(options: argparse.Namespace) -> Runs:
    async with running(settings=SETTINGS) as bench:
        connection = await open_connection(bench.nats.url, "bench")
        try:
            log = _Log(connection)
            await bench.rate(options.tasks // 4, options.connections)
            runs = []
            for number in range(min(options.runs, MOST_RUNS)):
                run = await _fan_out(bench, log, f"fan-out-{number}", options.children)
                run |= await _chain(bench, log, f"chain-{number}", options.links)
                run |= await _rates(bench, log, number, options)
                runs.append(run)
                progress(
                    f"run {number + 1}: {run['fan_out_released_per_second']:.0f} released/s, "
                    f"{run['chain_link_p50_ms']:.1f} ms a link, "
                    f"{run['unheld_cpu_ms_per_task']:.2f} and {run['windowed_cpu_ms_per_task']:.2f} ms"
                )
            return runs
        finally:
            await connection.close()


async def _fan_out(bench: Bench, log: _Log, owner: str, children: int) -> dict[str, float]:
    """Submit one task and very many that depend on it, and only then let it run."""
    await bench.pause()
    parent = await bench.submit(0, owner)
    tasks = [{"payload": number, "dependsOn": [parent]} for number in range(children)]
    await bench.submit_batches(tasks, owner, callers=1)
    await bench.projected()
    succeeded, before = await bench.succeeded(), bench.cpu_seconds()
    await bench.resume()
    await bench.all_succeeded(succeeded + 1 + children)
    await bench.projected()
    used = bench.cpu_since(before)
    unique = parent.partition("~")[0]
    began = await log.last_at(f"task.{owner}.{unique}.succeeded.*")
    queued = (await log.last_at(f"task.{owner}.*.queued.>") - began).total_seconds()
    ended = (await log.last_at(f"task.{owner}.*.succeeded.*") - began).total_seconds()
    return {
        "fan_out_released_per_second": children / queued,
        "fan_out_ended_per_second": children / ended,
        "fan_out_cpu_ms_per_child": sum(used.values()) / children * 1000,
        **{f"fan_out_cpu_ms_per_child_{name}": seconds / children * 1000 for name, seconds in used.items()},
    }


async def _chain(bench: Bench, log: _Log, owner: str, links: int) -> dict[str, float]:
    """Submit tasks each of which depends on the one before; a link is from the end of one to that of the next."""
    await bench.pause()
    before = await bench.succeeded()
    tasks = [{"payload": number, "dependsOn": [number - 1] if number else []} for number in range(links)]
    await bench.submit_batch(tasks, owner)
    await bench.projected()
    await bench.resume()
    await bench.all_succeeded(before + links)
    ends = await log.instants(f"task.{owner}.*.succeeded.*")
    times = [(after - before).total_seconds() for before, after in itertools.pairwise(ends)]
    return {
        "chain_links_per_second": len(times) / sum(times),
        "chain_link_p50_ms": statistics.median(times) * 1000,
    }


async def _rates(bench: Bench, log: _Log, run: int, options: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    many, one = [f"one-of-many-{place}" for place in range(options.connections)], [f"one-{run}"]
    for name, types in (("unheld", many), ("windowed", one)):
        held, released, turns = await log.count(HELD), await log.count(RELEASED), await log.count(SCHEDULER_FENCE)
        rates = await bench.rate(options.tasks, options.connections, types)
        found |= {f"{name}_{figure}": value for figure, value in rates.items()}
        found[f"{name}_share_held"] = (await log.count(HELD) - held) / options.tasks
        batches = max(1, await log.count(SCHEDULER_FENCE) - turns)
        found[f"{name}_released_in_a_batch"] = (await log.count(RELEASED) - released) / batches
    return found


class _Log:
    """The log of tasks, for when things happened and how often."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def last_at(self, subjects: str) -> datetime:
        """Return when the last event on these subjects was stored."""
        answer = await api(self._connection, f"STREAM.MSG.GET.{TASKS}", {"last_by_subj": subjects})
        return msgspec.convert(answer["message"]["time"], datetime)

    async def instants(self, subjects: str) -> list[datetime]:
        """Return when each event on these subjects was decided, in their order."""
        positions = await read(self._connection, TASKS, subjects)
        return [decode(task_codec, position).recorded.at for position in positions]

    async def count(self, subjects: str) -> int:
        """Return how many events there are on these subjects, of which there may be 100,000."""
        info: dict[str, Any] = await api(self._connection, f"STREAM.INFO.{TASKS}", {"subjects_filter": subjects})
        return sum((info["state"].get("subjects") or {}).values())
