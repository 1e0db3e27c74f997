"""Streams and consumers: made where missing, left where right, refused where wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from taskstream.errors import TopologyMismatch
from taskstream.settings import Settings
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import (
    DISPATCH,
    SERVERS,
    TASKS,
    TIMERS,
    due_consumer,
    pool_consumer,
    streams,
)
from taskstream.streams.topology.ensure import ensure_consumer, ensure_streams
from taskstream.streams.topology.epochs import EPOCHS, Epoch, read_extent
from testkit.nats import NatsServer

SETTINGS = Settings()


async def configs(connection: Connection) -> dict[str, dict[str, Any]]:
    answer = await api(connection, "STREAM.LIST")
    return {entry["config"]["name"]: entry["config"] for entry in answer["streams"]}


async def test_making_them_again_changes_nothing(connection: Connection) -> None:
    await ensure_streams(connection, SETTINGS)
    before = await configs(connection)
    await connection.request("task.a.b.noted", b"x")

    await ensure_streams(connection, SETTINGS)

    assert await configs(connection) == before
    assert (await api(connection, f"STREAM.INFO.{TASKS}"))["state"]["messages"] == 1


async def test_several_may_make_them_side_by_side(connection: Connection, nats_url: str) -> None:
    others = [await open_connection(nats_url, "test") for _ in range(3)]

    await asyncio.gather(*(ensure_streams(one, SETTINGS) for one in [connection, *others] * 2))

    assert set(await configs(connection)) == {wanted["name"] for wanted in streams(SETTINGS)}
    for one in others:
        await one.close()


async def test_a_log_has_one_epoch_however_many_processes_create_it(connection: Connection, nats_url: str) -> None:
    others = [await open_connection(nats_url, "test") for _ in range(3)]

    async def epochs_seen_by(one: Connection) -> tuple[Epoch, ...]:
        await ensure_streams(one, SETTINGS)
        return (await read_extent(one)).epochs

    [seen] = set(await asyncio.gather(*(epochs_seen_by(one) for one in [connection, *others])))

    assert [epoch.first for epoch in seen] == [1]
    for one in others:
        await one.close()


async def test_each_new_log_has_an_epoch_of_its_own(connection: Connection) -> None:
    found = set()
    for _ in range(3):
        await ensure_streams(connection, SETTINGS)
        found.add((await read_extent(connection)).epochs)
        await api(connection, f"STREAM.DELETE.{TASKS}")

    assert len(found) == 3


async def test_a_log_of_an_older_version_gets_the_epoch_that_it_is_taken_to_have(nats: NatsServer) -> None:
    """Every process names the same one, before it is stored and after a restart of NATS."""
    connection = await open_connection(nats.url, "test")
    [wanted] = [wanted for wanted in streams(SETTINGS) if wanted["name"] == TASKS]
    await api(connection, f"STREAM.CREATE.{TASKS}", wanted)
    before = await read_extent(connection)
    await connection.close()
    nats.stop()
    nats.start()
    connection = await open_connection(nats.url, "test")
    assert await read_extent(connection) == before

    await ensure_streams(connection, SETTINGS)

    assert (await configs(connection))[TASKS]["metadata"][EPOCHS] == str(before.epochs[0])
    assert await read_extent(connection) == before
    await ensure_streams(connection, Settings(task_retention=86_400.0))
    assert await read_extent(connection) == before
    await connection.close()


async def test_what_may_be_tuned_is_updated_and_keeps_what_is_stored(connection: Connection) -> None:
    await ensure_streams(connection, SETTINGS)
    await connection.request("task.a.b.noted", b"x")

    await ensure_streams(connection, Settings(task_retention=86_400.0, server_retention=172_800.0))

    found = await configs(connection)
    day = 86_400 * 10**9
    assert [found[name]["max_age"] for name in (TASKS, SERVERS, "KV_tasks", "OBJ_results")] == [day, 2 * day, day, day]
    assert (await api(connection, f"STREAM.INFO.{TASKS}"))["state"]["messages"] == 1
    await ensure_streams(connection, SETTINGS)
    assert (await configs(connection))[TASKS]["max_age"] == 0


async def test_the_subjects_of_an_older_version_are_added_to_and_what_is_stored_is_kept(connection: Connection) -> None:
    [wanted] = [wanted for wanted in streams(SETTINGS) if wanted["name"] == SERVERS]
    await api(connection, f"STREAM.CREATE.{SERVERS}", {**wanted, "subjects": ["server.>", "type.>"]})
    await connection.request("server.a.noted", b"x")

    await ensure_streams(connection, SETTINGS)
    await connection.request("pool.a.noted", b"x")

    assert (await configs(connection))[SERVERS]["subjects"] == ["server.>", "type.>", "pool.>", "owner.>"]
    assert (await api(connection, f"STREAM.INFO.{SERVERS}"))["state"]["messages"] == 2


async def test_sources_that_are_missing_are_put_back(connection: Connection) -> None:
    """The process that was recreating them was killed."""
    await ensure_streams(connection, SETTINGS)
    wanted = (await configs(connection))[DISPATCH]
    await api(connection, f"STREAM.UPDATE.{DISPATCH}", wanted | {"sources": wanted["sources"][2:]})

    await ensure_streams(connection, SETTINGS)

    assert (await configs(connection))[DISPATCH]["sources"] == wanted["sources"]


async def test_subjects_that_a_newer_version_has_added_are_left(connection: Connection) -> None:
    [wanted] = [wanted for wanted in streams(SETTINGS) if wanted["name"] == SERVERS]
    await api(connection, f"STREAM.CREATE.{SERVERS}", {**wanted, "subjects": [*wanted["subjects"], "region.>"]})

    await ensure_streams(connection, SETTINGS)

    assert (await configs(connection))[SERVERS]["subjects"] == [*wanted["subjects"], "region.>"]


@pytest.mark.parametrize("before", [0.0, 30.0, 86_400.0])
async def test_a_short_retention_can_be_set_at_first_and_later(connection: Connection, before: float) -> None:
    short = Settings(task_retention=30.0, server_retention=30.0)
    await ensure_streams(connection, Settings(task_retention=before))
    await ensure_streams(connection, short)
    await ensure_streams(connection, short)

    assert (await configs(connection))[TASKS]["max_age"] == 30 * 10**9


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (TASKS, "subjects", ["other.>"]),
        (SERVERS, "subjects", ["server.>", "other.>"]),
        (TASKS, "discard", "old"),
        (TASKS, "allow_atomic", False),
        (TIMERS, "retention", "limits"),
        (DISPATCH, "persist_mode", "default"),
        (DISPATCH, "sources", [{"name": TASKS}]),
        ("KV_leases", "max_msgs_per_subject", 5),
        ("KV_leases", "storage", "memory"),
    ],
)
async def test_a_stream_that_is_not_as_needed_is_refused_by_name_and_field(
    connection: Connection, name: str, field: str, value: object
) -> None:
    [wanted] = [wanted for wanted in streams(SETTINGS) if wanted["name"] == name]
    await api(connection, f"STREAM.CREATE.{name}", {**wanted, field: value})
    before = await configs(connection)

    with pytest.raises(TopologyMismatch, match=f"{name}: `{field}` is .* and must be") as caught:
        await ensure_streams(connection, SETTINGS)

    assert (caught.value.name, caught.value.field) == (name, field)
    assert (await configs(connection))[name] == before[name]


async def test_a_stream_somebody_gave_more_limits_is_left_as_it_is(connection: Connection) -> None:
    await ensure_streams(connection, SETTINGS)
    found = (await configs(connection))[TASKS]
    await api(connection, f"STREAM.UPDATE.{TASKS}", {**found, "max_bytes": 10**9, "description": "ours"})

    await ensure_streams(connection, SETTINGS)

    after = (await configs(connection))[TASKS]
    assert (after["max_bytes"], after["description"]) == (10**9, "ours")


@pytest.mark.parametrize("wanted", [due_consumer(SETTINGS), pool_consumer("default", "high", SETTINGS)])
async def test_a_consumer_is_made_once_and_brought_to_what_is_wanted(
    connection: Connection, wanted: dict[str, Any]
) -> None:
    await ensure_streams(connection, SETTINGS)
    stream = TIMERS if wanted["durable_name"] == "due-timers" else DISPATCH
    await asyncio.gather(*(ensure_consumer(connection, stream, wanted) for _ in range(4)))
    await ensure_consumer(connection, stream, {**wanted, "ack_wait": 7 * 10**9})

    found = (await api(connection, f"CONSUMER.INFO.{stream}.{wanted['durable_name']}"))["config"]

    assert found["ack_wait"] == 7 * 10**9
    assert {field: found.get(field) for field in ("ack_policy", "max_deliver")} == {
        "ack_policy": "explicit",
        "max_deliver": -1,
    }
    assert len((await api(connection, f"CONSUMER.NAMES.{stream}"))["consumers"]) == 1


async def test_consumers_of_different_pools_and_priorities_get_along(connection: Connection) -> None:
    await ensure_streams(connection, SETTINGS)
    for pool in ("default", "gpu"):
        for priority in ("high", "normal", "low"):
            await ensure_consumer(connection, DISPATCH, pool_consumer(pool, priority, SETTINGS))

    assert len((await api(connection, f"CONSUMER.NAMES.{DISPATCH}"))["consumers"]) == 6


async def test_a_new_consumer_on_a_stream_that_had_messages_is_made_once(connection: Connection) -> None:
    await ensure_streams(connection, SETTINGS)
    await connection.request("due.check.one", b"")
    await api(connection, f"STREAM.PURGE.{TIMERS}")

    with structlog.testing.capture_logs() as lines:
        await ensure_consumer(connection, TIMERS, due_consumer(SETTINGS))

    assert lines == []
