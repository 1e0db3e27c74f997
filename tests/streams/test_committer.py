"""Appends to one stream: guarded each, grouped where many wait, and honest about what was stored."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator
from functools import partial

import pytest

from taskstream.container import Container
from taskstream.errors import Conflict, OutcomeUnknown, StoreError, StoreFull, StoreUnavailable
from taskstream.streams.client.connection import Connection, PayloadTooLarge, open_connection
from taskstream.streams.committer import (
    ALONE_AT_ONCE,
    BATCH_FROM,
    MOST_BYTES_TOGETHER,
    MOST_TOGETHER,
    Append,
    Committer,
    StreamMessage,
    TooManyTogether,
)
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import read
from taskstream.streams.topology.definitions import TASKS
from testkit.link import Link
from testkit.nats import NatsServer
from testkit.outage import begin, end, limit_store
from testkit.waiting import wait_until


def to(task: str, *payloads: bytes, expected: int = 0) -> Append:
    messages = [StreamMessage(f"task.alice.{task}.noted", payload) for payload in payloads or (b"x",)]
    return Append(messages=messages, guard=f"task.alice.{task}.>", expected=expected)


@pytest.fixture
async def committer(container: Container) -> Committer:
    return Committer(container.appending)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await open_connection(url, "test")
    try:
        yield connection
    finally:
        await connection.close()


async def headers_at(container: Container, sequence: int) -> str:
    message = (await api(container.reading, f"STREAM.MSG.GET.{TASKS}", {"seq": sequence}))["message"]
    return base64.b64decode(message.get("hdrs", "")).decode()


async def batch_at(container: Container, sequence: int) -> str | None:
    found = re.search(r"Nats-Batch-Id: ?(\S+)", await headers_at(container, sequence))
    return found[1] if found else None


async def count(container: Container, filter_subject: str = "task.>") -> int:
    return len(await read(container.reading, TASKS, filter_subject))


async def test_an_append_is_stored_and_answers_with_its_sequence(container: Container, committer: Committer) -> None:
    assert await committer.append(to("t", b"one")) == 1
    assert await committer.append(to("t", b"two", expected=1)) == 2

    assert [position.data for position in await read(container.reading, TASKS, "task.alice.t.>")] == [b"one", b"two"]


async def test_an_append_on_an_old_sequence_is_a_conflict_and_stores_nothing(
    container: Container, committer: Committer
) -> None:
    await committer.append(to("t"))

    with pytest.raises(Conflict):
        await committer.append(to("t"))

    assert await count(container) == 1


async def test_of_many_racing_appends_exactly_one_wins(container: Container, nats_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(nats_url)) for _ in range(3)]
        racers = [Committer(connection) for connection in connections for _ in range(5)]
        for task in range(5):
            outcomes = await asyncio.gather(*(racer.append(to(f"t{task}")) for racer in racers), return_exceptions=True)
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 14 + ["int"]
            assert await count(container, f"task.alice.t{task}.>") == 1


async def test_a_few_appends_go_without_a_batch(container: Container, committer: Committer) -> None:
    last = await committer.append(to("t"))
    assert await batch_at(container, last) is None


async def test_many_concurrent_appends_share_one_batch_in_order(container: Container, committer: Committer) -> None:
    sequences = await asyncio.gather(*(committer.append(to(f"t{number}")) for number in range(60)))

    assert sequences == list(range(1, 61))
    stored = [position.subject for position in await read(container.reading, TASKS, "task.>")]
    assert stored == [f"task.alice.t{number}.noted" for number in range(60)]
    batches = [await batch_at(container, sequence) for sequence in sequences]
    assert batches[:ALONE_AT_ONCE] == [None] * ALONE_AT_ONCE
    assert len(set(batches[ALONE_AT_ONCE:])) == 1
    assert None not in batches[ALONE_AT_ONCE:]


async def test_each_append_of_a_batch_is_told_its_own_last_sequence(container: Container, committer: Committer) -> None:
    appends = [to(f"t{number}", *[b"x"] * (1 + number % 3)) for number in range(ALONE_AT_ONCE + BATCH_FROM)]

    sequences = await asyncio.gather(*map(committer.append, appends))

    for append, sequence in zip(appends, sequences, strict=True):
        assert (await read(container.reading, TASKS, append.guard))[-1].sequence == sequence


async def test_in_a_batch_only_the_append_that_lost_its_race_fails(container: Container, committer: Committer) -> None:
    await committer.append(to("t7"))

    outcomes = await asyncio.gather(
        *(committer.append(to(f"t{number}")) for number in range(30)), return_exceptions=True
    )

    failed = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
    assert failed == [7]
    assert isinstance(outcomes[7], Conflict)
    assert await count(container) == 30


async def test_two_appends_to_one_task_at_once_are_told_apart(container: Container, committer: Committer) -> None:
    many = [committer.append(to(f"t{number}")) for number in range(20)]

    outcomes = await asyncio.gather(
        committer.append(to("t", b"a")), *many, committer.append(to("t", b"b")), return_exceptions=True
    )

    assert isinstance(outcomes[-1], Conflict)
    assert [position.data for position in await read(container.reading, TASKS, "task.alice.t.>")] == [b"a"]
    assert await count(container) == 21


@pytest.mark.parametrize("crowd", [0, 20])
async def test_an_append_of_several_events_is_stored_together(
    container: Container, committer: Committer, crowd: int
) -> None:
    last, *_ = await asyncio.gather(
        committer.append(to("t", b"a", b"b", b"c")), *(committer.append(to(f"t{number}")) for number in range(crowd))
    )

    positions = await read(container.reading, TASKS, "task.alice.t.>")
    assert [position.data for position in positions] == [b"a", b"b", b"c"]
    assert [position.sequence for position in positions] == [last - 2, last - 1, last]


@pytest.mark.parametrize("crowd", [0, 20])
async def test_an_append_of_several_events_that_loses_its_race_stores_none(
    container: Container, committer: Committer, crowd: int
) -> None:
    await committer.append(to("t", b"first"))

    outcomes = await asyncio.gather(
        committer.append(to("t", b"a", b"b", b"c")),
        *(committer.append(to(f"t{number}")) for number in range(crowd)),
        return_exceptions=True,
    )

    assert isinstance(outcomes[0], Conflict)
    assert [position.data for position in await read(container.reading, TASKS, "task.alice.t.>")] == [b"first"]
    assert await count(container) == 1 + crowd


async def test_more_than_one_batch_holds_go_in_several(container: Container, committer: Committer) -> None:
    outcomes = await asyncio.gather(*(committer.append(to(f"t{number}")) for number in range(1_200)))

    assert sorted(outcomes) == list(range(1, 1_201))
    assert await count(container) == 1_200


async def test_a_large_append_beside_many_small_ones_is_taken(container: Container, committer: Committer) -> None:
    large = [committer.append(to(f"large{number}", b"x" * 1_500_000)) for number in range(6)]
    small = [committer.append(to(f"t{number}")) for number in range(20)]

    assert sorted(await asyncio.gather(*large, *small)) == list(range(1, 27))


async def test_one_append_too_large_for_nats_is_refused_and_the_others_are_stored(
    container: Container, committer: Committer
) -> None:
    outcomes = await asyncio.gather(
        committer.append(to("t", b"x" * (container.appending.max_payload + 1))),
        *(committer.append(to(f"t{number}")) for number in range(20)),
        return_exceptions=True,
    )

    assert isinstance(outcomes[0], PayloadTooLarge)
    assert not [outcome for outcome in outcomes[1:] if isinstance(outcome, BaseException)]
    assert container.appending.is_connected
    assert await count(container) == 20


async def test_the_largest_payload_allowed_is_stored_with_its_headers(
    container: Container, committer: Committer
) -> None:
    payload = b"x" * container.appending.max_payload

    await committer.append(to("t", payload))

    assert [len(position.data) for position in await read(container.reading, TASKS, "task.>")] == [len(payload)]
    assert container.appending.is_connected


async def test_without_nats_an_append_is_unavailable_and_does_not_land_later(
    container: Container, nats: NatsServer
) -> None:
    committer = Committer(container.appending)
    await end(nats, container.appending, container.reading)

    outcomes = await asyncio.gather(
        *(committer.append(to(f"t{number}")) for number in range(20)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    await begin(nats, container.appending, container.reading)
    assert await committer.append(to("after")) == 1
    assert await count(container) == 1


@pytest.mark.parametrize(("many", "answer"), [(1, b'"stream":"TASKS"'), (30, b'"batch":')])
async def test_an_answer_lost_with_its_connection_is_an_outcome_unknown_at_once(
    container: Container, nats: NatsServer, many: int, answer: bytes
) -> None:
    async with Link(nats.port) as proxy, connected(proxy.url) as connection:
        connection.request = partial(connection.request, timeout_seconds=3_600)  # type: ignore[method-assign]
        committer = Committer(connection)
        proxy.lose_next = answer

        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(
                *(committer.append(to(f"t{number}")) for number in range(many)), return_exceptions=True
            )

        assert {type(outcome) for outcome in outcomes[ALONE_AT_ONCE if many > 1 else 0 :]} == {OutcomeUnknown}
        assert proxy.lost == 1
        assert await count(container) == many
        await wait_until(lambda: connection.is_connected, "the connection to return")
        assert await committer.append(to("after")) == many + 1


@pytest.mark.parametrize("many", [1, 2, 60, MOST_TOGETHER])
async def test_appends_together_are_one_batch_in_their_order(
    container: Container, committer: Committer, many: int
) -> None:
    await committer.append(to("before"))

    last = await committer.append_together([to(f"t{number}") for number in range(many)])

    assert last == many + 1
    stored = [position.subject for position in await read(container.reading, TASKS, "task.>", 2)]
    assert stored == [f"task.alice.t{number}.noted" for number in range(many)]
    assert await batch_at(container, 2) == await batch_at(container, last) is not None


@pytest.mark.parametrize("loser", [0, 7, 29])
async def test_of_appends_together_none_is_stored_if_one_lost_its_race(
    container: Container, committer: Committer, loser: int
) -> None:
    await committer.append(to(f"t{loser}", b"first"))

    with pytest.raises(Conflict):
        await committer.append_together([to(f"t{number}") for number in range(30)])

    assert await count(container) == 1


async def test_appends_together_may_be_fenced_by_a_subject_of_their_own(
    container: Container, committer: Committer
) -> None:
    """Of two appends with the same fence, one is stored as a whole and the other not at all."""
    fence = Append(messages=[StreamMessage("task.fence", b"me")], guard="task.fence", expected=0)

    outcomes = await asyncio.gather(
        *(committer.append_together([fence, *(to(f"{who}{n}", b"a", b"b") for n in range(20))]) for who in "xy"),
        return_exceptions=True,
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "int"]
    assert {len(await read(container.reading, TASKS, f"task.alice.{who}{n}.>")) for who in "xy" for n in (0, 19)} == {
        0,
        2,
    }
    assert await count(container) == 41


async def test_many_who_append_together_at_once_are_all_served(container: Container, nats_url: str) -> None:
    """JetStream refuses more than 50 unfinished batches of a stream."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connected(nats_url)) for _ in range(3)]
        committers = [Committer(connection) for connection in connections]

        lasts = await asyncio.gather(
            *(
                committers[number % 3].append_together([to(f"b{number}n{place}") for place in range(10)])
                for number in range(90)
            )
        )

    assert sorted(lasts) == list(range(10, 901, 10))
    assert await count(container) == 900


