"""Leases: one holder at a time; a silent holder stops before another begins."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from taskstream.container import Container
from taskstream.errors import Conflict, StoreUnavailable
from taskstream.streams import leases
from taskstream.streams.buckets import Bucket, BucketEntry
from taskstream.streams.jetstream.api import api
from taskstream.streams.leases import REREAD_SECONDS, Lease, Leases, Membership, Presence
from testkit.nats import NatsServer
from testkit.outage import begin, end
from testkit.waiting import wait_until

TTL_SECONDS = 10.0


class Clock:
    """What `time.monotonic` says to the leases."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


async def member(container: Container, role: str = "worker") -> Membership:
    """Return a process that has announced itself and looked around."""
    members = Membership(container.buckets.leases, role, TTL_SECONDS)
    await members.renew()
    await members.observe()
    return members


async def look(*members: Membership) -> None:
    for one in members:
        await one.observe()


@pytest.fixture
async def holder(container: Container) -> Membership:
    return await member(container)


@pytest.fixture
async def lease(holder: Membership) -> Lease:
    """A lease that `holder` has."""
    lease = Lease(holder, "thing")
    assert await lease.acquire()
    return lease


@pytest.fixture
async def heir(container: Container, lease: Lease) -> Membership:
    """Another process, which has seen the holder."""
    return await member(container)


async def test_of_many_processes_that_want_a_lease_one_gets_it(container: Container) -> None:
    members = [await member(container) for _ in range(8)]
    await look(*members)
    wanted = [Lease(one, "thing") for one in members]

    got = await asyncio.gather(*(lease.acquire() for lease in wanted))

    assert sum(got) == 1
    assert [lease.held for lease in wanted] == got


async def test_a_holder_keeps_its_lease_by_asking_again(lease: Lease, heir: Membership) -> None:
    assert [await lease.acquire() for _ in range(2)] == [True] * 2

    assert not await Lease(heir, "thing").acquire()


async def test_one_process_may_hold_many_leases_and_leases_are_told_apart(container: Container) -> None:
    first, second = await member(container), await member(container)
    await look(first, second)

    assert await Lease(first, "a").acquire()
    assert await Lease(first, "b").acquire()
    assert await Lease(second, "c").acquire()


async def test_a_process_that_did_not_announce_itself_gets_none(container: Container) -> None:
    silent = Membership(container.buckets.leases, "worker", TTL_SECONDS)

    assert not await Lease(silent, "thing").acquire()


async def test_a_silent_holder_is_succeeded_once_it_was_unchanged_for_the_time_to_live(
    clock: Clock, holder: Membership, heir: Membership
) -> None:
    await pass_time(clock, TTL_SECONDS * 0.99, heir)
    assert not await Lease(heir, "thing").acquire()
    await pass_time(clock, TTL_SECONDS * 0.02, heir)

    assert await Lease(heir, "thing").acquire()
    assert heir.dead() == [holder.id]


async def test_a_holder_that_cannot_renew_has_stopped_before_another_may_begin(
    clock: Clock, lease: Lease, heir: Membership
) -> None:
    overlap = False
    successor = Lease(heir, "thing")
    for _ in range(60):
        clock.now += TTL_SECONDS / 50
        await heir.renew()
        await look(heir)
        taken = await successor.acquire()
        overlap = overlap or (taken and lease.held)
    assert successor.held
    assert not lease.held
    assert not overlap


async def test_a_holder_that_came_back_too_late_finds_its_lease_taken(
    clock: Clock, holder: Membership, lease: Lease, heir: Membership
) -> None:
    await pass_time(clock, TTL_SECONDS + 1, heir)
    assert await Lease(heir, "thing").acquire()

    await holder.renew()
    await look(holder)

    assert not await lease.acquire()
    assert not lease.held


async def test_a_renewed_holder_is_not_succeeded(
    clock: Clock, holder: Membership, lease: Lease, heir: Membership
) -> None:
    for _ in range(10):
        clock.now += TTL_SECONDS / 2
        await holder.renew()
        await heir.renew()
        await look(holder, heir)
        assert lease.held
        assert not await Lease(heir, "thing").acquire()


