"""The log of requests: who asked for what, how it ended, and nothing secret."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from taskstream.runtime import logs
from taskstream.runtime.logs import BURST
from testkit.service import Service, running_service, token
from testkit.waiting import wait_until

METRICS_TOKEN = "a token of the tests for metrics"


def requests(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["event"].startswith("request")]


async def test_a_request_is_logged_with_caller_route_status_time_and_id(api: Service) -> None:
    with capture_logs() as lines:
        task_id = await api.alice.submit({"n": 1}, headers={"X-Request-Id": "mine-1"})
        await api.alice.get(f"/api/task/{task_id}?wait=0")
        await api.alice.get("/api/task/unknown")
        await api.anonymous.get("/health/live")
        await api.anonymous.get("/metrics")
    names = ("log_level", "event", "caller", "method", "route", "status")
    told = [tuple(line[name] for name in names) for line in requests(lines)]
    assert told == [
        ("info", "request", "alice", "POST", "/api/task", 200),
        ("info", "request", "alice", "GET", "/api/task/{task_id}", 200),
        ("info", "request", "alice", "GET", "/api/task/{task_id}", 404),
        ("debug", "request", None, "GET", "/health/live", 200),
        ("debug", "request", None, "GET", "/metrics", 200),
    ]
    assert requests(lines)[0]["id"] == "mine-1"
    assert all(line["ms"] >= 0 for line in requests(lines))


async def test_no_token_of_a_url_or_header_is_logged(api: Service) -> None:
    bearer = token("alice")
    stream_token = (await api.alice.done("POST", "/api/stream-tokens"))["token"]
    with capture_logs() as lines:
        await api.anonymous.get(f"/api/events?token={bearer}", headers={"Authorization": "Bearer x.y.z"})
        await api.anonymous.get(f"/api/task/{bearer}?token={bearer}")
        async with api.alice.session.ws_connect(f"{api.url}/ws?token={stream_token}") as socket:
            await socket.send_json({"type": "ping"})
            await socket.receive()
        await wait_until(lambda: any(line.get("route") == "/ws" for line in lines), "the line of the socket")
    assert requests(lines)
    for secret in (bearer, bearer.rpartition(".")[2], stream_token):
        assert secret not in str(lines)
    (of_socket,) = [line for line in requests(lines) if line["route"] == "/ws"]
    assert (of_socket["caller"], of_socket["method"], of_socket["status"]) == ("alice", "WEBSOCKET", 101)


async def test_errors_of_strangers_are_counted_instead_of_logged_each(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAUSE_SECONDS", 3_600.0)  # no further line during the test
    with capture_logs() as lines:
        for _ in range(BURST + 10):
            assert (await api.anonymous.get("/api/tasks")).status == 401
    assert len(requests(lines)) == BURST


async def test_a_slow_request_is_a_warning_and_a_wait_is_not(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, slow_request=1e-9) as api:
        with capture_logs() as lines:
            task_id = await api.alice.submit({"n": 1})
            await api.alice.get(f"/api/task/{task_id}?wait=1")
            async with api.alice.session.get(
                f"{api.url}/api/task/{task_id}/stream", headers={"Authorization": f"Bearer {api.alice.bearer}"}
            ) as stream:
                await stream.content.readany()
            await wait_until(lambda: len(requests(lines)) == 3, "three lines")
    assert [(line["log_level"], line["event"]) for line in requests(lines)] == [
        ("warning", "request.slow"),
        ("info", "request"),
        ("info", "request"),
    ]


async def test_metrics_can_require_a_token(nats_url: str) -> None:
    async with running_service(nats_url, worker=False, metrics_token=METRICS_TOKEN) as api:
        assert (await api.anonymous.get("/metrics")).status == 401
        assert (await api.admin.get("/metrics")).status == 401
        assert (await api.bearing(METRICS_TOKEN).get("/metrics")).status == 200
        assert (await api.anonymous.get("/health/ready")).status == 200
