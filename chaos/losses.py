"""`python -m chaos.losses power_cut --sync-interval 2m`: what a fault takes of what a bare nats-server acknowledged.

The control of the harness: with NATS' own interval of two minutes a power cut must be seen to take something, or it is
none. Prints one line of JSON; exits with 2 where the machine has no file systems for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import nats
import nats.errors
import nats.js.errors
from msgspec import Struct
from nats.aio.client import Client

from taskstream.nats_server.server import find_executable
from testkit.processes import Supervised
from testkit.waiting import free_port

from .disk import Disk, lose_power
from .machine import seclude

STREAM = "CONTROL"
SUBJECT = "control"
MESSAGES = 500
BODY = b"x" * 3_000
"""Soon fills what room the last blocks of a full disk have."""
ANSWER_SECONDS = 0.5
NO_DISKS = 2


class Losses(Struct, frozen=True):
    """Counts of messages."""

    acknowledged: int
    kept: int
    """Of those acknowledged; 0 where the whole stream is gone."""
    taken_with_room: bool = True
    """Whether a message was acknowledged once the disk had room again, before the server was started again."""


class Bare:
    """A nats-server on a disk of its own, without anything of ours; use as an async context manager."""

    def __init__(self, folder: Path, sync_interval: str) -> None:
        self._port = free_port()
        self.disk = Disk(folder / "image", folder / "disk")
        config = folder / "nats.conf"
        store = json.dumps(str(self.disk.folder))
        config.write_text(
            f"listen: 127.0.0.1:{self._port}\njetstream {{ store_dir: {store}, sync_interval: {sync_interval} }}\n"
        )
        self.process = Supervised("nats", [str(find_executable()), "-c", str(config)], os.environ, folder / "nats.log")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Bare:
        await self._stack.enter_async_context(self.disk)
        self.process.start()
        self._stack.push_async_callback(self.process.close)
        await (await self.connect()).jetstream().add_stream(name=STREAM, subjects=[SUBJECT])
        await self.disk.sync()  # the stream is old, its messages will not be
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def connect(self) -> Client:
        client = await nats.connect(f"nats://127.0.0.1:{self._port}", error_cb=_say_nothing, reconnect_time_wait=0.05)
        self._stack.push_async_callback(client.close)
        return client

    async def kept(self) -> int:
        """Return how many messages there are, from the first on without a gap; 0 if there is no such stream."""
        with contextlib.suppress(nats.js.errors.NotFoundError):
            state = (await (await self.connect()).jetstream().stream_info(STREAM)).state
            return state.messages if state.first_seq == 1 and state.messages == state.last_seq else 0
        return 0


async def power_cut(server: Bare) -> Losses:
    """Publish, cut the power, and count."""
    stream = (await server.connect()).jetstream()
    for _ in range(MESSAGES):
        await stream.publish(SUBJECT, BODY)
    await lose_power(server.process, server.disk)
    return Losses(MESSAGES, min(MESSAGES, await server.kept()))


async def disk_full(server: Bare) -> Losses:
    """Publish until nothing is taken any more, make room, try again, start again, and count."""
    client = await server.connect()
    acknowledged = 0
    for _ in range(MESSAGES):
        acknowledged += await _is_taken(client)
    server.disk.fill()
    while await _is_taken(client):
        acknowledged += 1
    server.disk.relieve()
    taken_with_room = await _is_taken(client)
    await server.process.shut_down()
    server.process.start()
    return Losses(acknowledged, min(acknowledged, await server.kept()), taken_with_room)


FAULTS = {"power_cut": power_cut, "disk_full": disk_full}


async def measure(fault: str, sync_interval: str, folder: Path) -> Losses:
    async with Bare(folder, sync_interval) as server:
        return await FAULTS[fault](server)


async def _is_taken(client: Client) -> bool:
    """Publish; return True if it was acknowledged."""
    try:
        answer = await client.request(SUBJECT, BODY, timeout=ANSWER_SECONDS)
    except nats.errors.Error:
        return False
    return "error" not in msgspec.json.decode(answer.data)


async def _say_nothing(_: Exception) -> None:
    pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.losses", description="Count what a fault takes.")
    parser.add_argument("fault", choices=sorted(FAULTS))
    parser.add_argument("--sync-interval", default="2m", help="of nats-server (default: its own, 2m)")
    options = parser.parse_args()
    if not seclude().disks:
        print("file systems of its own take root, mount and mkfs.ext4", file=sys.stderr)
        return NO_DISKS
    with tempfile.TemporaryDirectory(prefix="taskstream-chaos-") as folder:
        losses = asyncio.run(measure(options.fault, options.sync_interval, Path(folder)))
    print(msgspec.json.encode(losses).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
