"""Following a stream: every message, in order, once, whatever happens to the server or the consumer meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskstream.container import Container
from taskstream.streams.jetstream import consumers as pulling
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import follow
from taskstream.streams.topology.definitions import TASKS
from testkit.following import Follower, consumers, publish, sees
from testkit.nats import NatsServer
from testkit.outage import restart
from testkit.waiting import wait_until


def following(
    container: Container, after: int = 0, linger_seconds: float = 0.0, filters: tuple[str, ...] = ("task.>",)
) -> Follower:
    return Follower(follow(container.reading, TASKS, list(filters), after, linger_seconds))


async def test_what_is_there_and_what_comes_is_seen_in_order(container: Container) -> None:
    await publish(container, 30)
    follower = following(container)
    await sees(follower, 30)
    await publish(container, 30)
    await sees(follower, 60)

    assert follower.sequences == list(range(1, 61))
    first = next(batch for batch in follower.batches if batch)[0]
    assert (first.subject, first.data) == ("task.a.b.noted", b"0")
    await follower.stop()


async def test_following_after_a_sequence_leaves_out_what_came_before(container: Container) -> None:
    await publish(container, 10)
    follower = following(container, after=7)
    await sees(follower, 3)

    assert follower.sequences == [8, 9, 10]
    await follower.stop()


async def test_only_what_matches_a_filter_is_seen(container: Container) -> None:
    for subject in ("task.a.b.noted", "task.a.c.noted", "task.x.b.done"):
        await publish(container, 1, subject)
    follower = following(container, filters=("task.a.c.>", "task.x.>"))
    await sees(follower, 2)

    assert follower.sequences == [2, 3]
    await follower.stop()


@pytest.mark.parametrize("there", [0, 5])
async def test_an_empty_list_says_that_all_was_seen(container: Container, there: int) -> None:
    await publish(container, there)
    follower = following(container)
    await wait_until(lambda: follower.caught_up, "the empty list")
    assert follower.sequences == list(range(1, there + 1))

    await publish(container, 3)
    await sees(follower, there + 3)
    await wait_until(lambda: follower.caught_up, "the next empty list")
    await follower.stop()


async def test_no_empty_list_comes_before_all_was_seen(container: Container) -> None:
    for start in range(10):
        await asyncio.gather(
            *(publish(container, 12, f"task.a.b{number}.noted") for number in range(start, start + 10))
        )
    follower = following(container)
    await sees(follower, 1_200)
    await wait_until(lambda: [] in follower.batches, "an empty list")

    before = follower.batches[: follower.batches.index([])]
    assert [position.sequence for batch in before for position in batch] == list(range(1, 1_201))
    await follower.stop()


async def test_messages_that_come_close_together_come_in_one_list(container: Container) -> None:
    follower = following(container, linger_seconds=0.2)
    await wait_until(lambda: follower.caught_up, "the first empty list")
    await asyncio.gather(*(publish(container, 1) for _ in range(20)))
    await sees(follower, 20)

    assert len([batch for batch in follower.batches if batch]) < 20
    assert follower.sequences == list(range(1, 21))
    await follower.stop()


async def test_nothing_is_lost_or_doubled_over_a_kill_of_nats(container: Container, nats: NatsServer) -> None:
    follower = following(container)
    await publish(container, 20)
    await sees(follower, 20)
    for rounds in range(1, 3):
        await restart(nats, container.appending, container.reading)
        await publish(container, 20)
        await sees(follower, 20 + 20 * rounds)

    assert follower.sequences == list(range(1, 61))
    await follower.stop()


async def test_nothing_is_left_on_the_connection_by_a_kill_of_nats(container: Container, nats: NatsServer) -> None:
    follower = following(container)
    await wait_until(lambda: follower.caught_up, "the first empty list")
    subscriptions = len(container.reading.client._subs)

    for number in range(1, 4):
        await restart(nats, container.appending, container.reading)
        await publish(container, 1)
        await sees(follower, number)

    assert len(container.reading.client._subs) == subscriptions
    await follower.stop()


async def test_a_deleted_consumer_is_made_again_where_it_was(container: Container) -> None:
    follower = following(container)
    await publish(container, 10)
    await sees(follower, 10)

    [name] = [name for name in await consumers(container) if name.startswith("follow-")]
    await api(container.appending, f"CONSUMER.DELETE.{TASKS}.{name}")
    await publish(container, 10)
    await sees(follower, 20)

    assert follower.sequences == list(range(1, 21))
    await follower.stop()


async def test_a_consumer_that_was_forgotten_without_a_word_is_made_again(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No status says so: only the missing end of a pull does."""
    monkeypatch.setattr(pulling, "FOLLOW_EXPIRES_SECONDS", 0.2)
    monkeypatch.setattr(pulling, "ANSWER_GRACE_SECONDS", 0.2)
    follower = following(container)
    await wait_until(lambda: follower.caught_up, "the first empty list")
    await wait_until(lambda: len(follower.batches) > 0, "a pull")
    [inbox] = [sub for sub in container.reading.client._subs.values() if "*" not in sub.subject]
    await container.reading.client._send_unsubscribe(inbox._id)

    await publish(container, 5)
    await sees(follower, 5)

    assert follower.sequences == list(range(1, 6))
    await follower.stop()


