"""A log of events: guarded appends whose outcome is found out, and whole histories read back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from taskstream.container import Container
from taskstream.errors import Conflict, OutcomeUnknown, StoreUnavailable, UnreadableEvent
from taskstream.events.codec import task_codec
from taskstream.events.envelope import Recorded
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import task_root
from taskstream.events.task import ProgressReported, TaskEvent
from taskstream.streams.client.connection import Connection, PayloadTooLarge, open_connection
from taskstream.streams.committer import Append, Committer, StreamMessage
from taskstream.streams.jetstream.messages import read
from taskstream.streams.log import Log, LogEntry
from taskstream.streams.topology.definitions import TASKS
from testkit.histories import ALICE, ref
from testkit.link import Link
from testkit.nats import NatsServer
from testkit.outage import begin, end

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ACK = b'"stream":"TASKS"'


def progress(name: str, *, padding: int = 0) -> Recorded[TaskEvent]:
    return Recorded(id=name, at=NOW, by=ALICE, event=ProgressReported(attempt=1, message=name + "." * padding))


def log_over(appending: Connection, reading: Connection, *, replicated: bool = False) -> Log[TaskEvent]:
    return Log(TASKS, task_codec, Committer(appending), reading, replicated=replicated)


@pytest.fixture
async def log(container: Container) -> Log[TaskEvent]:
    return log_over(container.appending, container.reading)


@pytest.fixture
async def link(nats: NatsServer) -> AsyncIterator[Link]:
    """A link that can lose an answer."""
    async with Link(nats.port) as link:
        yield link


@pytest.fixture
async def unsure(container: Container, link: Link) -> AsyncIterator[Log[TaskEvent]]:
    """A log that appends over the link."""
    appending = await open_connection(link.url, "test")
    yield log_over(appending, container.reading)
    await appending.close()


def entry(number: int, *names: str, expected: int = 0) -> LogEntry[TaskEvent]:
    at = ref(number)
    return LogEntry(root=task_root(at), events=[progress(name) for name in names], expected=expected)


async def ids(log: Log[TaskEvent], at: TaskRef) -> list[str]:
    return [stored.recorded.id for stored in await log.load(task_root(at))]


async def test_what_was_appended_is_loaded_in_order_with_its_sequences(log: Log[TaskEvent]) -> None:
    root = task_root(ref())
    first = await log.append(root, [progress("a")], 0)
    await log.append(task_root(ref(1)), [progress("other")], 0)
    last = await log.append(root, [progress("b"), progress("c")], first)

    history = await log.load(root)

    assert [(stored.sequence, stored.recorded.id) for stored in history] == [(1, "a"), (3, "b"), (4, "c")]
    assert last == 4
    assert history[0].recorded == progress("a")


async def test_a_thing_without_events_has_an_empty_history(log: Log[TaskEvent]) -> None:
    assert await log.load(task_root(ref())) == []


async def test_a_task_whose_name_begins_like_another_s_has_a_history_of_its_own(log: Log[TaskEvent]) -> None:
    short, long = TaskRef("a", "x"), TaskRef("a", "xx")
    await log.append(task_root(short), [progress("short")], 0)
    await log.append(task_root(long), [progress("long")], 0)

    assert await ids(log, short) == ["short"]


async def test_loading_after_a_sequence_leaves_out_what_came_before(log: Log[TaskEvent]) -> None:
    root = task_root(ref())
    first = await log.append(root, [progress("a")], 0)
    await log.append(root, [progress("b")], first)

    assert [stored.recorded.id for stored in await log.load(root, first)] == ["b"]


@pytest.mark.parametrize("replicated", [False, True])
async def test_a_history_longer_than_one_answer_is_complete(container: Container, *, replicated: bool) -> None:
    log = log_over(container.appending, container.reading, replicated=replicated)
    last = other = 0
    for start in range(0, 2_400, 400):
        names = [str(number) for number in range(start, start + 400)]
        last = await log.append(task_root(ref()), [progress(name) for name in names], last)
        other = await log.append(task_root(ref(1)), [progress("between")], other)

    assert await ids(log, ref()) == [str(number) for number in range(2_400)]


async def test_a_history_of_large_events_is_complete(container: Container, log: Log[TaskEvent]) -> None:
    root, last = task_root(ref()), 0
    for number in range(20):
        last = await log.append(root, [progress(str(number), padding=2_000_000)], last)

    assert await ids(log, ref()) == [str(number) for number in range(20)]


async def test_reading_stops_at_its_limit(container: Container, log: Log[TaskEvent]) -> None:
    await log.append(task_root(ref()), [progress(str(number)) for number in range(50)], 0)

    assert [position.sequence for position in await read(container.reading, TASKS, "task.>", 11, 5)] == [
        11,
        12,
        13,
        14,
        15,
    ]


async def test_reading_what_does_not_exist_says_so_instead_of_answering_with_nothing(container: Container) -> None:
    with pytest.raises(StoreUnavailable):
        await read(container.reading, "NO_SUCH_STREAM", ">")


async def test_an_answer_that_is_a_refusal_is_no_empty_history(container: Container) -> None:
    with pytest.raises(StoreUnavailable, match="408"):
        await read(container.reading, TASKS, "task.>", from_sequence=-1)


async def test_an_event_that_does_not_decode_is_named_by_its_place(container: Container, log: Log[TaskEvent]) -> None:
    await log.append(task_root(ref()), [progress("a")], 0)
    subject = f"{task_root(ref())}.progressed"
    await container.appending.request(subject, b'{"id":"b","event":{"type":"FromTheFuture"}}')

    with pytest.raises(UnreadableEvent, match=f"event 2 .{subject}") as caught:
        await log.load(task_root(ref()))

    assert (caught.value.sequence, caught.value.subject) == (2, subject)


async def test_an_append_whose_answer_was_lost_is_found_by_looking(link: Link, unsure: Log[TaskEvent]) -> None:
    link.lose_next = ACK

    sequence = await unsure.append(task_root(ref()), [progress("a"), progress("b")], 0)

    assert (link.lost, sequence) == (1, 2)
    assert await ids(unsure, ref()) == ["a", "b"]


async def test_in_a_group_whose_answer_was_lost_each_append_finds_its_own(link: Link, unsure: Log[TaskEvent]) -> None:
    link.lose_next = b'"batch":'

    sequences = await asyncio.gather(
        *(unsure.append(task_root(ref(number)), [progress(f"{number}")], 0) for number in range(30))
    )

    assert (link.lost, sequences) == (1, list(range(1, 31)))


async def test_an_event_of_somebody_else_is_not_mistaken_for_the_one_whose_answer_was_lost(
    link: Link, log: Log[TaskEvent], unsure: Log[TaskEvent]
) -> None:
    link.lose_next = b"wrong last sequence"
    await log.append(task_root(ref()), [progress("theirs")], 0)

    with pytest.raises(OutcomeUnknown):
        await unsure.append(task_root(ref()), [progress("ours")], 0)

    assert link.lost == 1


async def test_entries_appended_together_are_stored_in_their_order(log: Log[TaskEvent]) -> None:
    first = await log.append(task_root(ref(1)), [progress("before")], 0)

    last = await log.append_together([entry(0, "a", "b"), entry(1, "c", expected=first), entry(2, "d")])

    assert last == 5
    assert await ids(log, ref(0)) == ["a", "b"]
    assert await ids(log, ref(1)) == ["before", "c"]
    assert await ids(log, ref(2)) == ["d"]


async def test_a_fence_that_has_moved_on_keeps_all_entries_out(container: Container, log: Log[TaskEvent]) -> None:
    def fence(expected: int) -> Append:
        return Append(messages=[StreamMessage("task.fence", b"")], guard="task.fence", expected=expected)

    last = await log.append_together([entry(0, "a"), entry(1, "b")], fence=fence(0))

    with pytest.raises(Conflict):
        await log.append_together([entry(2, "c")], fence=fence(0))
    assert last == 3
    assert await log.append_together([entry(3, "d")], fence=fence(1)) == 5
    assert await ids(log, ref(2)) == []


async def test_entries_appended_together_whose_answer_was_lost_are_found_by_looking(
    link: Link, unsure: Log[TaskEvent]
) -> None:
    link.lose_next = ACK

    assert await unsure.append_together([entry(number, f"{number}") for number in range(20)]) == 20

    assert link.lost == 1


async def test_entries_appended_together_that_are_not_found_stay_unknown(
    link: Link, log: Log[TaskEvent], unsure: Log[TaskEvent]
) -> None:
    """Another append was faster, and the answer about it was lost."""
    await log.append(task_root(ref(19)), [progress("theirs")], 0)
    link.lose_next = ACK

    with pytest.raises(OutcomeUnknown):
        await unsure.append_together([entry(number, "ours") for number in range(20)])

    assert link.lost == 1
    assert await ids(log, ref(0)) == []


async def test_an_outcome_that_nobody_can_look_up_stays_unknown(link: Link, log: Log[TaskEvent]) -> None:
    appending, reading = [await open_connection(link.url, "test") for _ in range(2)]
    await reading.close()
    link.lose_next = ACK

    with pytest.raises(OutcomeUnknown):
        await log_over(appending, reading).append(task_root(ref()), [progress("a")], 0)

    assert await ids(log, ref()) == ["a"]
    await appending.close()


async def test_without_nats_neither_append_nor_load_answers_and_nothing_lands_later(
    container: Container, nats: NatsServer, log: Log[TaskEvent]
) -> None:
    await end(nats, container.appending, container.reading)

    with pytest.raises(StoreUnavailable) as caught:
        await log.append(task_root(ref()), [progress("a")], 0)
    assert not isinstance(caught.value, OutcomeUnknown)
    with pytest.raises(StoreUnavailable):
        await log.load(task_root(ref()))

    await begin(nats, container.appending, container.reading)
    assert await log.load(task_root(ref())) == []


async def test_what_was_acknowledged_outlives_a_kill(
    container: Container, nats: NatsServer, log: Log[TaskEvent]
) -> None:
    for number in range(20):
        await log.append(task_root(ref(number)), [progress(str(number))], 0)

    await end(nats, container.appending, container.reading)
    await begin(nats, container.appending, container.reading)

    assert [await ids(log, ref(number)) for number in range(20)] == [[str(number)] for number in range(20)]


async def test_an_event_too_large_is_refused_and_the_connection_stays(
    container: Container, log: Log[TaskEvent]
) -> None:
    with pytest.raises(PayloadTooLarge):
        await log.append(task_root(ref()), [progress("a", padding=container.appending.max_payload)], 0)

    assert container.appending.is_connected
    assert await log.append(task_root(ref()), [progress("b")], 0) == 1
