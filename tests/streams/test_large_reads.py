"""Reads of many large messages: what is on its way to a process at once is bounded in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from nats.aio.msg import Msg

from taskstream.container import Container
from taskstream.events.subjects import SCHEDULER_FENCE, TASK_SUBJECTS
from taskstream.streams.client.connection import LARGE_READS_AT_ONCE
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.consumers import FOLLOW_BYTES, follow
from taskstream.streams.jetstream.messages import READ_BYTES, pages, read_last, read_some
from taskstream.streams.topology.definitions import TASKS
from testkit.following import consumers
from testkit.histories import give, ref, submission
from testkit.waiting import wait_until

LARGE = 512 * 1024
COUNT = 64
MiB = 1024 * 1024


async def publish_large(container: Container, *sizes: int) -> None:
    """Store events of about these sizes, each on a subject of its own."""
    for number, size in enumerate(sizes):
        await container.appending.request(f"task.a.b{number}.noted", bytes(size))


class Watch:
    """The batched reads of a connection: how many are open at once, and the bytes of the largest answers."""

    def __init__(self, container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = self.most_open = self.most_bytes = 0
        self.filters: list[str | None] = []
        """Of the reads, in order."""
        self._ask: Callable[..., Awaitable[list[Msg]]] = container.reading.request_many
        monkeypatch.setattr(container.reading, "request_many", self._request_many)

    async def _request_many(self, *arguments: object, **more: object) -> list[Msg]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.filters.append(msgspec.json.decode(arguments[1]).get("next_by_subj"))  # type: ignore[arg-type]
        try:
            answers = await self._ask(*arguments, **more)
        finally:
            self.open -= 1
        self.most_bytes = max(self.most_bytes, sum(len(answer.data) for answer in answers))
        return answers


async def test_a_follower_that_does_not_keep_up_has_a_few_megabytes_before_it(container: Container) -> None:
    await publish_large(container, *[LARGE] * COUNT)
    follower = follow(container.reading, TASKS, ["task.>"], 0)
    first = await anext(follower)
    [name] = await consumers(container)

    async def delivered_to_idle() -> int | None:
        info = await api(container.appending, f"CONSUMER.INFO.{TASKS}.{name}")
        return None if info["num_waiting"] else int(info["delivered"]["consumer_seq"])

    async def has_used_up() -> bool:
        return await delivered_to_idle() is not None

    await wait_until(has_used_up, "the end of all requests")

    assert sum(len(position.data) for position in first) <= 2 * FOLLOW_BYTES
    assert (await delivered_to_idle() or 0) * LARGE <= 4 * FOLLOW_BYTES
    seen = len(first)
    while seen < COUNT:
        positions = await anext(follower)
        assert sum(len(position.data) for position in positions) <= 4 * FOLLOW_BYTES
        seen += len(positions)
    await follower.aclose()


async def test_the_whole_log_is_read_without_a_filter_whose_rest_nats_would_count(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        for _ in range(4):
            await container.appending.request(SCHEDULER_FENCE, b"")
        await container.appending.request(f"task.a.b{number}.noted", b"1")
    watch = Watch(container, monkeypatch)

    one_by_one = [await read_some(container.reading, TASKS, TASK_SUBJECTS, sequence, 1) for sequence in (1, 6, 11)]
    together = await read_some(container.reading, TASKS, TASK_SUBJECTS, 1)
    rest = await read_some(container.reading, TASKS, TASK_SUBJECTS, 16)
    paged = [position async for page in pages(container.reading, TASKS, TASK_SUBJECTS, limit=2) for position in page]

    assert [[position.sequence for position in found] for found in one_by_one] == [[5], [10], [15]]
    assert [position.sequence for position in together] == [5, 10, 15]
    assert [position.sequence for position in paged] == [5, 10]
    assert rest == []
    assert set(watch.filters) == {">"}


async def test_a_message_larger_than_any_request_asks_for_is_followed_in_its_place(container: Container) -> None:
    sizes = [10, 7 * MiB, 10, 5 * MiB, 5 * MiB, LARGE, 10]
    await publish_large(container, *sizes)

    found: list[int] = []
    async for positions in follow(container.reading, TASKS, ["task.>"], 0):
        found += [len(position.data) for position in positions]
        if len(found) == len(sizes):
            break

    assert found == sizes


async def test_many_reads_of_large_events_share_a_bound_and_others_get_answers(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(container.commands, ref(), submission())
    await publish_large(container, *[LARGE] * 20)
    watch = Watch(container, monkeypatch)
    lost: list[None] = []
    container.reading.open_inbox(lambda message: lost.append(None) if message is None else None)

    async def read_all() -> int:
        return sum([len(positions) async for positions in pages(container.reading, TASKS, "task.a.>")])

    readers = asyncio.gather(*(read_all() for _ in range(LARGE_READS_AT_ONCE + 4)))
    good = 0
    while not readers.done():
        assert (await container.tasks.detail(ref())).view.status == "WAITING"
        good += 1

    assert await readers == [20] * (LARGE_READS_AT_ONCE + 4)
    assert good > 0
    assert lost == []
    assert watch.most_open <= LARGE_READS_AT_ONCE
    assert watch.most_bytes <= READ_BYTES + LARGE


async def test_the_last_messages_of_subjects_come_whole_in_bounded_parts(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish_large(container, *[LARGE] * 20)
    watch = Watch(container, monkeypatch)

    found = await read_last(container.reading, TASKS, ["task.a.>"])

    assert sorted(position.sequence for position in found) == list(range(1, 21))
    assert watch.most_bytes <= READ_BYTES + LARGE
