"""Appends to one stream, grouped so that many share one sync to disk.

Appends that arrive while one group is being stored become the next group. A single append is sent at once. Under load a
group is one atomic batch with one fsync, and after it new appends have a moment to join the next group. Each append
keeps its own guard. If a guard in a batch fails, JetStream refuses the whole batch; then each append is sent alone, so
only the one that lost its race fails.

Appends that belong together are a separate batch: all of them are stored, or none.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Sequence

import structlog
from msgspec import Struct

from ..errors import OutcomeUnknown, StoreError, StoreUnavailable
from .client.connection import Connection, PayloadTooLarge
from .jetstream.api import stored_sequence

log = structlog.get_logger(__name__)

BATCH_FROM = 10
"""Fewer messages go one by one: a batch costs about 4 ms on one node whatever its size."""
BATCH_MESSAGES = 500
"""JetStream takes at most 1,000 in an atomic batch."""
BATCH_BYTES = 4 * 1024 * 1024
MOST_TOGETHER = 1_000
"""Most messages that are stored together: JetStream's own limit."""
MOST_BYTES_TOGETHER = 32 * 1024 * 1024
"""JetStream holds a batch in memory until it is complete."""
GATHER_SECONDS = 0.005
"""How long appends gather after a batch. Without it callers split into two halves that wait for each other's batches.
Each batch costs JetStream about 1 ms of CPU for a store on disk."""
BATCHES_AT_ONCE = 4
"""Unfinished batches of one committer. JetStream accepts 50 per stream, of all processes together."""


class TooManyTogether(PayloadTooLarge):
    """More than can be stored together; a retry is refused too."""


class StreamMessage(Struct, frozen=True):
    subject: str
    payload: bytes


class Append(Struct, frozen=True, kw_only=True):
    """Messages to store together, if the last message on `guard` is the one at `expected`."""

    messages: Sequence[StreamMessage]
    guard: str
    """A filter over one task, server or type: `task.<owner>.<unique>.>`."""
    expected: int
    """Sequence of the last message seen on `guard`; 0: none."""


class _Waiting(Struct):
    append: Append
    done: asyncio.Future[int]


class Committer:
    """The one place that appends to a log. One per process and stream."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._waiting: deque[_Waiting] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._batch_ids = itertools.count(1)
        self._batch_prefix = secrets.token_hex(6)
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def append(self, append: Append) -> int:
        """Store the messages and return the sequence of the last one; they are then on disk.

        Raises Conflict if somebody appended first, StoreFull or StoreUnavailable if nothing was stored,
        OutcomeUnknown if no answer came.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(append, done))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="committer")
        return await done

    async def append_together(self, appends: Sequence[Append]) -> int:
        """Store the messages of all appends or none, each with its own guard; return the sequence of the last message.

        They are contiguous in the log, in this order, and on disk. No two may have the same guard. Raises as `append`
        does, Conflict if any guard fails; TooManyTogether and PayloadTooLarge before anything is sent. If the store
        runs full during the batch (OutcomeUnknown), JetStream may keep only the first messages.
        """
        messages = [message for append in appends for message in append.messages]
        size = sum(len(message.payload) for message in messages)
        if len(messages) > MOST_TOGETHER:
            raise TooManyTogether(f"{len(messages)} messages; JetStream stores {MOST_TOGETHER} together")
        if size > MOST_BYTES_TOGETHER:
            raise TooManyTogether(f"{size} bytes; at most {MOST_BYTES_TOGETHER} are stored together")
        largest = max(len(message.payload) for message in messages)
        if largest > self.connection.max_payload:
            # An error during the batch would leave JetStream waiting for the rest.
            raise PayloadTooLarge(f"{largest} bytes; NATS takes {self.connection.max_payload} here (max_payload)")
        try:
            sequence = await self._batch(appends)
        except StoreError as error:
            self.connection.appends.failed(error)
            raise
        self.connection.appends.succeeded()
        return sequence

    async def _run(self) -> None:
        while self._waiting:
            group = self._next_group()
            if sum(len(waiting.append.messages) for waiting in group) < BATCH_FROM:
                await asyncio.gather(*(self._alone(waiting) for waiting in group))
            else:
                await self._together(group)
                await asyncio.sleep(GATHER_SECONDS)
        self._runner = None

    def _next_group(self) -> list[_Waiting]:
        """Take waiting appends, in order, each guard once: a second append to a task belongs to the next group."""
        group: list[_Waiting] = []
        later: list[_Waiting] = []
        guards: set[str] = set()
        messages = size = 0
        while self._waiting and messages < BATCH_MESSAGES and size < BATCH_BYTES:
            waiting = self._waiting.popleft()
            if waiting.append.guard in guards:
                later.append(waiting)
                continue
            guards.add(waiting.append.guard)
            messages += len(waiting.append.messages)
            size += sum(len(message.payload) for message in waiting.append.messages)
            group.append(waiting)
        self._waiting.extendleft(reversed(later))
        return group

    async def _alone(self, waiting: _Waiting) -> None:
        append = waiting.append
        try:
            if len(append.messages) == 1:
                message = append.messages[0]
                answer = await self.connection.request(message.subject, message.payload, _guard(append))
                sequence = stored_sequence(answer, "the append")
            else:
                sequence = await self._batch([append])
        except StoreError as error:
            self._fail(waiting, error)
        except Exception as error:  # the caller must get an error in any case
            self._fail(waiting, StoreUnavailable(f"append failed: {error!r}"))
        else:
            self._succeed(waiting, sequence)

    async def _together(self, group: list[_Waiting]) -> None:
        try:
            sequence = await self._batch([waiting.append for waiting in group])
        except OutcomeUnknown as error:
            for waiting in group:
                self._fail(waiting, error)
        except StoreError:
            await asyncio.gather(*(self._alone(waiting) for waiting in group))
        except Exception as error:
            for waiting in group:
                self._fail(waiting, StoreUnavailable(f"append failed: {error!r}"))
        else:
            for waiting in reversed(group):
                self._succeed(waiting, sequence)
                sequence -= len(waiting.append.messages)

    async def _batch(self, appends: Sequence[Append]) -> int:
        """Store the messages of all appends or none; return the sequence of the last. They are contiguous."""
        batch_id = f"{self._batch_prefix}-{next(self._batch_ids)}"
        total = sum(len(append.messages) for append in appends)
        number = 0
        async with self._batches:
            for append in appends:
                for place, message in enumerate(append.messages):
                    number += 1
                    headers = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
                    if place == 0:
                        headers |= _guard(append)
                    if number < total:
                        await self.connection.publish(message.subject, message.payload, headers=headers)
                        continue
                    headers["Nats-Batch-Commit"] = "1"
                    answer = await self.connection.request(message.subject, message.payload, headers)
        return stored_sequence(answer, "the append")

    def _succeed(self, waiting: _Waiting, sequence: int) -> None:
        self.connection.appends.succeeded()
        if not waiting.done.done():
            waiting.done.set_result(sequence)

    def _fail(self, waiting: _Waiting, error: StoreError) -> None:
        self.connection.appends.failed(error)
        if not waiting.done.done():
            waiting.done.set_exception(error)


def _guard(append: Append) -> dict[str, str]:
    return {
        "Nats-Expected-Last-Subject-Sequence": str(append.expected),
        "Nats-Expected-Last-Subject-Sequence-Subject": append.guard,
    }
