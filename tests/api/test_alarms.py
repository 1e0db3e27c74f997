"""Alarms over HTTP: what needs a person, for whom, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from taskstream.api import alarm_desk, stuck_pools
from taskstream.clock import utc_now
from taskstream.commands.schedule import FireSchedule
from taskstream.events.envelope import Actor
from taskstream.events.ids import parse_schedule_id
from taskstream.explain import alarms
from taskstream.running import running_worker
from testkit.backend import BackendServer, hold
from testkit.receiver import HookReceiver, answers
from testkit.receiver import register as register_webhook
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

NOWHERE = {"predict": "http://127.0.0.1:9/predict"}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look each time, and wait for no condition to last."""
    for name, seconds in {"KEPT_SECONDS": 0.0, "SELDOM_SECONDS": 0.0, "WATCH_SECONDS": 0.01}.items():
        monkeypatch.setattr(alarm_desk, name, seconds)
    monkeypatch.setattr(stuck_pools, "QUIET_AFTER", timedelta(0))
    monkeypatch.setattr(alarms, "STUCK_AFTER", timedelta(seconds=0.2))


def of_kind(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [alarm for alarm in body["alarms"] if alarm["kind"] == kind]


async def alarm(client: Client, kind: str, holds: Callable[[dict[str, Any]], object] = bool) -> dict[str, Any]:
    """Wait for an alarm of a kind; return it."""
    path = "/api/alarms"
    body = await client.until(path, lambda it: any(map(holds, of_kind(it, kind))), f"an alarm {kind}")
    return next(each for each in of_kind(body, kind) if holds(each))


async def no_alarm(client: Client, kind: str) -> None:
    await client.until("/api/alarms", lambda it: not of_kind(it, kind), f"no alarm {kind}")


async def add_server(api: Service, server_id: str, **more: object) -> None:
    body = {"id": server_id, "name": server_id, "provider": "test", "endpoints": NOWHERE, **more}
    await api.admin.done("POST", "/api/servers", body)


async def test_a_quiet_service_has_no_alarm(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    await service.alice.ended(await service.alice.submit({"payload": 1}))

    body = await service.admin.until("/api/alarms", lambda it: not it["alarms"], "no alarm")

    assert (body["more"], body["readAt"][-1]) == ({}, "Z")


async def test_a_paused_pool_with_tasks_is_an_alarm_until_it_is_resumed(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "one")
    await service.admin.done("POST", "/api/pools/default/pause", {"reason": "new driver"})
    await service.alice.submit({"payload": 1})

    found = await alarm(service.admin, "pool-paused-with-backlog")

    assert (found["severity"], found["subject"], found["link"]) == (
        "warning", {"kind": "pool", "id": "default"}, "#/pools",
    )  # fmt: skip
    assert found["data"] == {"waiting": 1, "by": "root", "reason": "new driver"}
    assert found["since"].endswith("Z")
    assert not of_kind((await service.admin.get("/api/alarms")).body, "oldest-waiting-while-slots-free")
    await service.admin.done("POST", "/api/pools/default/resume")
    await no_alarm(service.admin, "pool-paused-with-backlog")


async def test_tasks_of_a_type_that_no_server_serves_are_an_alarm_that_names_the_type(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.done("PUT", "/api/types/ocr", {})
    await service.admin.register(backend, "one", types=["resize"])
    await service.alice.submit({"type": "ocr", "payload": 1})

    found = await alarm(service.auditor, "type-without-server")

    assert (found["severity"], found["subject"]["id"], found["link"]) == ("critical", "ocr", "#/types/ocr")
    await service.admin.register(backend, "two", types=["ocr"])
    await no_alarm(service.auditor, "type-without-server")


async def test_tasks_that_need_a_label_no_server_has_are_an_alarm(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    await service.alice.submit({"payload": 1, "require": {"gpu": "h100"}})

    found = await alarm(service.admin, "no-server-fits")

    assert (found["subject"], found["data"]) == ({"kind": "pool", "id": "default"}, {"waiting": 1})


async def test_a_server_that_went_offline_is_an_alarm_with_its_reason(service: Service) -> None:
    await add_server(service, "gone")

    found = await alarm(service.admin, "server-offline", lambda it: "not checked" not in it["text"])

    assert found["link"] == "#/fleet/gone"
    assert found["data"]["reason"]


# Nothing starts although slots are free


async def test_nothing_starts_although_a_slot_is_free_is_a_critical_alarm(api: Service) -> None:
    await add_server(api, "idle", maxConcurrent=1)
    await api.admin.done("POST", "/api/servers/idle/heartbeat", {})
    await api.admin.server_is("idle", "online")
    task_id = await api.alice.submit({"payload": 1})

    found = await alarm(api.admin, "oldest-waiting-while-slots-free")

    assert (found["severity"], found["subject"], found["link"]) == (
        "critical", {"kind": "pool", "id": "default"}, f"#/task/{task_id}",
    )  # fmt: skip
    assert found["data"] == {"taskId": task_id, "serverId": "idle", "waiting": 1}
    await api.admin.done("POST", "/api/servers/idle/maintenance", {"maintenance": True})
    await no_alarm(api.admin, "oldest-waiting-while-slots-free")


async def test_tasks_that_wait_behind_a_full_server_are_no_such_alarm(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "STUCK_AFTER", timedelta(0))
    backend.answer = hold
    await service.admin.register(backend, "full", maxConcurrent=1)
    first = await service.alice.submit({"payload": 1})
    await service.alice.reaches(first, "PROCESSING")
    await service.alice.submit({"payload": 2})
    await service.admin.until("/api/pools/default", lambda it: it["waitingFor"].get("queued"), "a task to be queued")

    for _ in range(30):
        body = await service.admin.done("GET", "/api/alarms")
        assert not of_kind(body, "oldest-waiting-while-slots-free")


async def test_a_service_without_a_worker_has_a_critical_alarm_until_one_starts(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarm_desk, "WORKER_LATE", timedelta(0))
    async with running_service(nats_url, worker=False, lease_ttl=2.0) as service:
        found = await alarm(service.admin, "no-worker")
        counted = 'taskstream_alarms{kind="no-worker"} 1.0'

        assert found["severity"] == "critical"
        await service.anonymous.until("/metrics", lambda page: counted in page, "the alarm to be counted")
        async with running_worker(service.container):
            await no_alarm(service.admin, "no-worker")


# Whose alarms


async def test_a_schedule_that_cannot_submit_is_its_owners_alarm_and_nobody_elses(nats_url: str) -> None:
    async with running_service(nats_url, schedule_grace=2.0) as service:
        schedule = {"name": "nightly", "cron": "* * * * * *", "task": {"type": "resize", "payload": {"width": 1}}}
        schedule_id = (await service.alice.done("POST", "/api/schedules", schedule))["id"]
        strict = {"schema": {"type": "object", "required": ["height"]}}
        await service.admin.done("PUT", "/api/types/resize", strict)

        found = await alarm(service.alice, "schedule-failed")

        assert found["subject"] == {"kind": "schedule", "id": schedule_id}
        assert "nightly" in found["text"]
        assert await alarm(service.admin, "schedule-failed")
        assert (await service.bob.done("GET", "/api/alarms"))["alarms"] == []
        await service.admin.done("PUT", "/api/types/resize", {})
        await no_alarm(service.alice, "schedule-failed")


async def test_missed_runs_of_a_schedule_are_its_owners_alarm_until_it_runs_again(api: Service) -> None:
    schedule = {"name": "nightly", "cron": "0 3 * * *", "task": {"payload": 1}}
    made = await api.alice.done("POST", "/api/schedules", schedule)
    ref, a_day = parse_schedule_id(made["id"]), timedelta(days=1)
    late = FireSchedule(ref=ref, grace=timedelta(0), due_at=utc_now() + a_day + timedelta(seconds=1))
    await api.container.commands.schedules.handle(ref, late, by=Actor("timer", "schedule"))

    found = await alarm(api.alice, "schedule-missed")

    assert found["subject"] == {"kind": "schedule", "id": made["id"]}
    assert "nightly" in found["text"]
    assert of_kind(await api.bob.done("GET", "/api/alarms"), "schedule-missed") == []
    await api.alice.done("POST", f"/api/schedules/{made['id']}/run")
    await no_alarm(api.alice, "schedule-missed")


async def test_a_webhook_that_the_service_disabled_is_an_alarm_and_its_owner_s_choice_not(nats_url: str) -> None:
    async with HookReceiver(answers(410)) as receiver, running_service(nats_url) as service:
        webhook_id, _ = await register_webhook(service.alice, receiver, events=["task.submitted"])
        off_id, _ = await register_webhook(service.alice, receiver, events=["task.failed"])
        await service.alice.done("PATCH", f"/api/webhooks/{off_id}", {"active": False})
        await service.alice.submit({"payload": 1})

        found = await alarm(service.alice, "webhook-disabled")

        assert found["subject"] == {"kind": "webhook", "id": webhook_id}
        everybodys = await alarm(service.admin, "webhook-disabled")
        assert everybodys == found
        body = await service.alice.done("GET", "/api/alarms")
        assert len(of_kind(body, "webhook-disabled")) == 1


async def test_users_see_nothing_of_the_fleet(api: Service) -> None:
    await add_server(api, "gone")
    await api.admin.done("POST", "/api/servers/gone/maintenance", {"maintenance": False})

    async def listed() -> bool:
        return bool((await api.alice.done("GET", "/api/alarms"))["alarms"])

    assert not await listed()
    assert (await api.anonymous.get("/api/alarms")).status == 401


async def test_a_hundred_callers_within_a_moment_share_one_look(api: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm_desk, "KEPT_SECONDS", 60.0)
    desk = alarm_desk.AlarmDesk(api.container)
    looks = 0
    situation = desk._situation

    async def counted(now: Any) -> Any:
        nonlocal looks
        looks += 1
        return await situation(now)

    monkeypatch.setattr(desk, "_situation", counted)

    async def all_read() -> bool:
        for _ in range(100):
            await desk.read()
        return True

    await wait_until(all_read, "a hundred answers")
    assert looks == 1
