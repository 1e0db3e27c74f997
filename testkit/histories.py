"""Tasks with a history, made by the service's commands."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Sequence
from datetime import timedelta

import msgspec
from msgspec import Raw

from taskstream.commands import task_commands as task
from taskstream.commands.commands import Commands
from taskstream.commands.task_commands import SubmitTask
from taskstream.errors import Refused
from taskstream.events.codec import task_codec
from taskstream.events.envelope import Actor
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import task_ref
from taskstream.events.task import RetryPolicy, StoredResult, TaskSubmitted
from taskstream.projections.task_view import TaskView, active_key, encode, fold, view_key
from taskstream.streams.buckets import Bucket
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.messages import Position, read
from taskstream.streams.log import decode
from taskstream.streams.topology.definitions import TASKS

ALICE = Actor("user", "alice")
WORKER = task.Reporter(kind="worker")
POLICY = RetryPolicy(attempts=2, backoff_base=timedelta(0), backoff_cap=timedelta(0), timeout=timedelta(minutes=5))
RESULT = StoredResult(inline=Raw(b'{"data":1}'), size_bytes=10)


def ref(number: int = 0, owner: str = "alice") -> TaskRef:
    """Return a task id; the same for the same number."""
    return TaskRef(owner, f"{number:026d}")


def submission(owner: str = "alice", task_type: str = "default", payload: bytes = b"{}") -> SubmitTask:
    """Return a submission."""
    submitted = TaskSubmitted(
        owner=owner,
        task_type=task_type,
        payload=Raw(payload),
        pool="default",
        priority="normal",
        policy=POLICY,
        fingerprint="f",
    )
    return SubmitTask(submission=submitted)


def claim(server_id: str = "s1", worker_id: str = "w1", digest: str = "") -> task.StartAttempt:
    """Return the start of an attempt."""
    return task.StartAttempt(server_id=server_id, worker_id=worker_id, token_digest=digest)


def success(result: StoredResult = RESULT) -> task.SucceedTask:
    """Return the success of the present attempt."""
    return task.SucceedTask(reporter=WORKER, result=result)


async def give(commands: Commands, task_ref: TaskRef, *steps: task.TaskCommand) -> int:
    """Give a task commands, one after another; return the sequence of its last event."""
    sequence = 0
    for step in steps:
        sequence = (await commands.task(task_ref, step, by=ALICE)).known.sequence
    return sequence


async def wander(commands: Commands, refs: Sequence[TaskRef], steps: int, seed: int) -> None:
    """Give random commands to random tasks; those that are refused change nothing."""
    chance = random.Random(seed)
    for number in range(steps):
        chosen = chance.choice(refs)
        reporter = chance.choice([WORKER, task.Reporter(kind="server", server_id=chance.choice(["s1", "s 2"]))])
        command = chance.choice(
            [
                submission(chosen.owner, chance.choice(["default", "image"])),
                submission(chosen.owner),
                claim(chance.choice(["s1", "s 2"]), chance.choice(["w1", "w2"]), str(number)),
                claim(chance.choice(["s1", "s 2"]), "w1", str(number)),
                task.AcceptAttempt(attempt=chance.randint(1, 3), backend_task_id=None),
                task.ReportProgress(reporter=reporter, progress=chance.random() * 100, message="on it"),
                success() if chance.random() < 0.5 else task.SucceedTask(reporter=reporter, result=RESULT),
                task.FailTask(reporter=reporter, error="no", result=None),
                task.FailAttempt(attempt=chance.randint(1, 3), kind="error", error="500", jitter=0.0),
                task.ReturnAttempt(attempt=chance.randint(1, 3), reason="shutdown"),
                task.CancelTask(reason="enough"),
                task.RetryTask(reason="again"),
                task.RequeueTask(reason="lost"),
            ]
        )
        with contextlib.suppress(Refused):
            await commands.task(chosen, command, by=ALICE)


async def whole_log(connection: Connection) -> list[Position]:
    """Return all events of tasks."""
    return await read(connection, TASKS, "task.>")


def folded(positions: Iterable[Position]) -> dict[str, bytes]:
    """Return what the `tasks` bucket must hold for a log; an active key has no value of its own."""
    views: dict[TaskRef, TaskView] = {}
    for position in positions:
        at = task_ref(position.subject)
        stored = decode(task_codec, position)
        view = fold(views.get(at), stored)
        if view is not None:
            views[at] = view
    wanted = {view_key(at): encode(view) for at, view in views.items()}
    return wanted | {key: b"" for at, view in views.items() if (key := active_key(at, view))}


async def held(bucket: Bucket) -> dict[str, bytes]:
    """Return what the `tasks` bucket holds, in the form of `folded`."""
    return {
        entry.key: b"" if entry.key.startswith("active.") else entry.value
        for entry in await bucket.scan()
        if entry.key != "checkpoint"
    }


def body(data: bytes) -> dict[str, object]:
    """Parse JSON."""
    found: dict[str, object] = msgspec.json.decode(data)
    return found
