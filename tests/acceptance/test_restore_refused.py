"""What is no whole backup, or would be restored over something, is refused with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from taskstream.backup import backup
from taskstream.backup.backup import back_up
from taskstream.backup.folder import (
    BackupError,
    Damaged,
    MadeByNewer,
    NotABackup,
    NothingToBackUp,
    RestoreInterrupted,
    TargetNotEmpty,
)
from taskstream.backup.restore import check, restore
from taskstream.commands.server import RegisterServer
from taskstream.container import Container, open_container
from taskstream.events.envelope import Actor
from taskstream.events.ids import TaskRef
from taskstream.events.server import ServerRegistered
from taskstream.events.subjects import dispatched_ref
from taskstream.events.task import StoredResult
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.api import find_stream
from taskstream.streams.jetstream.messages import last_sequence, read
from taskstream.streams.topology.definitions import DISPATCH, SERVERS, TASKS
from taskstream.vault.sealing import new_key
from testkit.histories import claim, give, ref, submission, success
from testkit.nats import NatsServer
from testkit.processes import Processes
from testkit.service import quick_settings
from testkit.waiting import wait_until


def silent(name: str, done: int, whole: int) -> None:
    """Show no progress."""


@pytest.fixture
async def made(container: Container, tmp_path: Path) -> Path:
    """A backup of three tasks, one of which has ended."""
    await give(container.commands, ref(1), submission(), claim(), success())
    await give(container.commands, ref(2), submission(), claim())
    await give(container.commands, ref(3), submission())
    folder = tmp_path / "made"
    await back_up(container.reading, folder, silent)
    return folder


async def refused(processes: Processes, *arguments: str, exit_status: int = 1) -> str:
    """Run a command that must be refused without a traceback; return what it said."""
    command = processes.start(*arguments)
    assert await command.ended() == exit_status, command.tail()
    said = command.tail()
    assert "Traceback" not in said
    return said


async def test_a_backup_goes_into_an_empty_folder_only(
    processes: Processes, nats_url: str, made: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in made.iterdir()}
    assert "holds a backup already" in await refused(processes, "backup", str(made), "--nats-url", nats_url)
    assert {path: path.read_bytes() for path in made.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    said = await refused(processes, "backup", str(tmp_path / "other"), "--nats-url", nats_url)
    assert "not an empty folder" in said


async def test_a_backup_is_for_its_owner_alone(made: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o600}
    assert made.stat().st_mode & 0o777 == 0o700


async def test_a_folder_that_never_had_data_is_not_backed_up(processes: Processes, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    said = await refused(processes, "backup", str(tmp_path / "b"), "--data-dir", str(nowhere), exit_status=2)
    assert "no data in" in said
    assert not nowhere.exists()


async def test_a_nats_without_our_streams_is_not_backed_up(nats_url: str, tmp_path: Path) -> None:
    connection = await open_connection(nats_url, "test")
    with pytest.raises(NothingToBackUp, match="no stream TASKS"):
        await back_up(connection, tmp_path / "b", silent)
    await connection.close()
    assert not (tmp_path / "b").exists()


async def test_a_truncated_file_is_named(processes: Processes, made: Path, tmp_path: Path) -> None:
    log = made / "TASKS.snapshot"
    log.write_bytes(log.read_bytes()[:-1])
    said = await refused(processes, "restore", str(made), "--data-dir", str(tmp_path / "target"))
    assert "TASKS.snapshot has" in said
    assert not (tmp_path / "target").exists()


def flip(made: Path) -> None:
    log = made / "TASKS.snapshot"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)


def forget_the_manifest(made: Path) -> None:
    (made / "manifest.json").unlink()


def come_from_the_future(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps(manifest | {"format": 2, "taskstream": "9.0"}))


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (flip, Damaged, "SHA-256"),
        (lambda made: (made / "OBJ_results.snapshot").unlink(), Damaged, "is missing"),
        (forget_the_manifest, NotABackup, "interrupted backup"),
        (come_from_the_future, MadeByNewer, "made by taskstream 9.0 in format 2"),
        (shutil.rmtree, NotABackup, "no such folder"),
    ],
)
async def test_what_is_no_whole_backup_is_refused(
    made: Path, tmp_path: Path, spoil: Callable[[Path], None], error: type[BackupError], said: str
) -> None:
    spoil(made)
    with pytest.raises(error, match=said):
        await restore(made, quick_settings(data_dir=str(tmp_path / "target")), silent, again=False)
    assert not (tmp_path / "target").exists()


async def test_an_unreadable_event_fails_verify_and_is_restored_with_a_warning(
    processes: Processes, container: Container, tmp_path: Path
) -> None:
    await give(container.commands, ref(1), submission())
    await container.appending.request(f"task.alice.{ref(2).unique}.submitted.default.normal", b'{"event": "nonsense"}')
    folder = tmp_path / "made"
    await back_up(container.reading, folder, silent)
    said = await refused(processes, "restore", "--check", str(folder))
    assert "event 2 (task.alice." in said
    assert "does not decode" in said
    settings = quick_settings(data_dir=str(tmp_path / "data"))
    restored = await restore(folder, settings, silent, again=False)
    assert "event 2 (task.alice." in restored.warnings()[0]
    assert (tmp_path / "data" / "nats").exists()


async def test_nothing_is_restored_over_data(
    processes: Processes, nats_url: str, made: Path, container: Container, tmp_path: Path
) -> None:
    before = await find_stream(container.reading, TASKS)
    said = await refused(processes, "restore", str(made), "--nats-url", nats_url)
    assert "TASKS" in said
    assert "empty NATS" in said
    with pytest.raises(TargetNotEmpty):
        await restore(made, quick_settings(nats_url=nats_url), silent, again=True)
    after = await find_stream(container.reading, TASKS)
    assert before is not None
    assert after is not None
    assert after["state"] == before["state"]
    (tmp_path / "data" / "nats").mkdir(parents=True)
    with pytest.raises(TargetNotEmpty, match=str(tmp_path / "data")):
        await restore(made, quick_settings(data_dir=str(tmp_path / "data")), silent, again=False)


async def test_a_restore_that_broke_off_is_used_by_nobody_and_can_be_begun_anew(
    processes: Processes, made: Path, tmp_path: Path
) -> None:
    class PowerCut(Exception):
        pass

    def cut(name: str, done: int, whole: int) -> None:
        if name == SERVERS and name in begun:
            raise PowerCut
        begun.add(name)

    begun: set[str] = set()
    nats = NatsServer(tmp_path / "target")
    nats.start()
    try:
        settings = quick_settings(nats_url=nats.url)
        with pytest.raises(PowerCut):
            await restore(made, settings, cut, again=False)
        to_it = ("--nats-url", nats.url)
        assert "restoring." in await refused(processes, "worker", *to_it)
        with pytest.raises(RestoreInterrupted, match="--again"):
            await restore(made, settings, silent, again=False)
        again = processes.start("restore", str(made), *to_it, "--again")
        assert await again.ended() == 0, again.tail()
        assert "tasks: 3, of which 2 have not ended" in again.tail()
        async with await open_container(settings, nats.url) as container:
            history = await container.commands.tasks.history(ref(1))
            assert [stored.sequence for stored in history] == [1, 2, 3]
            # The task that has ended, before the others came, is not queued again.
            assert await in_the_queue(container) == {ref(2), ref(3)}
    finally:
        nats.stop()


async def in_the_queue(container: Container) -> set[TaskRef]:
    """Return the tasks in the queue, once JetStream has filled it."""

    async def filled() -> bool:
        info = await find_stream(container.reading, DISPATCH)
        return (
            info is not None and not any(source["lag"] for source in info["sources"]) and info["state"]["messages"] > 1
        )

    await wait_until(filled, "the queue")
    return {dispatched_ref(position.subject) for position in await read(container.reading, DISPATCH, ">")}


async def test_a_restore_into_a_folder_that_was_killed_is_begun_anew_by_itself(
    processes: Processes, made: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    first = processes.start("restore", str(made), "--data-dir", str(data))
    await wait_until((data / "restoring").exists, "the beginning")
    first.kill()
    assert not (data / "nats").exists()
    second = processes.start("restore", str(made), "--data-dir", str(data))
    assert await second.ended() == 0, second.tail()
    assert sorted(path.name for path in data.iterdir()) == ["nats", "nats-server.lock"]


async def test_a_key_that_comes_while_the_fleet_is_taken_is_in_the_backup(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    registered: list[str] = []

    async def looked_late(connection: Connection, stream: str, filter_subject: str) -> int:
        if (folder / f"{SERVERS}.snapshot").exists() and not registered:
            registered.append(await register_with_key(container))
        return await last_sequence(connection, stream, filter_subject)

    monkeypatch.setattr(backup, "last_sequence", looked_late)
    await back_up(container.reading, folder, silent)
    assert registered == ["gpu"]
    checked = await check(folder, quick_settings(), silent)
    assert (checked.report.servers, checked.report.sealed) == (1, [])


async def register_with_key(container: Container) -> str:
    """Register a server with an API key; return its id."""
    key_id = await container.secrets.put("gpu", "its key")
    settings = ServerRegistered(
        server_id="gpu", name="gpu", provider="test", predict_url="http://127.0.0.1:1/", api_key_id=key_id
    )
    await container.commands.servers.handle("gpu", RegisterServer(settings=settings), by=Actor("user", "root"))
    return "gpu"


async def test_other_seal_keys_are_pointed_out(processes: Processes, container: Container, tmp_path: Path) -> None:
    await register_with_key(container)
    folder = tmp_path / "made"
    await back_up(container.reading, folder, silent)
    right = processes.start("restore", "--check", str(folder))
    wrong = processes.start("restore", "--check", str(folder), SEAL_KEYS=new_key())
    assert (await right.ended(), await wrong.ended()) == (0, 0)
    assert "do not open" not in right.tail()
    assert "do not open: gpu" in wrong.tail()
    assert "TASKSTREAM_SEAL_KEYS" in wrong.tail()


async def test_a_large_result_that_is_not_there_is_counted(container: Container, tmp_path: Path) -> None:
    await container.objects.put("there", b"x" * 300_000)
    for number, name in enumerate(("there", "gone")):
        result = StoredResult(object_name=name, size_bytes=300_000)
        await give(container.commands, ref(number), submission(), claim(), success(result))
    await back_up(container.reading, tmp_path / "made", silent)
    checked = await check(tmp_path / "made", quick_settings(), silent)
    assert checked.report.lost_results == 1
    assert "1 large results" in checked.warnings()[0]
