"""What push costs: one look-up and one comparison per event, shared starts, and no read where nothing is missing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskstream.commands.task_commands import CancelTask
from taskstream.events.ids import parse_batch_id, parse_task_id
from taskstream.push.feed import FeedItem, FeedPosition
from taskstream.push.listeners import Listener, Scope
from taskstream.push.subscription_filter import SubscriptionFilter
from testkit.histories import give
from testkit.queue_surface import MODEL
from testkit.service import Service
from testkit.sse import opened, received
from testkit.traffic import counted
from testkit.waiting import wait_until

FILTERS = [SubscriptionFilter(project=f"p{number}") for number in range(8)] + [
    SubscriptionFilter(types=frozenset({"chapter"})),
    SubscriptionFilter(events=frozenset({"TaskCancelled"})),
]


@contextlib.asynccontextmanager
async def following(service: Service, scopes: list[Scope]) -> AsyncIterator[list[list[FeedItem]]]:
    """Follow scopes from the end of the log; yield the items of each."""
    heard: list[list[FeedItem]] = [[] for _ in scopes]
    end = (await service.container.feeds.start(None)).extent.last

    async def follow(scope: Scope, items: list[FeedItem]) -> None:
        async for item in service.container.feeds.feed(scope, FeedPosition(end), 60, in_log=True):
            items += [item] if item is not None else []

    tasks = [asyncio.create_task(follow(scope, items)) for scope, items in zip(scopes, heard, strict=True)]
    hub = service.container.feeds.hub
    await wait_until(lambda: hub.listeners == len(scopes) and hub.position >= end, "all to listen")
    try:
        yield heard
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def queued(service: Service, project: str) -> str:
    return str((await service.alice.done("POST", f"/api/projects/{project}/queue-chapters", headers=MODEL))["taskId"])


def names(items: list[FeedItem]) -> list[str]:
    return [type(item.what.event).__name__ for item in items if item.what is not None]


async def test_an_event_is_looked_up_once_and_compared_once_with_each_filter(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred subscriptions, ten distinct: as of 100 WebSockets with 100 each."""
    task_id = await queued(api, "p3")
    api.container.task_attributes._known.clear()
    compared: list[SubscriptionFilter] = []
    selects = SubscriptionFilter.selects

    def counting(choice: SubscriptionFilter, *given: Any) -> bool:
        compared.append(choice)
        return selects(choice, *given)

    scopes = [Scope(owner="alice", choice=choice) for choice in FILTERS * 10]
    async with following(api, scopes) as heard:
        monkeypatch.setattr(SubscriptionFilter, "selects", counting)
        with counted(api.container.reading) as traffic:
            await give(api.container.commands, parse_task_id(task_id), CancelTask(reason="enough"))
            await wait_until(lambda: sum(map(len, heard)) == 30, "all who chose it to hear of it")
        assert traffic.of("MSG.GET") <= 3  # the command's own, and one look-up
        assert sorted(map(repr, compared)) == sorted(map(repr, [FILTERS[3], FILTERS[8], FILTERS[9]]))
        assert [names(items) for items in heard] == [
            ["TaskCancelled"] * (choice in (FILTERS[3], FILTERS[8], FILTERS[9])) for choice in FILTERS * 10
        ]
        assert await api.bob.submit({"payload": 1})
    assert not api.container.feeds.hub._filtered


async def test_a_batch_is_offered_its_own_events_only(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await api.alice.done("POST", "/api/tasks/batch", [{"n": number} for number in range(3)])
    offered = 0
    offer = Listener.offer

    def counting(listener: Listener, update: Any) -> None:
        nonlocal offered
        offered += 1
        offer(listener, update)

    scopes = [Scope(batch=parse_batch_id(batch["batchId"]))] * 2
    async with following(api, scopes) as heard:
        monkeypatch.setattr(Listener, "offer", counting)
        for number in range(5):
            await api.alice.submit({"other": number})
        await api.alice.post(f"/api/batches/{batch['batchId']}/cancel")
        await wait_until(lambda: all(len(items) == 3 for items in heard), "both to hear of three ends")
    assert offered == 6


async def test_streams_that_start_together_share_their_reads(api: Service) -> None:
    """Forty streams of all tasks and forty of one batch, while bob submits and reads."""
    batch = await api.alice.done("POST", "/api/tasks/batch", [{"n": number} for number in range(30)])
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(opened(api.alice, "/api/tasks/stream"))  # the log is followed from now on
        with counted(api.container.reading) as traffic:
            paths = ["/api/tasks/stream", f"/api/batches/{batch['batchId']}/stream"] * 40
            streams = [asyncio.create_task(stack.enter_async_context(opened(api.alice, path))) for path in paths]
            bobs = await asyncio.gather(*(api.bob.submit({"payload": number}) for number in range(5)))
            assert (await api.bob.details(bobs[0]))["status"] == "WAITING"
            for stream in await asyncio.gather(*streams):
                assert len(await received(stream, 30)) == 30
        assert traffic.of("STREAM.INFO.TASKS") < 40
        assert len(traffic.requests) < 80 * 3


async def test_a_wait_right_after_a_submission_reads_nothing_of_the_log(api: Service) -> None:
    await api.alice.submit({"payload": 0})
    async with opened(api.alice, "/api/tasks/stream") as stream:
        await received(stream, 1)
        await wait_until(lambda: api.container.feeds.hub.position, "the log to be followed")
        with counted(api.container.reading) as traffic:
            asked = asyncio.create_task(api.alice.post("/api/task", {"payload": 1}, headers={"Prefer": "wait=60"}))
            submitted = await received(stream, 1)
            await wait_until(lambda: api.container.feeds.hub.listeners == 2, "the request to wait")
            before = len(traffic.requests)
            await api.alice.post(f"/api/task/{submitted[0].data['taskId']}/cancel")
            assert (await asked)["taskDetails"]["status"] == "CANCELLED"
        assert before == 0


async def test_a_listener_that_the_process_relieves_reads_on_from_the_log(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event once and in order, though all queues together may hold almost nothing."""
    monkeypatch.setattr("taskstream.push.listeners.ALL_QUEUES_BYTES", 2_000)
    monkeypatch.setattr("taskstream.push.hub.RECENT_LENGTH", 3)
    scopes = [Scope(owner="alice"), Scope(owner="alice", choice=SubscriptionFilter(types=frozenset({"default"})))]
    async with following(api, [*scopes, *scopes]) as heard:
        ids = [await api.alice.submit({"payload": number}) for number in range(40)]
        await wait_until(lambda: all(len(items) >= 40 for items in heard), "all to hear of all")
    for items in heard:
        assert [item.what.ref.id for item in items if item.what is not None] == ids
