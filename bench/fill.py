"""Fills a log with the histories of tasks that have ended, in atomic batches straight into the stream."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator

from taskstream.clock import utc_now
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.committer import Append, Committer, StreamMessage
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH, TASKS

from .histories import histories

TASKS_AT_ONCE = 160
"""Some 480 messages: what the committer puts into one atomic batch."""
BATCHES_AT_ONCE = 3
REPORT_SECONDS = 10.0
SEED = 1


async def fill(url: str, tasks: int) -> int:
    """Store the histories of so many tasks, and empty the queue JetStream fills from them; return how many events.

    No worker may run: it would be handed every task that was submitted here.
    """
    connection = await open_connection(url, "fill")
    try:
        before = await last_sequence(connection)
        committer = Committer(connection)
        source = iter(histories(tasks, utc_now(), random.Random(SEED)))
        done = 0
        reported = started = time.monotonic()
        while appends := _next_appends(source):
            await asyncio.gather(*map(committer.append, appends))
            done += len(appends)
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                print(f"  filled {done:,} of {tasks:,} tasks, {done / (reported - started):,.0f}/s", flush=True)
        await _empty_queue(connection)
        return await last_sequence(connection) - before
    finally:
        await connection.close()


def _next_appends(source: Iterator[list[tuple[str, bytes]]]) -> list[Append]:
    appends = []
    for messages in source:
        root = messages[0][0].rsplit(".", 3)[0]
        stored = [StreamMessage(subject, payload) for subject, payload in messages]
        appends.append(Append(messages=stored, guard=f"{root}.>", expected=0))
        if len(appends) == TASKS_AT_ONCE * BATCHES_AT_ONCE:
            break
    return appends


async def last_sequence(connection: Connection) -> int:
    return int((await api(connection, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])


async def _empty_queue(connection: Connection) -> None:
    """Wait until JetStream has copied every submission into the queue, and take them out: these tasks have ended."""
    while True:
        info = await api(connection, f"STREAM.INFO.{DISPATCH}")
        if not any(source["lag"] for source in info["sources"]):
            break
        await asyncio.sleep(0.2)
    await api(connection, f"STREAM.PURGE.{DISPATCH}")
