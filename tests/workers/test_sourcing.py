"""Tasks of a replicated cluster run soon after a leader was lost, though JetStream's sources were lost with it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from taskstream.errors import StoreError
from taskstream.nats_server.cluster import EmbeddedCluster
from taskstream.nats_server.server import EmbeddedNats
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH, TASKS
from taskstream.streams.topology.sources import Sources, read, replicated_sources
from taskstream.workers.dispatch.sourcing import Sourcing, is_lost, silent
from testkit.backend import BackendServer
from testkit.service import Service, running_service
from testkit.waiting import wait_until

SECOND = 1_000_000_000


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster(tmp_path / "cluster", 3) as cluster:
        yield cluster


async def leader_of(connection: Connection, stream: str) -> str | None:
    leader: str | None = (await api(connection, f"STREAM.INFO.{stream}"))["cluster"].get("leader")
    return leader


def info(*sources: tuple[str, int], replicas: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return what the leader of DISPATCH, elected 40 s ago, says of its sources: each a stream and its `active`."""
    return {
        "ts": "2030-01-01T00:00:40.123456789Z",
        "cluster": {
            "leader": "one",
            "leader_since": "2030-01-01T00:00:00.123456789Z",
            "replicas": [{"name": "two", "current": True, "active": 1}] if replicas is None else replicas,
        },
        "sources": [{"name": name, "active": active} for name, active in sources],
    }


def test_a_stream_is_as_silent_as_its_most_silent_source() -> None:
    found = read(info(("TASKS", SECOND), ("TASKS", 7 * SECOND), ("RETRIES", 0)))

    assert found.silences == {"TASKS": timedelta(seconds=7), "RETRIES": timedelta()}
    assert silent(found, timedelta(seconds=5)) == ["TASKS"]


def test_a_source_never_heard_has_been_silent_since_the_election() -> None:
    assert read(info(("TASKS", -1))).silences == {"TASKS": timedelta(seconds=40)}


@pytest.mark.parametrize(
    "replicas",
    [[], [{"name": "two", "current": False}], [{"name": "two", "current": True, "offline": True}]],
    ids=["alone", "behind", "away"],
)
def test_a_leader_without_a_successor_is_left_where_it_is(replicas: list[dict[str, Any]]) -> None:
    assert not read(info(("TASKS", -1), replicas=replicas)).can_move


@pytest.mark.parametrize(
    ("silence", "leading", "source_leading", "lost"),
    [
        (3.0, 3.0, 1.0, True),  # asked 2 s before anybody could answer
        (3.0, 3.0, 0.1, None),  # the answer may be on its way
        (3.0, 3.0, 4.0, False),  # asked when there was a leader: patience
        (0.9, 60.0, 0.5, False),  # heard after that election, or just before it
        (3.0, 60.0, 2.0, True),  # last heard before the election
        (3.0, 60.0, 1.0, None),  # its heartbeat may be on its way
        (3.0, 60.0, 90.0, False),
    ],
)
def test_a_source_is_lost_if_it_was_asked_for_before_its_leader_was_elected(
    silence: float, leading: float, source_leading: float, lost: bool | None
) -> None:
    found = is_lost(*(timedelta(seconds=seconds) for seconds in (silence, leading, source_leading)))

    assert found is lost


async def heard(service: Service) -> Sources:
    """Wait until every source is heard."""

    async def all_heard() -> Sources | None:
        with contextlib.suppress(StoreError):
            sources = await replicated_sources(service.container.reading)
            return sources if not silent(sources, timedelta(seconds=2)) else None
        return None

    found = await wait_until(all_heard, "every source of the queue to be heard")
    assert found is not None
    return found


async def step_down(connection: Connection, successor: str) -> None:
    """Have another server lead DISPATCH, if only until a worker moves it again."""
    leaders: list[str] = []

    def on_election(message: Msg) -> None:
        leaders.append(msgspec.json.decode(message.data)["leader"])

    told = await connection.listen(f"$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{DISPATCH}", on_election)
    await connection.flush()
    await api(connection, f"STREAM.LEADER.STEPDOWN.{DISPATCH}", {"placement": {"preferred": successor}})
    await wait_until(lambda: successor in leaders, f"{successor} to lead DISPATCH")
    await told.unsubscribe()


async def lose_the_sources(nodes: dict[str, EmbeddedNats]) -> None:
    """Kill the server that leads TASKS once DISPATCH has a new leader, whose requests for its sources die with it."""
    async with contextlib.AsyncExitStack() as stack:
        connections = {name: await open_connection(node.url, "test") for name, node in nodes.items()}
        for connection in connections.values():
            stack.push_async_callback(connection.close)
        lost = await leader_of(connections["node-1"], TASKS)
        first, second = (name for name in nodes if name != lost)
        connection = connections[first]
        if await leader_of(connection, DISPATCH) != first:
            await step_down(connection, first)
        pid = nodes[lost].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await step_down(connection, second)

        async def elected() -> bool:
            with contextlib.suppress(StoreError):
                return await leader_of(connection, TASKS) not in (None, lost)
            return False

        await wait_until(elected, "another server to lead TASKS")
        os.kill(pid, signal.SIGKILL)


async def test_a_task_runs_soon_after_a_leader_was_lost_with_the_sources(
    cluster: EmbeddedCluster, backend: BackendServer
) -> None:
    """nats-server alone would have it in the queue 40 s later, which is longer than tests wait."""
    nodes = {f"node-{number}": node for number, node in enumerate(cluster.nodes, 1)}
    elected: list[str] = []
    async with running_service(cluster.url, replicas=3) as service:
        await service.admin.register(backend, "s1")
        await heard(service)
        service.container.reading.on_election(lambda: elected.append("a leader"))
        await lose_the_sources(nodes)
        await wait_until(lambda: elected, "JetStream to announce new leaders")

        async def submitted() -> str | None:
            answer = await service.alice.post("/api/task", {"payload": {}}, headers={"Idempotency-Key": "after"})
            return str(answer["taskId"]) if answer.status == 200 else None

        task_id = await wait_until(submitted, "a submit to be taken again")

        async def finished() -> bool:
            answer = await service.alice.get(f"/api/task/{task_id}")
            return answer.status == 200 and answer["taskDetails"]["status"] == "FINISHED"

        await wait_until(finished, "the task to be finished")


async def test_the_leader_stays_while_every_source_is_heard(cluster: EmbeddedCluster) -> None:
    async with running_service(cluster.url, worker=False, replicas=3) as service:
        first = await heard(service)
        members = service.container.membership("worker")
        await members.renew()

        assert not (await Sourcing(members, service.container.reading).run_once())["renewed"]

        assert (await replicated_sources(service.container.reading)).leader == first.leader
