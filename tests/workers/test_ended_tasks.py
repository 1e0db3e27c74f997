"""Messages of tasks that have ended: a killed NATS fills its queue with them again."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH
from taskstream.workers.dispatch.ended_tasks import EndedTasks
from testkit.backend import BackendServer
from testkit.service import Service
from testkit.waiting import wait_until

REFS = [TaskRef("alice", str(number)) for number in range(4)]


@given(st.lists(st.tuples(st.sampled_from(REFS), st.integers(1, 50)), unique_by=lambda end: end[1]))
def test_only_what_came_before_the_last_end_of_its_own_task_is_stale(ends: list[tuple[TaskRef, int]]) -> None:
    ends.sort(key=lambda end: end[1])
    ended = EndedTasks()
    for ref, sequence in ends:
        ended.add(ref, sequence)

    for ref in REFS:
        last = max((sequence for each, sequence in ends if each == ref), default=0)
        assert [ended.ended_after(ref, sequence) for sequence in range(60)] == [last > at for at in range(60)]


def test_the_oldest_ends_are_forgotten() -> None:
    ended = EndedTasks(remembered=2)
    for sequence, ref in enumerate(REFS[:3], start=10):
        ended.add(ref, sequence)

    assert [ended.ended_after(ref, 1) for ref in REFS] == [False, True, True, False]


async def test_a_queue_that_is_filled_again_is_drained_without_a_claim(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "one")
    tasks = [await service.alice.submit({"payload": {}}) for _ in range(20)]
    await asyncio.gather(*map(service.alice.ended, tasks))
    reading, appended = service.container.reading, service.container.appending
    last = (await api(reading, "STREAM.INFO.TASKS"))["state"]["last_seq"]
    claims: list[str] = []
    request = appended.request

    async def watched(subject: str, *more: object, **named: object) -> object:
        claims.append(subject)
        return await request(subject, *more, **named)  # type: ignore[arg-type]

    appended.request = watched  # type: ignore[assignment, method-assign]
    before = (await api(reading, f"STREAM.INFO.{DISPATCH}"))["state"]["last_seq"]
    config = (await api(reading, f"STREAM.INFO.{DISPATCH}"))["config"]
    anew = [source | {"opt_start_seq": 1} for source in config["sources"]]
    for sources in ([source for source in anew if source["name"] != "TASKS"], anew):
        await api(reading, f"STREAM.UPDATE.{DISPATCH}", config | {"sources": sources})  # copied from the floor again

    async def drained() -> bool:
        state = (await api(reading, f"STREAM.INFO.{DISPATCH}"))["state"]
        return state["last_seq"] >= before + 20 and not state["messages"]

    await wait_until(drained, "the queue to be filled and drained again")
    assert [subject for subject in claims if subject.startswith("task.")] == []
    assert (await api(reading, "STREAM.INFO.TASKS"))["state"]["last_seq"] == last
