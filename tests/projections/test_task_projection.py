"""The `tasks` bucket says what the log says: after any history, any crash, and any rebuild."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncGenerator, Awaitable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from taskstream.backup import rebuild as task_rebuild
from taskstream.backup.rebuild import Difference, TaskRebuild, rebuild
from taskstream.clock import utc_now
from taskstream.commands import task_commands as task
from taskstream.commands.server import RegisterServer, RemoveOffline, RemoveServer, RestoreServer
from taskstream.container import Container
from taskstream.errors import Conflict, StoreUnavailable, UnreadableEvent
from taskstream.events.server import ServerRegistered
from taskstream.events.subjects import NO_SERVER, task_root
from taskstream.projections.active import active_tasks, projected, remove_stale, running_on
from taskstream.projections.checkpoint import CHECKPOINT
from taskstream.projections.fleet import Fleet, RegistryProjection
from taskstream.projections.task_projection import TaskProjection
from taskstream.projections.task_view import view_key
from taskstream.streams.buckets import Bucket, Write
from taskstream.streams.client.connection import open_connection
from taskstream.streams.jetstream.consumers import FOLLOW_BATCH, follow
from taskstream.streams.jetstream.messages import Position, read
from taskstream.streams.leases import Membership
from taskstream.streams.topology.definitions import SERVERS, TASKS
from taskstream.workers import projector as projectors
from taskstream.workers.projector import Projection, Projector, gathered
from testkit.histories import ALICE, claim, folded, give, held, ref, submission, success, wander, whole_log
from testkit.nats import NatsServer
from testkit.outage import begin, end, restart
from testkit.replaced_log import saved_log
from testkit.service import running_service
from testkit.waiting import wait_until

TASK_REFS = [ref(number, owner) for number in range(6) for owner in ("alice", "b=2Eob")]


class Crash(Exception):
    """The process dies here."""


class CrashingBucket(Bucket):
    """Dies before its nth write."""

    def __init__(self, bucket: Bucket, writes: int) -> None:
        super().__init__(bucket.connection, bucket.name)
        self.writes = writes

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, headers: dict[str, str] | None = None
    ) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise Crash
        return await super().put(key, value, expected=expected, headers=headers)

    async def put_many(self, writes: Sequence[Write]) -> list[int]:
        done = await super().put_many(writes[: self.writes])
        self.writes -= len(writes)
        if self.writes < 0:
            raise Crash
        return done


async def project(projection: Projection, positions: Sequence[Position], batch: int = 50) -> None:
    """Resume, apply what the bucket does not reflect yet, and write all of it."""
    checkpoint = await projection.resume()
    todo = [position for position in positions if position.sequence > checkpoint]
    for start in range(0, len(todo), batch):
        await projection.apply(todo[start : start + batch])
    await projection.write_all()


async def project_more(projection: Projection, positions: Sequence[Position]) -> None:
    """Apply these events and write all of them."""
    await projection.apply(positions)
    await projection.write_all()


async def agrees(container: Container) -> None:
    positions = await whole_log(container.reading)
    wanted, found = folded(positions), await held(container.buckets.tasks)
    assert {key: found.get(key) for key in wanted.keys() | found.keys()} == {
        key: wanted.get(key) for key in wanted.keys() | found.keys()
    }
    assert await projected(container.buckets.tasks) == positions[-1].sequence


@pytest.mark.parametrize("batch", [1, 7, 1_000])
async def test_the_bucket_is_the_fold_of_the_log_byte_for_byte(container: Container, batch: int) -> None:
    await wander(container.commands, TASK_REFS, 300, seed=batch + 1)

    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading), batch)

    await agrees(container)
    assert {"active", "task"} == {key.split(".")[0] for key in await held(container.buckets.tasks)}


async def test_a_batch_writes_each_key_once(container: Container) -> None:
    await give(
        container.commands,
        ref(),
        submission(),
        claim(),
        *[task.ReportProgress(reporter=task.Reporter(kind="worker"))] * 20,
    )

    projection = TaskProjection(container.buckets.tasks)
    written = await projection.apply(await whole_log(container.reading)) + await projection.write_all()

    assert written == 3  # the view, the active key, the checkpoint


async def requests_of(container: Container, projecting: Awaitable[object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many requests a projection makes, without its writes."""
    sent: list[str] = []
    publish = container.reading.publish

    async def counted(subject: str, *rest: Any, **more: Any) -> None:
        sent.append(subject)
        await publish(subject, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(container.reading, "publish", counted)
        await projecting
    return sum(not subject.startswith("$KV.") for subject in sent)


async def test_any_number_of_new_tasks_costs_no_request_but_the_writes(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No view of a task that was submitted after the start can be in the bucket."""
    projection = TaskProjection(container.buckets.tasks)
    await projection.resume()
    await asyncio.gather(*(give(container.commands, ref(number), submission()) for number in range(20)))
    positions = await whole_log(container.reading)

    assert await requests_of(container, project_more(projection, positions), monkeypatch) == 0
    await agrees(container)


async def test_any_number_of_lost_views_costs_as_many_requests_as_one(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for tasks in (1, 100):
        refs = [ref(1_000 * tasks + number) for number in range(tasks)]
        await asyncio.gather(*(give(container.commands, each, submission(), claim()) for each in refs))
        await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
        before = len(await whole_log(container.reading))
        await container.buckets.tasks.put_many([Write(view_key(each), None) for each in refs])
        await asyncio.gather(*(give(container.commands, each, success()) for each in refs))
        positions = (await whole_log(container.reading))[before:]
        projection = TaskProjection(container.buckets.tasks)
        await projection.resume()
        counts.append(await requests_of(container, project_more(projection, positions), monkeypatch))

    assert counts[0] == counts[1]
    await agrees(container)


async def test_a_backlog_is_projected_in_larger_batches_and_none_waits_for_the_next_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projectors, "BACKLOG_BATCH", 5 * FOLLOW_BATCH)
    monkeypatch.setattr(projectors, "BACKLOG_BYTES", 1_000_000)
    small, large = Position(1, "task.a.b.noted", b""), Position(1, "task.a.b.noted", bytes(500_000))
    full = [small] * FOLLOW_BATCH

    async def followed() -> AsyncGenerator[list[Position], None]:
        for batch in ([], [small], [], full, [], *[full] * 6, [small], [], [large, *full], [large, *full], full, []):
            yield batch

    sizes = [len(batch) async for batch in gathered(followed())]

    thousands = FOLLOW_BATCH
    assert sizes == [0, 1, 0, thousands, 0, 5 * thousands, thousands + 1, 0, 2 * thousands + 2, thousands, 0]


async def test_folding_again_from_an_older_checkpoint_changes_nothing(container: Container) -> None:
    await wander(container.commands, TASK_REFS, 200, seed=1)
    positions = await whole_log(container.reading)
    await project(TaskProjection(container.buckets.tasks), positions)
    before = await held(container.buckets.tasks)

    for checkpoint in (None, 0, 17, 100, positions[-1].sequence):
        if checkpoint is None:
            await container.buckets.tasks.delete(CHECKPOINT)
        else:
            await container.buckets.tasks.put(CHECKPOINT, b"%d" % checkpoint)
        await project(TaskProjection(container.buckets.tasks), positions, 30)
        assert await held(container.buckets.tasks) == before

    await agrees(container)


@pytest.mark.parametrize("seed", range(6))
async def test_a_crash_anywhere_in_a_batch_is_made_good_by_the_next_start(container: Container, seed: int) -> None:
    chance = random.Random(seed)
    await wander(container.commands, TASK_REFS, 150, seed=seed)
    positions = await whole_log(container.reading)

    for _ in range(25):
        dying = CrashingBucket(container.buckets.tasks, chance.randint(0, 12))
        try:
            await project(TaskProjection(dying), positions, chance.choice([1, 3, 8, 20]))
        except Crash:
            continue
    await project(TaskProjection(container.buckets.tasks), positions, 40)

    await agrees(container)


@pytest.mark.parametrize("writes", range(4))
async def test_a_crash_at_the_end_of_a_task_leaves_it_listed_nowhere(container: Container, writes: int) -> None:
    await give(container.commands, ref(), submission(), claim("s1"))
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
    await give(container.commands, ref(), success())
    with pytest.raises(Crash):
        await project(
            TaskProjection(CrashingBucket(container.buckets.tasks, min(writes, 2))), await whole_log(container.reading)
        )

    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))

    await agrees(container)
    assert await container.buckets.tasks.scan("active.>") == []


async def test_a_crash_at_the_start_of_an_attempt_leaves_it_listed_once(container: Container) -> None:
    await give(container.commands, ref(), submission())
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
    await give(container.commands, ref(), claim("s1"))
    with pytest.raises(Crash):
        await project(TaskProjection(CrashingBucket(container.buckets.tasks, 1)), await whole_log(container.reading))
    await give(container.commands, ref(), success())

    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))

    await agrees(container)


async def test_exactly_the_tasks_that_have_not_ended_are_active(container: Container) -> None:
    await give(container.commands, ref(1), submission())
    await give(container.commands, ref(2), submission(), claim("s1"))
    await give(container.commands, ref(3), submission(), claim("s1"), success())
    await give(container.commands, ref(4), submission(), claim("s 2"))
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading), 2)

    tasks = container.buckets.tasks
    assert {found.ref for found in await active_tasks(tasks)} == {ref(1), ref(2), ref(4)}
    assert await running_on(tasks, "s1") == [ref(2)]
    assert await running_on(tasks, "s=202") == [ref(4)]


async def test_a_task_listed_by_mistake_does_not_count_as_running(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim("s1"), success())
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))

    await container.buckets.tasks.put(f"active.s1.alice.{ref().unique}", b"2")

    assert await running_on(container.buckets.tasks, "s1") == []
    assert await active_tasks(container.buckets.tasks) == []


async def test_active_keys_that_a_killed_nats_has_brought_back_are_removed(container: Container) -> None:
    bucket = container.buckets.tasks
    await give(container.commands, ref(1), submission(), claim("s1"), success())
    await give(container.commands, ref(2), submission(), claim("s1"))
    await project(TaskProjection(bucket), await whole_log(container.reading))
    await bucket.put(f"active.s1.{ref(1).owner}.{ref(1).unique}", b"2")
    await bucket.put(f"active.=.{ref(2).owner}.{ref(2).unique}", b"9999")  # newer than its view: that will follow

    assert await remove_stale(bucket) == 1

    keys = {entry.key for entry in await bucket.scan("active.>")}
    assert keys == {f"active.{name}.{ref(2).owner}.{ref(2).unique}" for name in ("s1", "=")}


async def test_an_older_versions_key_that_names_a_claimed_server_is_replaced(container: Container) -> None:
    bucket = container.buckets.tasks
    report = task.ReportProgress(reporter=task.Reporter(kind="server", server_id="s1"), progress=1.0)
    await give(container.commands, ref(), submission(), report)
    await project(TaskProjection(bucket), await whole_log(container.reading))
    (right,) = await bucket.scan("active.>")
    await bucket.delete(right.key)
    await bucket.put(f"active.s1.{ref().owner}.{ref().unique}", b"3")
    assert await running_on(bucket, "s1") == []

    assert await remove_stale(bucket) == 1

    assert [entry.key for entry in await bucket.scan("active.>")] == [right.key]
    assert [found.ref for found in await active_tasks(bucket)] == [ref()]


async def test_two_projectors_at_once_do_no_harm(container: Container) -> None:
    await wander(container.commands, TASK_REFS, 200, seed=3)
    positions = await whole_log(container.reading)

    async def insist(batch: int) -> None:
        while await projected(container.buckets.tasks) < positions[-1].sequence:
            try:
                await project(TaskProjection(container.buckets.tasks), positions, batch)
            except Conflict:
                await asyncio.sleep(0)

    await asyncio.gather(insist(5), insist(9))
    # The views never differ; of two that write at once, one may leave a task listed that has ended.
    assert (await rebuild(container))[0].changed == 0
    await agrees(container)


async def test_one_that_was_overtaken_hears_of_it_at_its_next_batch(container: Container) -> None:
    slow, quick = TaskProjection(container.buckets.tasks), TaskProjection(container.buckets.tasks)
    await give(container.commands, ref(1), submission())
    await project(slow, await whole_log(container.reading))
    await give(container.commands, ref(2), submission())
    [_, second] = await whole_log(container.reading)
    await project(quick, [second])
    await give(container.commands, ref(3), submission())

    with pytest.raises(Conflict):
        await project_more(slow, (await whole_log(container.reading))[2:])

    await project(slow, await whole_log(container.reading))
    await agrees(container)


async def test_one_that_was_overtaken_puts_no_older_view_back(container: Container) -> None:
    slow, quick = TaskProjection(container.buckets.tasks), TaskProjection(container.buckets.tasks)
    await give(container.commands, ref(), submission())
    await project(slow, await whole_log(container.reading))
    await give(container.commands, ref(), claim("s1"), success())
    await project(quick, await whole_log(container.reading))
    before = (await held(container.buckets.tasks))[view_key(ref())]

    with pytest.raises(Conflict):
        await project_more(slow, (await whole_log(container.reading))[1:2])

    assert (await held(container.buckets.tasks))[view_key(ref())] == before
    assert await running_on(container.buckets.tasks, "s1") == []


async def test_what_comes_before_an_event_that_does_not_decode_is_written(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim("s1"))
    await container.appending.request(f"{task_root(ref())}.progressed", b"{}")
    await give(container.commands, ref(1), submission())

    with pytest.raises(UnreadableEvent) as raised:
        await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))

    assert await running_on(container.buckets.tasks, "s1") == [ref()]
    assert view_key(ref(1)) not in await held(container.buckets.tasks)
    assert await projected(container.buckets.tasks) == raised.value.sequence - 1


class Storage:
    """The files of one bucket, which a crash may take back to an earlier time (`persist_mode: async`)."""

    def __init__(self, container: Container, nats: NatsServer, bucket: Bucket) -> None:
        self._connections = (container.appending, container.reading, container.consuming)
        self._nats = nats
        [self._folder] = nats.folder.glob(f"store/**/streams/{bucket.stream}")
        self._copy = nats.folder / f"copy-of-{bucket.stream}"

    async def remember(self) -> None:
        await end(self._nats, *self._connections, gently=True)
        shutil.copytree(self._folder, self._copy)
        await begin(self._nats, *self._connections)

    async def lose_what_came_since(self) -> None:
        await end(self._nats, *self._connections)
        shutil.rmtree(self._folder)
        shutil.copytree(self._copy, self._folder)
        await begin(self._nats, *self._connections)


async def test_what_a_killed_nats_forgot_is_projected_again_by_a_projector_that_lived_on(
    container: Container, nats: NatsServer
) -> None:
    projection = TaskProjection(container.buckets.tasks)
    await give(container.commands, ref(1), submission(), claim())
    await project(projection, await whole_log(container.reading))
    storage = Storage(container, nats, container.buckets.tasks)
    await storage.remember()
    await give(container.commands, ref(1), success())
    await project_more(projection, (await whole_log(container.reading))[2:])

    await storage.lose_what_came_since()
    await give(container.commands, ref(2), submission())
    with pytest.raises(Conflict):
        await project_more(projection, (await whole_log(container.reading))[3:])

    await project(projection, await whole_log(container.reading))
    await agrees(container)


async def test_what_a_killed_nats_forgot_is_projected_again_without_any_further_event(
    container: Container, nats: NatsServer
) -> None:
    members = container.membership("worker")
    container.services.start(members, projector(container, members))
    await give(container.commands, ref(1), submission(), claim())
    await caught_up(container)
    storage = Storage(container, nats, container.buckets.tasks)
    await storage.remember()
    await give(container.commands, ref(1), success())
    await caught_up(container)

    await storage.lose_what_came_since()

    await caught_up(container)
    await agrees(container)


def registration(server_id: str) -> RegisterServer:
    return RegisterServer(
        settings=ServerRegistered(
            server_id=server_id, name=server_id, provider="test", predict_url="http://127.0.0.1:1/predict"
        )
    )


async def servers_log(container: Container) -> list[Position]:
    return await read(container.reading, SERVERS, ">")


async def registered(container: Container) -> set[str]:
    fleet = Fleet()
    await fleet.restore(container.buckets.registry)
    return {server.server_id for server in fleet.servers()}


async def test_servers_that_a_killed_nats_forgot_are_projected_again(container: Container, nats: NatsServer) -> None:
    projection = RegistryProjection(container.buckets.registry)
    await container.commands.servers.handle("s1", registration("s1"), by=ALICE)
    await project(projection, await servers_log(container))
    storage = Storage(container, nats, container.buckets.registry)
    await storage.remember()
    await container.commands.servers.handle("s2", registration("s2"), by=ALICE)
    await project_more(projection, (await servers_log(container))[1:])

    await storage.lose_what_came_since()
    await container.commands.servers.handle("s3", registration("s3"), by=ALICE)
    with pytest.raises(Conflict):
        await project_more(projection, (await servers_log(container))[2:])

    await project(projection, await servers_log(container))
    assert await registered(container) == {"s1", "s2", "s3"}


def projector(container: Container, members: Membership) -> Projector:
    return Projector(
        "tasks",
        TASKS,
        partial(follow, container.reading, TASKS, ["task.>"]),
        TaskProjection(container.buckets.tasks),
        members,
    )


async def caught_up(container: Container) -> None:
    last = (await whole_log(container.reading))[-1].sequence

    async def look() -> bool:
        return await projected(container.buckets.tasks) >= last

    await wait_until(look, "the projection to catch up")


async def test_a_projector_keeps_up_over_a_kill_of_nats(container: Container, nats: NatsServer) -> None:
    members = container.membership("worker")
    container.services.start(members, projector(container, members))
    await wander(container.commands, TASK_REFS, 100, seed=5)

    await restart(nats, container.appending, container.reading, container.consuming)
    await wander(container.commands, TASK_REFS, 100, seed=6)

    await caught_up(container)
    await agrees(container)


async def test_a_projector_that_meets_what_it_cannot_read_halts_and_says_so(container: Container) -> None:
    members = container.membership("worker")
    await members.renew()
    await give(container.commands, ref(), submission())
    await container.appending.request(f"{task_root(ref())}.progressed", b"{}")
    halting = projector(container, members)

    await asyncio.wait_for(halting.run(), 60)

    assert "event 2" in (halting.halted or "")
    assert (await container.buckets.leases.get("lease.projector.tasks")) is None


def clean(difference: Difference) -> bool:
    return not difference.any


async def test_after_normal_work_a_rebuild_finds_no_difference(container: Container) -> None:
    await wander(container.commands, TASK_REFS, 200, seed=8)
    servers = container.commands.servers
    await servers.handle("s1", registration("s1"), by=ALICE)
    await servers.handle("s1", RemoveOffline(reason="", since=utc_now() + timedelta(days=1)), by=ALICE)
    await servers.handle("s2", registration("s2"), by=ALICE)
    await servers.handle("s2", RemoveServer(reason=""), by=ALICE)
    await servers.handle("s2", RestoreServer(reason=""), by=ALICE)
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading), 11)
    await project(RegistryProjection(container.buckets.registry), await servers_log(container))

    tasks, registry, _ = await rebuild(container)

    assert (tasks.bucket, clean(tasks), tasks.events) == ("tasks", True, len(await whole_log(container.reading)))
    assert (registry.bucket, clean(registry), registry.keys, registry.events) == ("registry", True, 2, 5)
    assert tasks.keys == len(await held(container.buckets.tasks))


async def test_a_rebuild_of_nothing_is_nothing(container: Container) -> None:
    assert [(found.events, found.keys, found.any) for found in await rebuild(container)] == [(0, 0, False)] * 3


async def test_a_rebuild_makes_the_buckets_from_the_log_alone(container: Container) -> None:
    await wander(container.commands, TASK_REFS, 100, seed=9)
    await container.commands.servers.handle("s1", registration("s1"), by=ALICE)

    tasks, registry, _ = await rebuild(container)

    assert (tasks.missing, tasks.changed, tasks.extra) == (tasks.keys, 0, 0)
    assert registry.missing == 1
    await agrees(container)
    assert await registered(container) == {"s1"}


async def test_a_rebuild_finds_counts_and_puts_right_what_differs(container: Container) -> None:
    for number in range(6):
        await give(container.commands, ref(number), submission())
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
    bucket = container.buckets.tasks
    view = await bucket.get(f"task.alice.{ref(1).unique}")
    assert view is not None
    await bucket.put(f"task.alice.{ref(0).unique}", view.value)
    await bucket.delete(f"task.alice.{ref(2).unique}")
    await bucket.delete(f"active.{NO_SERVER}.alice.{ref(3).unique}")
    await bucket.put(f"active.s1.alice.{ref(4).unique}", b"1")
    await bucket.put("task.nobody.never", view.value)
    await bucket.put("task.nobody.either", view.value)

    tasks, *_ = await rebuild(container)

    assert (tasks.changed, tasks.missing, tasks.extra) == (1, 2, 3)
    await agrees(container)
    assert clean((await rebuild(container))[0])


async def test_what_is_later_than_the_checkpoint_is_no_difference_and_put_right(container: Container) -> None:
    """The projector writes views at the end of their tasks, or at rest: a rebuild may come before that."""
    await wander(container.commands, TASK_REFS, 100, seed=12)
    await give(container.commands, ref(50), submission())
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
    await wander(container.commands, TASK_REFS, 100, seed=13)
    await give(container.commands, ref(50), claim())
    await give(container.commands, ref(51), submission(), claim())

    assert clean((await rebuild(container))[0])
    await agrees(container)

    await container.buckets.tasks.delete(view_key(ref(51)))
    assert (await rebuild(container))[0].missing == 1


async def rebuilt(container: Container, monkeypatch: pytest.MonkeyPatch) -> Difference:
    """Rebuild as from a log too long for one batch: two tasks are compared at a time, and forgotten."""
    monkeypatch.setattr(task_rebuild, "WINDOW", 2)
    rebuilding = TaskRebuild(container.buckets.tasks)
    positions = await whole_log(container.reading)
    for start in range(0, len(positions), 3):
        await rebuilding.fold(positions[start : start + 3])
    return await rebuilding.finish()


async def finish(container: Container, *numbers: int) -> None:
    no = task.FailTask(reporter=task.Reporter(kind="worker"), error="no", result=None)
    for number in numbers:
        await give(container.commands, ref(number), submission(), claim(), no)


@pytest.mark.parametrize("projected_before", [True, False])
async def test_a_rebuild_keeps_up_with_tasks_that_go_on_long_after_they_ended(
    container: Container, monkeypatch: pytest.MonkeyPatch, projected_before: bool
) -> None:
    await finish(container, *range(8))
    for number in range(8):
        await give(container.commands, ref(number), task.RetryTask(reason="again"))
        await finish(container, 100 + 2 * number, 101 + 2 * number)
        await give(container.commands, ref(number), claim(), *([success()] if number % 2 else []))
    if projected_before:
        await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))

    found = await rebuilt(container, monkeypatch)

    assert found.extra == 0
    if projected_before:
        assert clean(found)
    await agrees(container)


@pytest.mark.parametrize("seed", range(3))
async def test_a_rebuild_of_any_history_comes_to_the_fold_of_the_log(
    container: Container, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    await wander(container.commands, TASK_REFS, 200, seed=seed)
    await project(TaskProjection(container.buckets.tasks), (await whole_log(container.reading))[: 40 * seed or 1])

    await rebuilt(container, monkeypatch)

    await agrees(container)
    assert clean(await rebuilt(container, monkeypatch))


async def test_a_rebuild_puts_right_a_view_that_claims_to_be_ahead_of_the_log(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    await finish(container, *range(5))
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
    key = view_key(ref(1))
    entry = await container.buckets.tasks.get(key)
    assert entry is not None
    await container.buckets.tasks.put(key, entry.value.replace(b'"sequence":6', b'"sequence":999'))

    assert (await rebuilt(container, monkeypatch)).changed == 1

    await agrees(container)


async def test_a_rebuild_puts_right_what_is_no_view_and_removes_what_is_no_key(container: Container) -> None:
    await finish(container, *range(3))
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))
    bucket = container.buckets.tasks
    await bucket.put(view_key(ref(0)), b"nonsense")
    await bucket.put("recent.alice", b"[]")
    for key in ("recent.nobody", "nothing", "task.alice", f"active.s1.alice.{ref(2).unique}"):
        await bucket.put(key, b"1")

    tasks, *_ = await rebuild(container)

    assert (tasks.changed, tasks.missing, tasks.extra) == (1, 0, 5)
    await agrees(container)


async def test_a_projector_goes_on_after_a_rebuild_beside_it(container: Container) -> None:
    members = container.membership("worker")
    container.services.start(members, projector(container, members))
    await wander(container.commands, TASK_REFS, 60, seed=10)
    await caught_up(container)

    writing = asyncio.create_task(wander(container.commands, TASK_REFS, 100, seed=11))
    await rebuild(container)
    await writing

    await caught_up(container)
    await agrees(container)


async def test_a_rebuild_without_nats_says_so(container: Container, nats: NatsServer) -> None:
    await end(nats, container.reading)
    with pytest.raises(StoreUnavailable):
        await rebuild(container)


async def test_views_carry_the_time_of_their_last_event(container: Container) -> None:
    before = utc_now()
    await give(container.commands, ref(), submission(), claim())
    await project(TaskProjection(container.buckets.tasks), await whole_log(container.reading))

    [found] = await active_tasks(container.buckets.tasks)

    assert before <= found.view.created_at < found.view.updated_at <= utc_now()
    assert (found.view.created_sequence, found.view.sequence) == (1, 2)


async def test_lists_agree_with_a_log_that_lost_events_which_the_projections_reflect(nats_url: str) -> None:
    """As after a power cut that the derived streams survived better than the logs."""
    async with running_service(nats_url) as service:
        put_back = [await saved_log(service.container.appending, stream) for stream in (TASKS, SERVERS)]
        for number in range(5):
            await service.alice.submit({"payload": number})
            await service.admin.done("PUT", f"/api/types/t{number}", {})
        await caught_up(service.container)
    connection = await open_connection(nats_url, "test")
    for each in put_back:
        await each(connection)
    await connection.close()
    async with running_service(nats_url) as service:
        await wait_until(lambda: checkpoint_is(service.container, 0), "the projection to be forgotten")
        task_id = await service.alice.submit({"payload": "new"})
        await service.admin.done("PUT", "/api/types/new", {})
        await caught_up(service.container)

        assert [task["id"] for task in await service.alice.tasks()] == [task_id]
        names = {found["name"] for found in await service.admin.listed("/api/types", "types")}
        assert ("new" in names, "t4" in names) == (True, False)
        assert [clean(difference) for difference in await rebuild(service.container)] == [True] * 3


async def checkpoint_is(container: Container, wanted: int) -> bool:
    entry = await container.buckets.tasks.get(CHECKPOINT)
    return entry is not None and int(entry.value) == wanted
