"""The NATS of a data folder: one that runs is used, one that does not is started for as long as it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskstream.nats_server import folder as folders
from taskstream.nats_server.cluster import EmbeddedCluster
from taskstream.nats_server.folder import NoData, nats_of, url_of_running
from taskstream.nats_server.server import DataFolderInUse, EmbeddedNats, lock
from taskstream.streams.client.access import shown
from taskstream.streams.client.connection import open_connection


async def answers(url: str) -> bool:
    connection = await open_connection(url, "test")
    await connection.close()
    return True


@pytest.mark.parametrize("size", [1, 3])
async def test_one_that_runs_is_used_and_one_that_does_not_is_started(tmp_path: Path, size: int) -> None:
    service = EmbeddedNats(tmp_path) if size == 1 else EmbeddedCluster(tmp_path, size)
    async with service:
        async with nats_of(tmp_path) as url:
            assert url == url_of_running(tmp_path)
            assert await answers(url)
        assert await answers(url), "the service's own server goes on"

    async with nats_of(tmp_path) as url:
        assert shown(url).count("nats://") == size
        assert await answers(url)
        with pytest.raises(DataFolderInUse):
            await EmbeddedNats(tmp_path).start()
    lock(tmp_path).close()  # it is free


async def test_a_folder_without_data_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(NoData, match="--data-dir"):
        async with nats_of(tmp_path / "nowhere"):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_does_not_get_ready_is_said_to_be_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "READY_SECONDS", 0.0)
    (tmp_path / "nats").mkdir()
    with lock(tmp_path), pytest.raises(DataFolderInUse):
        async with nats_of(tmp_path):
            pass
