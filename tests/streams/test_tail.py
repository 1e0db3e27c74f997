"""The tail of a stream: many readers, one consumer; each reads every message, in order, once, from its own place on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from taskstream.container import Container
from taskstream.streams import tail as tails
from taskstream.streams.jetstream import messages
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.tail import Tail
from taskstream.streams.topology.definitions import TASKS
from testkit.following import Follower, consumers, publish, sees
from testkit.nats import NatsServer
from testkit.outage import restart
from testkit.waiting import wait_until


@pytest.fixture
def tail(container: Container) -> Tail:
    return Tail(container.reading, TASKS, "task.>")


async def caught_up(*followers: Follower) -> None:
    await wait_until(lambda: all(follower.caught_up for follower in followers), "all to have caught up")


async def to_the_end(batches: AsyncIterator[list[Position]]) -> None:
    async for _ in batches:
        pass


async def test_readers_with_places_of_their_own_share_a_consumer(container: Container, tail: Tail) -> None:
    await publish(container, 10)
    first, second = Follower(tail.follow(0)), Follower(tail.follow(7))
    await caught_up(first, second)
    await publish(container, 10)
    await sees(first, 20)
    await sees(second, 13)

    assert first.sequences == list(range(1, 21))
    assert second.sequences == list(range(8, 21))

    async def only_one() -> bool:
        return len(await consumers(container)) == 1

    await wait_until(only_one, "a single consumer")
    await first.stop()
    await second.stop()

    async def none_left() -> bool:
        return not await consumers(container)

    await wait_until(none_left, "the consumer to go")


async def test_a_reader_that_begins_before_what_is_kept_reads_it_all(container: Container, tail: Tail) -> None:
    await publish(container, 20)
    late = Follower(tail.follow(18))
    await caught_up(late)
    early = Follower(tail.follow(3))
    await caught_up(early)
    await publish(container, 1)
    await sees(early, 18)
    await sees(late, 3)

    assert early.sequences == list(range(4, 22))
    assert late.sequences == [19, 20, 21]
    await early.stop()
    await late.stop()


async def test_a_reader_sees_all_that_was_stored_before_it_is_caught_up(container: Container, tail: Tail) -> None:
    """Also where the message is still on its way to those who read already."""
    other = Follower(tail.follow(0))
    await caught_up(other)
    for number in range(1, 21):
        await publish(container, 1)
        async with contextlib.aclosing(tail.follow(number - 1)) as batches:
            assert [position.sequence for position in await anext(batches)] == [number]
            assert await anext(batches) == []
    await sees(other, 20)
    assert other.sequences == list(range(1, 21))
    await other.stop()


async def test_a_reader_that_falls_behind_misses_nothing_and_holds_up_nobody(
    container: Container, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "KEPT", 10)
    slow = tail.follow(0)
    assert await anext(slow) == []
    quick = Follower(tail.follow(0))
    await caught_up(quick)
    await publish(container, 100)
    await sees(quick, 100)
    assert tail.find(100) is not None
    assert tail.find(50) is None, "it is kept no more"

    seen: list[Position] = []
    while len(seen) < 100:
        seen += await anext(slow)
    assert [position.sequence for position in seen] == quick.sequences == list(range(1, 101))
    assert [position.data for position in seen] == [b"%d" % number for number in range(100)]
    await slow.aclose()
    await quick.stop()


async def test_of_large_messages_few_are_kept(
    container: Container, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "KEPT_BYTES", 1_000)
    reader = Follower(tail.follow(0))
    for _ in range(10):
        await container.appending.request("task.a.b.noted", b"." * 900)
    await sees(reader, 10)

    assert reader.sequences == list(range(1, 11))
    assert tail.find(10) is not None
    assert tail.find(1) is None
    await reader.stop()


async def test_messages_that_come_close_together_come_in_one_list(container: Container, tail: Tail) -> None:
    at_once, lingering = Follower(tail.follow(0)), Follower(tail.follow(0, 0.2))
    await caught_up(at_once, lingering)
    await asyncio.gather(*(publish(container, 1) for _ in range(20)))
    await sees(at_once, 20)
    assert not lingering.sequences, "it waits for more, and holds up nobody"
    await sees(lingering, 20)

    assert lingering.sequences == at_once.sequences == list(range(1, 21))
    assert len([batch for batch in lingering.batches if batch]) < 20
    await at_once.stop()
    await lingering.stop()


async def test_nothing_is_lost_or_doubled_over_a_kill_of_nats(
    container: Container, tail: Tail, nats: NatsServer
) -> None:
    readers = [Follower(tail.follow(0)), Follower(tail.follow(0, 0.05))]
    for rounds in range(1, 3):
        await publish(container, 20)
        for reader in readers:
            await sees(reader, 20 * rounds)
        before = [len(reader.batches) for reader in readers]
        await restart(nats, container.appending, container.reading)
        await wait_until(
            lambda before=before: all([] in r.batches[n:] for r, n in zip(readers, before, strict=True)),
            "all to be told again that they have seen all",
        )

    for reader in readers:
        assert reader.sequences == list(range(1, 41))
        await reader.stop()


async def test_a_deleted_consumer_is_made_again_where_it_was(container: Container, tail: Tail) -> None:
    readers = [Follower(tail.follow(0)), Follower(tail.follow(0))]
    await publish(container, 10)
    await caught_up(*readers)

    for name in await consumers(container):
        await api(container.appending, f"CONSUMER.DELETE.{TASKS}.{name}")
    await publish(container, 10)
    for reader in readers:
        await sees(reader, 20)
        assert reader.sequences == list(range(1, 21))
        await reader.stop()


async def test_a_fault_in_reading_is_everybodys(
    container: Container, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [tail.follow(0), tail.follow(0)]
    for reader in readers:
        assert await anext(reader) == []

    monkeypatch.setattr(tails, "follow", lambda *_, **__: 1 / 0)
    for reader in (tail.follow(0), *readers):
        with pytest.raises(ZeroDivisionError):
            await to_the_end(reader)


async def test_who_comes_when_all_have_left_begins_where_it_wants(container: Container, tail: Tail) -> None:
    await publish(container, 10)
    first = Follower(tail.follow(8))
    await caught_up(first)
    await first.stop()
    second = Follower(tail.follow(2))
    await caught_up(second)

    assert first.sequences == [9, 10]
    assert second.sequences == list(range(3, 11))
    await second.stop()


async def test_a_reader_that_is_behind_does_not_linger_however_large_the_messages(
    container: Container, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "KEPT_BYTES", 200_000)
    monkeypatch.setattr(messages, "READ_BYTES", 100_000)
    news = Follower(tail.follow(0))
    for _ in range(30):
        await container.appending.request("task.a.b.noted", b"x" * 40_000)
    await sees(news, 30)

    sequences: list[int] = []
    async with asyncio.timeout(20), contextlib.aclosing(tail.follow(0, linger_seconds=3_600)) as batches:
        while not sequences or sequences[-1] < tail._begin:
            sequences += [position.sequence for position in await anext(batches)]

    assert len(sequences) > 15
    assert sequences == list(range(1, len(sequences) + 1))
    await news.stop()


async def test_quiet_messages_are_read_with_the_next_one_that_is_not_or_a_moment_later(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "QUIET_SECONDS", 3_600)
    tail = Tail(container.reading, TASKS, "task.>", is_quiet=lambda subject: not subject.endswith("loud"))
    batches: list[list[str]] = []

    async def read() -> None:
        async for positions in tail.follow(0):
            batches.extend([[position.subject for position in positions]] if positions else [])

    reading = asyncio.create_task(read())
    await wait_until(lambda: tail._is_at_end, "the end of the log")
    for number, word in enumerate(["quiet", "still", "loud"], start=1):
        await container.appending.request(f"task.a.{number}.{word}", b"{}")
        await wait_until(lambda number=number: tail.find(number), "the message in the tail")  # type: ignore[misc]
    await wait_until(lambda: batches, "the messages")
    assert batches == [["task.a.1.quiet", "task.a.2.still", "task.a.3.loud"]]

    monkeypatch.setattr(tails, "QUIET_SECONDS", 0)
    await container.appending.request("task.a.4.quiet", b"{}")
    await wait_until(lambda: len(batches) == 2, "the quiet message")
    reading.cancel()
