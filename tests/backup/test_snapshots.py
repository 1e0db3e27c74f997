"""Snapshots of streams, on a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from taskstream.backup.backup import back_up
from taskstream.backup.restore import restore
from taskstream.backup.snapshots import Snapshot, restore_snapshot, take_snapshot
from taskstream.container import Container, open_container
from taskstream.nats_server.cluster import EmbeddedCluster
from taskstream.streams.client.connection import Connection, NoResponders, open_connection
from taskstream.streams.jetstream.api import ApiError, api, find_stream
from taskstream.streams.topology.definitions import TASKS
from testkit.histories import claim, give, ref, submission, success, whole_log
from testkit.nats import NatsServer
from testkit.service import quick_settings

BODY = b"x" * 2_000


async def append(connection: Connection, count: int) -> None:
    await asyncio.gather(*(connection.request(f"task.a.{n}.submitted.default.normal", BODY) for n in range(count)))


def silent(name: str, done: int, whole: int) -> None:
    """Show no progress."""


async def test_what_was_there_comes_back_at_its_sequences_and_the_stream_goes_on_meanwhile(
    container: Container, tmp_path: Path
) -> None:
    await append(container.appending, 500)
    writing = asyncio.create_task(append(container.appending, 1_000))
    parts: list[bytes] = []

    snapshot = await take_snapshot(container.reading, TASKS, parts.append)

    await writing
    assert 500 <= snapshot.state["last_seq"] <= 1_500
    assert snapshot.state["messages"] == snapshot.state["last_seq"]
    other = NatsServer(tmp_path / "other")
    other.start()
    connection = await open_connection(other.url, "test")
    try:
        state = await restore_snapshot(connection, snapshot, parts)
        assert {key: state[key] for key in ("messages", "first_seq", "last_seq")} == {
            key: snapshot.state[key] for key in ("messages", "first_seq", "last_seq")
        }
        original = await whole_log(container.reading)
        assert await whole_log(connection) == original[: snapshot.state["last_seq"]]
    finally:
        await connection.close()
        other.stop()


async def test_a_stream_that_is_there_is_not_overwritten(container: Container) -> None:
    parts: list[bytes] = []
    snapshot = await take_snapshot(container.reading, TASKS, parts.append)
    with pytest.raises(ApiError, match="already in use"):
        await restore_snapshot(container.appending, snapshot, parts)


async def test_of_a_restore_that_breaks_off_nats_keeps_a_part(container: Container) -> None:
    """So a stream must be closed while it is restored. Should NATS mend that, this fails, and life is easier."""
    await append(container.appending, 1_500)
    parts: list[bytes] = []
    snapshot = await take_snapshot(container.reading, TASKS, parts.append)
    whole = b"".join(parts)

    def half() -> Iterator[bytes]:
        yield whole[: len(whole) // 2]
        raise InterruptedError

    await api(container.appending, f"STREAM.DELETE.{TASKS}")
    closed = snapshot.config | {"subjects": ["restoring.TASKS"]}
    with pytest.raises(InterruptedError):
        await restore_snapshot(container.appending, Snapshot(config=closed, state=snapshot.state), half())
    left = await find_stream(container.appending, TASKS)
    assert left is not None
    assert 0 < left["state"]["messages"] < 1_500
    with pytest.raises(NoResponders):
        await append(container.appending, 1)


async def test_a_chunk_that_nobody_has_heard_yet_is_sent_again(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cluster, where the client's server hears of the restoring one's subscription a moment later."""
    await append(container.appending, 10)
    parts: list[bytes] = []
    snapshot = await take_snapshot(container.reading, TASKS, parts.append)
    await api(container.appending, f"STREAM.DELETE.{TASKS}")
    unheard = 3
    request = Connection.request

    async def heard_later(self: Connection, subject: str, *given: Any, **named: Any) -> Msg:
        nonlocal unheard
        if "RESTORE." in subject and "API" not in subject and unheard:
            unheard -= 1
            raise NoResponders(subject)
        return await request(self, subject, *given, **named)

    monkeypatch.setattr(Connection, "request", heard_later)
    state = await restore_snapshot(container.appending, snapshot, parts)
    assert (unheard, state["messages"]) == (0, 10)


async def test_one_server_s_backup_goes_into_a_cluster_and_back(container: Container, tmp_path: Path) -> None:
    await give(container.commands, ref(1), submission(), claim(), success())
    await give(container.commands, ref(2), submission())
    original = await whole_log(container.reading)
    of_one, of_three = tmp_path / "of-one", tmp_path / "of-three"
    await back_up(container.reading, of_one, silent)
    async with EmbeddedCluster(tmp_path / "cluster", 3) as cluster:
        three = quick_settings(nats_url=cluster.url, replicas=3)
        await restore(of_one, three, silent, again=False)
        async with await open_container(three, cluster.url) as there:
            info = await find_stream(there.reading, TASKS)
            assert info is not None
            assert info["config"]["num_replicas"] == 3
            assert await whole_log(there.reading) == original
            await give(there.commands, ref(2), claim())
            changed = await whole_log(there.reading)
            await back_up(there.reading, of_three, silent)
    one = NatsServer(tmp_path / "one")
    one.start()
    try:
        alone = quick_settings(nats_url=one.url)
        await restore(of_three, alone, silent, again=False)
        async with await open_container(alone, one.url) as there:
            info = await find_stream(there.reading, TASKS)
            assert info is not None
            assert info["config"]["num_replicas"] == 1
            assert await whole_log(there.reading) == changed
    finally:
        one.stop()
