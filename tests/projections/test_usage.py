"""The stored bytes of each owner: counted once, forgotten with the retention, the same after a rebuild."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.backup.rebuild import rebuild
from taskstream.clock import utc_now
from taskstream.commands.schedule import ChangeSchedule, CreateSchedule
from taskstream.container import Container
from taskstream.events.envelope import Actor
from taskstream.events.ids import new_schedule_ref
from taskstream.events.schedule import ScheduleSettings
from taskstream.events.task import StoredResult
from taskstream.projections.usage import (
    COUNTED_LOGS,
    MOST_DAYS,
    OF_SCHEDULES,
    OF_TASKS,
    OF_WEBHOOKS,
    Usage,
    UsageProjection,
    decode,
    encode,
    first_day,
    fold,
)
from taskstream.streams.jetstream.messages import read, stream_info
from taskstream.streams.topology.definitions import TASKS
from testkit.histories import claim, give, ref, submission, success, wander, whole_log

from ..deciders.support import NOW

DAY = timedelta(days=1)
TODAY = first_day(NOW, timedelta(microseconds=1))


async def project(container: Container, upto: int | None = None) -> None:
    projection = UsageProjection(container.buckets.usage)
    checkpoint = await projection.resume()
    todo = [position for position in await whole_log(container.reading) if position.sequence > checkpoint]
    if taken := [position for position in todo if upto is None or position.sequence <= upto]:
        await projection.apply(taken)


async def counted(container: Container, owner: str) -> int:
    entry = await container.buckets.usage.get(OF_TASKS.key(owner))
    return decode(entry.value).stored_bytes(utc_now(), DAY) if entry else 0


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 10**9)), max_size=60), st.integers(0, 60))
def test_an_event_counts_once_however_often_it_is_folded(events: list[tuple[int, int]], again: int) -> None:
    usage = Usage()
    for sequence, (day, size) in enumerate(events, 1):
        usage.add(sequence, day, size)
    before = encode(usage)
    for sequence, (day, size) in list(enumerate(events, 1))[-again:]:
        usage.add(sequence, day, size)

    assert encode(usage) == before
    assert encode(decode(before)) == before
    assert sum(usage.days.values()) == sum(size for _, size in events)


def test_what_is_past_the_retention_is_freed_to_the_day() -> None:
    usage = Usage()
    for age in range(10):
        usage.add(age + 1, TODAY - age, 1 << age)

    assert usage.stored_bytes(NOW, timedelta(0)) == 1023
    assert usage.stored_bytes(NOW, 2 * DAY) == 1 + 2 + 4
    assert usage.stored_bytes(NOW + 3 * DAY, 2 * DAY) == 0
    assert usage.frees_at(NOW, timedelta(0)) is None
    freed_at = usage.frees_at(NOW, 2 * DAY)
    assert freed_at is not None
    assert NOW < freed_at <= NOW + DAY
    assert usage.stored_bytes(freed_at, 2 * DAY) == 1 + 2
    assert usage.frees_at(NOW + 30 * DAY, 2 * DAY) is None


def test_the_days_of_many_years_are_a_bounded_number_and_no_byte_is_lost() -> None:
    usage = Usage()
    for number in range(1, 2_000):
        usage.add(number, number, 1)

    assert len(usage.days) == MOST_DAYS
    assert sum(usage.days.values()) == 1_999


async def test_events_and_results_count_for_their_owner_alone(container: Container) -> None:
    await give(container.commands, ref(1), submission(payload=b'"%s"' % (b"x" * 10_000)), claim())
    await give(container.commands, ref(1), success(StoredResult(object_name="o", size_bytes=5_000_000)))
    await give(container.commands, ref(2, "bob"), submission("bob"))
    await project(container)

    assert 5_010_000 < await counted(container, "alice") < 5_015_000
    assert 0 < await counted(container, "bob") < 1_000
    assert await counted(container, "carol") == 0


async def test_what_is_counted_is_about_what_the_log_takes(container: Container) -> None:
    await wander(container.commands, [ref(number) for number in range(5)], 100, seed=1)
    await project(container)

    taken = (await stream_info(container.reading, TASKS))["state"]["bytes"]
    assert 0.8 * taken < await counted(container, "alice") < 1.25 * taken


async def test_a_rebuild_gives_the_same_keys_however_the_log_was_cut(container: Container) -> None:
    refs = [ref(number, owner) for number in range(4) for owner in ("alice", "bob")]
    await wander(container.commands, refs, 80, seed=2)
    for upto in (1, 7, 7, 30, None):
        await project(container, upto)

    usages: dict[str, Usage] = {}
    fold(usages, await whole_log(container.reading))
    for owner, usage in usages.items():
        entry = await container.buckets.usage.get(OF_TASKS.key(owner))
        assert entry is not None
        assert entry.value == encode(usage)
    assert [found.any for found in await rebuild(container) if found.bucket == "usage"] == [False]
    await container.buckets.usage.put(OF_TASKS.key("alice"), encode(Usage()))
    assert [found.changed for found in await rebuild(container) if found.bucket == "usage"] == [1]
    assert [found.any for found in await rebuild(container) if found.bucket == "usage"] == [False]


async def test_schedules_and_webhooks_count_apart_and_a_rebuild_restores_them(container: Container) -> None:
    settings = ScheduleSettings(cron="0 0 1 1 *", task=Raw(b'{"payload":"%s"}' % (b"x" * 10_000)))
    schedule = new_schedule_ref("alice", utc_now(), 1)
    create = CreateSchedule(schedule_id=schedule.id, owner="alice", settings=settings, fingerprint="", repeatable=False)
    await container.commands.schedules.handle(schedule, create, by=Actor("user", "alice"))
    for number in range(3):
        change = ChangeSchedule(name=f"s{number}")
        await container.commands.schedules.handle(schedule, change, by=Actor("user", "alice"))
    await give(container.commands, ref(1), submission())
    bucket = container.buckets.usage
    projections = [UsageProjection(bucket, of) for of in COUNTED_LOGS]
    for of, projection in zip(COUNTED_LOGS, projections, strict=True):
        await projection.resume()
        if positions := await read(container.reading, of.stream, of.subjects):
            await projection.apply(positions)

    entry = await bucket.get(OF_SCHEDULES.key("alice"))
    assert entry is not None
    kept = entry.value
    assert 40_000 < decode(kept).stored_bytes(utc_now() + 999 * DAY, timedelta(0)) < 45_000
    assert 0 < await counted(container, "alice") < 1_000
    assert [found.any for found in await rebuild(container) if found.bucket == "usage"] == [False]
    await bucket.put(OF_SCHEDULES.key("alice"), encode(Usage()))
    await bucket.put(OF_WEBHOOKS.key("mallory"), encode(Usage()))
    found = next(each for each in await rebuild(container) if each.bucket == "usage")
    assert (found.changed, found.missing, found.extra) == (1, 0, 1)
    entry = await bucket.get(OF_SCHEDULES.key("alice"))
    assert entry is not None
    assert entry.value == kept
    await projections[1].forget()
    assert (await bucket.get(OF_SCHEDULES.key("alice")), await counted(container, "alice") > 0) == (None, True)
