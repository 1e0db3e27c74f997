"""A refused source of a stream is renewed at once, from a given sequence."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from taskstream.errors import StoreError
from taskstream.settings import Settings
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import last_sequence
from taskstream.streams.topology.definitions import DISPATCH, RETRIES, TASKS, configurations
from taskstream.streams.topology.ensure import ensure_streams
from taskstream.streams.topology.sources import find_stalled, raise_floor, restart_stalled
from taskstream.workers.dispatch.sourcing import LoneSourcing
from testkit.nats import NatsServer
from testkit.outage import restart
from testkit.waiting import wait_until

SETTINGS = Settings()
SOONER_THAN_NATS_SECONDS = 8.0
"""nats-server asks again by itself 10 s after it was refused."""
WANTED = {config["name"]: config for config in configurations(SETTINGS)}


async def submit(connection: Connection, *names: str) -> None:
    for name in names:
        await connection.request(f"task.alice.{name}.submitted.default.normal", b"{}")


async def queued_to_be(connection: Connection, count: int) -> None:
    async def look() -> bool:
        return bool((await api(connection, f"STREAM.INFO.{DISPATCH}"))["state"]["messages"] == count)

    await wait_until(look, f"{count} messages in the queue", SOONER_THAN_NATS_SECONDS)


async def is_queued(connection: Connection, name: str) -> bool:
    return await last_sequence(connection, DISPATCH, f"dispatch.default.normal.alice.{name}") > 0


async def refused(connection: Connection) -> None:
    """Have DISPATCH ask for streams before they are there, as a server does that restores them in any order."""
    await api(connection, f"STREAM.CREATE.{DISPATCH}", WANTED[DISPATCH])

    async def look() -> bool:
        return (await find_stalled(connection, SETTINGS)).streams == [RETRIES, TASKS]

    await wait_until(look, "every source to be refused")


async def from_the_beginning() -> dict[str, int]:
    return {TASKS: 1, RETRIES: 1}


async def floors(connection: Connection) -> list[int | None]:
    config = (await api(connection, f"STREAM.INFO.{DISPATCH}"))["config"]
    return [source.get("opt_start_seq") for source in config["sources"]]


async def take_sources_out(connection: Connection) -> None:
    config = (await api(connection, f"STREAM.INFO.{DISPATCH}"))["config"]
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", config | {"sources": []})


async def drain(connection: Connection) -> None:
    """Pass three tasks through the queue, and raise the floor of its sources to the second."""
    await ensure_streams(connection, SETTINGS)
    await submit(connection, "a", "b", "c")
    await queued_to_be(connection, 3)
    await api(connection, f"STREAM.PURGE.{DISPATCH}")
    await raise_floor(connection, 2)


async def test_what_was_refused_is_fed_at_once(connection: Connection) -> None:
    await refused(connection)
    await ensure_streams(connection, SETTINGS)
    await submit(connection, "a")

    async with asyncio.timeout(SOONER_THAN_NATS_SECONDS):
        assert (await LoneSourcing(connection, SETTINGS, from_the_beginning).run_once())["renewed"]
        await queued_to_be(connection, 1)

    assert not (await LoneSourcing(connection, SETTINGS, from_the_beginning).run_once())["renewed"]


async def test_nothing_is_done_while_a_stream_is_not_there(connection: Connection) -> None:
    await refused(connection)

    with pytest.raises(StoreError, match="stream not found"):
        (await LoneSourcing(connection, SETTINGS, from_the_beginning).run_once())["renewed"]

    assert (await find_stalled(connection, SETTINGS)).streams == [RETRIES, TASKS]


async def test_a_source_begins_where_it_is_told_and_its_floor_is_as_before(connection: Connection) -> None:
    await drain(connection)
    seen = await find_stalled(connection, SETTINGS)
    await take_sources_out(connection)
    await submit(connection, "d")

    await restart_stalled(connection, replace(seen, idle=seen.sources), {TASKS: 4, RETRIES: 1})
    await submit(connection, "e")

    await queued_to_be(connection, 2)
    assert await floors(connection) == [2, 2, None]


@pytest.mark.parametrize("gently", [True, False], ids=["ended", "killed"])
async def test_who_is_killed_in_between_leaves_what_the_next_start_mends(
    nats: NatsServer, connection: Connection, gently: bool
) -> None:
    await drain(connection)
    await take_sources_out(connection)
    assert not await raise_floor(connection, 2)
    await restart(nats, connection, gently=gently)

    await ensure_streams(connection, SETTINGS)
    await submit(connection, "d")

    await wait_until(lambda: is_queued(connection, "d"), "the last to be queued", SOONER_THAN_NATS_SECONDS)
    assert not (await find_stalled(connection, SETTINGS)).idle


async def test_one_who_comes_late_loses_nothing(connection: Connection) -> None:
    await refused(connection)
    await ensure_streams(connection, SETTINGS)
    await submit(connection, "a", "b", "c")
    seen = await find_stalled(connection, SETTINGS)
    await restart_stalled(connection, seen, {TASKS: 1, RETRIES: 1})
    await queued_to_be(connection, 3)

    await restart_stalled(connection, seen, {TASKS: 3, RETRIES: 1})
    await submit(connection, "d")

    await wait_until(lambda: is_queued(connection, "d"), "the last to be queued", SOONER_THAN_NATS_SECONDS)
