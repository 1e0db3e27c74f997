"""Snapshots of the index: a new process starts from one, and from nothing that is damaged or foreign."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from taskstream.index import snapshots
from taskstream.index.indexer import Indexer
from taskstream.index.snapshots import STREAM, IndexSnapshots
from taskstream.streams.jetstream.api import api as call
from taskstream.streams.jetstream.messages import list_subjects, read
from taskstream.streams.topology.epochs import read_extent
from testkit.histories import claim, give, ref, submission, success
from testkit.service import Service, running_service
from testkit.traffic import counted


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PAUSE_SECONDS", 0.0)


@pytest.fixture
async def first(nats_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """An API with a few tasks, in a log whose beginning can be told from its end."""
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "first")) as service:
        for number in range(40):
            await give(service.container.commands, ref(number), submission(), claim(), success())
        await service.container.indexer.current()
        yield service


async def rows(service: Service) -> list[tuple[Any, ...]]:
    def read(connection: Any) -> list[tuple[Any, ...]]:
        return connection.execute("SELECT unique_token, sequence FROM tasks ORDER BY 1").fetchall()  # type: ignore[no-any-return]

    return await service.container.index.run(read, "u")


async def test_a_new_process_starts_from_a_snapshot_and_reads_only_the_tail(
    first: Service, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await first.container.indexer.store_snapshot()
    await give(first.container.commands, ref(99), submission())
    folded: list[int] = []
    fold = Indexer._fold

    async def counting(self: Indexer, index: Any, positions: Any) -> None:
        folded.extend(position.sequence for position in positions if position.sequence > index.position)
        await fold(self, index, positions)

    monkeypatch.setattr(Indexer, "_fold", counting)
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "second")) as second:
        assert await rows(second) == await rows(first)
        assert set(folded) == {121}


def first_byte_changed(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def cut(data: bytes) -> bytes:
    return data[:-10]


def longer(data: bytes) -> bytes:
    return data + b"more"


@pytest.mark.parametrize("damage", [first_byte_changed, cut, longer], ids=lambda damage: str(damage.__name__))
async def test_a_damaged_snapshot_is_ignored(
    first: Service, nats_url: str, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    connection = first.container.storing
    await first.container.indexer.store_snapshot()
    *_, last = await read(connection, STREAM, "$O.index.C.>")
    await call(connection, f"STREAM.MSG.DELETE.{STREAM}", {"seq": last.sequence})
    await connection.request(last.subject, damage(last.data))

    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "second")) as second:
        assert await rows(second) == await rows(first)
    assert [path.name for path in (tmp_path / "second").glob("*.partial*")] == []


@pytest.mark.parametrize(
    "name",
    [
        "999999-{epoch}-{sequence}",
        "{format}-00000000-{sequence}",
        "{format}-{epoch}-999999999",
        "nonsense",
        "1-2-3-4",
        "{format}-{epoch}-119",
    ],
    ids=["another-format", "another-log", "ahead-of-the-log", "nonsense", "too-many-parts", "without-its-size"],
)
async def test_a_snapshot_of_something_else_is_ignored(
    first: Service, nats_url: str, tmp_path: Path, name: str
) -> None:
    connection = first.container.storing
    await first.container.indexer.store_snapshot()
    (stored,) = await read(connection, STREAM, "$O.index.M.>")
    epoch = (await read_extent(connection)).epochs[-1].id
    told = msgspec.json.decode(stored.data)
    told["name"] = name.format(format=snapshots.FORMAT, epoch=epoch, sequence=120)
    if name.endswith("119"):
        told["metadata"] = {}
    await call(connection, f"STREAM.PURGE.{STREAM}", {"filter": stored.subject})
    subject = f"$O.index.M.{base64.urlsafe_b64encode(told['name'].encode()).decode()}"
    await connection.request(subject, msgspec.json.encode(told))

    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "second")) as second:
        assert await rows(second) == await rows(first)


async def test_a_snapshot_that_unpacks_to_more_than_it_says_is_given_up(first: Service, tmp_path: Path) -> None:
    connection = first.container.storing
    await first.container.indexer.store_snapshot()
    (snapshot,) = await IndexSnapshots(connection).listed()

    with pytest.raises(snapshots.FileUnusable, match="longer than it says"):
        await IndexSnapshots(connection).load(snapshot._replace(file_bytes=1_000), tmp_path / "loaded")
    assert list(tmp_path.glob("loaded*")) == []


async def test_two_snapshots_are_kept_and_nothing_of_a_broken_one(first: Service) -> None:
    connection = first.container.storing
    await connection.request("$O.index.C.left-by-a-crash", b"part")
    for number in range(100, 103):
        await give(first.container.commands, ref(number), submission())
        await first.container.indexer.current()
        await first.container.indexer.store_snapshot()

    assert [snapshot.sequence for snapshot in await IndexSnapshots(connection).listed()] == [123, 122]
    assert len(await list_subjects(connection, STREAM, "$O.index.>")) == 4


async def test_one_process_makes_the_snapshot(
    first: Service, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "LEAST_EVENTS", 100)
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "second")) as second:
        await second.container.indexer.current()
        made = [await service.container.indexer.snapshot_if_due() for service in (first, second, first, second)]
    assert made == [True, False, False, False]


async def test_no_snapshot_is_stored_while_space_is_short(first: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LEAST_EVENTS", 100)
    monkeypatch.setattr(first.container.indexer, "_may_store", lambda: False)
    with counted(first.container.storing) as traffic:
        assert not await first.container.indexer.snapshot_if_due()
    assert traffic.of("$O.index") == 0
