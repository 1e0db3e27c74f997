"""Elections of leaders in a cluster: what was sent to no leader is sent again, and waits of a former leader end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from taskstream.streams.client.client import NatsClient
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.consumers import Consumer
from testkit.waiting import wait_until

SUBJECT = "silent.for.a.while"
OF_A_STREAM = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.TASKS"
OF_A_CONSUMER = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.DISPATCH"
AN_HOUR = 3600.0


@pytest.fixture
async def of_cluster(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """A connection that takes its server for one of a cluster. Advisories come from `connection`."""
    monkeypatch.setattr(NatsClient, "is_of_cluster", True)
    connection = await open_connection(nats_url, "test")
    yield connection
    await connection.close()


class Leader:
    """Answers requests from a certain number on; the earlier ones find no leader."""

    def __init__(self, connection: Connection, unanswered: int) -> None:
        self.seen = 0
        self._connection = connection
        self._unanswered = unanswered

    async def receive(self, message: Msg) -> None:
        self.seen += 1
        if self.seen > self._unanswered:
            await self._connection.publish(message.reply, b"here")


async def test_a_request_that_no_leader_has_read_is_sent_again_after_the_election(
    connection: Connection, of_cluster: Connection
) -> None:
    leader = Leader(connection, unanswered=2)
    await connection.subscribe(SUBJECT, leader.receive)
    await connection.flush()
    asking = asyncio.create_task(of_cluster.request(SUBJECT, timeout_seconds=AN_HOUR, repeats=True))
    await wait_until(lambda: leader.seen, "the request")

    await connection.publish(OF_A_STREAM)

    assert (await asking).data == b"here"
    assert leader.seen == 3


async def test_a_request_that_must_not_be_repeated_is_sent_once(connection: Connection, of_cluster: Connection) -> None:
    asked, once = Leader(connection, unanswered=4), Leader(connection, unanswered=1)
    await connection.subscribe(SUBJECT, asked.receive)
    await connection.subscribe("once", once.receive)
    await connection.flush()
    not_repeated = asyncio.create_task(of_cluster.request("once", timeout_seconds=AN_HOUR))
    await wait_until(lambda: once.seen, "the request")

    await connection.publish(OF_A_STREAM)
    await of_cluster.request(SUBJECT, timeout_seconds=AN_HOUR, repeats=True)

    assert once.seen == 1
    not_repeated.cancel()
    with pytest.raises(asyncio.CancelledError):
        await not_repeated


async def test_an_election_ends_pauses_and_is_told_once_however_many_leaders(
    connection: Connection, of_cluster: Connection
) -> None:
    told: list[None] = []
    of_cluster.on_election(lambda: told.append(None))
    pausing = asyncio.create_task(of_cluster.pause(AN_HOUR))
    await asyncio.sleep(0)

    for _ in range(50):
        await connection.publish(OF_A_STREAM)

    await pausing
    assert len(told) == 1


async def test_a_new_leader_of_a_consumer_ends_the_wait_for_its_next_message_and_no_other(
    connection: Connection, of_cluster: Connection
) -> None:
    ended: list[str] = []
    for name in ("one", "two"):
        consumer = Consumer(of_cluster, "DISPATCH", name)
        consumer._subject = SUBJECT
        await connection.listen(SUBJECT, lambda _: None)
        await connection.flush()
        await consumer.open()
        await consumer.wait(lambda message, name=name: ended.append(f"{name} {message}"), AN_HOUR)  # type: ignore[misc]

    await connection.publish(f"{OF_A_CONSUMER}.two")

    await wait_until(lambda: ended, "the end of a wait")
    assert ended == ["two None"]


async def test_without_a_cluster_nothing_is_listened_to(connection: Connection) -> None:
    told: list[None] = []
    connection.on_election(lambda: told.append(None))

    await connection.publish(OF_A_STREAM)
    await connection.flush()

    assert told == []
