"""The password of an embedded nats-server: who cannot read the data folder can do nothing with the log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from taskstream.nats_server.cluster import EmbeddedCluster
from taskstream.nats_server.config import USER
from taskstream.nats_server.folder import url_of_running
from taskstream.nats_server.server import CONFIG_FILE, LOG_FILE, PASSWORD_FILE, EmbeddedNats
from taskstream.settings import load
from taskstream.streams.client.access import Access
from taskstream.streams.client.connection import open_connection
from taskstream.streams.client.connection_errors import AccessRefused
from taskstream.streams.jetstream.api import api
from testkit.waiting import wait_until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def refused(address: str, access: Access) -> str:
    with pytest.raises(AccessRefused) as error:
        await open_connection(address, "test", access)
    return str(error.value)


async def test_without_the_password_a_client_is_refused(tmp_path: Path) -> None:
    """docs/guarantees.md: who cannot read the data folder reads, forges and deletes nothing."""
    async with EmbeddedNats(tmp_path) as server:
        for access in (Access(), Access(user=USER, password="guessed"), Access(user="admin", password="")):
            await refused(server.address, access)
        await refused(server.address, Access(token="guessed"))


async def test_the_file_in_the_folder_lets_its_owner_in(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        by_hand = load(
            {"TASKSTREAM_NATS_USER": "taskstream", "TASKSTREAM_NATS_PASSWORD_FILE": str(tmp_path / PASSWORD_FILE)}
        )

        connection = await open_connection(server.address, "test", Access.from_settings(by_hand))

        assert (await api(connection, "INFO"))["limits"]
        await connection.close()
        assert url_of_running(tmp_path) == server.url


async def test_password_files_are_private_whatever_was_there(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    data = tmp_path / "data"
    data.mkdir()
    (data / PASSWORD_FILE).symlink_to(elsewhere)
    (data / CONFIG_FILE).write_text("readable by all")
    (data / CONFIG_FILE).chmod(0o644)
    (data / f"{PASSWORD_FILE}.new").write_text("left by a kill")

    before = os.umask(0)
    try:
        async with EmbeddedNats(data):
            assert {mode(data / name) for name in (PASSWORD_FILE, CONFIG_FILE, LOG_FILE)} == {0o600}
            password = (data / PASSWORD_FILE).read_text()
    finally:
        os.umask(before)

    assert len(password) >= 43  # 32 bytes
    assert elsewhere.read_text() == "untouched"
    assert password not in (data / LOG_FILE).read_text()
    holders = {path.name for path in data.rglob("*") if path.is_file() and password in path.read_text(errors="replace")}
    assert holders == {PASSWORD_FILE, CONFIG_FILE}


async def test_no_secret_is_in_arguments_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSTREAM_JWT_SECRET", "a secret of the service that is none of NATS' business")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of somebody else")
    monkeypatch.setenv("GOMEMLIMIT", "1GiB")
    async with EmbeddedNats(tmp_path) as server:
        process = Path(f"/proc/{server.pid}")
        password = (tmp_path / PASSWORD_FILE).read_text()
        assert password not in (process / "cmdline").read_text()
        assert (process / "environ").read_text() == "GOMEMLIMIT=1GiB\0"


async def test_the_server_has_no_monitoring_port(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        [ports] = tmp_path.glob("nats-server_*.ports")
        assert json.loads(ports.read_text()) == {"nats": [server.address]}


async def test_each_start_has_another_password_and_a_restart_of_the_child_none(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as first:
        old = first.url
        connection = await open_connection(first.url, "test")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.wait_for(first.exited.wait(), 60)

        await first.start()

        assert first.url == old
        await wait_until(lambda: connection.is_connected, "the client to come back with the same password")
        await connection.close()
    async with EmbeddedNats(tmp_path) as second:
        yesterdays = old.rpartition(":")[0].removeprefix(f"nats://{USER}:").rpartition("@")[0]
        assert yesterdays
        assert "refuses user" in await refused(second.address, Access(user=USER, password=yesterdays))


async def test_every_server_of_a_cluster_asks_for_the_same_password(tmp_path: Path) -> None:
    async with EmbeddedCluster(tmp_path, 3) as cluster:
        access = Access(user=USER, password=(tmp_path / PASSWORD_FILE).read_text())
        for node in cluster.nodes:
            await refused(node.address, Access())
            connection = await open_connection(node.address, "test", access)
            await connection.close()
        assert url_of_running(tmp_path) == cluster.url
        assert mode(tmp_path / PASSWORD_FILE) == 0o600
        configurations = [tmp_path / name / CONFIG_FILE for name in ("node-1", "node-2", "node-3")]
        assert [mode(path) for path in configurations] == [0o600] * 3
