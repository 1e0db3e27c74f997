"""Histories of tasks that have ended, made from the service's own events and stored straight into the log."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec
from msgspec import Raw

from taskstream.clock import random_bits, unique_id, utc_now
from taskstream.events.codec import task_codec
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.ids import new_ref, owner_token
from taskstream.events.subjects import event_subject, task_root
from taskstream.events.task import (
    AttemptFailed,
    AttemptStarted,
    RetryPolicy,
    StoredResult,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskSubmitted,
    TaskSucceeded,
)
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.committer import Append, Committer, StreamMessage
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH, TASKS

BIG_OWNER = "bench"
"""Has half of all tasks."""
OTHER_OWNERS = 1_000
TYPES = ("default", "default", "default", "image", "video")
RARE_TYPE = "rare"
RARE_ONE_IN = 10_000
FAILED_SHARE = 0.03
RETRIED_SHARE = 0.02
CANCELLED_SHARE = 0.01
SPACING = timedelta(milliseconds=20)
TASKS_AT_ONCE = 160
"""Some 480 messages: what the committer puts into one atomic batch."""
BATCHES_AT_ONCE = 3
REPORT_SECONDS = 10.0
SEED = 1
SERVERS = tuple(f"gpu-{number}" for number in range(8))

_POLICY = RetryPolicy(
    attempts=3, backoff_base=timedelta(seconds=1), backoff_cap=timedelta(seconds=30), timeout=timedelta(minutes=5)
)

Messages = list[tuple[str, bytes]]
"""Subjects and payloads of one task, in order."""


def histories(tasks: int, last_at: datetime, chance: random.Random) -> Iterator[Messages]:
    """Yield the history of each task, oldest first; the last begins at `last_at`.

    Half are one owner's, the rest a thousand owners'; one in fifty fails once, 3 % fail, 1 % are cancelled.
    """
    for number in range(tasks):
        owner = BIG_OWNER if chance.random() < 0.5 else f"user-{chance.randrange(OTHER_OWNERS)}"
        ref = new_ref(owner_token(owner), last_at, random_bits(80))
        at = last_at - SPACING * (tasks - number)
        task_type = RARE_TYPE if number % RARE_ONE_IN == 0 else chance.choice(TYPES)
        messages = []
        for event, by in _events(owner, task_type, number, at, chance):
            at += timedelta(milliseconds=150)
            recorded = Recorded[TaskEvent](id=unique_id(), at=at, by=by, event=event)
            messages.append((event_subject(task_root(ref), event), task_codec.encode(recorded)))
        yield messages


def _events(
    owner: str, task_type: str, number: int, at: datetime, chance: random.Random
) -> Iterator[tuple[TaskEvent, Actor]]:
    worker = Actor("worker", "worker-8b1f6e2c")
    yield _submitted(owner, task_type, number), Actor("user", owner)
    fate = chance.random()
    if fate < CANCELLED_SHARE:
        yield TaskCancelled(attempt=0, server_id="", reason=f"Cancelled by {owner}"), Actor("user", owner)
        return
    attempt, server_id = 1, chance.choice(SERVERS)
    yield _started(attempt, server_id, at), worker
    if fate < CANCELLED_SHARE + FAILED_SHARE:
        failed = TaskFailed(attempt=attempt, server_id=server_id, kind="rejected", error="422: no such model")
        yield failed, worker
        return
    if fate < CANCELLED_SHARE + FAILED_SHARE + RETRIED_SHARE:
        again = AttemptFailed(attempt=1, server_id=server_id, kind="error", error="500", retry_at=at)
        yield again, worker
        attempt, server_id = 2, chance.choice(SERVERS)
        yield _started(attempt, server_id, at), worker
    yield TaskSucceeded(attempt=attempt, server_id=server_id, result=_result(server_id, number)), worker


def _submitted(owner: str, task_type: str, number: int) -> TaskSubmitted:
    payload = {"model": "upscale-4", "video_url": f"https://media.example/{number}.mp4", "enable_upscale": True}
    return TaskSubmitted(
        owner=owner,
        task_type=task_type,
        payload=Raw(msgspec.json.encode(payload)),
        pool="default",
        priority="normal",
        policy=_POLICY,
        fingerprint="0" * 64,
    )


def _started(attempt: int, server_id: str, at: datetime) -> AttemptStarted:
    return AttemptStarted(
        attempt=attempt,
        server_id=server_id,
        worker_id="worker-8b1f6e2c",
        deadline=at + timedelta(minutes=5),
        token_digest="0" * 64,
    )


def _result(server_id: str, number: int) -> StoredResult:
    body = msgspec.json.encode(
        {
            "backend_task_id": f"b-{number}",
            "data": {"url": f"https://media.example/{number}-4k.mp4", "seconds": 12.5},
            "metadata": {"server_id": server_id, "processing_time": 1200, "progress": 100, "status": "FINISHED"},
        }
    )
    return StoredResult(inline=Raw(body), size_bytes=len(body))


async def fill(url: str, tasks: int) -> int:
    """Store the histories of so many tasks, empty the queue that JetStream fills from them, and return how many events.

    No worker may run: it would take these tasks from the queue.
    """
    events = await store(url, tasks)
    connection = await open_connection(url, "fill")
    try:
        await empty_queue(connection)
    finally:
        await connection.close()
    return events


async def store(url: str, tasks: int) -> int:
    """Store the histories of so many tasks; return how many events they have. JetStream fills the queue from them."""
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


async def empty_queue(connection: Connection) -> None:
    """Wait until JetStream has copied every submission into the queue, and take them out: these tasks have ended."""
    while True:
        info = await api(connection, f"STREAM.INFO.{DISPATCH}")
        if not any(source["lag"] for source in info["sources"]):
            break
        await asyncio.sleep(0.2)
    await api(connection, f"STREAM.PURGE.{DISPATCH}")
