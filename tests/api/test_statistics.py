"""Statistics: each number is the length of the list that it names, and users see their own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from testkit.backend import BackendServer, status
from testkit.service import Client, Service, running_service

STATUSES = {
    "waiting": "WAITING",
    "processing": "PROCESSING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
}
FAILING: dict[str, Any] = {"attempts": 1, "type": "failing"}


async def stats(client: Client, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/api/stats?{urlencode(query, doseq=True)}")
    assert answer.status == 200, answer
    return dict(answer.body)


async def errors(client: Client, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"/api/errors?{urlencode(query, doseq=True)}")
    assert answer.status == 200, answer
    return dict(answer.body)


async def check_totals(client: Client) -> None:
    """Fail unless each number is the length of the list with the same filter."""
    found = await stats(client)
    tasks = await client.listed("/api/tasks", "tasks")
    totals = found["totals"]
    by_status = Counter(task["status"] for task in tasks)
    assert {name: totals[name] for name in STATUSES} == {name: by_status[word] for name, word in STATUSES.items()}
    assert totals["tasks"] == len(tasks)
    for name, word in STATUSES.items():
        assert totals[name] == len(await client.listed("/api/tasks", "tasks", f"status={word}&limit=200"))
    for dimension, field in (("byType", "type"), ("byOwner", "owner"), ("byServer", "serverId")):
        if totals[dimension]:
            assert {row["value"]: row["tasks"] for row in totals[dimension]} == Counter(
                task[field] or "" for task in tasks
            )
    for parameter in ("type", "pool", "server"):
        rows = totals[f"by{parameter.capitalize()}"]
        assert sum(row["tasks"] for row in rows) == len(tasks)
        for row in rows:
            if row["value"]:
                listed = await client.listed("/api/tasks", "tasks", f"{parameter}={row['value']}&limit=200")
                assert Counter(task["status"] for task in listed) == +Counter(
                    {word: row[name] for name, word in STATUSES.items()}
                )
    held = await client.listed("/api/tasks", "tasks", "hold=parents,time,limit")
    assert totals["held"] == len(held)


@pytest.fixture
async def service(nats_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(nats_url, index_dir=str(tmp_path / "index")) as service:
        yield service


async def test_each_number_is_the_length_of_the_list_it_names(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "gpu-1")

    async def everywhere() -> None:
        for client in (service.alice, service.bob, service.admin, service.client("eve", "auditor")):
            await check_totals(client)

    await everywhere()
    done = [await service.alice.submit({"payload": n}) for n in range(3)]
    for task_id in done:
        await service.alice.reaches(task_id, "FINISHED")
    await everywhere()
    backend.answer = status(400, {"error": "no such model 'x1'"})
    failing = [await client.submit({"payload": 1, **FAILING}) for client in (service.alice, service.alice, service.bob)]
    for task_id in failing:
        await service.admin.reaches(task_id, "FAILED")
    later = await service.bob.submit({"payload": 1, "delay": 3600})
    await everywhere()
    assert (await stats(service.bob))["totals"]["held"] == 1
    await service.bob.done("POST", f"/api/task/{later}/cancel")
    await everywhere()
    backend.answer = status(200, {"ok": True})
    await service.alice.done("POST", f"/api/task/{failing[0]}/retry")
    await service.alice.reaches(failing[0], "FINISHED")
    await everywhere()
    await service.alice.done("POST", "/api/tasks/delete", {"ids": [done[0], failing[1]]})
    await everywhere()

    found = await stats(service.admin)
    assert {key: found["window"][key] for key in ("submitted", "finished", "failed", "cancelled", "retried")} == {
        "submitted": 7,
        "finished": 4,
        "failed": 3,
        "cancelled": 1,
        "retried": 1,
    }


async def test_what_happened_is_shown_per_step_and_by_server(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "gpu-1")
    for _ in range(4):
        await service.alice.ended(await service.alice.submit({"payload": 1}))
    await service.bob.submit({"payload": 1, "delay": 3600})

    found = await stats(service.admin, by="server")

    assert found["step"] == 60
    assert len(found["series"]) in (60, 61)
    assert sum(point["submitted"] for point in found["series"]) == found["window"]["submitted"] == 5
    assert (found["series"][-1]["waiting"], found["series"][-1]["running"]) == (1, 0)
    assert found["series"][0]["waiting"] == 0
    groups = {group["value"]: group for group in found["groups"]}
    assert (groups["gpu-1"]["finished"], groups["gpu-1"]["submitted"]) == (4, 0)
    assert groups[""]["submitted"] == 5
    assert groups["gpu-1"]["run"]["p95"] >= groups["gpu-1"]["run"]["p50"] > 0
    assert found["window"]["wait"]["p50"] > 0
    assert (found["complete"], found["lagEvents"]) == (True, 0)
    assert found["asOf"] >= 5 * 2
    by_owner = await stats(service.admin, by="owner")
    assert {group["value"]: group["submitted"] for group in by_owner["groups"]} == {"alice": 4, "bob": 1}
    assert by_owner["step"] == 3600
    assert (await stats(service.admin, owner="bob"))["window"]["submitted"] == 1
    assert (await stats(service.admin, server="gpu-1"))["totals"]["finished"] == 4
    assert (await stats(service.admin, server=["gpu-1", "gpu-2"], type="default"))["window"]["finished"] == 4
    assert (await stats(service.admin, type="other"))["totals"]["tasks"] == 0
    assert (await stats(service.admin, **{"from": "2d"}))["step"] == 3600


async def test_users_see_their_own_figures_only(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "secret-server", types=["secret-type"])
    backend.answer = status(400, {"error": "the secret model is gone"})
    task_id = await service.bob.submit({"payload": 1, "type": "secret-type", "attempts": 1})
    await service.bob.reaches(task_id, "FAILED")

    for query in ({}, {"by": "server"}, {"by": "type"}, {"server": "secret-server"}, {"from": "3d", "by": "pool"}):
        answer = await service.alice.get(f"/api/stats?{urlencode(query)}")
        assert answer.body["window"]["submitted"] == answer.body["totals"]["tasks"] == 0
        assert "secret" not in str(answer.body)
    assert (await errors(service.alice))["errors"] == []
    for query in ({"owner": "bob"}, {"owner": "*"}, {"by": "owner"}):
        assert (await service.alice.get(f"/api/stats?{urlencode(query)}")).status == 403
    assert (await service.alice.get("/api/errors?owner=bob")).status == 403
    assert (await service.admin.get("/api/stats?by=owner&owner=bob")).status == 403
    [mine] = (await errors(service.bob))["errors"]
    assert mine["example"]["taskId"] == task_id


async def test_errors_are_grouped_and_paged(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "gpu-1")
    words = ["memory", "memory", "memory", "disk", "disk", "network"]
    for number, word in enumerate(words):
        backend.answer = status(400, {"error": f"out of {word} at 0x{number}f after {number} s"})
        await service.alice.reaches(await service.alice.submit({"payload": 1, **FAILING}), "FAILED")

    found = await errors(service.alice)
    assert [(group["count"], group["final"]) for group in found["errors"]] == [(3, 3), (2, 2), (1, 1)]
    first = found["errors"][0]
    assert "out of memory at <n> after <duration>" in first["shape"]
    assert (first["kind"], first["types"], first["servers"]) == ("rejected", {"failing": 3}, {"gpu-1": 3})
    assert first["fingerprint"].startswith("1-")
    assert "out of memory at 0x2f after 2 s" in first["example"]["error"]
    assert sum(first["trend"]) == 3
    assert len((await service.alice.done("GET", first["tasks"]))["tasks"]) == 3
    assert first["first"] < first["last"]
    assert (found["groups"], found["count"], found["nextCursor"]) == (3, 6, None)
    pages = await service.alice.pages("/api/errors", "errors", "limit=1")
    assert [group["fingerprint"] for page in pages for group in page] == [
        group["fingerprint"] for group in found["errors"]
    ]
    for query, count in (({"kind": "timeout"}, 0), ({"kind": "rejected,timeout"}, 3), ({"server": "gpu-2"}, 0)):
        assert len((await errors(service.alice, **query))["errors"]) == count
    [group] = (await errors(service.admin, owner="alice", type="failing,other", limit=1))["errors"]
    assert group["tasks"] == f"/api/tasks?shape={first['fingerprint']}&owner=alice&type=failing&type=other"
    assert len((await service.admin.done("GET", group["tasks"]))["tasks"]) == 3
    summary = await stats(service.alice)
    assert (summary["errorCount"], summary["errors"][0]["fingerprint"]) == (6, first["fingerprint"])
    assert (await stats(service.alice, pool="default"))["errors"] is None


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("from=soon", "from"),
        ("from=1h&to=2h", "from"),
        ("step=90", "step"),
        ("step=x", "step"),
        ("from=20h&step=30s", "step"),
        ("from=2d&step=90m", "step"),
        ("from=10h&by=type&step=1m", "step"),
        ("from=400d&step=1h", "step"),
    ],
)
async def test_a_wrong_window_is_refused_and_the_parameter_named(api: Service, query: str, parameter: str) -> None:
    assert await api.alice.refusal("GET", f"/api/stats?{query}") == (400, parameter)


async def test_a_wrong_dimension_is_refused_with_the_right_ones(api: Service) -> None:
    answer = await api.admin.get("/api/stats?by=status")

    assert (answer.status, answer["path"]) == (400, "by")
    assert answer["detail"] == "by: 'status' is not one of type, pool, server, owner"


async def test_hostile_cursors_are_refused(api: Service) -> None:
    wrong = ["x", "1.2.3", "0.999999999.1.0.5.1-other", "0.999999999.700000.0.1.1-other", "1.2.0.0.1.1-other"]
    wrong += ["61.121.60.1.1.1-other", "5.4.1.0.1.1-other", "٣.5.1.0.1.1-other", "5.6.1.0.1.1-OTHER"]
    for cursor in wrong:
        assert await api.alice.refusal("GET", f"/api/errors?{urlencode({'cursor': cursor})}") == (400, "cursor")


async def test_answers_at_the_same_time_are_all_right(api: Service) -> None:
    for number in range(10):
        await api.alice.submit({"payload": number})
    found = await asyncio.gather(*(stats(api.alice) for _ in range(20)))
    assert {each["totals"]["tasks"] for each in found} == {10}
