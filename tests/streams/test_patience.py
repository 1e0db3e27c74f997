"""The patience of a reader: messages stay with NATS while it has some, and come at once when it has none."""

from __future__ import annotations

import pytest

from taskstream.container import Container
from taskstream.streams.jetstream import consumers as followed
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.patience import Patience
from taskstream.streams.tail import Tail
from taskstream.streams.topology.definitions import TASKS
from testkit.following import Follower, consumers, publish, sees
from testkit.waiting import wait_until

LONG = 60.0


@pytest.fixture
def tail(container: Container) -> Tail:
    return Tail(container.reading, TASKS, "task.>")


async def pending(container: Container) -> int:
    """Return how many messages the one consumer has not delivered."""
    [name] = await consumers(container)
    return int((await api(container.appending, f"CONSUMER.INFO.{TASKS}.{name}"))["num_pending"])


async def until_first(container: Container, follower: Follower) -> None:
    """Wait until the reader is at the end, and has asked for the next message alone."""
    await wait_until(lambda: follower.caught_up, "the reader to be at the end")
    [name] = await consumers(container)

    async def waits() -> bool:
        return bool((await api(container.appending, f"CONSUMER.INFO.{TASKS}.{name}"))["num_waiting"] == 1)

    await wait_until(waits, "a request for one message")


async def test_messages_for_a_patient_reader_stay_with_nats_and_come_together(container: Container, tail: Tail) -> None:
    patience = Patience(LONG)
    follower = Follower(tail.follow(0, patience=patience))
    await until_first(container, follower)
    await publish(container, 50)

    async def one_is_delivered() -> bool:
        return await pending(container) == 49

    await wait_until(one_is_delivered, "the first message to be delivered, and no other")
    assert follower.sequences == []

    patience.change(0.0)
    await sees(follower, 50)
    patience.change(LONG)
    assert follower.sequences == list(range(1, 51))
    assert len([batch for batch in follower.batches if batch]) <= 3  # the first, and the rest in a read or two
    await follower.stop()


async def test_little_patience_loses_nothing_and_wakes_its_reader_rarely(container: Container, tail: Tail) -> None:
    follower = Follower(tail.follow(0, patience=Patience(0.1)))
    await until_first(container, follower)
    for _ in range(3):
        seen = len(follower.sequences)
        await publish(container, 100)
        await sees(follower, seen + 100)
    assert follower.sequences == list(range(1, 301))
    assert len([batch for batch in follower.batches if batch]) < 60  # 300 if each came alone
    await follower.stop()


async def test_more_messages_than_one_request_come_at_full_speed(
    container: Container, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "FOLLOW_BATCH", 10)
    await publish(container, 45)
    patience = Patience(LONG)
    follower = Follower(tail.follow(0, patience=patience))
    await sees(follower, 36)  # as long as more than a request's messages are left
    patience.change(0.0)
    await sees(follower, 45)
    await publish(container, 5)
    await sees(follower, 50)
    assert follower.sequences == list(range(1, 51))
    await follower.stop()


async def test_a_reader_without_time_gets_messages_that_others_leave(container: Container, tail: Tail) -> None:
    patient, urgent = Follower(tail.follow(0, patience=Patience(LONG))), Follower(tail.follow(0))
    await wait_until(lambda: urgent.caught_up and patient.caught_up, "both to be at the end")
    for number in range(1, 11):
        await publish(container, 1)
        await sees(urgent, number)
    assert patient.sequences == []

    await urgent.stop()
    await patient.stop()