async def pass_time(clock: Clock, seconds: float, *awake: Membership) -> None:
    """Let time pass for processes that go on renewing and looking meanwhile."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now = min(until, clock.now + TTL_SECONDS / 10)
        for one in awake:
            await one.renew()
        await look(*awake)


async def announce_for(bucket: Bucket, process: str, host: str, pid: int) -> None:
    await bucket.put(f"process.{process}", msgspec.json.encode(Presence(host=host, pid=pid, beat=1)))


async def test_a_holder_whose_process_has_died_on_this_machine_is_succeeded_at_once(container: Container) -> None:
    heir = await member(container)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    await announce_for(heir.bucket, "worker-dead", leases._pid_space(), ended.pid)
    await heir.bucket.put("lease.thing", b"worker-dead")
    await look(heir)

    assert heir.dead() == ["worker-dead"]
    assert await Lease(heir, "thing").acquire()


@pytest.mark.parametrize("host", ["another machine", ""])
async def test_of_a_process_elsewhere_only_its_silence_tells(container: Container, clock: Clock, host: str) -> None:
    heir = await member(container)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    await announce_for(heir.bucket, "worker-far", host, ended.pid)
    await heir.bucket.put("lease.thing", b"worker-far")
    await look(heir)

    assert not await Lease(heir, "thing").acquire()
    await pass_time(clock, TTL_SECONDS, heir)
    assert await Lease(heir, "thing").acquire()


async def test_a_released_lease_is_free_at_once(holder: Membership, lease: Lease, heir: Membership) -> None:
    await lease.release()

    assert not lease.held
    assert await Lease(heir, "thing").acquire()
    await lease.release()
    await look(holder)
    assert not await lease.acquire()


async def test_releasing_what_was_lost_does_not_take_it_from_the_next_holder(lease: Lease, heir: Membership) -> None:
    taken = Lease(heir, "thing")
    await taken.take_over()

    await lease.release()

    assert taken.held
    assert (await heir.bucket.get("lease.thing") or [None, b""])[1] == heir.id.encode()


async def test_a_lease_taken_over_is_lost_at_the_next_asking(lease: Lease, heir: Membership) -> None:
    taken = Lease(heir, "thing")
    await taken.take_over()

    assert taken.held
    assert not await lease.acquire()
    assert not lease.held


async def test_a_process_that_leaves_holds_nothing_and_is_succeeded_at_once(
    holder: Membership, lease: Lease, heir: Membership
) -> None:
    await holder.leave()
    await look(heir)

    assert not lease.held
    assert heir.alive("worker") == [heir.id]
    assert heir.dead() == []
    assert await Lease(heir, "thing").acquire()


async def test_a_renewal_under_way_while_leaving_brings_nobody_back(container: Container) -> None:
    first, second = await member(container), await member(container)

    await asyncio.gather(first.renew(), first.leave())
    await look(second)

    assert not first.is_current
    assert second.alive("worker") == [second.id]


async def test_those_alive_are_told_by_role_the_same_to_all(container: Container) -> None:
    workers = [await member(container) for _ in range(3)]
    api = await member(container, "api")
    await look(*workers, api)

    assert {tuple(one.alive("worker")) for one in [*workers, api]} == {tuple(sorted(one.id for one in workers))}
    assert api.alive("api") == [api.id]


async def test_a_dead_process_is_forgotten_once_buried_unless_it_lives_again(
    container: Container, clock: Clock
) -> None:
    dead, other = await member(container), await member(container)
    await look(other)
    await pass_time(clock, TTL_SECONDS, other)
    assert other.dead() == [dead.id]

    await dead.renew()
    with pytest.raises(Conflict):
        await other.bury(dead.id)

    await pass_time(clock, 2 * TTL_SECONDS, other)
    await other.bury(dead.id)
    await look(other)
    assert other.dead() == []


async def test_a_lease_is_not_taken_from_a_holder_that_was_not_seen_yet(container: Container) -> None:
    first = await member(container)
    newcomer = await member(container)
    assert await Lease(newcomer, "thing").acquire()

    assert not await Lease(first, "thing").acquire()


async def test_a_lease_whose_holder_left_no_trace_is_free(container: Container) -> None:
    heir = await member(container)
    await heir.bucket.put("lease.thing", b"worker-buried")

    assert await Lease(heir, "thing").acquire()


async def test_after_a_time_without_looking_nobody_is_thought_dead(
    clock: Clock, holder: Membership, heir: Membership
) -> None:
    """NATS was away: the others could renew no more than this one could look."""
    clock.now += 3 * TTL_SECONDS
    assert heir.is_alive(holder.id)
    await heir.renew()
    await look(heir)
    assert not await Lease(heir, "thing").acquire()

    await pass_time(clock, TTL_SECONDS, heir)
    assert await Lease(heir, "thing").acquire()


async def test_a_lease_is_not_held_after_a_lapse_until_it_was_looked_at(
    clock: Clock, holder: Membership, lease: Lease, heir: Membership
) -> None:
    clock.now += TTL_SECONDS
    await heir.renew()
    await Lease(heir, "thing").take_over()

    await holder.renew()

    assert holder.is_current
    assert not lease.held
    assert not await lease.acquire()


async def test_a_lease_that_nobody_took_meanwhile_is_held_again_once_it_was_looked_at(
    clock: Clock, holder: Membership, lease: Lease
) -> None:
    clock.now += TTL_SECONDS
    await holder.renew()
    assert not lease.held

    assert await lease.acquire()
    assert lease.held


async def test_presences_are_renewed_until_one_leaves(container: Container) -> None:
    members = Membership(container.buckets.leases, "worker", 0.4)
    running = asyncio.create_task(members.run())
    await asyncio.wait_for(members.observed(), 60)

    async def beats() -> int:
        entry = await container.buckets.leases.get(f"process.{members.id}")
        return msgspec.json.decode(entry.value, type=Presence).beat if entry else 0

    async def third_beat() -> bool:
        return await beats() >= 3

    await wait_until(third_beat, "the third beat")
    await members.leave()
    await asyncio.wait_for(running, 60)
    assert await beats() == 0


async def test_without_nats_no_lease_is_given_and_none_outlives_its_time(
    container: Container, nats: NatsServer, clock: Clock, holder: Membership, lease: Lease
) -> None:
    await end(nats, container.reading)

    with pytest.raises(StoreUnavailable):
        await Lease(holder, "other").acquire()
    assert lease.held
    clock.now += TTL_SECONDS * leases.SAFETY_FRACTION
    assert not lease.held
    assert not await lease.acquire()

    await begin(nats, container.reading)
    await holder.renew()
    assert await lease.acquire()


# Reading all of a kind


def holders(entries: dict[str, BucketEntry]) -> dict[str, str]:
    return {name: entry.value.decode() for name, entry in entries.items() if entry.value}


async def test_all_leases_of_a_kind_are_read_with_their_holders(container: Container, clock: Clock) -> None:
    one, other = await member(container), await member(container)
    mine, others = Lease(one, "server.a"), Lease(other, "server.b")
    await mine.acquire()
    await others.acquire()
    await Lease(one, "projector.tasks").acquire()

    found = Leases(container.buckets.leases, "server")

    assert holders(await found.read()) == {"a": one.id, "b": other.id}


async def test_what_has_changed_since_is_read_and_nothing_else(
    container: Container, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await member(container)
    held = [Lease(one, f"server.s{number}") for number in range(20)]
    for lease in held:
        await lease.acquire()
    found = Leases(container.buckets.leases, "server")
    await found.read()
    answers = []
    scan = container.buckets.leases.scan_writes

    async def counted(*arguments: Any) -> list[BucketEntry]:
        answers.append(await scan(*arguments))
        return answers[-1]

    monkeypatch.setattr(container.buckets.leases, "scan_writes", counted)
    await held[3].release()

    assert holders(await found.read()) == {f"s{number}": one.id for number in range(20) if number != 3}
    assert [entry.key for entry in answers[-1]] == ["lease.server.s3"]
    assert len(await found.read()) == 20
    assert answers[-1] == []


async def test_a_lease_that_was_given_up_is_taken_again_from_what_was_read(container: Container, clock: Clock) -> None:
    one, other = await member(container), await member(container)
    lease = Lease(one, "server.a")
    await lease.acquire()
    await lease.release()

    entries = await Leases(container.buckets.leases, "server").read()

    assert await Lease(other, "server.a").acquire_from(entries["a"])


async def test_a_mark_that_was_missed_is_found_missing_when_all_are_read_again(
    container: Container, clock: Clock
) -> None:
    one = await member(container)
    await Lease(one, "server.a").acquire()
    found = Leases(container.buckets.leases, "server")
    await found.read()
    await api(container.reading, "STREAM.PURGE.KV_leases", {"filter": "$KV.leases.lease.server.a"})

    clock.now += REREAD_SECONDS

    assert await found.read() == {}
