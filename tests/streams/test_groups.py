"""Which appends are stored together, without NATS: the rules of a committer's groups."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.streams import committer
from taskstream.streams.client.connection import Appends
from taskstream.streams.committer import (
    ALONE_AT_ONCE,
    BATCH_BYTES,
    BATCH_FROM,
    BATCH_MESSAGES,
    Append,
    Committer,
    StreamMessage,
    WaitingAppend,
    is_batch,
    next_group,
)

APPENDS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4), st.sampled_from([1, 700, 2_000_000])), max_size=60)


def to(task: int, messages: int = 1, size: int = 1) -> Append:
    return Append(messages=[StreamMessage(f"t.{task}.x", b"x" * size)] * messages, guard=f"t.{task}.>", expected=0)


def waiting(*appends: Append) -> deque[WaitingAppend]:
    return deque(WaitingAppend(append, cast(Any, None)) for append in appends)


@given(APPENDS)
def test_every_append_is_in_one_group_and_those_to_a_task_in_their_order(found: list[tuple[int, int, int]]) -> None:
    appends = [to(*each) for each in found]
    left = waiting(*appends)
    groups = []
    while left:
        group = [each.append for each in next_group(left)]
        assert group, "a group that is empty would never end"
        groups.append(group)
    stored = [append for group in groups for append in group]
    assert sorted(map(id, stored)) == sorted(map(id, appends))
    for task in {append.guard for append in appends}:
        assert [id(one) for one in stored if one.guard == task] == [id(one) for one in appends if one.guard == task]


@given(APPENDS)
def test_a_group_has_each_task_once_and_a_bounded_size(found: list[tuple[int, int, int]]) -> None:
    group = [each.append for each in next_group(waiting(*(to(*each) for each in found)))]
    assert len({append.guard for append in group}) == len(group)
    sizes = [sum(len(message.payload) for message in append.messages) for append in group]
    assert sum(len(append.messages) for append in group[:-1]) < BATCH_MESSAGES
    assert sum(sizes[:-1]) < BATCH_BYTES


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1], False),
        ([3], False),  # it is a batch of its own anyway
        ([1] * (BATCH_FROM - 1), False),
        ([1] * BATCH_FROM, True),
        ([1, 2], True),  # the second needs a batch, which the first one shares
    ],
)
def test_a_group_is_a_batch_if_it_has_many_messages_or_needs_one_anyway(counts: list[int], expected: bool) -> None:
    assert is_batch([to(task, count) for task, count in enumerate(counts)]) is expected


async def settle() -> None:
    """Let every task go on until it waits for an answer."""
    for _ in range(5):
        await asyncio.sleep(0)


class Sent:
    """A connection whose answers the test gives; it keeps what was sent, in order."""

    def __init__(self) -> None:
        self.appends = Appends()
        self.max_payload = 1_000_000
        self.sent: list[str] = []
        """`alone` for a single message; the number of its messages for a batch."""
        self.answers: deque[asyncio.Future[Any]] = deque()
        self._staged = 0
        self._stored = 0

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        self._staged += 1

    async def request(self, subject: str, payload: bytes, headers: dict[str, str]) -> Any:
        messages, self._staged = self._staged + 1, 0
        self.sent.append(str(messages) if "Nats-Batch-Commit" in headers else "alone")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer
        self._stored += messages
        return type("Answer", (), {"data": b'{"seq":%d}' % self._stored})

    async def answer(self, count: int = 1) -> None:
        """Answer what was sent first, and let the committer go on."""
        for _ in range(count):
            self.answers.popleft().set_result(None)
        await settle()


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def tasks() -> list[asyncio.Task[int]]:
    return []


async def begin(committer: Committer, tasks: list[asyncio.Task[int]], count: int) -> None:
    """Append so many times at once, each to another task."""
    first = len(tasks)
    tasks += [asyncio.create_task(committer.append(to(first + number))) for number in range(count)]
    await settle()


async def test_the_first_few_appends_do_not_wait_for_each_other(sent: Sent, tasks: list[asyncio.Task[int]]) -> None:
    await begin(Committer(cast(Any, sent)), tasks, ALONE_AT_ONCE)
    assert sent.sent == ["alone"] * ALONE_AT_ONCE
    await sent.answer(ALONE_AT_ONCE)
    assert all(task.done() for task in tasks)


async def test_what_waits_for_the_first_few_is_one_group(sent: Sent, tasks: list[asyncio.Task[int]]) -> None:
    await begin(Committer(cast(Any, sent)), tasks, ALONE_AT_ONCE + 30)
    await sent.answer()
    assert sent.sent == ["alone"] * ALONE_AT_ONCE + ["30"]


async def test_after_a_batch_as_many_as_it_had_may_join_those_that_wait(
    sent: Sent, tasks: list[asyncio.Task[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "GATHER_SECONDS", 3_600)
    one = Committer(cast(Any, sent))
    await begin(one, tasks, ALONE_AT_ONCE + 30)
    await sent.answer()
    await begin(one, tasks, 20)
    await sent.answer(ALONE_AT_ONCE)
    await begin(one, tasks, 29)
    assert sent.sent[ALONE_AT_ONCE:] == ["30"], "one of the callers that were answered may still come"
    await begin(one, tasks, 1)
    assert sent.sent[ALONE_AT_ONCE:] == ["30", "50"]


async def test_an_append_whose_caller_gave_up_lets_the_waiting_ones_go_on(
    sent: Sent, tasks: list[asyncio.Task[int]]
) -> None:
    await begin(Committer(cast(Any, sent)), tasks, ALONE_AT_ONCE + 1)
    tasks[0].cancel()
    await settle()
    assert sent.sent == ["alone"] * (ALONE_AT_ONCE + 1)
