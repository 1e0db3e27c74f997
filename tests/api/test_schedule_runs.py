"""Runs of schedules over HTTP: those to come, before anything is saved, and those that are over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from testkit.backend import BackendServer, status
from testkit.service import Client, Service, running_service

EACH_SECOND = {"cron": "* * * * * *", "task": {"payload": {"n": 1}}}


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, schedule_grace=2.0) as running:
        yield running


async def create(client: Client, **body: Any) -> str:
    return str((await client.done("POST", "/api/schedules", EACH_SECOND | body))["id"])


async def until_runs(client: Client, schedule_id: str, holds: Any, what: str) -> list[dict[str, Any]]:
    """Wait until the runs of a schedule fulfil a condition; return them."""
    found = await client.until(f"/api/schedules/{schedule_id}/runs", lambda body: holds(body["runs"]), what)
    runs: list[dict[str, Any]] = found["runs"]
    return runs


# Preview


async def test_an_expression_is_shown_in_words_with_its_next_runs_before_it_is_saved(api: Service) -> None:
    body = {"cron": "30 2 * * *", "timeZone": "Europe/Berlin"}

    found = await api.alice.done("POST", "/api/schedules/preview", body)

    assert found["words"] == "At 02:30 every day"
    assert len(found["nextRuns"]) == len(found["localTimes"]) == 5
    for run, local in zip(found["nextRuns"], found["localTimes"], strict=True):
        assert datetime.fromisoformat(local).astimezone(UTC) == datetime.fromtimestamp(run / 1000, UTC)
        assert local[10:19] == "T02:30:00" or "02:30" in str(found["warnings"])
    assert len(found["warnings"]) == 2
    created = await api.alice.done("POST", "/api/schedules", body | {"task": {"payload": 1}})
    assert created["nextRuns"] == found["nextRuns"]
    assert len((await api.alice.done("GET", "/api/schedules"))["schedules"]) == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$.cron"),
        ({"cron": "61 * * * *"}, "$.cron"),
        ({"cron": "*/90 * * * *"}, "$.cron"),
        ({"cron": "* * * * *", "timeZone": "Mars/Olympus"}, "$.timeZone"),
        ({"cron": "* * * * *", "task": {}}, "$.task"),
    ],
)
async def test_an_expression_that_is_wrong_is_refused_with_its_place(api: Service, body: Any, path: str) -> None:
    assert await api.alice.refusal("POST", "/api/schedules/preview", body) == (400, path)


# Runs


async def test_runs_show_the_status_of_their_tasks(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    schedule_id = await create(service.alice)

    runs = await until_runs(
        service.alice,
        schedule_id,
        lambda runs: any(run["status"] == "FINISHED" for run in runs),
        "a run whose task finished",
    )

    done = next(run for run in runs if run["status"] == "FINISHED")
    assert (done["outcome"], done["count"], done["error"]) == ("fired", 1, None)
    assert done["dueAt"] % 1000 == 0
    assert (await service.alice.details(done["taskId"]))["status"] == "FINISHED"


async def test_a_refused_run_says_why_and_where(service: Service) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    await service.admin.done("PUT", "/api/types/strict", {"schema": schema})
    schedule_id = await create(service.alice, task={"type": "strict", "payload": {"n": 1}})
    schema["properties"] = {"n": {"type": "string"}}
    await service.admin.done("PUT", "/api/types/strict", {"schema": schema})

    runs = await until_runs(
        service.alice, schedule_id, lambda runs: any(run["outcome"] == "refused" for run in runs), "a refused run"
    )

    refused = next(run for run in runs if run["outcome"] == "refused")
    assert (refused["path"], refused["status"]) == ("$.payload.n", None)
    assert refused["error"]


async def test_runs_come_in_pages_without_gaps_or_doubles(service: Service) -> None:
    schedule_id = await create(service.alice)
    await service.alice.done("POST", f"/api/schedules/{schedule_id}/run")
    await until_runs(service.alice, schedule_id, lambda runs: len(runs) >= 5, "five runs")
    await service.alice.done("POST", f"/api/schedules/{schedule_id}/pause", {})

    path = f"/api/schedules/{schedule_id}/runs"
    whole = (await service.alice.done("GET", f"{path}?limit=200"))["runs"]
    pages = await service.alice.pages(path, "runs", "limit=2")

    assert [run["taskId"] for page in pages for run in page] == [run["taskId"] for run in whole]
    assert [run["outcome"] for run in whole].count("triggered") == 1


async def test_the_runs_of_a_schedule_are_for_its_owner_admins_and_auditors(api: Service) -> None:
    schedule_id = await create(api.alice, cron="@yearly")

    answers = [
        (await client.get(f"/api/schedules/{schedule_id}/runs")).status
        for client in (api.alice, api.bob, api.admin, api.auditor)
    ]

    assert answers == [200, 404, 200, 200]


# Those that are failing


async def test_failing_schedules_are_found_among_others(
    service: Service, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.api.routes.schedules.LOADED_AT_ONCE", 2)
    backend.answer = status(400)
    await service.admin.register(backend, "one", types=["breaks"])
    well = [await create(service.alice, cron="@yearly") for _ in range(3)]
    breaks = await create(service.alice, task={"type": "breaks", "payload": 1, "attempts": 1})
    await until_runs(
        service.alice, breaks, lambda runs: any(run["status"] == "FAILED" for run in runs), "a task that failed"
    )
    await service.alice.done("POST", f"/api/schedules/{breaks}/pause", {})

    async def failing(client: Client, query: str = "") -> list[str]:
        pages = await client.pages("/api/schedules", "schedules", f"failing=true{query}")
        return [found["id"] for page in pages for found in page]

    (run, *_) = await until_runs(
        service.alice, breaks, lambda runs: runs[0]["status"] == "FAILED", "the last task to fail"
    )
    assert run["failureKind"] == "rejected"
    assert await failing(service.alice) == [breaks]
    assert await failing(service.alice, "&limit=1") == [breaks]
    assert await failing(service.bob) == []
    assert await failing(service.auditor) == [breaks]
    listed = (await service.alice.done("GET", "/api/schedules"))["schedules"]
    assert {found["id"] for found in listed} == {breaks, *well}
