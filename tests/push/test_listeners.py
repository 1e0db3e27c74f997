"""Queues of listeners: bounded each and together, every event in memory counted once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.push import listeners
from taskstream.push.listeners import Listener, Scope, WaitingBytes
from taskstream.push.updates import LoggedEvent
from taskstream.runtime.shared_reads import SharedReads

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 400), st.sets(st.integers(0, 3))),
        st.tuples(st.sampled_from(["next", "clear", "leave"]), st.integers(0, 3), st.just(frozenset[int]())),
    ),
    max_size=60,
)


def event(size_bytes: int) -> LoggedEvent:
    return cast(Any, SimpleNamespace(size_bytes=size_bytes, queues=0))


@given(STEPS)
async def test_waiting_bytes_are_those_of_the_distinct_events_and_bounded(
    steps: list[tuple[str, int, set[int]]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listeners, "ALL_QUEUES_BYTES", 1_000)
        patch.setattr(listeners, "QUEUE_BYTES", 500)
        waiting = WaitingBytes()
        group = [Listener(Scope(), waiting, lambda: 0) for _ in range(4)]
        for each in group:
            waiting.join(each)
        for what, number, chosen in steps:
            if what == "offer":
                update = event(number)
                for place in chosen:
                    if group[place] in waiting._listeners:
                        group[place].offer(update)
                waiting.relieve()
            elif what == "next":
                await group[number].next(0)
            elif what == "clear":
                group[number].clear()
            else:
                waiting.leave(group[number])
            queued = {id(update): update.size_bytes for each in group for update in each._queue}
            assert waiting.size_bytes == sum(queued.values()) <= 1_000
            for each in group:
                assert each.waiting_bytes == sum(update.size_bytes for update in each._queue)


async def test_the_largest_queue_gives_way_and_the_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "ALL_QUEUES_BYTES", 1_000)
    waiting = WaitingBytes()
    small, large = (Listener(Scope(), waiting, lambda: 0) for _ in range(2))
    waiting.join(small)
    waiting.join(large)
    small.offer(event(200))
    for _ in range(5):
        large.offer(event(200))
    waiting.relieve()

    assert (large.overflowed, small.overflowed) == (True, False)
    assert await large.next(0) is None
    assert await small.next(0) is not None


async def test_those_who_ask_at_the_same_time_share_a_read_that_begins_after() -> None:
    began = 0
    running = 0
    let_go = asyncio.Event()

    async def read(_: None) -> int:
        nonlocal began, running
        began += 1
        number = began
        running += 1
        assert running == 1
        await let_go.wait()
        running -= 1
        if number == 2:
            raise RuntimeError
        return number

    reads = SharedReads(read)
    first = [asyncio.create_task(reads.get(None)) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    later = [asyncio.create_task(reads.get(None)) for _ in range(5)]
    for _ in range(3):
        await asyncio.sleep(0)
    later[0].cancel()
    first[0].cancel()
    let_go.set()

    assert await asyncio.gather(*first[1:]) == [1, 1]
    failed = await asyncio.gather(*later[1:], return_exceptions=True)
    assert [type(error) for error in failed] == [RuntimeError] * 4
    assert await reads.get(None) == began == 3
    await asyncio.sleep(0)
    assert not reads._running
    assert not reads._next
