"""Operations: one command for all tasks of a filter, each once, whatever happens to the process that gives it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from taskstream.api import operation_runner, operations
from taskstream.api.operation_runner import OperationRunner
from taskstream.commands.operation import Operation
from taskstream.container import Container
from taskstream.errors import NotFound, StoreUnavailable
from taskstream.events.ids import TaskRef, parse_operation_id, parse_task_id
from taskstream.events.subjects import events_filter
from taskstream.streams.jetstream.messages import read
from taskstream.streams.topology.definitions import TASKS
from testkit.backend import BackendServer, overlapping
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

OVER = {"done", "stopped", "failed"}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "PAGE", 3)


@pytest.fixture
def held_runner(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let no page begin until this is set."""
    may_go = asyncio.Event()
    advance = OperationRunner.advance

    async def held(self: OperationRunner, ref: Any) -> None:
        await may_go.wait()
        await advance(self, ref)

    monkeypatch.setattr(OperationRunner, "advance", held)
    return may_go


async def submitted(client: Client, count: int, **task: Any) -> list[str]:
    """Submit tasks that no server runs; return their ids."""
    return [await client.submit({"payload": {}} | task) for _ in range(count)]


async def cancelled(client: Client, count: int, **task: Any) -> list[str]:
    """Submit tasks and cancel them."""
    ids = await submitted(client, count, **task)
    for task_id in ids:
        await client.done("POST", f"/api/task/{task_id}/cancel")
    return ids


async def begun(client: Client, **body: Any) -> str:
    """Start an operation; return its id."""
    return str((await client.done("POST", "/api/operations", body))["id"])


async def over(client: Client, operation_id: str) -> dict[str, Any]:
    """Wait until an operation has ended; return it."""
    found: dict[str, Any] = await client.until(
        f"/api/operations/{operation_id}", lambda body: body["state"] in OVER, "the operation to end"
    )
    return found


async def ran(client: Client, **body: Any) -> dict[str, Any]:
    return await over(client, await begun(client, **body))


async def causes(container: Container, task_id: str, word: str) -> list[str]:
    """Return the causes of a task's events of a kind."""

    ref: TaskRef = parse_task_id(task_id)
    found = await read(container.reading, TASKS, events_filter(ref, word))
    return [json.loads(position.data).get("cause", "") for position in found]


async def by_status(client: Client) -> dict[str, int]:
    groups = (await client.done("GET", "/api/tasks/count?by=status"))["by"]
    return {group["value"]: group["count"] for group in groups}


def counted(operation: dict[str, Any]) -> tuple[int, int, list[tuple[str, int]]]:
    counts = operation["counts"]
    return counts["done"], counts["unchanged"], [(each["reason"], each["count"]) for each in counts["refused"]]


# What it does


@pytest.mark.usefixtures("small_pages")
async def test_an_operation_commands_each_matching_task_once_and_counts_it(api: Service) -> None:
    wanted = await submitted(api.alice, 7, type="a")
    others = await submitted(api.alice, 2, type="b")

    operation = await ran(api.alice, action="cancel", filter={"type": ["a"]}, reason="no longer needed")

    assert (operation["state"], operation["progress"], operation["total"]) == ("done", 1, {"count": 7, "capped": False})
    assert counted(operation) == (7, 0, [])
    for task_id in wanted:
        history = (await api.alice.get(f"/api/task/{task_id}/events"))["events"]
        assert history[-1]["by"] == {"kind": "user", "id": "alice"}
        assert history[-1]["event"]["reason"] == "no longer needed"
        assert await causes(api.container, task_id, "cancelled") == [f"operation:{operation['id']}"]
    for task_id in others:
        assert (await api.alice.get(f"/api/task/{task_id}"))["taskDetails"]["status"] == "WAITING"


