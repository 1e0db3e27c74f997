"""Results too large for the log, in the object store."""

from __future__ import annotations

import os

import pytest

from taskstream.container import Container
from taskstream.errors import NotFound, StoreUnavailable
from taskstream.streams.jetstream.api import api
from testkit.nats import NatsServer
from testkit.outage import end, limit_store, restart
from testkit.stored import stored_bytes


@pytest.mark.parametrize("size", [0, 1, 1_000_000, 5_000_000, 32_000_000])
async def test_an_object_comes_back_as_it_was(container: Container, size: int) -> None:
    data = os.urandom(size)
    await container.objects.put("an object/of=any name", data)

    assert await container.objects.get("an object/of=any name") == data


async def test_a_deleted_object_leaves_nothing_and_no_other_is_touched(container: Container) -> None:
    await container.objects.put("other", b"two")
    before = await stored_bytes(container.reading)
    await container.objects.put("o", b"x" * 300_000)

    await container.objects.delete("o")
    await container.objects.delete("o")

    assert await stored_bytes(container.reading) == before
    with pytest.raises(NotFound):
        await container.objects.get("o")
    assert await container.objects.get("other") == b"two"


async def test_an_object_that_the_store_has_no_space_for_leaves_nothing(container: Container, nats: NatsServer) -> None:
    await limit_store(nats, 3, container.reading)

    with pytest.raises(StoreUnavailable):
        await container.objects.put("o", b"x" * 5_000_000)

    assert await stored_bytes(container.reading) == 0


async def test_an_object_that_never_was_is_not_found(container: Container) -> None:
    with pytest.raises(NotFound):
        await container.objects.get("never")


async def test_an_object_outlives_a_kill(container: Container, nats: NatsServer) -> None:
    data = os.urandom(1_000_000)
    await container.objects.put("o", data)

    await restart(nats, container.reading)

    assert await container.objects.get("o") == data


async def test_an_object_whose_parts_are_gone_is_unavailable_and_not_waited_for(container: Container) -> None:
    await container.objects.put("o", b"x" * 300_000)
    await api(container.reading, "STREAM.PURGE.OBJ_results", {"filter": "$O.results.C.>"})

    with pytest.raises(StoreUnavailable, match="0 of the 300000 bytes"):
        await container.objects.get("o")


async def test_without_nats_objects_are_unavailable(container: Container, nats: NatsServer) -> None:
    await container.objects.put("o", b"one")
    await end(nats, container.reading)

    with pytest.raises(StoreUnavailable):
        await container.objects.get("o")
    with pytest.raises(StoreUnavailable):
        await container.objects.put("p", b"two")
