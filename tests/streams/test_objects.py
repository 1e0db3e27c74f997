"""Results too large for the log, in the object store."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from taskstream.clock import unique_id, utc_now
from taskstream.container import Container
from taskstream.errors import NotFound, StoreFull, StoreUnavailable
from taskstream.streams import objects, results
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import Position
from taskstream.workers.result_sweeper import ResultSweeper
from testkit.nats import NatsServer
from testkit.outage import end, limit_store, restart
from testkit.stored import object_bytes, stored_bytes
from testkit.waiting import wait_until


@pytest.mark.parametrize("size", [0, 1, 1_000_000, 5_000_000, 32_000_000])
async def test_an_object_comes_back_as_it_was(container: Container, size: int) -> None:
    data = os.urandom(size)
    await container.objects.put("an object/of=any name", data)

    assert await object_bytes(container, "an object/of=any name") == data


async def test_a_deleted_object_leaves_nothing_and_no_other_is_touched(container: Container) -> None:
    await container.objects.put("other", b"two")
    before = await stored_bytes(container.reading)
    await container.objects.put("o", b"x" * 300_000)

    await container.objects.delete("o")
    await container.objects.delete("o")

    assert await stored_bytes(container.reading) == before
    with pytest.raises(NotFound):
        await object_bytes(container, "o")
    assert await object_bytes(container, "other") == b"two"


async def test_what_a_client_of_nats_deleted_is_not_found_and_stops_nothing(container: Container) -> None:
    """Such a client leaves a description without an instant."""
    await container.objects.put("a.b.1", b"x" * 300_000)
    await container.objects.put("a.b.2", b"two")
    store = await container.reading.client.jetstream().object_store(results.BUCKET)
    await store.delete("a.b.1")

    with pytest.raises(NotFound):
        await object_bytes(container, "a.b.1")
    assert {found.name for found in await container.objects.descriptions(0, 10)} == {"a.b.1", "a.b.2"}
    await ResultSweeper(container).run_once(utc_now() + timedelta(hours=2))
    assert await container.objects.descriptions(0, 10) == []


async def test_an_object_that_the_store_has_no_space_for_leaves_nothing(container: Container, nats: NatsServer) -> None:
    await limit_store(nats, 3, container.reading, container.storing)

    with pytest.raises(StoreUnavailable):
        await container.objects.put("o", b"x" * 5_000_000)

    assert await stored_bytes(container.reading) == 0


async def test_objects_that_fit_are_stored_though_more_try_at_the_same_time(
    container: Container, nats: NatsServer
) -> None:
    """Without turns, each takes space that another needs: all fail, again and again, though there is space."""
    await limit_store(nats, 6, container.reading, container.storing)

    async def put_all() -> list[BaseException | None]:
        puts = (container.objects.put(f"o{unique_id()}", b"x" * 1_900_000) for _ in range(8))
        return await asyncio.gather(*puts, return_exceptions=True)

    outcomes = [*await put_all(), *await put_all()]

    assert all(isinstance(outcome, StoreFull) for outcome in outcomes if outcome is not None)
    assert len(await container.objects.descriptions(0, 20)) == outcomes.count(None) == 3


async def test_an_object_that_never_was_is_not_found(container: Container) -> None:
    with pytest.raises(NotFound):
        await object_bytes(container, "never")


async def test_an_object_outlives_a_kill(container: Container, nats: NatsServer) -> None:
    data = os.urandom(1_000_000)
    await container.objects.put("o", data)

    await restart(nats, container.reading, container.storing)

    assert await object_bytes(container, "o") == data


async def test_an_object_whose_parts_are_gone_is_unavailable_and_not_waited_for(container: Container) -> None:
    await container.objects.put("o", b"x" * 300_000)
    await api(container.reading, "STREAM.PURGE.OBJ_results", {"filter": "$O.results.C.>"})

    with pytest.raises(StoreUnavailable, match="0 of the 300000 missing bytes"):
        await object_bytes(container, "o")


async def test_without_nats_objects_are_unavailable(container: Container, nats: NatsServer) -> None:
    await container.objects.put("o", b"one")
    await end(nats, container.reading, container.storing)

    with pytest.raises(StoreUnavailable):
        await object_bytes(container, "o")
    with pytest.raises(StoreUnavailable):
        await container.objects.put("p", b"two")


async def test_storing_300_mb_from_a_stream_holds_a_part_and_a_chunk(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in bytes held, with a store that keeps nothing."""
    published: list[int] = []

    async def drop(_: str, data: bytes, __: object = None) -> None:
        published.append(len(data))

    async def any_size(_: int) -> None:
        return None

    async def megabytes() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield bytes(1_000_000)

    files = container.files.objects
    monkeypatch.setattr(files, "_publish", drop)
    tracemalloc.start()
    try:
        put = await files.put_stream("big", megabytes(), any_size)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert put.size_bytes == 300_000_000
    assert len(published) == -(-300_000_000 // objects.PART_BYTES) + 2
    assert max(published) == objects.PART_BYTES
    assert most < 4_000_000


async def test_reads_hold_a_bounded_number_of_bytes(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    read_parts = objects.read

    async def counted(*given: Any) -> list[Position]:
        held.append(container.objects.turns.taken)
        return await read_parts(*given)

    monkeypatch.setattr(objects, "read", counted)
    data = os.urandom(2_500_000)
    await container.objects.put("o", data)

    async def read_as(user: str) -> bytes:
        async with container.objects.opened("o", user) as parts:
            return b"".join([part async for part in parts])

    found = await asyncio.gather(*(read_as(user) for user in 8 * ("alice", "bob", "carol", "dave", "eve")))

    assert all(content == data for content in found)
    assert 1 < max(held) <= objects.WINDOWS_AT_ONCE
    assert container.objects.turns.taken == 0


async def test_a_client_that_reads_nothing_holds_no_turn(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "HELD_SECONDS", 0.05)
    data = os.urandom(2_500_000)
    await container.objects.put("o", data)

    async with container.objects.opened("o", "alice") as parts:
        first = await anext(parts)
        await wait_until(lambda: container.objects.turns.taken == 0, "the turn to end")
        rest = b"".join([part async for part in parts])

    assert first + rest == data
