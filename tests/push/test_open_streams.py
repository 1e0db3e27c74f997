"""The counts of open streams: exact, whatever opens and closes in whatever order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.errors import StreamsExhausted, TooManyStreams
from taskstream.push.open_streams import STARTS_AT_ONCE, STARTS_OF_ONE_USER, OpenStreams, Starts
from taskstream.runtime.places import Place

USERS = ("alice", "bob", "carol")


@given(st.lists(st.tuples(st.sampled_from(USERS), st.booleans(), st.integers(0, 20))))
def test_a_place_is_counted_once_and_given_back_once(steps: list[tuple[str, bool, int]]) -> None:
    streams = OpenStreams(per_user=2, in_all=5)
    places: list[Place] = []
    counted: list[Place] = []
    for user, opens, number in steps:
        if opens:
            of_user, in_all = sum(place.holder == user for place in counted), len(counted)
            try:
                places.append(streams.open(user))
            except (TooManyStreams, StreamsExhausted) as refusal:
                refused: type[Exception] | None = type(refusal)
            else:
                refused = None
                counted.append(places[-1])
            expected = TooManyStreams if of_user == 2 else StreamsExhausted if in_all == 5 else None
            assert refused is expected
        elif places:
            place = places[number % len(places)]
            place.close()  # perhaps again
            counted = [other for other in counted if other is not place]
        assert len(streams) == len(counted)
        for each in USERS:
            assert streams.of(each) == sum(place.holder == each for place in counted) <= 2


def test_zero_is_no_limit() -> None:
    streams = OpenStreams(per_user=0, in_all=0)
    places = [streams.open("alice") for _ in range(2_000)]
    assert streams.of("alice") == len(places)


async def test_one_users_starts_take_few_turns_and_leave_the_others_to_others() -> None:
    starts = Starts()
    begun: list[str] = []
    let_go = asyncio.Event()

    async def start(user: str) -> None:
        async with starts.turn(user):
            begun.append(user)
            await let_go.wait()

    tasks = [asyncio.create_task(start("alice")) for _ in range(100)]
    tasks += [asyncio.create_task(start(f"user-{number}")) for number in range(STARTS_AT_ONCE)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert begun.count("alice") == STARTS_OF_ONE_USER
    assert len(begun) == STARTS_AT_ONCE

    for task in tasks[:50]:
        task.cancel()
    let_go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert begun.count("alice") == 50 + STARTS_OF_ONE_USER
    assert not starts._of_users


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_cancelled_start_gives_its_turn_back(waiting: bool) -> None:
    starts = Starts()
    holders = [starts.turn("alice") for _ in range(STARTS_OF_ONE_USER if waiting else 0)]
    for holder in holders:
        await holder.__aenter__()

    async def start() -> None:
        async with starts.turn("alice"):
            await asyncio.Event().wait()

    task = asyncio.create_task(start())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for holder in holders:
        await holder.__aexit__(None, None, None)
    assert not starts._of_users
    for _ in range(STARTS_OF_ONE_USER):
        await asyncio.wait_for(starts.turn("alice").__aenter__(), 1)
