"""The bulk queue: nothing holds an owner with many tasks while nobody else has many, and nobody waits behind them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from taskstream.container import Container
from taskstream.events.subjects import dispatched_ref, task_ref, task_word, tasks_filter
from taskstream.instants import nanoseconds
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import Consumer
from taskstream.streams.topology.definitions import DISPATCH, TASKS
from taskstream.streams.topology.ensure import ensure_consumer
from taskstream.workers.dispatch.queues import Queues
from testkit.backend import BackendServer, echo, hold
from testkit.histories import give, read, ref, submission
from testkit.service import Client, Service
from testkit.waiting import wait_until

from .behaviour import called, queue_holds, submit_all

SLOTS = 4
WINDOW_AT_MOST = 40
"""Tasks of one owner that are queued beside another's backlog: a window, with what starts in a few round trips."""


async def served(service: Service, backend: BackendServer) -> None:
    """Register a server, and wait for a report of the scheduler that knows it."""
    await service.admin.register(backend, "one", maxConcurrent=SLOTS)
    admission = service.container.submissions.admission

    def reported() -> bool:
        return admission._report.over is not None and admission._report.windows.get("default", 0) >= SLOTS

    await wait_until(reported, "a backlog report")


async def batch(client: Client, count: int, **more: Any) -> list[str]:
    bodies = [{"payload": number, **more} for number in range(count)]
    answer = await client.done("POST", "/api/tasks/batch", bodies)
    return list(answer["taskIds"])


async def words(service: Service, owner: str) -> Counter[str]:
    """Return how many events of each kind the log has of an owner's tasks."""
    found = await read(service.container.reading, TASKS, tasks_filter(owner))
    return Counter(task_word(position.subject) for position in found)


async def all_ended(service: Service, backend: BackendServer, count: int) -> None:
    await called(backend, count)
    await queue_holds(service, 0)


async def test_a_burst_of_a_lone_owner_costs_three_events_a_task(service: Service, backend: BackendServer) -> None:
    await served(service, backend)

    await submit_all(service.alice, ({"payload": number} for number in range(250)))
    await batch(service.alice, 250)
    await all_ended(service, backend, 500)

    assert await words(service, "alice") == {"submitted": 500, "started": 500, "succeeded": 500}


async def test_a_second_owner_with_many_tasks_has_a_window(service: Service, backend: BackendServer) -> None:
    await served(service, backend)
    backend.answer = hold
    await batch(service.alice, 100)
    await called(backend, SLOTS)
    await reported_over(service, "alice")

    await batch(service.bob, 100)
    held = (await words_held(service, "bob"))[True]

    assert 100 - WINDOW_AT_MOST <= held < 100
    assert (await words_held(service, "alice"))[True] == 0
    backend.answer = echo
    backend.let_go.set()
    await all_ended(service, backend, 200)
    assert (await words(service, "bob"))["queued"] == held
    assert (await words(service, "alice"))["queued"] == 0


async def reported_over(service: Service, owner: str) -> None:
    admission = service.container.submissions.admission
    await wait_until(
        lambda: (admission._report.over or {}).get("normal default") == (owner,), f"a report that {owner} has many"
    )


async def words_held(service: Service, owner: str) -> Counter[bool]:
    """Return how many of an owner's tasks were held at their submission."""
    found = await read(service.container.reading, TASKS, tasks_filter(owner, "submitted"))
    return Counter(position.subject.endswith(".held") for position in found)


async def test_a_single_task_starts_at_once_beside_anothers_backlog(service: Service, backend: BackendServer) -> None:
    await served(service, backend)
    backend.answer = hold
    await batch(service.alice, 200)
    await called(backend, SLOTS)

    single = await service.bob.submit({"payload": "single"})
    backend.answer = echo
    backend.let_go.set()
    await service.bob.ended(single)
    order = [call["task_id"] for call in backend.calls]

    # Beside alice's first four tasks and the slots that were taken: every other start is of the first queue.
    assert order.index(single) <= 3 * SLOTS + 4
    await all_ended(service, backend, 201)


async def test_two_owners_with_many_tasks_share_the_slots(service: Service, backend: BackendServer) -> None:
    await served(service, backend)
    backend.answer = hold
    await batch(service.alice, 100)
    await called(backend, SLOTS)
    await reported_over(service, "alice")
    await batch(service.bob, 100)
    backend.answer = echo
    backend.let_go.set()
    await all_ended(service, backend, 200)

    starts = await read(service.container.reading, TASKS, tasks_filter(None, "started"))
    owners = [task_ref(position.subject).owner for position in starts]
    both = Counter(owners[SLOTS : SLOTS + 100])
    assert abs(both["alice"] - both["bob"]) <= 20, both


async def test_why_knows_the_place_of_a_task_in_the_bulk_queue(service: Service, backend: BackendServer) -> None:
    await served(service, backend)
    backend.answer = hold
    ids = await batch(service.alice, 60)
    await called(backend, SLOTS)

    def is_placed(why: dict[str, Any]) -> bool:  # some before it may be delivered, and so not counted
        places = [each["data"]["ahead"] for each in why["holds"] if each["kind"] == "queued-behind"]
        return bool(places) and 50 - SLOTS < places[0] < 60 - SLOTS

    await service.alice.until(f"/api/task/{ids[-1]}/why", is_placed, "the last one's place")

    pool = await service.admin.until(
        "/api/pools/default", lambda pool: pool["waiting"]["normal"] == 60 - SLOTS, "all that wait"
    )
    assert pool["waitingFor"] == {"queued": 60 - SLOTS}
    assert pool["inHand"]["normal"] - SLOTS in (0, 1)  # one that found no slot stays in hand until it is asked for
    backend.let_go.set()


async def test_an_older_version_s_consumer_keeps_its_position_and_gets_no_bulk_task(container: Container) -> None:
    old = {
        "durable_name": "pool-normal-default",
        "filter_subjects": ["dispatch.default.normal.>"],
        "ack_policy": "explicit",
        "ack_wait": nanoseconds(timedelta(seconds=container.settings.ack_wait)),
        "max_deliver": -1,
        "max_ack_pending": -1,
    }
    name = await ensure_consumer(container.consuming, DISPATCH, old)
    for number in range(3):
        await give(container.commands, ref(number), submission())
    await pending(container, name, 3)
    consumer = Consumer(container.consuming, DISPATCH, name)
    await consumer.open()
    [first] = await consumer.fetch(1)
    before = await api(container.reading, f"CONSUMER.INFO.{DISPATCH}.{name}")

    await Queues(container.consuming, container.settings, asyncio.Event().set).open({"default"})
    command = submission()
    await give(container.commands, ref(3), replace(command, submission=replace(command.submission, bulk=True)))

    await pending(container, "bulk-normal-default", 1)
    after = await api(container.reading, f"CONSUMER.INFO.{DISPATCH}.{name}")
    same = ("created", "config", "delivered", "num_pending", "num_ack_pending")
    assert {field: after[field] for field in same} == {field: before[field] for field in same}
    left = await consumer.fetch(5)
    assert [dispatched_ref(message.subject) for message in [first, *left]] == [ref(0), ref(1), ref(2)]


async def pending(container: Container, name: str, count: int) -> None:
    async def look() -> bool:
        return int((await api(container.reading, f"CONSUMER.INFO.{DISPATCH}.{name}"))["num_pending"]) == count

    await wait_until(look, f"{count} messages for {name}")