@pytest.mark.parametrize(
    ("action", "done", "unchanged", "refused"),
    [
        ("cancel", 2, 4, []),
        ("retry", 4, 0, [("a task that is waiting cannot be retried", 2)]),
        ("delete", 6, 0, []),
    ],
)
async def test_a_dry_run_counts_what_the_run_then_does(
    api: Service, action: str, done: int, unchanged: int, refused: list[tuple[str, int]]
) -> None:
    await cancelled(api.alice, 4)
    await submitted(api.alice, 2)

    dry = await ran(api.alice, action=action, filter={"type": ["default"]}, dryRun=True)
    unharmed = await by_status(api.alice)
    real = await ran(api.alice, action=action, filter={"type": ["default"]})

    assert counted(dry) == counted(real)
    assert counted(real)[:2] == (done, unchanged)
    assert sum(count for _, count in counted(real)[2]) == sum(count for _, count in refused)
    assert (dry["dryRun"], real["dryRun"]) == (True, False)
    assert unharmed == {"CANCELLED": 4, "WAITING": 2}


async def test_tasks_that_are_submitted_later_are_left_alone(api: Service, held_runner: asyncio.Event) -> None:
    await submitted(api.alice, 2)
    operation_id = await begun(api.alice, action="cancel", filter={"type": ["default"]})
    late = await submitted(api.alice, 1)

    held_runner.set()

    assert counted(await over(api.alice, operation_id)) == (2, 0, [])
    assert (await api.alice.get(f"/api/task/{late[0]}"))["taskDetails"]["status"] == "WAITING"


@pytest.mark.usefixtures("small_pages")
async def test_a_retry_goes_to_parents_before_their_children(api: Service) -> None:
    parent = (await submitted(api.alice, 1))[0]
    children = [(await submitted(api.alice, 1, dependsOn=[parent]))[0] for _ in range(5)]
    for task_id in (parent, *children):
        await api.alice.done("POST", f"/api/task/{task_id}/cancel")

    operation = await ran(api.alice, action="retry", filter={"status": ["CANCELLED"]})

    assert counted(operation) == (6, 0, [])
    for child in children:
        assert (await api.alice.get(f"/api/task/{child}"))["taskDetails"]["held"] is True


async def test_retried_tasks_go_into_the_bulk_queue(api: Service) -> None:
    (task_id,) = await cancelled(api.alice, 1)

    await ran(api.alice, action="retry", ids=[task_id])

    found = await read(api.container.reading, TASKS, events_filter(parse_task_id(task_id), "queued"))
    assert found[0].subject.endswith(".normal-bulk")


async def test_relative_times_are_fixed_at_the_start(api: Service) -> None:
    await cancelled(api.alice, 1)

    operation = await ran(api.alice, action="retry", filter={"endedSince": "1h", "status": ["CANCELLED"]}, dryRun=True)

    assert operation["filter"]["endedSince"].endswith("Z")
    assert operation["filter"]["status"] == ["CANCELLED"]
    assert counted(operation) == (1, 0, [])


async def test_only_dead_letters_are_discarded(service: Service) -> None:
    ids = await cancelled(service.alice, 2)

    by_filter = await ran(service.alice, action="discard", filter={})
    by_ids = await ran(service.alice, action="discard", ids=ids)

    assert counted(by_filter) == (0, 0, [])
    assert counted(by_ids) == (0, 0, [(operations.NO_DEAD_LETTER, 2)])


@pytest.mark.usefixtures("small_pages")
async def test_an_operation_by_ids_refuses_those_of_others_as_if_they_did_not_exist(api: Service) -> None:
    own, others = await submitted(api.alice, 4), await submitted(api.bob, 2)

    operation = await ran(api.alice, action="cancel", ids=[*own, *others])

    assert counted(operation) == (4, 0, [("there is no such task", 2)])
    assert (await api.bob.get(f"/api/task/{others[0]}"))["taskDetails"]["status"] == "WAITING"


# Refusals and isolation


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"action": "cancel"}, "$"),
        ({"action": "cancel", "filter": {}, "ids": ["x"]}, "$.ids[0]"),
        ({"action": "cancel", "filter": {}}, "$.filter"),
        ({"action": "cancel", "filter": {"since": "1h"}}, "$.filter.since"),
        ({"action": "cancel", "filter": {}, "deadLetters": True}, "$.action"),
        ({"action": "explode", "filter": {"type": ["a"]}}, "$.action"),
        ({"action": "retry", "filter": {"endedSince": "yesterday"}}, "$.filter.endedSince"),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_with_its_place(api: Service, body: Any, path: str) -> None:
    assert await api.alice.refusal("POST", "/api/operations", body) == (400, path)


