"""What a worker does for a schedule: each step can be repeated, and taken by somebody else."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from msgspec import Raw
from msgspec.structs import replace
from structlog.testing import capture_logs

from taskstream.clock import utc_now
from taskstream.commands.owner import Allowance
from taskstream.commands.schedule import Created, CreateSchedule, DeleteSchedule, FireSchedule, PauseSchedule
from taskstream.container import Container
from taskstream.events.envelope import Actor
from taskstream.events.ids import ScheduleRef, new_schedule_ref, parse_task_id, run_ref
from taskstream.events.schedule import ScheduleSettings
from taskstream.events.subjects import schedule_root
from taskstream.events.task import TaskSubmitted
from taskstream.projections.fleet import Fleet
from taskstream.projections.schedules import load_schedules, schedule_refs
from taskstream.streams.jetstream.messages import list_subjects, read
from taskstream.streams.storage import Space, StoreSpace
from taskstream.streams.topology.definitions import SCHEDULES, TASKS, TIMERS
from taskstream.workers.cron import Cron

BY = Actor("user", "alice")
GRACE = timedelta(minutes=1)
NIGHTLY = ScheduleSettings(cron="30 2 * * *", time_zone="Europe/Berlin", task=Raw(b'{"payload":{"n":1}}'))


@pytest.fixture
def schedules(container: Container) -> Cron:
    return Cron(container)


async def create(container: Container, number: int = 0) -> tuple[ScheduleRef, datetime]:
    """Create a schedule; return when it falls due, which is hours away."""
    ref = new_schedule_ref("alice", utc_now(), number)
    command = CreateSchedule(schedule_id=ref.id, owner="alice", settings=NIGHTLY, fingerprint="f", repeatable=False)
    state = (await container.commands.schedules.handle(ref, command, by=BY)).known.state
    assert isinstance(state, Created)
    assert state.next_at is not None
    return ref, state.next_at


async def state_of(container: Container, ref: ScheduleRef) -> Created:
    state = (await container.commands.schedules.load(ref)).state
    assert isinstance(state, Created)
    return state


async def submitted(container: Container) -> list[str]:
    """Return the subjects of all submissions."""
    return [position.subject for position in await read(container.reading, TASKS, "task.*.*.submitted.>")]


async def fired(container: Container) -> int:
    return len(await read(container.reading, SCHEDULES, "schedule.*.*.schedule_fired"))


async def timers(container: Container) -> list[str]:
    return await list_subjects(container.reading, TIMERS, "timer.schedule.>")


async def test_what_is_due_fires_once_whoever_comes(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)

    await asyncio.gather(*(schedules.attend(ref, due_at) for _ in range(5)))

    assert await fired(container) == 1
    [subject] = await submitted(container)
    assert subject.startswith(f"task.alice.{run_ref(ref, due_at).unique}.submitted")
    [stored] = await container.commands.tasks.history(run_ref(ref, due_at))
    assert isinstance(stored.recorded.event, TaskSubmitted)
    assert stored.recorded.event.schedule == ref.id
    assert await timers(container) == [f"timer.schedule.alice.{ref.unique}"]
    following = (await state_of(container, ref)).next_at
    assert following is not None
    assert timedelta(hours=22) < following - due_at < timedelta(hours=26)


async def test_who_comes_after_a_crash_submits_what_had_fired(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)
    await container.commands.schedules.handle(ref, FireSchedule(ref=ref, grace=GRACE, due_at=due_at), by=BY)
    assert await submitted(container) == []

    await schedules.attend(ref, due_at)
    await schedules.attend(ref, due_at)

    assert len(await submitted(container)) == await fired(container) == 1
    assert len(await timers(container)) == 1


async def test_the_next_run_does_not_hide_one_that_was_not_submitted(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)
    handled = await container.commands.schedules.handle(ref, FireSchedule(ref=ref, grace=GRACE, due_at=due_at), by=BY)
    assert isinstance(handled.known.state, Created)

    await schedules.attend(ref, handled.known.state.next_at)

    assert len(await submitted(container)) == await fired(container) == 2


async def test_a_pause_does_not_hide_it_either(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)
    await container.commands.schedules.handle(ref, FireSchedule(ref=ref, grace=GRACE, due_at=due_at), by=BY)
    await container.commands.schedules.handle(ref, PauseSchedule(reason="r"), by=BY)

    await schedules.attend(ref, due_at)

    assert len(await submitted(container)) == 1
    assert await timers(container) == []


async def test_one_that_is_deleted_or_was_never_there_does_nothing(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)
    await container.commands.schedules.handle(ref, DeleteSchedule(), by=BY)

    await schedules.attend(ref, due_at)
    await schedules.attend(ref._replace(unique="0" * 26), due_at)

    assert await submitted(container) == await timers(container) == []


async def test_a_timer_that_is_early_only_sets_itself_again(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)

    await schedules.attend(ref, due_at - timedelta(minutes=1))
    await schedules.attend(ref)

    assert await submitted(container) == []
    assert len(await timers(container)) == 1


async def test_timers_that_are_missing_are_set_and_no_others(container: Container, schedules: Cron) -> None:
    refs = [(await create(container, number))[0] for number in range(4)]
    await container.commands.schedules.handle(refs[0], PauseSchedule(reason="r"), by=BY)
    await container.commands.schedules.handle(refs[1], DeleteSchedule(), by=BY)

    assert await schedules.set_missing() == 2
    assert await schedules.set_missing() == 0
    assert sorted(await timers(container)) == sorted(f"timer.schedule.alice.{ref.unique}" for ref in refs[2:])


async def test_one_that_has_run_often_is_read_from_a_few_events(container: Container, schedules: Cron) -> None:
    ref, due_at = await create(container)
    for _ in range(30):
        await schedules.attend(ref, due_at)
        following = (await state_of(container, ref)).next_at
        assert following is not None
        due_at = following

    read_back = await container.commands.schedules.log.load(schedule_root(ref))

    assert len(read_back) == 2
    assert (await state_of(container, ref)).counts.fired == 30
    assert await schedule_refs(container.reading, "alice") == [ref]
    assert (await load_schedules(container.reading, [ref]))[ref] == await state_of(container, ref)
    assert parse_task_id((await state_of(container, ref)).fired[0].task_id).owner == "alice"


async def test_what_is_due_at_a_full_store_is_held_and_fires_once_there_is_space(
    container: Container, schedules: Cron
) -> None:
    ref, due_at = await create(container)
    full = Space(used_bytes=9, limit_bytes=9, free_bytes=0, limited_by="disk", reserve_bytes=1)
    container.submissions.space = space = StoreSpace(  # it is not started, so it keeps what it is given
        container.reading,
        container.appending,
        reserve_bytes=None,
        replicas=1,
        server_limit=None,
        folder=None,
        streams=(),
    )
    space.space = full
    with capture_logs() as logs:
        for _ in range(3):
            await schedules.attend(ref, due_at)

    assert (await submitted(container), await fired(container)) == ([], 0)
    assert len(await timers(container)) == 1
    [line] = [entry for entry in logs if entry["event"] == "schedule.held"]
    assert line["schedule"] == ref.id
    assert "the task store is full" in line["reason"]

    space.space = replace(full, limit_bytes=10**9, free_bytes=10**9)
    await schedules.attend(ref, due_at)
    assert (len(await submitted(container)), await fired(container)) == (1, 1)


async def test_at_the_quota_of_stored_bytes_one_run_fails_and_further_ones_store_nothing(
    container: Container, schedules: Cron
) -> None:
    ref, due_at = await create(container)
    container.submissions.stored._fleet = Fleet(Allowance(stored=1))
    for day in range(3):
        await schedules.attend(ref, due_at + timedelta(days=day))

    state = await state_of(container, ref)
    assert state.failure is not None
    assert "stored bytes" in state.failure.error
    assert (await fired(container), await submitted(container)) == (1, [])
    container.submissions.stored._fleet = Fleet(Allowance(stored=None))
    assert state.next_at is not None
    await schedules.attend(ref, state.next_at)
    assert len(await submitted(container)) == 1
