"""Turns: a bounded number at once, a share for each user, and nobody waits behind another user's queue."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.errors import TooManyReads
from taskstream.streams.turns import Turns


async def waiting(turns: Turns, user: str) -> asyncio.Task[None]:
    task = asyncio.create_task(turns.take(user, 60))
    await asyncio.sleep(0)
    return task


@given(
    st.lists(st.sampled_from(["alice", "bob", "carol", "give back", "cancel"]), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_turns_are_never_more_than_allowed_and_none_is_lost(steps: list[str], at_once: int, of_one: int) -> None:
    async def play() -> None:
        turns = Turns(at_once, of_one, 100)
        asked: list[tuple[str, asyncio.Task[None]]] = []
        for step in steps:
            taken = [entry for entry in asked if entry[1].done()]
            if step == "give back":
                for entry in taken[:1]:
                    asked.remove(entry)
                    turns.give_back(entry[0])
            elif step == "cancel":
                for entry in [entry for entry in asked if not entry[1].done()][:1]:
                    asked.remove(entry)
                    entry[1].cancel()
            else:
                asked.append((step, await waiting(turns, step)))
            for _ in range(3):
                await asyncio.sleep(0)
            held = Counter(user for user, task in asked if task.done())
            wanted = Counter(user for user, _ in asked)
            assert turns.taken == held.total() <= at_once
            assert max(held.values(), default=0) <= of_one
            # No turn is free while somebody could have it.
            assert held.total() == min(at_once, sum(min(count, of_one) for count in wanted.values()))
        for _, task in asked:
            task.cancel()

    asyncio.run(play())


async def test_a_user_who_asks_once_does_not_wait_for_another_ones_queue() -> None:
    turns = Turns(2, 2, 100)
    for _ in range(2):
        await turns.take("alice", 1)
    crowd = [await waiting(turns, "alice") for _ in range(50)]
    bob = await waiting(turns, "bob")

    turns.give_back("alice")
    turns.give_back("alice")
    await asyncio.wait_for(bob, 5)

    assert sum(task.done() for task in crowd) == 1
    for task in crowd:
        task.cancel()


async def test_one_who_waits_too_long_or_behind_too_many_is_refused() -> None:
    turns = Turns(1, 1, 2)
    await turns.take("alice", 1)
    crowd = [await waiting(turns, "alice") for _ in range(2)]

    with pytest.raises(TooManyReads):
        await turns.take("alice", 60)
    with pytest.raises(TooManyReads):
        await turns.take("bob", 0.01)

    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    turns.give_back("alice")
    assert turns.taken == 0
