"""The listener reports each freed slot and each cancellation of the log to dispatch, once and in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, cast

from taskstream.container import Container
from taskstream.errors import StoreUnavailable
from taskstream.events.codec import task_codec
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.subjects import TASK_SUBJECTS, event_subject, task_root
from taskstream.events.task import AttemptFailed, AttemptStarted, TaskCancelled, TaskEvent
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.tail import Tail as RealTail
from taskstream.streams.topology.definitions import TASKS
from taskstream.workers.dispatch.ended_tasks import EndedTasks
from taskstream.workers.task_events import TaskEventListener
from testkit.histories import ref
from testkit.waiting import wait_until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def position(sequence: int, event: TaskEvent, data: bytes | None = None) -> Position:
    recorded: Recorded[TaskEvent] = Recorded(id=str(sequence), at=NOW, by=Actor("user", "alice"), event=event)
    encoded = task_codec.encode(recorded) if data is None else data
    return Position(sequence, event_subject(task_root(ref(sequence)), event), encoded)


class Tail:
    """Follows a list; fails once after each of `failures`."""

    def __init__(self, positions: list[Position], *failures: int) -> None:
        self.positions = positions
        self.failures = list(failures)
        self.reader_count = 2

    async def follow(self, after: int) -> AsyncGenerator[list[Position], None]:
        for each in self.positions:
            if each.sequence > after:
                yield [each]
                if each.sequence in self.failures:
                    self.failures.remove(each.sequence)
                    raise StoreUnavailable("NATS is away")
        await asyncio.Event().wait()


class Dispatch:
    """The calls that slots and the runner receive."""

    def __init__(self) -> None:
        self.freed: list[tuple[str, Any]] = []
        self.closed: list[tuple[Any, int]] = []

    def ended_elsewhere(self, name: str, task: Any) -> None:
        self.freed.append((name, task))

    def cancel_call(self, task: Any, attempt: int) -> None:
        self.closed.append((task, attempt))


async def reported(tail: Tail, freed: int) -> Dispatch:
    """Run a listener until it has reported so many freed slots."""
    dispatch = Dispatch()
    listener = TaskEventListener(
        cast(Any, tail), cast(Any, None), cast(Any, dispatch), cast(Any, dispatch), EndedTasks()
    )
    listener._retry_seconds = 0.01
    running = asyncio.create_task(listener.run())
    await wait_until(lambda: len(dispatch.freed) >= freed, "the reports")
    await listener.stop()
    running.cancel()
    assert listener.halted is None
    return dispatch


FAILED = AttemptFailed(attempt=1, server_id="s1", kind="error", error="", retry_at=NOW)
CANCELLED = TaskCancelled(attempt=2, server_id="s2", reason="")
STARTED = AttemptStarted(attempt=1, server_id="s1", worker_id="w", token_digest="", deadline=NOW)


async def test_ends_free_slots_and_cancellations_cancel_calls_too() -> None:
    dispatch = await reported(Tail([position(1, STARTED), position(2, FAILED), position(3, CANCELLED)]), 2)

    assert dispatch.freed == [("s1", ref(2)), ("s2", ref(3))]
    assert dispatch.closed == [(ref(3), 2)]


async def test_after_an_outage_each_is_reported_once_and_none_is_missed() -> None:
    dispatch = await reported(Tail([position(number, FAILED) for number in range(1, 5)], 1, 3), 4)

    assert dispatch.freed == [("s1", ref(number)) for number in range(1, 5)]


async def test_a_cancellation_that_does_not_decode_frees_its_slot_all_the_same() -> None:
    dispatch = await reported(Tail([position(1, CANCELLED, b"{}"), position(2, FAILED)]), 2)

    assert dispatch.freed == [("s2", ref(1)), ("s1", ref(2))]
    assert dispatch.closed == []


async def test_it_follows_the_tail_only_while_others_do(container: Container) -> None:
    tail = RealTail(container.reading, TASKS, TASK_SUBJECTS)
    dispatch = Dispatch()
    listener = TaskEventListener(tail, container.reading, cast(Any, dispatch), cast(Any, dispatch), EndedTasks())

    async def fail(number: int) -> None:
        for event in (STARTED, FAILED):
            each = position(number, event)
            await container.appending.request(each.subject, each.data)
        await wait_until(lambda: len(dispatch.freed) == number, f"report {number}")

    running = asyncio.create_task(listener.run())
    await fail(1)
    assert tail.reader_count == 0
    async with contextlib.aclosing(tail.follow(0)) as other:
        await anext(other)
        await fail(2)
        await wait_until(lambda: tail.reader_count == 2, "the listener to share the tail")
        await fail(3)
    await fail(4)
    await wait_until(lambda: tail.reader_count == 0, "the listener to leave the tail")
    await fail(5)
    running.cancel()
    assert dispatch.freed == [("s1", ref(number)) for number in range(1, 6)]
