"""Timers: messages dated in the future, fired by NATS alone."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

import msgspec
import pytest

from taskstream.clock import utc_now
from taskstream.container import Core
from taskstream.errors import StoreUnavailable
from taskstream.events.ids import ScheduleRef
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import Position, read
from taskstream.streams.topology.definitions import DISPATCH, RETRIES, TIMERS
from tests.support.histories import ref
from tests.support.nats import NatsServer
from tests.support.outage import begin, end, restart
from tests.support.waiting import wait_until

UNIQUE = ref().unique
RETRY = f"timer.retry.alice.{UNIQUE}"
QUEUED = f"dispatch.default.high.alice.{UNIQUE}"


def soon() -> datetime:
    return utc_now() + timedelta(milliseconds=200)


def much_later() -> datetime:
    return utc_now() + timedelta(days=300)


async def messages(core: Core, stream: str, filter_subject: str) -> list[Position]:
    return await read(core.reading, stream, filter_subject)


async def fired(core: Core, stream: str, filter_subject: str, count: int = 1) -> list[Position]:
    async def look() -> list[Position]:
        found = await messages(core, stream, filter_subject)
        return found if len(found) >= count else []

    return await wait_until(look, f"{filter_subject} to fire")


async def test_a_retry_comes_out_in_its_queue_when_it_is_due(core: Core) -> None:
    due_at = soon()
    await core.timers.queue_task(ref(), "default", "high", due_at)
    assert await messages(core, DISPATCH, ">") == []

    [queued] = await fired(core, DISPATCH, ">")

    assert queued.subject == QUEUED
    assert utc_now() >= due_at
    assert await messages(core, TIMERS, "timer.>") == []


async def test_a_pool_of_any_name_is_a_queue_of_its_own(core: Core) -> None:
    await core.timers.queue_task(ref(), "gpu > *.1", "low", soon())

    [queued] = await fired(core, DISPATCH, ">")

    assert queued.subject == f"dispatch.gpu=20=3E=20=2A=2E1.low.alice.{UNIQUE}"


async def test_a_deadline_falls_due_with_its_attempt(core: Core) -> None:
    await core.timers.watch_deadline(ref(), 3, soon())

    [due] = await fired(core, TIMERS, "due.>")

    assert due.subject == f"due.deadline.alice.{UNIQUE}"
    assert msgspec.json.decode(due.data) == {"attempt": 3}


async def test_a_check_falls_due_for_its_server_with_its_body(core: Core) -> None:
    await core.timers.check_server("s 1", soon(), b'{"n":1}')

    [due] = await fired(core, TIMERS, "due.>")

    assert (due.subject, due.data) == ("due.check.s=201", b'{"n":1}')


async def test_a_schedule_falls_due_with_its_instant(core: Core) -> None:
    due_at = soon()
    await core.timers.run_schedule(ScheduleRef("alice", UNIQUE), due_at)

    [due] = await fired(core, TIMERS, "due.>")

    assert due.subject == f"due.schedule.alice.{UNIQUE}"
    assert msgspec.json.decode(due.data) == {"at": due_at.isoformat().replace("+00:00", "Z")}


async def test_what_is_due_in_the_past_falls_due_now(core: Core) -> None:
    await core.timers.queue_task(ref(), "default", "high", utc_now() - timedelta(hours=1))

    assert (await fired(core, DISPATCH, ">"))[0].subject == QUEUED


async def test_setting_a_timer_again_replaces_it(core: Core) -> None:
    await core.timers.check_server("s1", soon(), b"1")
    await core.timers.check_server("s1", much_later(), b"2")
    await core.timers.check_server("s2", soon() + timedelta(milliseconds=300), b"3")

    await fired(core, TIMERS, "due.check.s2")

    assert [position.subject for position in await messages(core, TIMERS, "due.>")] == ["due.check.s2"]
    assert [position.data for position in await messages(core, TIMERS, "timer.>")] == [b"2"]


async def test_a_timer_brought_forward_fires_once_and_earlier(core: Core) -> None:
    await core.timers.check_server("s1", much_later(), b"1")
    await core.timers.check_server("s1", soon(), b"2")

    assert [position.data for position in await fired(core, TIMERS, "due.>")] == [b"2"]
    assert await messages(core, TIMERS, "timer.>") == []


async def test_timers_of_one_task_do_not_replace_each_other(core: Core) -> None:
    await core.timers.queue_task(ref(), "default", "high", much_later())
    await core.timers.watch_deadline(ref(), 1, much_later())
    await core.timers.watch_deadline(ref(1), 1, much_later())

    assert len(await messages(core, RETRIES, "timer.>")) == 1
    assert len(await messages(core, TIMERS, "timer.>")) == 2


async def test_timers_outlive_a_kill_and_fire_afterwards(core: Core, nats: NatsServer) -> None:
    for number in range(20):
        await core.timers.queue_task(ref(number), "default", "high", soon() + timedelta(seconds=1))
    await core.timers.check_server("s1", much_later())

    await restart(nats, core.appending, core.reading)

    queued = await fired(core, DISPATCH, ">", 20)
    assert sorted(position.subject[-26:] for position in queued) == [ref(number).unique for number in range(20)]
    assert [position.subject for position in await messages(core, TIMERS, "timer.>")] == ["timer.check.s1"]


async def test_what_fell_due_while_nats_was_down_fires_when_it_is_back(core: Core, nats: NatsServer) -> None:
    due_at = soon()
    await core.timers.queue_task(ref(), "default", "high", due_at)
    await core.timers.watch_deadline(ref(), 1, due_at)
    await end(nats, core.appending, core.reading)
    await wait_until(lambda: utc_now() > due_at, "the instant to pass")
    await begin(nats, core.appending, core.reading)

    assert [position.subject for position in await fired(core, DISPATCH, ">")] == [QUEUED]
    assert [position.subject for position in await fired(core, TIMERS, "due.deadline.>")] == [
        f"due.deadline.alice.{UNIQUE}"
    ]


async def test_a_fired_retry_does_not_stay_for_ever(core: Core) -> None:
    """Sourcing copies it into DISPATCH and does not take it away."""
    await core.timers.queue_task(ref(), "default", "high", soon())
    [due] = await fired(core, RETRIES, "due.retry.>")

    message = (await api(core.reading, f"STREAM.MSG.GET.{RETRIES}", {"seq": due.sequence}))["message"]

    assert b"Nats-TTL: 1h" in base64.b64decode(message["hdrs"])


async def test_without_nats_no_timer_is_set_and_none_later(core: Core, nats: NatsServer) -> None:
    await end(nats, core.appending, core.reading)
    with pytest.raises(StoreUnavailable):
        await core.timers.check_server("s1", much_later())
    await begin(nats, core.appending, core.reading)

    assert await messages(core, TIMERS, ">") == []


async def test_a_timer_that_nats_refuses_is_an_error(core: Core) -> None:
    with pytest.raises(StoreUnavailable, match=r"refused the timer timer\.check\.s1"):
        await core.timers._set("timer.check.s1", "no.such.target", soon(), b"")
