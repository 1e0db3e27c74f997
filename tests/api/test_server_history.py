"""The history of servers over HTTP: events in pages, removed servers since an instant, and who may read them."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.service import Service

GPU: dict[str, Any] = {
    "id": "gpu 1",
    "name": "GPU 1",
    "provider": "example",
    "endpoints": {"predict": "http://127.0.0.1:9/predict"},
    "apiKey": "sk-very-secret-of-the-backend",
}
HISTORY = "/api/servers/gpu%201/events"
ALL = [
    "ServerRegistered", "ServerWentOnline", "MaintenanceStarted", "MaintenanceEnded", "ServerRegistered",
    "ServerRemoved",
]  # fmt: skip


@pytest.fixture
async def told(api: Service) -> Service:
    """A server with a short history, and another one."""
    path = "/api/servers/gpu%201"
    await api.admin.done("POST", "/api/servers", GPU)
    await api.admin.done("POST", f"{path}/heartbeat")
    await api.admin.done("POST", f"{path}/drain", {"reason": "new driver"})
    await api.admin.done("POST", f"{path}/resume")
    await api.admin.done("PATCH", path, {"weight": 2})
    await api.admin.done("DELETE", path)
    await api.admin.done("POST", "/api/servers", {**GPU, "id": "gpu 1.b"})
    return api


def names(page: Any) -> list[str]:
    return [each["event"]["type"] for each in page["events"]]


async def test_a_servers_events_have_what_happened_when_and_by_whom(told: Service) -> None:
    page = await told.admin.done("GET", HISTORY)

    assert (page["serverId"], names(page), page["total"]) == ("gpu 1", ALL, len(ALL))
    assert (page["nextAfter"], page["nextBefore"]) == (None, None)
    drained = page["events"][2]
    assert (drained["by"], drained["event"]["reason"]) == ({"kind": "user", "id": "root"}, "new driver")
    assert drained["at"].endswith("Z")
    assert "sk-very-secret" not in str(page)


async def test_a_servers_events_are_read_in_pages_from_either_end(told: Service) -> None:
    whole = (await told.admin.done("GET", HISTORY))["events"]

    oldest, after = [], 0
    while after is not None:
        page = await told.admin.done("GET", f"{HISTORY}?limit=4&after={after}")
        oldest += page["events"]
        after = page["nextAfter"]
    newest, before = [], "end"
    while before is not None:
        page = await told.admin.done("GET", f"{HISTORY}?limit=4&before={before}")
        newest += page["events"]
        before = page["nextBefore"]

    assert oldest == whole
    assert newest == whole[::-1]


async def test_a_servers_events_are_selected_by_name(told: Service) -> None:
    found = await told.admin.done("GET", f"{HISTORY}?event=ServerRegistered,ServerRemoved&before=end&limit=2")

    assert names(found) == ["ServerRemoved", "ServerRegistered"]
    assert names(await told.admin.done("GET", f"{HISTORY}?event=ServerRegistered&before={found['nextBefore']}")) == [
        "ServerRegistered"
    ]
    assert names(await told.admin.done("GET", f"{HISTORY}?event=CircuitOpened")) == []


async def test_what_is_wrong_with_a_request_for_a_servers_events_is_said(told: Service) -> None:
    for query, where in [
        ("event=Online", "event"),
        ("before=x", "before"),
        ("before=5&after=3", "before"),
        ("after=x", "after"),
    ]:
        assert await told.admin.refusal("GET", f"{HISTORY}?{query}") == (400, where)
    assert (await told.admin.get("/api/servers/gpu/events")).status == 404


async def test_removed_servers_are_listed_from_an_instant_on(told: Service) -> None:
    (listed,) = (await told.admin.done("GET", "/api/servers?removed=true&since=1h"))["servers"]
    at = listed["removed"]["since"]

    assert [
        each["id"] for each in (await told.admin.done("GET", f"/api/servers?removed=true&since={at}"))["servers"]
    ] == ["gpu 1"]
    assert (await told.admin.done("GET", "/api/servers?removed=true&since=2099-01-01T00:00:00Z"))["servers"] == []
    assert await told.admin.refusal("GET", "/api/servers?since=1h") == (400, "since")
    assert await told.admin.refusal("GET", "/api/servers?removed=true&since=yesterday") == (400, "since")


async def test_auditors_read_the_fleet_as_admins_do_and_change_nothing(told: Service) -> None:
    for path in (
        "/api/servers",
        "/api/servers?removed=true",
        "/api/servers/gpu%201.b",
        HISTORY,
        "/api/pools",
        "/api/pools/default",
    ):
        assert (await told.auditor.get(path)).body == (await told.admin.get(path)).body, path
        assert (await told.alice.get(path)).status == 403, path
    for method, path in [
        ("PATCH", "/api/servers/gpu%201.b"),
        ("DELETE", "/api/servers/gpu%201.b"),
        ("POST", "/api/servers/gpu%201.b/drain"),
        ("POST", "/api/servers/gpu%201.b/heartbeat"),
        ("POST", "/api/pools/default/pause"),
    ]:
        assert (await told.auditor.call(method, path)).status == 403, path


async def test_an_auditor_that_is_a_service_too_reads_all_servers(told: Service) -> None:
    both = told.client("gpu 1.b", "auditor", "service")
    await told.admin.done("POST", "/api/servers", {**GPU, "id": "gpu 2"})

    assert (await both.get("/api/servers/gpu%202"))["endpoints"] == {
        "predict": GPU["endpoints"]["predict"],
        "health": None,
    }
    assert (await both.post("/api/servers/gpu%202/heartbeat")).status == 403
