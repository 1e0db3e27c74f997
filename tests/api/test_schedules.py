"""Recurring schedules over HTTP: created, listed, paused, resumed, run, deleted; and the tasks they submit."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskstream.events.ids import ScheduleRef, parse_schedule_id
from taskstream.streams.jetstream.api import api
from taskstream.streams.jetstream.messages import list_subjects
from taskstream.streams.topology.definitions import TIMERS
from testkit.backend import BackendServer
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

DAILY = {"cron": "30 2 * * *", "timeZone": "Europe/Berlin", "task": {"type": "report", "payload": {"of": "today"}}}
EACH_SECOND = {"cron": "* * * * * *", "task": {"payload": {"n": 1}}}


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, schedule_grace=2.0) as running:
        yield running


async def create(client: Client, body: dict[str, Any], **more: Any) -> str:
    return str((await client.done("POST", "/api/schedules", body, **more))["id"])


async def detail(client: Client, schedule_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await client.done("GET", f"/api/schedules/{schedule_id}")
    return found


async def counted(client: Client, schedule_id: str, name: str, count: int) -> dict[str, Any]:
    """Wait until a schedule counts so many runs; return it."""
    path, wanted = f"/api/schedules/{schedule_id}", f"{count} {name} of {schedule_id}"
    found: dict[str, Any] = await client.until(path, lambda it: it["counts"][name] >= count, wanted)
    return found


async def fired(client: Client, schedule_id: str, count: int = 1) -> dict[str, Any]:
    return await counted(client, schedule_id, "fired", count)


async def failed(client: Client, schedule_id: str, count: int = 1) -> dict[str, Any]:
    return await counted(client, schedule_id, "failed", count)


async def tasks_of(client: Client, schedule_id: str) -> list[dict[str, Any]]:
    """Return the submissions that a schedule made, as the log has them."""
    histories = [(await client.history(task["id"]))[0] for task in await client.tasks()]
    return [event for event in histories if event.get("schedule") == schedule_id]


async def timers(service: Service, ref: ScheduleRef) -> list[str]:
    return await list_subjects(service.container.reading, TIMERS, f"*.schedule.{ref.owner}.{ref.unique}")


# Definition


async def test_a_schedule_shows_its_next_runs(service: Service) -> None:
    schedule_id = await create(service.alice, {**DAILY, "name": "report", "description": "for the morning"})

    found = await detail(service.alice, schedule_id)

    assert {name: found[name] for name in DAILY} == DAILY
    assert (found["name"], found["description"], found["owner"]) == ("report", "for the morning", "alice")
    assert (found["missed"], found["catchUp"], found["paused"], found["pauseReason"]) == ("skip", 1, False, None)
    assert len(found["nextRuns"]) == 5
    assert found["nextAt"] == found["nextRuns"][0] > time.time() * 1000
    clocks = [
        datetime.fromtimestamp(run / 1000, UTC).astimezone(ZoneInfo("Europe/Berlin")) for run in found["nextRuns"]
    ]
    assert len({clock.date() for clock in clocks}) == 5
    assert (found["lastFired"], found["lastFailure"]) == (None, None)
    assert found["counts"] == {"fired": 0, "skipped": 0, "failed": 0, "triggered": 0}


async def test_a_patch_changes_only_the_fields_in_it(service: Service) -> None:
    schedule_id = await create(service.alice, DAILY)

    changed = await service.alice.call("PATCH", f"/api/schedules/{schedule_id}", {"cron": "@hourly", "name": "n"})

    assert (changed["cron"], changed["name"], changed["task"]) == ("@hourly", "n", DAILY["task"])
    assert changed["nextRuns"][1] - changed["nextRuns"][0] == 3_600_000
    assert await detail(service.alice, schedule_id) == changed.body


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"cron": "61 * * * *"}, "$.cron"),
    ({"cron": "0 0 30 2 *"}, "$.cron"),
    ({"cron": "*/90 * * * *"}, "$.cron"),
    ({"timeZone": "Mars/Olympus"}, "$.timeZone"),
    ({"missed": "forget"}, "$.missed"),
    ({"catchUp": 101}, "$.catchUp"),
    ({"task": 7}, "$.task.payload"),
    ({"task": {"url": "x"}}, "$.task.payload"),
    ({"task": {"payload": 1, "priority": "urgent"}}, "$.task.priority"),
    ({"task": {"payload": {"width": "wide"}, "type": "strict"}}, "$.task.payload.width"),
    ({"task": {"payload": 1, "dependsOn": []}}, "$.task.dependsOn"),
    ({"task": {"payload": 1, "runAt": 1}}, "$.task.runAt"),
    ({"every": "day"}, "$.every"),
]


async def test_a_wrong_schedule_is_refused_by_its_path(service: Service) -> None:
    schema = {"type": "object", "properties": {"width": {"type": "integer"}}}
    assert (await service.admin.put("/api/types/strict", {"schema": schema})).status == 200
    schedule_id = await create(service.alice, DAILY)
    before = await detail(service.alice, schedule_id)

    for change, path in WRONG:
        assert await service.alice.refusal("POST", "/api/schedules", {**DAILY, **change}) == (400, path)
        assert await service.alice.refusal("PATCH", f"/api/schedules/{schedule_id}", change) == (400, path)

    assert await detail(service.alice, schedule_id) == before
    assert len((await service.alice.get("/api/schedules"))["schedules"]) == 1


async def test_the_same_key_is_the_same_schedule(service: Service) -> None:
    headers = {"Idempotency-Key": "k"}
    schedule_id = await create(service.alice, DAILY, headers=headers)

    assert await create(service.alice, DAILY, headers=headers) == schedule_id
    assert await create(service.bob, DAILY, headers=headers) != schedule_id
    other = await service.alice.post("/api/schedules", {**DAILY, "name": "x"}, headers=headers)
    assert other.status == 422
    await service.alice.delete(f"/api/schedules/{schedule_id}")
    assert (await service.alice.post("/api/schedules", DAILY, headers=headers)).status == 409


# Access


async def test_schedules_are_seen_and_changed_by_their_owner_and_by_admins(service: Service) -> None:
    path = f"/api/schedules/{await create(service.alice, DAILY)}"

    for method, command in (("POST", "/pause"), ("POST", "/resume"), ("POST", "/run"), ("DELETE", "")):
        assert (await service.auditor.get(path)).status == 200
        assert await service.auditor.refusal(method, path + command) == (403, None)
        assert await service.bob.refusal(method, path + command) == (404, None)
        await service.admin.done(method, path + command)
    assert await service.alice.refusal("GET", path) == (404, None)


async def test_schedules_are_listed_by_pages_newest_first(service: Service) -> None:
    ids = [await create(service.alice, DAILY) for _ in range(5)]
    of_bob = await create(service.bob, DAILY)
    await service.alice.delete(f"/api/schedules/{ids[1]}")
    wanted = [ids[4], ids[3], ids[2], ids[0]]

    found = await service.alice.listed("/api/schedules", "schedules", "limit=3")

    assert [entry["id"] for entry in found] == wanted
    assert all("task" not in entry for entry in found)
    everybody = [entry["id"] for entry in (await service.admin.get("/api/schedules"))["schedules"]]
    assert everybody == [of_bob, *wanted]
    of_alice = await service.auditor.get("/api/schedules?owner=alice")
    assert [entry["id"] for entry in of_alice["schedules"]] == wanted
    assert (await service.bob.get("/api/schedules?owner=alice")).status == 403


# Runs


async def test_a_task_is_submitted_each_time_and_runs(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")

    schedule_id = await create(service.alice, EACH_SECOND)
    found = await fired(service.alice, schedule_id, 3)
    await service.alice.delete(f"/api/schedules/{schedule_id}")

    submitted = await tasks_of(service.alice, schedule_id)
    assert len(submitted) >= 3
    assert {event["owner"] for event in submitted} == {"alice"}
    last = found["lastFired"]["runs"][-1]
    assert last["dueAt"] % 1000 == 0
    assert (await service.alice.ended(last["taskId"]))["status"] == "FINISHED"
    assert found["nextAt"] > last["dueAt"]


async def test_a_deleted_schedule_does_not_run(service: Service) -> None:
    schedule_id = await create(service.alice, EACH_SECOND)
    other = await create(service.alice, EACH_SECOND)
    await fired(service.alice, schedule_id)
    await service.alice.delete(f"/api/schedules/{schedule_id}")
    before = len(await tasks_of(service.alice, schedule_id))

    await fired(service.alice, other, (await detail(service.alice, other))["counts"]["fired"] + 3)

    assert len(await tasks_of(service.alice, schedule_id)) == before


async def test_runs_missed_in_a_pause_are_skipped_or_caught_up(service: Service) -> None:
    other = await create(service.alice, EACH_SECOND)
    skipping = await create(service.alice, EACH_SECOND)
    patient = await create(service.alice, {**EACH_SECOND, "missed": "catch_up", "catchUp": 2})
    for schedule_id in (skipping, patient):
        paused = await service.alice.post(f"/api/schedules/{schedule_id}/pause", {"reason": "too much"})
        assert (paused["paused"], paused["pauseReason"]) == (True, "too much")
        assert (paused["nextAt"], paused["nextRuns"]) == (None, [])
    before = (await detail(service.alice, skipping))["counts"], (await detail(service.alice, patient))["counts"]
    seen = (await detail(service.alice, other))["counts"]["fired"]
    await fired(service.alice, other, seen + 6)
    assert (
        (await detail(service.alice, skipping))["counts"],
        (await detail(service.alice, patient))["counts"],
    ) == before

    resumed = await service.alice.post(f"/api/schedules/{skipping}/resume")
    caught_up = await service.alice.post(f"/api/schedules/{patient}/resume")

    assert resumed["counts"]["skipped"] >= 5
    assert resumed["counts"]["fired"] == before[0]["fired"]
    assert resumed["nextAt"] is not None
    assert caught_up["counts"]["skipped"] - before[1]["skipped"] >= 3
    assert caught_up["counts"]["fired"] == before[1]["fired"]
    found = await fired(service.alice, patient, before[1]["fired"] + 3)
    assert found["counts"]["skipped"] == caught_up["counts"]["skipped"]


async def test_a_paused_schedule_can_be_run_now(service: Service) -> None:
    schedule_id = await create(service.alice, DAILY)
    await service.alice.post(f"/api/schedules/{schedule_id}/pause")
    headers = {"Idempotency-Key": "now"}

    first = await service.alice.post(f"/api/schedules/{schedule_id}/run", headers=headers)
    again = await service.alice.post(f"/api/schedules/{schedule_id}/run", headers=headers)
    other = await service.alice.post(f"/api/schedules/{schedule_id}/run")

    assert first["taskId"] == again["taskId"] != other["taskId"]
    assert (await service.alice.details(first["taskId"]))["request"] == {"of": "today"}
    assert len(await tasks_of(service.alice, schedule_id)) == 2
    found = await detail(service.alice, schedule_id)
    assert (found["counts"]["triggered"], found["lastTriggeredTaskId"]) == (2, other["taskId"])


async def test_a_run_now_is_held_and_counted_as_any_task_is(service: Service) -> None:
    schedule_id = await create(service.alice, DAILY | {"task": {"payload": 1, "delay": 100}})

    run = await service.alice.post(f"/api/schedules/{schedule_id}/run")

    assert (await service.alice.details(run["taskId"]))["held"] is True
    assert (await service.admin.put("/api/owners/alice/limits", {"waiting": 1})).status == 200
    assert (await service.alice.post(f"/api/schedules/{schedule_id}/run")).status == 429


async def test_a_scheduled_task_is_held_for_its_delay(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    late = await create(service.alice, EACH_SECOND | {"task": {"payload": "late", "delay": 100}})
    prompt = await create(service.alice, EACH_SECOND)

    held = (await fired(service.alice, late))["lastFired"]["runs"][0]["taskId"]
    last = (await fired(service.alice, prompt, 3))["lastFired"]["runs"][-1]["taskId"]

    assert (await service.alice.ended(last))["status"] == "FINISHED"
    details = await service.alice.details(held)
    assert (details["status"], details["held"], details["attempt"]) == ("WAITING", True, 0)


async def test_a_run_beyond_its_owners_quota_has_failed(service: Service) -> None:
    assert (await service.admin.put("/api/owners/alice/limits", {"waiting": 1})).status == 200
    await service.alice.submit({"payload": 1})

    schedule_id = await create(service.alice, EACH_SECOND)
    found = await failed(service.alice, schedule_id, 2)

    assert "1 of 1 waiting tasks" in found["lastFailure"]["error"]
    assert await tasks_of(service.alice, schedule_id) == []
    assert (await service.admin.delete("/api/owners/alice/limits")).status == 200
    await wait_until(lambda: tasks_of(service.alice, schedule_id), "tasks again")


async def test_runs_that_fire_together_take_what_the_quota_has_room_for(service: Service) -> None:
    assert (await service.admin.put("/api/owners/alice/limits", {"waiting": 2})).status == 200
    clock = await create(service.bob, EACH_SECOND)
    schedule_id = await create(service.alice, {**EACH_SECOND, "missed": "catch_up", "catchUp": 100})
    await service.alice.post(f"/api/schedules/{schedule_id}/pause")
    await fired(service.bob, clock, 5)

    await service.alice.post(f"/api/schedules/{schedule_id}/resume")
    found = await fired(service.alice, schedule_id, 4)
    found = await failed(service.alice, schedule_id, found["counts"]["fired"] - 2)

    assert len(await tasks_of(service.alice, schedule_id)) == 2
    assert found["counts"]["failed"] >= 2


async def test_a_concurrency_key_in_use_refuses_scheduled_tasks_too(service: Service) -> None:
    assert (await service.admin.put("/api/types/single", {"onConflict": "refuse"})).status == 200
    task = {"type": "single", "payload": 1, "concurrencyKey": "k"}
    first = await service.alice.submit(task)
    daily = await create(service.alice, DAILY | {"task": task})

    run = await service.alice.post(f"/api/schedules/{daily}/run")
    found = await failed(service.alice, await create(service.alice, EACH_SECOND | {"task": task}))

    assert (run.status, first in run["detail"]) == (409, True)
    assert first in found["lastFailure"]["error"]
    refused = found["lastFailure"]["runs"][0]["taskId"]
    assert (await service.alice.details(refused))["status"] == "CANCELLED"


async def test_the_tasks_of_a_schedule_are_listed_also_once_it_is_deleted(service: Service) -> None:
    schedule_id = await create(service.alice, DAILY)
    other = await create(service.bob, DAILY)
    tasks = [(await service.alice.post(f"/api/schedules/{schedule_id}/run"))["taskId"] for _ in range(3)]
    await service.alice.submit({"payload": 1})
    await service.bob.post(f"/api/schedules/{other}/run")
    await service.alice.delete(f"/api/schedules/{schedule_id}")

    async def listed(client: Client, query: str = "") -> list[str]:
        page = await client.get(f"/api/tasks?schedule={schedule_id}{query}")
        assert page.status == 200, page
        return [task["id"] for task in page["tasks"]]

    assert await listed(service.alice) == await listed(service.auditor) == tasks[::-1]
    assert await listed(service.alice, "&type=report&limit=2") == tasks[:0:-1]
    assert await listed(service.alice, "&status=FINISHED") == []
    assert await listed(service.bob) == []
    assert await listed(service.admin, "&owner=bob") == []
    assert await service.alice.refusal("GET", "/api/tasks?schedule=mine") == (400, "schedule")


async def test_a_run_that_breaks_its_types_schema_has_failed_and_later_runs_go_on(service: Service) -> None:
    body = {**EACH_SECOND, "task": {"type": "strict", "payload": {"width": "wide"}}}
    schedule_id = await create(service.alice, body)
    schema = {"type": "object", "properties": {"width": {"type": "integer"}}}

    assert (await service.admin.put("/api/types/strict", {"schema": schema})).status == 200

    found = await failed(service.alice, schedule_id, 2)
    assert found["lastFailure"]["path"] == "$.payload.width"
    assert "integer" in found["lastFailure"]["error"]
    run = await service.alice.post(f"/api/schedules/{schedule_id}/run")
    assert (run.status, "integer" in run["detail"]) == (409, True)
    await service.admin.put("/api/types/strict", {})
    count = len(await tasks_of(service.alice, schedule_id))

    async def grown() -> bool:
        return len(await tasks_of(service.alice, schedule_id)) > count

    await wait_until(grown, "tasks again")


async def test_a_timer_that_is_lost_is_set_again(service: Service) -> None:
    schedule_id = await create(service.alice, DAILY)
    ref = parse_schedule_id(schedule_id)
    await wait_until(lambda: timers(service, ref), "the timer")

    await api(
        service.container.reading, f"STREAM.PURGE.{TIMERS}", {"filter": f"timer.schedule.{ref.owner}.{ref.unique}"}
    )

    assert await wait_until(lambda: timers(service, ref), "the timer") == [f"timer.schedule.alice.{ref.unique}"]
