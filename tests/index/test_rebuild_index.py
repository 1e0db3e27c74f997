"""`taskstream rebuild --index`: a fold of the whole log, differences reported, a snapshot stored."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from taskstream.backup.rebuild_index import rebuild_index
from taskstream.events.ids import TaskRef
from taskstream.index import files
from taskstream.index.comparison import ComparedTask, IndexDifference, compared_tasks
from taskstream.index.schema import connect
from taskstream.index.snapshots import IndexSnapshots
from taskstream.index.task_index import TaskIndex
from testkit.histories import claim, give, ref, submission, success
from testkit.service import Service, running_service

from ..deciders.support import started, submitted
from .test_task_index import log_of, opened


@pytest.fixture
async def api(nats_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path / "index")) as service:
        for number in range(10):
            await give(service.container.commands, ref(number), submission(), claim(), success())
        await service.container.indexer.current()
        yield service


async def test_a_running_index_and_its_snapshot_have_no_differences(api: Service) -> None:
    await api.container.indexer.store_snapshot()
    await give(api.container.commands, ref(99), submission())
    await api.container.indexer.current()

    found = await rebuild_index(api.container)

    assert (found.events, found.tasks, found.is_stored, found.unusable) == (31, 11, True, {})
    assert {one.sequence: one.difference for one in found.compared} == {
        30: IndexDifference(10, 0, 0, 0),
        31: IndexDifference(11, 0, 0, 0),
    }
    assert (await IndexSnapshots(api.container.storing).listed())[0].sequence == 31


async def test_each_kind_of_difference_is_reported(api: Service) -> None:
    path = api.container.indexer.path
    assert path is not None
    with closing(connect(path)) as connection:
        connection.execute("UPDATE tasks SET status = 3 WHERE created_sequence = 1")
        connection.execute("UPDATE views SET view = x'00' WHERE created_sequence = 4")
        connection.execute("DELETE FROM tasks WHERE created_sequence = 7")
        connection.execute("UPDATE tasks SET created_sequence = 8 WHERE created_sequence = 10")

    (compared,) = (await rebuild_index(api.container)).compared

    assert compared.difference == IndexDifference(tasks=10, changed=2, missing=2, extra=1)


@pytest.mark.parametrize(
    ("spoil", "number"),
    [
        ("UPDATE counts SET finished = finished - 1 WHERE owner = 'alice'", 1),
        ("DELETE FROM sums WHERE dimension = 'all'", 1),
        ("UPDATE figures SET flows = x'80' WHERE unit = 0", "minutes"),
        ("DELETE FROM figures WHERE unit = 1", "hours"),
    ],
)
async def test_figures_that_differ_from_the_fold_are_reported(api: Service, spoil: str, number: int | str) -> None:
    path = api.container.indexer.path
    assert path is not None
    with closing(connect(path)) as connection:
        rows = dict(connection.execute("SELECT unit, count(*) FROM figures GROUP BY 1"))
        assert connection.execute(spoil).rowcount > 0

    (compared,) = (await rebuild_index(api.container)).compared

    wanted = number if isinstance(number, int) else rows[("minutes", "hours").index(number)]
    assert compared.difference == IndexDifference(tasks=10, changed=0, missing=0, extra=0, figures=wanted)


async def test_an_empty_log_leaves_no_snapshot(nats_url: str, tmp_path: Path) -> None:
    async with running_service(nats_url, worker=False, index_dir=str(tmp_path)) as service:
        assert not (await rebuild_index(service.container)).is_stored
        assert await IndexSnapshots(service.container.storing).listed() == []


def test_files_that_no_process_has_used_for_a_day_are_deleted(tmp_path: Path) -> None:
    held, left, young = (files.claim(tmp_path) for _ in range(3))
    for file in (held, left, young):
        file.open().close()
    left.release()
    young.release()
    old = time.time() - files.ABANDONED_SECONDS - 60
    for path in [*tmp_path.glob("index-0*"), *tmp_path.glob("index-1*")]:
        os.utime(path, (old, old))

    assert files.remove_abandoned(tmp_path) == 1

    assert {path.name for path in files.files_in(tmp_path)} == {"index-0.sqlite", "index-2.sqlite"}
    held.release()


def test_the_order_of_names_is_no_difference(tmp_path: Path) -> None:
    tasks = {}
    for number in range(2):
        events = [submitted(), started(1, f"s{number}")]
        tasks[number] = log_of(TaskRef("alice", f"{number:026d}"), *events, first=1 + 2 * number)

    def compared(folder: Path, *servers: str) -> list[ComparedTask]:
        with closing(opened(folder)) as connection:
            connection.executemany("INSERT INTO names (text) VALUES (?)", [(server,) for server in servers])
            index = TaskIndex(connection)
            index.apply([*tasks[0], *tasks[1]])
            index.flush()
            return list(compared_tasks(connection))

    assert compared(tmp_path / "one", "s0", "s1") == compared(tmp_path / "other", "s1", "s0")
