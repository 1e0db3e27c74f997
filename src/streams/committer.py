"""Appends to one stream, grouped so that many share one sync to disk.

The first few appends are sent at once, by their callers. Those that arrive while these are being stored become a
group, and those that arrive during a group the next one. A group of many messages is one atomic batch with one fsync;
after it, the callers that it has answered have a moment to join the next group. Each append keeps its own guard. If a
guard in a batch fails, JetStream refuses the whole batch; then each append is sent alone, so only the one that lost its
race fails.

Appends that belong together are a separate batch: all of them are stored, or none.
"""

from __future__ import annotations

import asyncio
import contextlib
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

ALONE_AT_ONCE = 4
"""Appends that callers send at once; more than these wait for the next group. JetStream stores one after another."""
BATCH_FROM = 16
"""Fewer messages go one by one. On one node JetStream takes 4.3 ms of CPU to stage a batch in a store of its own, and
0.04 ms for each of its messages; a message alone takes 0.3 ms."""
BATCH_MESSAGES = 500
"""JetStream takes at most 1,000 in an atomic batch."""
BATCH_BYTES = 4 * 1024 * 1024
MOST_TOGETHER = 1_000
"""Most messages that are stored together: JetStream's own limit."""
MOST_BYTES_TOGETHER = 32 * 1024 * 1024
"""JetStream holds a batch in memory until it is complete."""
GATHER_SECONDS = 0.005
"""How long appends gather after a batch, at most: until as many have come as it had. Without it callers split into two
halves that wait for each other's batches."""
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


class WaitingAppend(Struct):
    """An append that waits for its group, and the future of its caller."""

    append: Append
    done: asyncio.Future[int]


class Committer:
    """The one place that appends to a log. One per process and stream."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._alone_now = 0
        """Appends that their callers have sent, without an answer so far."""
        self._waiting: deque[WaitingAppend] = deque()
        self._waiting_messages = 0
        self._runner: asyncio.Task[None] | None = None
        """Stores what waits. Without it nothing waits, or appends are under way that will start it."""
        self._wanted = 0
        """Messages that must wait before the next group is stored early."""
        self._has_gathered = asyncio.Event()
        self._batch_ids = itertools.count(1)
        self._batch_prefix = secrets.token_urlsafe(6)
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def append(self, append: Append) -> int:
        """Store the messages and return the sequence of the last one; they are then on disk.

        Raises Conflict if somebody appended first, StoreFull or StoreUnavailable if nothing was stored,
        OutcomeUnknown if no answer came.
        """
        if self._runner is None and not self._waiting and self._alone_now < ALONE_AT_ONCE:
            return await self._at_once(append)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(WaitingAppend(append, done))
        self._waiting_messages += len(append.messages)
        if self._waiting_messages >= self._wanted:
            self._has_gathered.set()
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

    async def _at_once(self, append: Append) -> int:
        """Store an append without a group; then those that have come meanwhile."""
        self._alone_now += 1
        try:
            sequence = await self._store(append)
        except StoreError as error:
            self.connection.appends.failed(error)
            raise
        finally:
            self._alone_now -= 1
            if self._waiting and self._runner is None:
                self._runner = asyncio.create_task(self._run(), name="committer")
        self.connection.appends.succeeded()
        return sequence

    async def _run(self) -> None:
        while self._waiting:
            group = next_group(self._waiting)
            messages = sum(len(waiting.append.messages) for waiting in group)
            self._waiting_messages -= messages
            if is_batch([waiting.append for waiting in group]):
                await self._together(group)
                await self._gather(messages)
            else:
                await asyncio.gather(*(self._alone(waiting) for waiting in group))
        self._runner = None

    async def _gather(self, messages: int) -> None:
        """Return once as many more messages wait as the last batch had, after GATHER_SECONDS at the latest."""
        self._wanted = self._waiting_messages + messages
        self._has_gathered.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._has_gathered.wait()

    async def _alone(self, waiting: WaitingAppend) -> None:
        try:
            sequence = await self._store(waiting.append)
        except StoreError as error:
            self._fail(waiting, error)
        else:
            self._succeed(waiting, sequence)

    async def _store(self, append: Append) -> int:
        """Store an append without others. Raises StoreError, whatever goes wrong."""
        try:
            if len(append.messages) > 1:
                return await self._batch([append])
            message = append.messages[0]
            answer = await self.connection.request(message.subject, message.payload, _guard(append))
            return stored_sequence(answer, "the append")
        except StoreError:
            raise
        except Exception as error:
            raise StoreUnavailable(f"append failed: {error!r}") from error

    async def _together(self, group: list[WaitingAppend]) -> None:
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

    def _succeed(self, waiting: WaitingAppend, sequence: int) -> None:
        self.connection.appends.succeeded()
        if not waiting.done.done():
            waiting.done.set_result(sequence)

    def _fail(self, waiting: WaitingAppend, error: StoreError) -> None:
        self.connection.appends.failed(error)
        if not waiting.done.done():
            waiting.done.set_exception(error)


def next_group(waiting: deque[WaitingAppend]) -> list[WaitingAppend]:
    """Take appends that wait, in order, each guard once: a second append to a task belongs to the next group."""
    group: list[WaitingAppend] = []
    later: list[WaitingAppend] = []
    guards: set[str] = set()
    messages = size = 0
    while waiting and messages < BATCH_MESSAGES and size < BATCH_BYTES:
        each = waiting.popleft()
        if each.append.guard in guards:
            later.append(each)
            continue
        guards.add(each.append.guard)
        messages += len(each.append.messages)
        size += sum(len(message.payload) for message in each.append.messages)
        group.append(each)
    waiting.extendleft(reversed(later))
    return group


def is_batch(appends: Sequence[Append]) -> bool:
    """Return True if the appends of a group are stored in one batch: they are many, or one of them needs one anyway."""
    counts = [len(append.messages) for append in appends]
    return sum(counts) >= BATCH_FROM or (len(counts) > 1 and max(counts) > 1)


def _guard(append: Append) -> dict[str, str]:
    return {
        "Nats-Expected-Last-Subject-Sequence": str(append.expected),
        "Nats-Expected-Last-Subject-Sequence-Subject": append.guard,
    }
