"""The index of a running process: current, rebuilt when its file is lost, and never in the way of other requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from taskstream.container import Container
from taskstream.errors import IndexNotReady, QueryTooSlow
from taskstream.index import indexer, reader, task_index
from taskstream.index.schema import connect
from taskstream.index.views import decode
from taskstream.projections import task_view
from taskstream.projections.task_view import TaskView
from testkit.histories import claim, folded, give, ref, submission, success, wander, whole_log
from testkit.service import Service, running_service
from testkit.traffic import counted
from testkit.waiting import wait_until


@pytest.fixture
async def api(nats_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "index")) as service:
        yield service


async def rows(container: Container) -> list[tuple[Any, ...]]:
    return await container.index.run(
        lambda connection: connection.execute("SELECT unique_token, sequence FROM tasks ORDER BY 1").fetchall(), "u"
    )


async def views(container: Container) -> dict[int, TaskView]:
    found = await container.index.run(lambda connection: connection.execute("SELECT * FROM views").fetchall(), "u")
    return {key: decode(data) for key, data in found}


async def test_a_query_has_every_write_acknowledged_before_it(api: Service) -> None:
    for number in range(20):
        last = await give(api.container.commands, ref(number), submission())
        assert (await rows(api.container))[-1] == (ref(number).unique, last)
        last = await give(api.container.commands, ref(number), claim())
        assert (await rows(api.container))[-1] == (ref(number).unique, last)


async def test_requests_at_the_same_time_share_one_look_at_the_end_of_the_log(api: Service) -> None:
    await give(api.container.commands, ref(), submission())
    await rows(api.container)
    with counted(api.container.reading) as traffic:
        await asyncio.gather(*(api.container.indexer.current() for _ in range(50)))
    assert traffic.of("STREAM.INFO") == 1


async def test_rows_are_the_fold_of_a_log_of_random_commands(api: Service) -> None:
    commands = api.container.commands
    await wander(commands, [ref(number, owner) for number in range(6) for owner in ("a", "b")], 300, seed=1)
    log = folded(await whole_log(api.container.reading))
    wanted = [task_view.decode(value) for key, value in log.items() if key.startswith("task.")]

    assert await views(api.container) == {view.created_sequence: view for view in wanted}


async def test_a_restarted_process_finds_its_own_file(nats_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    async with running_service(nats_url, worker=False, index_dir=str(folder)) as first:
        await give(first.container.commands, ref(), submission(), claim(), success())
        async with running_service(nats_url, worker=False, index_dir=str(folder)) as second:
            assert await rows(first.container) == await rows(second.container)
            assert {path.name for path in folder.glob("*.sqlite")} == {"index-0.sqlite", "index-1.sqlite"}
    async with running_service(nats_url, worker=False, index_dir=str(folder)) as again:
        assert len(await rows(again.container)) == 1
        assert again.container.indexer.path == folder / "index-0.sqlite"
        assert again.container.indexer.rebuilds == 0


def corrupt(path: Path) -> None:
    path.write_bytes(b"not a database" * 1_000)


def of_another_format(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99999")


def of_another_log(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("UPDATE checkpoint SET event = 'other'")


def of_another_epoch(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("UPDATE checkpoint SET epoch = 'other'")


def ahead_of_the_log(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("UPDATE checkpoint SET sequence = 1000000")


def from_before_a_power_loss(path: Path) -> None:
    with closing(connect(path)) as connection:
        connection.execute("UPDATE checkpoint SET boot = 'another'")


@pytest.mark.parametrize(
    "spoil",
    [corrupt, of_another_format, of_another_log, of_another_epoch, ahead_of_the_log, from_before_a_power_loss],
    ids=lambda spoil: str(spoil.__name__),
)
async def test_an_unusable_file_is_built_again(nats_url: str, tmp_path: Path, spoil: Any) -> None:
    folder = tmp_path / "index"
    async with running_service(nats_url, worker=False, index_dir=str(folder)) as first:
        await give(first.container.commands, ref(), submission(), claim(), success())
        wanted = await rows(first.container)
    spoil(folder / "index-0.sqlite")
    async with running_service(nats_url, worker=False, index_dir=str(folder)) as again:
        assert await rows(again.container) == wanted
        assert again.container.indexer.rebuilds == 1


async def test_a_file_destroyed_while_the_service_runs_is_built_again(api: Service) -> None:
    await give(api.container.commands, ref(), submission())
    assert len(await rows(api.container)) == 1
    index = api.container.indexer
    with closing(connect(index.path)) as connection:  # type: ignore[arg-type]
        connection.execute("DROP TABLE views")
    await give(api.container.commands, ref(1), submission())

    await wait_until(lambda: index.rebuilds == 1, "the file to be discarded")
    with pytest.raises(IndexNotReady):
        await rows(api.container)
    assert (await api.alice.call("POST", "/api/task", {"type": "default", "payload": {}})).status == 200

    index.wake()
    await wait_until(lambda: index.path is not None, "a new file")
    assert len(await rows(api.container)) == 3


def lose(path: Path) -> None:
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()


def lose_the_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def lose_the_shared_memory(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def lose_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace(path: Path) -> None:
    """Put a copy in the place of the file, as whoever restores a backup does."""
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        for place in range(4_096, path.stat().st_size, 4_096):
            file.seek(place)
            file.write(bytes(range(64)))


def cut(path: Path) -> None:
    os.truncate(path, 4_096)


@pytest.mark.parametrize("harm", [lose, lose_the_log, lose_the_shared_memory, lose_the_folder, replace, damage, cut])
async def test_whatever_happens_to_an_open_file_readers_have_it_built_again(
    api: Service, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(indexer, "DOUBTED_SECONDS", 0.0)
    container, index = api.container, api.container.indexer
    for number in range(20):
        await give(container.commands, ref(number), submission())
    assert len(await rows(container)) == 20
    with closing(connect(index.path)) as connection:  # type: ignore[arg-type]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    container.index.close_idle()
    harm(index.path)  # type: ignore[arg-type]

    async def is_whole() -> bool:
        index.wake()
        with contextlib.suppress(IndexNotReady):
            return len(await rows(container)) == 20 and index.rebuilds == 1
        return False

    await wait_until(is_whole, "a new file, though nothing was written")
    await give(container.commands, ref(20), submission())
    assert len(await rows(container)) == 21


async def test_content_that_does_not_decode_is_built_again(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_index, "MOST_ACTIVE", 0)
    for number in range(2):
        await give(api.container.commands, ref(number), submission())
        assert len(await rows(api.container)) == number + 1
    index = api.container.indexer
    with closing(connect(index.path)) as connection:  # type: ignore[arg-type]
        connection.execute("UPDATE views SET view = x'c1'")
    await give(api.container.commands, ref(), claim())

    await wait_until(lambda: index.rebuilds == 1, "the file to be discarded")
    index.wake()
    await wait_until(lambda: index.path is not None, "a new file")
    assert len(await views(api.container)) == 2


async def test_a_folder_that_cannot_be_written_to_stops_lists_only(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "file" / "index")) as service:
        with pytest.raises(IndexNotReady, match="cannot be used"):
            await rows(service.container)
        assert (await service.alice.call("POST", "/api/task", {"type": "default", "payload": {}})).status == 200


async def test_a_query_that_takes_too_long_is_ended(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "QUERY_SECONDS", 0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    with pytest.raises(QueryTooSlow):
        await api.container.index.run(lambda connection: connection.execute(endless).fetchone(), "u")

    assert await rows(api.container) == []


async def test_no_query_can_write(api: Service) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await api.container.index.run(lambda connection: connection.execute("DELETE FROM tasks"), "u")


async def test_readiness_tells_how_far_the_index_is_and_holds_only_a_start(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.container.indexer.current()
    ready = await api.alice.call("GET", "/health/ready")
    assert (ready.status, ready["index"]) == (200, {"state": "current", "lagEvents": 0, "percent": 100.0})

    monkeypatch.setattr(api.container.indexer, "_was_current", False)
    starting = await api.alice.call("GET", "/health/ready")
    assert (starting.status, starting["index"]["state"]) == (503, "filling")

    monkeypatch.setattr(api.container.indexer, "_started_at", -1e6)
    late = await api.alice.call("GET", "/health/ready")
    assert late.status == 200
    assert any("lists are not available yet" in warning for warning in late["warnings"])


LISTS = (
    "/api/tasks",
    "/api/tasks/count?by=status",
    "/api/stats",
    "/api/errors",
    "/api/batches",
    "/api/dead-letters",
    "/api/queue/tasks",
)


async def test_lists_of_an_index_too_far_behind_are_503_and_say_what_to_do(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.container.indexer.current()
    monkeypatch.setattr(indexer, "WAIT_SECONDS", 0.05)
    written = threading.Event()
    api.container.indexer._writer.submit(written.wait)  # as on a disk that does not answer
    try:
        task_id = await api.alice.submit({"payload": 1})
        for path in LISTS:
            answer = await api.alice.call("GET", path)
            assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True), path
            assert "1 events behind; tasks are not affected; retry later" in answer["detail"], path
        assert (await api.alice.details(task_id))["status"] == "WAITING"
    finally:
        written.set()
    monkeypatch.undo()
    for path in LISTS:
        assert (await api.alice.get(path)).status == 200, path


async def test_an_event_that_names_no_task_stops_lists_and_nothing_else(api: Service) -> None:
    index = api.container.indexer
    await index.current()
    await api.container.appending.request("task.nothing", b"{}")
    await wait_until(lambda: index.halted is not None, "the index to halt")

    with pytest.raises(IndexNotReady, match="run the version that wrote the event"):
        await rows(api.container)
    assert (await api.alice.call("POST", "/api/task", {"type": "default", "payload": {}})).status == 200
