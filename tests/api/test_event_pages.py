"""Pages of a task's history: from either end, of some kinds, with the number of all."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.events.ids import TaskRef, parse_task_id
from taskstream.events.task import ProgressReported
from testkit.histories import claim, give
from testkit.service import Client, Service, running_service

from ..projections.test_present_history import append

REPORTS = 450


@pytest.fixture
async def service(nats_url: str) -> Any:
    async with running_service(nats_url, worker=False) as service:
        yield service


async def with_reports(service: Service) -> tuple[str, TaskRef]:
    """Return a task that runs and has reported often."""
    task_id = await service.alice.submit({"payload": {"a": 1}})
    ref = parse_task_id(task_id)
    await give(service.container.commands, ref, claim())
    await append(service.container, ref, [ProgressReported(attempt=1, message=str(n)) for n in range(REPORTS)])
    return task_id, ref


async def paged(client: Client, path: str, first: str, following: str) -> list[list[dict[str, Any]]]:
    """Return the events of all pages: `first`: the parameter of the first, `following`: the field of the next one."""
    name = {"nextAfter": "after", "nextBefore": "before"}[following]
    pages = []
    query = first
    while query is not None:
        page = await client.done("GET", f"{path}&{query}")
        pages.append(page["events"])
        assert page["total"] == REPORTS + 2
        query = None if page[following] is None else f"{name}={page[following]}"
    return pages


async def test_a_history_is_the_same_from_either_end_in_pages_of_any_size(service: Service) -> None:
    task_id, _ = await with_reports(service)
    path = f"/api/task/{task_id}/events"
    whole = (await service.alice.done("GET", f"{path}?limit=1000"))["events"]
    assert len(whole) == REPORTS + 2

    for limit in (60, 452, 1000):
        forward = await paged(service.alice, f"{path}?limit={limit}", "after=0", "nextAfter")
        backward = await paged(service.alice, f"{path}?limit={limit}", "before=end", "nextBefore")
        assert [event for page in forward for event in page] == whole
        assert [event for page in backward for event in page] == whole[::-1]
        assert all(len(page) == limit for page in (*forward[:-1], *backward[:-1]))


async def test_a_page_has_the_kinds_of_events_that_were_asked_for(service: Service) -> None:
    task_id, _ = await with_reports(service)
    path = f"/api/task/{task_id}/events"

    async def types(query: str) -> list[str]:
        return [each["event"]["type"] for each in (await service.alice.done("GET", f"{path}?{query}"))["events"]]

    others = ["TaskSubmitted", "AttemptStarted"]
    assert await types("event=TaskSubmitted,AttemptStarted") == others
    assert await types("event=TaskSubmitted&event=AttemptStarted&before=end") == others[::-1]
    assert await types("event=TaskFailed") == []
    assert await types("event=ProgressReported&limit=3&before=end") == ["ProgressReported"] * 3
    mixed = f"{path}?event=AttemptStarted,ProgressReported&limit=100"
    for first, following in (("after=0", "nextAfter"), ("before=end", "nextBefore")):
        pages = await paged(service.alice, mixed, first, following)
        sequences = [event["sequence"] for page in pages for event in page]
        assert len(set(sequences)) == len(sequences) == REPORTS + 1
        assert sequences == sorted(sequences, reverse=following == "nextBefore")


async def test_what_is_wrong_with_a_request_for_events_is_said(service: Service) -> None:
    task_id = await service.alice.submit({"payload": 1})
    path = f"/api/task/{task_id}/events"

    for query, where in [
        ("event=TaskDone", "event"),
        ("before=newest", "before"),
        ("before=5&after=3", "before"),
        ("bodies=perhaps", "bodies"),
        ("limit=1001", "limit"),
    ]:
        assert await service.alice.refusal("GET", f"{path}?{query}") == (400, where)
    assert (await service.bob.get(f"{path}?before=end")).status == 404