async def test_operations_are_their_starters_and_read_by_auditors(api: Service) -> None:
    await submitted(api.alice, 1)
    operation_id = await begun(api.alice, action="cancel", filter={"type": ["default"]}, dryRun=True)
    await over(api.alice, operation_id)
    path = f"/api/operations/{operation_id}"

    statuses = [
        (await client.call(method, at, body)).status
        for client, method, at, body in (
            (api.bob, "GET", path, None),
            (api.bob, "POST", f"{path}/stop", {}),
            (api.auditor, "GET", path, None),
            (api.auditor, "POST", f"{path}/stop", {}),
            (api.auditor, "POST", "/api/operations", {"action": "cancel", "filter": {"type": ["default"]}}),
            (api.admin, "GET", path, None),
        )
    ]
    listed = [
        len((await client.done("GET", "/api/operations"))["operations"])
        for client in (api.alice, api.bob, api.auditor, api.admin)
    ]

    assert statuses == [404, 404, 200, 403, 403, 200]
    assert listed == [1, 0, 1, 1]


async def test_an_operation_reaches_others_tasks_for_admins_only(api: Service) -> None:
    await submitted(api.alice, 1)
    body = {"action": "cancel", "filter": {"type": ["default"], "owner": "alice"}}

    refused = await api.bob.post("/api/operations", body)
    unnamed = await api.admin.refusal("POST", "/api/operations", {"action": "cancel", "filter": {"type": ["default"]}})
    own = await ran(api.bob, action="cancel", filter={"type": ["default"]})
    by_admin = await ran(api.admin, **body)

    assert (refused.status, unnamed) == (403, (400, "$.filter.owner"))
    assert (counted(own), counted(by_admin)) == ((0, 0, []), (1, 0, []))


async def test_the_same_key_starts_one_operation(api: Service) -> None:
    await submitted(api.alice, 1)
    body = {"action": "cancel", "filter": {"type": ["default"]}}
    key = {"Idempotency-Key": "once"}

    first = await api.alice.post("/api/operations", body, headers=key)
    second = await api.alice.post("/api/operations", body, headers=key)
    other = await api.alice.post("/api/operations", body | {"reason": "another"}, headers=key)

    assert first["id"] == second["id"]
    assert other.status == 422
    assert len((await api.alice.done("GET", "/api/operations"))["operations"]) == 1


async def test_an_owner_has_few_operations_at_a_time(api: Service, held_runner: asyncio.Event) -> None:
    body = {"action": "cancel", "filter": {"type": ["default"]}}
    answers = await asyncio.gather(*(api.alice.post("/api/operations", body) for _ in range(8)))
    statuses = sorted(answer.status for answer in answers)
    bobs = await api.bob.post("/api/operations", body)

    held_runner.set()

    assert statuses == [200] * 5 + [409] * 3
    assert bobs.status == 200
    for answer in answers:
        if answer.status == 200:
            await over(api.alice, answer["id"])
    assert (await api.alice.post("/api/operations", body)).status == 200


