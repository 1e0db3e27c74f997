"""How often and where the streams are kept: as the settings say, and changed with care."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taskstream.backup.rebuild import rebuild, recreate
from taskstream.container import open_container
from taskstream.errors import StoreUnavailable, TopologyMismatch
from taskstream.events.codec import task_codec
from taskstream.events.envelope import Recorded
from taskstream.events.subjects import task_root
from taskstream.events.task import ProgressReported
from taskstream.running import running_worker
from taskstream.settings import Settings
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.committer import Append, Committer, StreamMessage
from taskstream.streams.jetstream.api import ApiError, api
from taskstream.streams.jetstream.messages import last_sequence
from taskstream.streams.log import Log, LogEntry
from taskstream.streams.topology.definitions import DERIVED, DISPATCH, TASKS, configurations, streams
from taskstream.streams.topology.ensure import ensure_streams
from taskstream.streams.topology.epochs import read_extent
from taskstream.streams.topology.recreate import WorkersRunning
from taskstream.streams.topology.startup_retry import NotReady, StartupRetry, leader_elected
from testkit.backend import BackendServer
from testkit.histories import ALICE, ref
from testkit.link import Link
from testkit.nats import NatsCluster, NatsServer
from testkit.service import quick_settings, running_service
from testkit.waiting import wait_until

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TAGS = (("az-1", "ssd"), ("az-2", "ssd"), ("az-3", "disk"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    cluster = NatsCluster(tmp_path / "cluster", TAGS)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
async def connection(cluster: NatsCluster) -> AsyncIterator[Connection]:
    connection = await open_connection(cluster.url, "test")
    await leader_elected(connection, StartupRetry())
    yield connection
    await connection.close()


async def info(connection: Connection, name: str) -> dict[str, Any]:
    return await StartupRetry().wait(name, lambda: api(connection, f"STREAM.INFO.{name}"))


async def everywhere(connection: Connection) -> dict[str, int]:
    """Return how often each stream is kept."""
    names = [wanted["name"] for wanted in streams(Settings())]
    return {name: (await info(connection, name))["config"]["num_replicas"] for name in names}


async def servers_of(connection: Connection, name: str) -> set[str]:
    found = (await info(connection, name))["cluster"]
    # While a leader is being elected there is none.
    return {found.get("leader", ""), *(replica["name"] for replica in found.get("replicas", ()))}


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_replicated_log_has_one_epoch_whoever_creates_it_and_leads_it(
    cluster: NatsCluster, connection: Connection, is_old: bool
) -> None:
    """Created by several processes at once, or by an older version, which knew no epochs."""
    settings = Settings(replicas=3)
    if is_old:
        [wanted] = [wanted for wanted in configurations(settings) if wanted["name"] == TASKS]
        await StartupRetry().wait("the log", lambda: api(connection, f"STREAM.CREATE.{TASKS}", wanted))
        derived = (await read_extent(connection)).epochs
    async with contextlib.AsyncExitStack() as stack:
        others = [await open_connection(url, "test") for url in cluster.url.split(",")]
        for one in others:
            stack.push_async_callback(one.close)
        await asyncio.gather(*(ensure_streams(one, settings) for one in [connection, *others]))
        seen = {(await StartupRetry().wait("the log", partial(read_extent, one))).epochs for one in others}
    for _ in range(2):
        leader = (await info(connection, TASKS))["cluster"]["leader"]
        await api(connection, f"STREAM.LEADER.STEPDOWN.{TASKS}")

        async def has_another(leader: str = leader) -> bool:
            return (await info(connection, TASKS))["cluster"].get("leader", "") not in ("", leader)

        await wait_until(has_another, "another leader")
        seen.add((await StartupRetry().wait("the log", lambda: read_extent(connection))).epochs)

    assert len(seen) == 1
    if is_old:
        assert seen == {derived}


async def test_streams_are_kept_where_the_tags_are(connection: Connection) -> None:
    await ensure_streams(connection, Settings(nats_placement_tags=("az-2",), nats_placement_cluster="test"))

    for wanted in streams(Settings()):
        assert await servers_of(connection, wanted["name"]) == {"n2"}


async def test_streams_move_when_the_tags_change_and_keep_what_they_have(connection: Connection) -> None:
    await ensure_streams(connection, Settings(nats_placement_tags=("az-1",)))
    await connection.request("task.a.b.noted", b"x")

    await ensure_streams(connection, Settings(nats_placement_tags=("az-3",)))

    async def moved() -> bool:
        return await servers_of(connection, TASKS) == {"n3"}

    await wait_until(moved, "the log to be on n3")
    assert (await info(connection, TASKS))["state"]["messages"] == 1


async def test_a_place_that_does_not_exist_is_said_so(connection: Connection) -> None:
    with pytest.raises(NotReady, match=r"waited for servers for stream TASKS: .*no suitable peers.*nowhere"):
        await ensure_streams(connection, Settings(nats_placement_tags=("nowhere",)), StartupRetry(0.5))


async def test_more_replicas_than_servers_are_refused(nats: NatsServer) -> None:
    connection = await open_connection(nats.url, "test")
    with pytest.raises(StoreUnavailable, match="replicas > 1 not supported in non-clustered mode"):
        await ensure_streams(connection, Settings(replicas=3))
    await connection.close()


async def test_fewer_replicas_than_there_are_are_refused_and_nothing_changes(connection: Connection) -> None:
    await ensure_streams(connection, Settings(replicas=3))

    with pytest.raises(TopologyMismatch, match="TASKSTREAM_REPLICAS=3"):
        await ensure_streams(connection, Settings())

    assert set((await everywhere(connection)).values()) == {3}


async def test_one_server_becomes_three_with_all_that_was_there(
    cluster: NatsCluster, connection: Connection, backend: BackendServer
) -> None:
    one, three = quick_settings(), quick_settings(replicas=3)
    async with running_service(cluster.url) as service:
        await service.admin.register(backend, "echo")
        ended = [await service.alice.submit({"payload": {"n": n}}) for n in range(5)]
        for task_id in ended:
            await service.alice.ended(task_id)
        await service.admin.delete("/api/servers/echo")
        waiting = await service.alice.submit({"payload": {"n": 5}})

    with pytest.raises(TopologyMismatch, match=r"DISPATCH: `persist_mode` is 'async'.*`taskstream rebuild --recreate`"):
        await open_container(three, cluster.url, durability="always")
    assert set((await everywhere(connection)).values()) == {1}  # nothing was begun

    await recreate(three, cluster.url)
    async with await open_container(three, cluster.url, durability="always") as container:
        await rebuild(container)

    assert set((await everywhere(connection)).values()) == {3}
    async with running_service(cluster.url, replicas=3) as service:
        listed = {task["id"]: task["status"] for task in (await service.alice.get("/api/tasks"))["tasks"]}
        assert listed == dict.fromkeys(ended, "FINISHED") | {waiting: "WAITING"}
        calls = len(backend.calls)
        await service.admin.register(backend, "echo")
        await service.alice.ended(waiting)
        assert len(backend.calls) == calls + 1  # those that had ended did not run again
    assert one.replicas == 1


async def test_nothing_is_recreated_under_a_worker(nats: NatsServer) -> None:
    settings = quick_settings()
    connection = await open_connection(nats.url, "test")
    async with await open_container(settings, nats.url, durability="always") as container, running_worker(container):
        before = (await api(connection, f"STREAM.INFO.{DISPATCH}"))["created"]
        with pytest.raises(WorkersRunning, match=r"these workers still run: worker-.*Stop every worker first"):
            await recreate(settings, nats.url)
        assert (await api(connection, f"STREAM.INFO.{DISPATCH}"))["created"] == before
    await connection.close()


def test_what_is_derived_is_what_is_not_synced_on_one_server() -> None:
    assert tuple(wanted["name"] for wanted in streams(Settings()) if "persist_mode" in wanted) == DERIVED


async def test_what_cannot_be_had_again_and_is_not_synced_is_refused_and_never_recreated(nats: NatsServer) -> None:
    connection = await open_connection(nats.url, "test")
    [wanted] = [wanted for wanted in streams(Settings()) if wanted["name"] == "KV_secrets"]
    await api(connection, "STREAM.CREATE.KV_secrets", wanted | {"persist_mode": "async"})

    with pytest.raises(TopologyMismatch, match="KV_secrets: `persist_mode` is 'async'") as caught:
        await ensure_streams(connection, Settings())

    assert "recreate" not in str(caught.value)
    await connection.close()


async def test_jetstream_still_refuses_to_replicate_what_is_not_synced(connection: Connection) -> None:
    """Once it does not, `rebuild --recreate` has no reason left."""
    await api(connection, "STREAM.CREATE.D", {"name": "D", "subjects": ["d"], "persist_mode": "async"})
    config = (await info(connection, "D"))["config"]

    for change in ({"num_replicas": 3}, {"num_replicas": 3, "persist_mode": "default"}):
        with pytest.raises(ApiError, match="persist mode") as caught:
            await api(connection, "STREAM.UPDATE.D", config | change)
        assert caught.value.code == 10052


async def test_on_a_cluster_what_is_appended_together_is_stored_as_a_whole(
    cluster: NatsCluster, connection: Connection
) -> None:
    await ensure_streams(connection, Settings(replicas=3))
    committers = [Committer(connection) for _ in range(5)]

    def appends(who: int) -> list[Append]:
        subjects = ["task.fence", *(f"task.alice.w{who}n{number}.noted" for number in range(20))]
        return [Append(messages=[StreamMessage(subject, b"x")], guard=subject, expected=0) for subject in subjects]

    outcomes = await asyncio.gather(
        *(committer.append_together(appends(who)) for who, committer in enumerate(committers)), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 4 + ["int"]
    assert await last_sequence(connection, TASKS, "task.>") == 21


async def test_on_a_cluster_a_lost_answer_is_found_by_looking(cluster: NatsCluster, connection: Connection) -> None:
    await ensure_streams(connection, Settings(replicas=3))
    node = cluster.nodes[0]
    async with Link(node.port) as proxy:
        appending = await open_connection(proxy.url, "test")
        log = Log(TASKS, task_codec, Committer(appending), connection, replicated=True)
        proxy.lose_next = b'"stream":"TASKS"'
        reports = [
            Recorded(id=f"e{number}", at=NOW, by=ALICE, event=ProgressReported(attempt=1)) for number in range(20)
        ]
        entries = [
            LogEntry(
                root=task_root(ref(number)),
                events=[report],
                expected=0,
            )
            for number, report in enumerate(reports)
        ]

        assert await log.append_together(entries) == 20

        assert proxy.lost == 1
        await appending.close()
