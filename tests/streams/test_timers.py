"""Timers: messages dated in the future, fired by NATS alone."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

import msgspec
import pytest

from taskstream.clock import utc_now
from taskstream.container import Container
from taskstream.errors import StoreUnavailable
from taskstream.events.ids import ScheduleRef
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import Position, read
from taskstream.streams.timers import AttemptDue
from taskstream.streams.topology.definitions import DISPATCH, RETRIES, TIMERS
from testkit.histories import ref
from testkit.nats import NatsServer
from testkit.outage import begin, end, restart
from testkit.waiting import wait_until

UNIQUE = ref().unique
QUEUED = f"dispatch.default.high.alice.{UNIQUE}"


def soon() -> datetime:
    return utc_now() + timedelta(milliseconds=200)


def much_later() -> datetime:
    return utc_now() + timedelta(days=300)


async def messages(container: Container, stream: str, filter_subject: str) -> list[Position]:
    return await read(container.reading, stream, filter_subject)


async def fired(container: Container, stream: str, filter_subject: str, count: int = 1) -> list[Position]:
    async def look() -> list[Position]:
        found = await messages(container, stream, filter_subject)
        return found if len(found) >= count else []

    return await wait_until(look, f"{filter_subject} to fire")


async def test_a_retry_comes_out_in_its_queue_when_it_is_due(container: Container) -> None:
    due_at = soon()
    await container.timers.queue_task(ref(), "default", "high", due_at)
    assert await messages(container, DISPATCH, ">") == []

    [queued] = await fired(container, DISPATCH, ">")

    assert queued.subject == QUEUED
    assert utc_now() >= due_at
    assert await messages(container, TIMERS, "timer.>") == []


async def test_a_pool_of_any_name_is_a_queue_of_its_own(container: Container) -> None:
    await container.timers.queue_task(ref(), "gpu > *.1", "low", soon())

    [queued] = await fired(container, DISPATCH, ">")

    assert queued.subject == f"dispatch.gpu=20=3E=20=2A=2E1.low.alice.{UNIQUE}"


async def test_a_deadline_falls_due_with_its_attempt(container: Container) -> None:
    at = soon()
    await container.timers.watch_deadline(ref(), 3, at)

    [due] = await fired(container, TIMERS, "due.>")

    assert due.subject == f"due.deadline.alice.{UNIQUE}"
    assert msgspec.json.decode(due.data, type=AttemptDue) == AttemptDue(attempt=3, at=at)


async def test_a_check_falls_due_for_its_server_with_its_body(container: Container) -> None:
    await container.timers.check_server("s 1", soon(), b'{"n":1}')

    [due] = await fired(container, TIMERS, "due.>")

    assert (due.subject, due.data) == ("due.check.s=201", b'{"n":1}')


async def test_a_schedule_falls_due_with_its_instant(container: Container) -> None:
    due_at = soon()
    await container.timers.run_schedule(ScheduleRef("alice", UNIQUE), due_at)

    [due] = await fired(container, TIMERS, "due.>")

    assert due.subject == f"due.schedule.alice.{UNIQUE}"
    assert msgspec.json.decode(due.data) == {"at": due_at.isoformat().replace("+00:00", "Z")}


async def test_what_is_due_in_the_past_falls_due_now(container: Container) -> None:
    await container.timers.queue_task(ref(), "default", "high", utc_now() - timedelta(hours=1))

    assert (await fired(container, DISPATCH, ">"))[0].subject == QUEUED


async def test_setting_a_timer_again_replaces_it(container: Container) -> None:
    await container.timers.check_server("s1", soon(), b"1")
    await container.timers.check_server("s1", much_later(), b"2")
    await container.timers.check_server("s2", soon() + timedelta(milliseconds=300), b"3")

    await fired(container, TIMERS, "due.check.s2")

    assert [position.subject for position in await messages(container, TIMERS, "due.>")] == ["due.check.s2"]
    assert [position.data for position in await messages(container, TIMERS, "timer.>")] == [b"2"]


async def test_a_timer_brought_forward_fires_once_and_earlier(container: Container) -> None:
    await container.timers.check_server("s1", much_later(), b"1")
    await container.timers.check_server("s1", soon(), b"2")

    assert [position.data for position in await fired(container, TIMERS, "due.>")] == [b"2"]
    assert await messages(container, TIMERS, "timer.>") == []


async def test_timers_of_one_task_do_not_replace_each_other(container: Container) -> None:
    await container.timers.queue_task(ref(), "default", "high", much_later())
    await container.timers.watch_deadline(ref(), 1, much_later())
    await container.timers.watch_deadline(ref(1), 1, much_later())

    assert len(await messages(container, RETRIES, "timer.>")) == 1
    assert len(await messages(container, TIMERS, "timer.>")) == 2


async def test_timers_outlive_a_kill_and_fire_afterwards(container: Container, nats: NatsServer) -> None:
    for number in range(20):
        await container.timers.queue_task(ref(number), "default", "high", soon() + timedelta(seconds=1))
    await container.timers.check_server("s1", much_later())

    await restart(nats, container.appending, container.reading)

    queued = await fired(container, DISPATCH, ">", 20)
    assert sorted(position.subject[-26:] for position in queued) == [ref(number).unique for number in range(20)]
    assert [position.subject for position in await messages(container, TIMERS, "timer.>")] == ["timer.check.s1"]


async def test_what_fell_due_while_nats_was_down_fires_when_it_is_back(container: Container, nats: NatsServer) -> None:
    due_at = soon()
    await container.timers.queue_task(ref(), "default", "high", due_at)
    await container.timers.watch_deadline(ref(), 1, due_at)
    await end(nats, container.appending, container.reading)
    await wait_until(lambda: utc_now() > due_at, "the instant to pass")
    await begin(nats, container.appending, container.reading)

    assert [position.subject for position in await fired(container, DISPATCH, ">")] == [QUEUED]
    assert [position.subject for position in await fired(container, TIMERS, "due.deadline.>")] == [
        f"due.deadline.alice.{UNIQUE}"
    ]


async def test_a_fired_retry_does_not_stay_for_ever(container: Container) -> None:
    """Sourcing copies it into DISPATCH and does not take it away."""
    await container.timers.queue_task(ref(), "default", "high", soon())
    [due] = await fired(container, RETRIES, "due.retry.>")

    message = (await api(container.reading, f"STREAM.MSG.GET.{RETRIES}", {"seq": due.sequence}))["message"]

    assert b"Nats-TTL: 2m" in base64.b64decode(message["hdrs"])


async def test_without_nats_no_timer_is_set_and_none_later(container: Container, nats: NatsServer) -> None:
    await end(nats, container.appending, container.reading)
    with pytest.raises(StoreUnavailable):
        await container.timers.check_server("s1", much_later())
    await begin(nats, container.appending, container.reading)

    assert await messages(container, TIMERS, ">") == []


async def test_a_timer_that_nats_refuses_is_an_error(container: Container) -> None:
    with pytest.raises(StoreUnavailable, match=r"refused the timer timer\.check\.s1"):
        await container.timers._set("timer.check.s1", "no.such.target", soon(), b"")
