"""`taskstream up --cluster 3`: servers of NATS are killed under load, one at a time and all with the service."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskstream.nats_server.server import PID_FILE, read_pid
from taskstream.streams.client.access import shown
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer
from testkit.processes import Processes, Up
from testkit.waiting import wait_until
from tests.acceptance.test_service_killed import acknowledged, under_load

NODES = ("node-1", "node-2", "node-3")
TASKS_SUBMITTED = 300


def pids(up: Up) -> dict[str, int | None]:
    return {name: read_pid(up.data / name / PID_FILE) for name in NODES}


def addresses(up: Up) -> str:
    return shown(up.nats_url)


@asynccontextmanager
async def beside(up: Up) -> AsyncIterator[Connection]:
    """A connection to the servers, past the service."""
    connection = await open_connection(up.nats_url, "test")
    try:
        yield connection
    finally:
        await connection.close()


async def leader_of_the_log(up: Up) -> str:
    async with beside(up) as connection:
        return str((await api(connection, f"STREAM.INFO.{TASKS}"))["cluster"]["leader"])


async def all_replicas_are_current(up: Up) -> bool:
    async with beside(up) as connection:
        replicas = (await api(connection, f"STREAM.INFO.{TASKS}"))["cluster"]["replicas"]
    return len(replicas) == 2 and all(replica["current"] for replica in replicas)


async def test_the_leader_is_killed_under_load_and_nothing_is_lost(
    processes: Processes, backend: BackendServer
) -> None:
    async with under_load(processes, backend, TASKS_SUBMITTED, CLUSTER="3") as (up, load):
        await acknowledged(load, TASKS_SUBMITTED // 6)
        leader, before = await leader_of_the_log(up), pids(up)
        victim = before[leader]
        assert victim is not None

        os.kill(victim, signal.SIGKILL)

        await wait_until(lambda: pids(up)[leader] not in (None, victim), "the server to be started again")
    await wait_until(lambda: all_replicas_are_current(up), "three copies of the log")
    assert load.lost == 0
    assert all(status == 503 and "Retry-After" in headers for status, headers in load.refused), load.refused
    assert {name for name, pid in pids(up).items() if pid != before[name]} == {leader}
    assert up.pid


async def test_all_of_it_is_killed_and_finds_everything_again_at_the_same_addresses(
    processes: Processes, backend: BackendServer
) -> None:
    async with under_load(processes, backend, TASKS_SUBMITTED // 2, CLUSTER="3") as (up, load):
        where = addresses(up)
        promised = await acknowledged(load, TASKS_SUBMITTED // 6)

        for pid in (*pids(up).values(), up.pid):
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        await up.ended()

        await up.serve()
    assert promised.items() <= load.acknowledged.items()
    assert addresses(up) == where

    up.terminate()
    assert await up.ended() == 0
    alone = processes.start("up", "--port", "0", "--data-dir", str(up.data))
    assert await alone.ended() == 1
    assert "--cluster 3" in alone.tail()
    assert "Traceback" not in alone.tail()