async def test_who_stops_following_leaves_no_consumer(container: Container) -> None:
    batches = follow(container.reading, TASKS, ["task.>"], 0)
    assert await anext(batches) == []
    assert len(await consumers(container)) == 1

    await batches.aclose()

    async def none_left() -> bool:
        return not await consumers(container)

    await wait_until(none_left, "the consumer to go")


async def test_to_a_slow_reader_no_more_than_two_batches_are_sent_ahead(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "FOLLOW_BATCH", 10)
    await publish(container, 100)
    batches = follow(container.reading, TASKS, ["task.>"], 0)
    seen = [position.sequence for position in await anext(batches)]

    async def sent() -> int:
        [name] = await consumers(container)
        return int((await api(container.appending, f"CONSUMER.INFO.{TASKS}.{name}"))["delivered"]["stream_seq"])

    async def is_ahead() -> bool:
        return await sent() > seen[-1]

    await wait_until(is_ahead, "messages to be on their way before the next are asked for")
    assert await sent() <= seen[-1] + 20
    while seen[-1] < 100:
        batch = [position.sequence for position in await anext(batches)]
        assert len(batch) <= 20
        seen.extend(batch)
    assert seen == list(range(1, 101))
    await batches.aclose()


async def test_pulls_that_expire_are_made_again_on_the_same_consumer(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "FOLLOW_BATCH", 3)
    monkeypatch.setattr(pulling, "FOLLOW_EXPIRES_SECONDS", 0.2)
    pulls: list[str] = []
    publish_it = container.reading.publish

    async def note(subject: str, *rest: Any, **more: Any) -> None:
        if ".MSG.NEXT." in subject:
            pulls.append(subject)
        await publish_it(subject, *rest, **more)

    monkeypatch.setattr(container.reading, "publish", note)
    follower = following(container)
    for count in (4, 8, 12):
        await publish(container, 4)
        await sees(follower, count)
        before = len(pulls)
        await wait_until(lambda before=before: len(pulls) >= before + 3, "pulls that expired to be made again")

    assert follower.sequences == list(range(1, 13))
    assert len(set(pulls)) == 1
    await follower.stop()


@pytest.mark.parametrize("turns", range(4))
async def test_a_follower_that_is_cancelled_just_when_something_comes_ends(container: Container, turns: int) -> None:
    """On Python 3.11 `asyncio.wait_for` would swallow the cancellation."""
    follower = following(container)
    await wait_until(lambda: follower.caught_up, "it to have caught up")

    container.reading.lose_answers()  # every waiting request fails
    for _ in range(turns):
        await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await follower.stop()