async def test_what_cannot_be_stored_together_is_refused_before_anything_is_sent(
    container: Container, committer: Committer
) -> None:
    largest = container.appending.max_payload
    for refusal, appends in (
        (TooManyTogether, [to(f"t{number}") for number in range(MOST_TOGETHER + 1)]),
        (TooManyTogether, [to(f"t{number}", b"x" * largest) for number in range(MOST_BYTES_TOGETHER // largest + 1)]),
        (PayloadTooLarge, [to("t0"), to("t1", b"x" * (largest + 1)), to("t2")]),
    ):
        with pytest.raises(refusal):
            await committer.append_together(appends)

    assert container.appending.is_connected
    assert await committer.append_together([to("t0"), to("t1")]) == 2


async def test_the_largest_appends_together_are_stored(container: Container, committer: Committer) -> None:
    size = container.appending.max_payload
    appends = [to(f"t{number}", b"x" * size) for number in range(MOST_BYTES_TOGETHER // size)]

    assert await committer.append_together(appends) == len(appends)


async def test_without_nats_appends_together_are_unavailable_and_do_not_land_later(
    container: Container, nats: NatsServer
) -> None:
    committer = Committer(container.appending)
    await end(nats, container.appending, container.reading)

    with pytest.raises(StoreUnavailable) as caught:
        await committer.append_together([to(f"t{number}") for number in range(20)])

    assert type(caught.value) is StoreUnavailable
    await begin(nats, container.appending, container.reading)
    assert await count(container) == 0


async def test_a_full_store_is_said_to_be_full_and_keeps_what_it_acknowledged(
    nats: NatsServer, container: Container
) -> None:
    committer = Committer(container.appending)
    await committer.append(to("before"))
    await limit_store(nats, 3, container.appending, container.reading)

    async def fill() -> list[int]:
        return [await committer.append(to(f"t{number}", b"x" * 100_000)) for number in range(100)]

    with pytest.raises(StoreFull):
        await fill()

    kept = await count(container)
    assert 1 < kept < 101
    with pytest.raises(StoreError):
        await committer.append(to("another", b"x" * 100_000))
    assert await count(container) == kept


async def test_a_full_store_fails_every_append_of_a_batch_as_full(nats: NatsServer, container: Container) -> None:
    committer = Committer(container.appending)
    await committer.append(to("before", b"x" * 1_100_000))
    await limit_store(nats, 1, container.appending, container.reading)

    outcomes = await asyncio.gather(
        *(committer.append(to(f"t{number}")) for number in range(20)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} == {StoreFull}
    assert await count(container) == 1


async def test_a_batch_that_meets_the_end_of_the_store_is_an_outcome_unknown(
    nats: NatsServer, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS stores a part of such a batch and does not answer: each append must look for its own events."""
    await limit_store(nats, 1, container.appending, container.reading)
    monkeypatch.setattr(container.appending, "request", partial(container.appending.request, timeout_seconds=0.5))
    committer = Committer(container.appending)

    outcomes = await asyncio.gather(
        *(committer.append(to(f"t{number}", b"x" * 200_000)) for number in range(20)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes[ALONE_AT_ONCE:]} == {OutcomeUnknown}
    assert await count(container) < 20
    with pytest.raises(StoreFull):
        await committer.append(to("after"))
