"""The cluster we run ourselves: one JetStream of several servers, on one folder."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from taskstream.nats_server.cluster import PLAN, EmbeddedCluster, read_plan
from taskstream.nats_server.server import DataFolderInUse, EmbeddedNats, EmbeddedNatsError, OtherNumberOfNodes
from taskstream.settings import InvalidSettings, Settings
from taskstream.streams.client.access import for_embedded, shown
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.startup_retry import StartupRetry, leader_elected

KEPT = {"name": "KEPT", "subjects": ["kept"], "num_replicas": 3}


async def connected(cluster: EmbeddedCluster) -> Connection:
    connection = await open_connection(cluster.url, "test")
    await leader_elected(connection, StartupRetry())
    return connection


async def test_it_is_one_jetstream_and_keeps_what_it_has_and_where_it_is(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, 3) as cluster:
        addresses = shown(cluster.url)
        connection = await connected(cluster)
        await StartupRetry().wait("three servers", lambda: api(connection, "STREAM.CREATE.KEPT", KEPT))
        await connection.request("kept", b"still here")
        await connection.close()
        assert stat.S_IMODE((tmp_path / PLAN).stat().st_mode) == 0o600

    async with EmbeddedCluster(tmp_path, 3) as cluster:
        assert shown(cluster.url) == addresses
        connection = await connected(cluster)
        info = await StartupRetry().wait("the stream", lambda: api(connection, "STREAM.INFO.KEPT"))
        assert info["state"]["messages"] == 1
        assert {info["cluster"]["leader"], *(replica["name"] for replica in info["cluster"]["replicas"])} == {
            "node-1",
            "node-2",
            "node-3",
        }
        await connection.close()
    assert all(node.pid is None for node in cluster.nodes)


async def test_a_port_that_somebody_else_has_taken_is_replaced(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, 3) as first:
        pass
    before = read_plan(tmp_path / PLAN)
    assert before is not None
    with socket.create_server(("127.0.0.1", before.ports[1].client)):
        async with EmbeddedCluster(tmp_path, 3) as second:
            after = read_plan(tmp_path / PLAN)
    assert after is not None
    assert after.ports[1].client != before.ports[1].client
    assert (after.ports[0], after.ports[2], after.ports[1].route) == (
        before.ports[0],
        before.ports[2],
        before.ports[1].route,
    )
    assert after.password != before.password
    assert first.url.split("@")[0] != second.url.split("@")[0]


async def test_nobody_joins_without_the_password(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, 3):
        plan = read_plan(tmp_path / PLAN)
        assert plan is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", plan.ports[0].route)
        await reader.readline()
        writer.write(b'CONNECT {"name":"stranger","cluster":"taskstream","verbose":false}\r\nPING\r\n')
        said = await asyncio.wait_for(reader.read(), 60)
        assert b"Authorization Violation" in said
        writer.close()


async def test_a_server_that_is_killed_comes_back_to_the_same_place(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, 3) as cluster:
        node = cluster.nodes[0]
        url, pid = node.url, node.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(node.exited.wait(), 60)

        await node.start()

        assert node.url == url
        assert node.pid not in (None, pid)


async def test_two_on_one_folder_are_refused_alone_or_not(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, 3):
        with pytest.raises(DataFolderInUse):
            await EmbeddedCluster(tmp_path, 3).start()
        with pytest.raises(DataFolderInUse):
            await EmbeddedNats(tmp_path).start()


async def test_the_store_of_another_number_of_servers_is_refused(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path / "one"):
        pass
    with pytest.raises(OtherNumberOfNodes, match=r"made with `--cluster 1`.*: start with `--cluster 1`"):
        await EmbeddedCluster(tmp_path / "one", 3).start()
    assert not (tmp_path / "one" / PLAN).exists()
    async with EmbeddedCluster(tmp_path / "three", 3):
        pass
    with pytest.raises(OtherNumberOfNodes, match="--cluster 3"):
        await EmbeddedCluster(tmp_path / "three", 5).start()


async def test_a_damaged_plan_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / PLAN).write_bytes(msgspec.json.encode({"ports": 3}))
    with pytest.raises(EmbeddedNatsError, match=r"cluster\.json is damaged"):
        await EmbeddedCluster(tmp_path, 3).start()


# Settings


@pytest.mark.parametrize(("given", "replicas"), [((1, 1), 1), ((3, 1), 3), ((3, 3), 3), ((5, 1), 3), ((5, 5), 5)])
def test_a_cluster_keeps_three_copies_or_more(given: tuple[int, int], replicas: int) -> None:
    cluster, asked = given
    assert for_embedded(Settings(cluster=cluster, replicas=asked)).replicas == replicas  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Settings(replicas=3), "--cluster"),
        (Settings(cluster=3, replicas=5), "--cluster is 3"),
        (Settings(nats_ca="ca.pem"), "TASKSTREAM_NATS_CA"),
        (Settings(nats_creds="user.creds"), "TASKSTREAM_NATS_CREDS"),
        (Settings(nats_placement_tags=("ssd",)), "TASKSTREAM_NATS_PLACEMENT_TAGS"),
    ],
)
def test_what_only_another_nats_could_do_is_refused(settings: Settings, named: str) -> None:
    with pytest.raises(InvalidSettings, match=named):
        for_embedded(settings)