async def test_the_operations_of_a_month_are_bounded(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskstream.api.routes.operations.MOST_KEPT", 1)
    await ran(api.alice, action="cancel", filter={"type": ["default"]})

    answer = await api.alice.post("/api/operations", {"action": "cancel", "filter": {"type": ["default"]}})

    assert (answer.status, "in 30 days" in answer["detail"]) == (409, True)


async def test_operations_are_listed_in_pages_newest_first(api: Service) -> None:
    ids = [
        (await ran(api.alice, action="cancel", filter={"type": ["default"]}, reason=str(number)))["id"]
        for number in range(3)
    ]

    pages = await api.alice.pages("/api/operations", "operations", "limit=2")

    assert [one["id"] for page in pages for one in page] == ids[::-1]


# Pause, resume, stop


@pytest.mark.usefixtures("small_pages")
async def test_a_paused_operation_goes_on_where_it_was(api: Service, held_runner: asyncio.Event) -> None:
    await submitted(api.alice, 7)
    path = f"/api/operations/{await begun(api.alice, action='cancel', filter={'type': ['default']})}"

    paused = await api.alice.done("POST", f"{path}/pause", {"reason": "too many"})
    held_runner.set()
    still = await api.alice.done("GET", path)
    again = await api.alice.done("POST", f"{path}/pause", {})
    resumed = await api.alice.done("POST", f"{path}/resume")

    assert (paused["state"], paused["stateReason"]) == ("paused", "too many")
    assert (still["state"], counted(still)) == ("paused", (0, 0, []))
    assert again["stateReason"] == "too many"
    assert (resumed["state"], resumed["stateReason"]) == ("running", None)
    assert counted(await over(api.alice, resumed["id"])) == (7, 0, [])


@pytest.mark.usefixtures("small_pages")
async def test_a_page_that_has_begun_is_finished_after_a_pause_or_a_stop(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()
    command_part = operations.command_part

    async def slow(*arguments: Any, **named: Any) -> Any:
        has_begun.set()
        await may_end.wait()
        return await command_part(*arguments, **named)

    monkeypatch.setattr(operation_runner, "command_part", slow)
    await submitted(api.alice, 7)
    path = f"/api/operations/{await begun(api.alice, action='cancel', filter={'type': ['default']})}"
    await has_begun.wait()

    pausing = await api.alice.done("POST", f"{path}/pause", {})
    stopping = await api.alice.done("POST", f"{path}/stop", {"reason": "a mistake"})
    may_end.set()

    ended = await api.alice.until(path, lambda body: body["state"] == "stopped", "the stop")
    assert (pausing["state"], pausing["inProgress"]) == ("pausing", 3)
    assert (stopping["state"], stopping["inProgress"]) == ("stopping", 3)
    assert (counted(ended), ended["stateReason"], ended["inProgress"]) == ((3, 0, []), "a mistake", 0)
    left = await by_status(api.alice)
    assert left == {"CANCELLED": 3, "WAITING": 4}


async def test_an_operation_that_is_over_takes_no_command(api: Service) -> None:
    path = f"/api/operations/{(await ran(api.alice, action='cancel', filter={'type': ['default']}))['id']}"

    statuses = [(await api.alice.post(f"{path}/{verb}", {})).status for verb in ("pause", "resume", "stop")]

    assert statuses == [409, 409, 409]


# Failures


@pytest.mark.usefixtures("small_pages")
async def test_a_page_that_broke_off_is_finished_and_counted_right(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: some tasks of the page have the command, and nothing says how many."""
    breaks = iter([True, True])
    command_part = operations.command_part

    async def breaking(container: Container, operation: Operation, **named: Any) -> Any:
        counts = await command_part(container, operation, **named)
        if next(breaks, False):
            raise StoreUnavailable("as if this process had been killed before it recorded the page")
        return counts

    monkeypatch.setattr(operation_runner, "command_part", breaking)
    monkeypatch.setattr(operation_runner, "LONGEST_WAIT_SECONDS", 0.05)
    ids = await cancelled(api.alice, 7)

    operation = await ran(api.alice, action="retry", filter={"status": ["CANCELLED"]})

    assert counted(operation) == (7, 0, [])
    for task_id in ids:
        assert await causes(api.container, task_id, "queued") == [f"operation:{operation['id']}"]


async def test_an_operation_whose_batch_is_gone_fails_with_the_reason(
    api: Service, held_runner: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = (await api.alice.done("POST", "/api/tasks/batch", [{"payload": 1}]))["batchId"]
    operation_id = await begun(api.alice, action="cancel", filter={"batch": batch_id})

    async def gone(*_: Any) -> None:

        raise NotFound("batch", batch_id)

    monkeypatch.setattr("taskstream.projections.batches.BatchReader.find", gone)
    held_runner.set()

    operation = await over(api.alice, operation_id)
    assert (operation["state"], "no batch" in operation["stateReason"]) == ("failed", True)


async def test_an_operation_that_cannot_go_on_now_does_not_hold_up_others(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_part = operations.find_part
    stuck: list[str] = []

    async def find(container: Container, operation: Operation) -> Any:
        if operation.started.operation_id in stuck:
            raise StoreUnavailable("as of a busy index")
        return await find_part(container, operation)

    monkeypatch.setattr(operation_runner, "find_part", find)
    monkeypatch.setattr(operation_runner, "LONGEST_WAIT_SECONDS", 0.05)
    operation_id = await begun(api.alice, action="cancel", filter={"type": ["default"]})
    await over(api.alice, operation_id)
    await submitted(api.alice, 1)
    second = await begun(api.alice, action="cancel", filter={"type": ["default"]}, dryRun=True)
    stuck.append(second)

    other = await ran(api.alice, action="cancel", filter={"type": ["default"]})
    stuck.clear()

    assert counted(other) == (1, 0, [])
    assert (await over(api.alice, second))["state"] == "done"


@pytest.mark.usefixtures("small_pages")
async def test_of_two_apis_one_carries_it_out_and_the_other_takes_over(nats_url: str) -> None:
    async with running_service(nats_url, worker=False) as one:
        async with running_service(nats_url, worker=False) as two:
            ids = await submitted(two.alice, 8)
            operation_id = await begun(two.alice, action="cancel", filter={"type": ["default"]})
            await wait_until(lambda: _counted_any(two.alice, operation_id), "a page")
        ended = await over(one.alice, operation_id)

        assert counted(ended) == (8, 0, [])
        for task_id in ids:
            assert await causes(one.container, task_id, "cancelled") == [f"operation:{operation_id}"]
        assert parse_operation_id(operation_id).owner == "alice"


async def _counted_any(client: Client, operation_id: str) -> bool:
    return bool((await client.done("GET", f"/api/operations/{operation_id}"))["counts"]["matched"])


# Fairness


async def test_retried_tasks_of_one_owner_do_not_go_before_those_of_others(
    service: Service, backend: BackendServer
) -> None:
    await cancelled(service.alice, 40)
    retry = await ran(service.alice, action="retry", filter={"status": ["CANCELLED"]})
    bobs = await service.bob.submit({"payload": "bob's"})
    backend.answer = overlapping()

    await service.admin.register(backend, "one", maxConcurrent=1)
    await service.bob.ended(bobs)

    before = [call["task_id"] for call in backend.calls].index(bobs)
    assert counted(retry) == (40, 0, [])
    assert before < 10


@pytest.mark.usefixtures("small_pages")
async def test_other_requests_are_answered_while_an_operation_runs(
    api: Service,
) -> None:
    """It rests after each page, so what others submit meanwhile is stored while it goes on."""
    await submitted(api.alice, 30)
    operation_id = await begun(api.alice, action="cancel", filter={"type": ["default"]})

    during = 0
    while (await api.alice.done("GET", f"/api/operations/{operation_id}"))["state"] == "running":
        await api.bob.submit({"payload": 1})
        during += 1

    assert counted(await over(api.alice, operation_id)) == (30, 0, [])
    assert during > 3


@pytest.mark.usefixtures("small_pages")
async def test_the_log_says_who_started_an_operation_and_how_it_ended(api: Service) -> None:
    await submitted(api.alice, 7)

    operation = await ran(api.alice, action="cancel", filter={"type": ["default"]})

    found = (await api.alice.done("GET", "/api/log?log=operations"))["entries"]
    assert [entry["event"] for entry in found] == ["OperationFinished", "OperationAdvanced", "OperationStarted"]
    assert {entry["subject"]["id"] for entry in found} == {operation["id"]}
    assert (found[2]["by"], found[0]["by"]) == (
        {"kind": "user", "id": "alice"},
        {"kind": "system", "id": "operations"},
    )
    assert (await api.alice.done("GET", f"/api/log?subject=operation:{operation['id']}"))["entries"] == found
    assert (await api.bob.done("GET", "/api/log?log=operations"))["entries"] == []
    caused = await api.alice.done("GET", "/api/log?event=TaskCancelled")
    assert {entry["cause"] for entry in caused["entries"]} == {f"operation:{operation['id']}"}
