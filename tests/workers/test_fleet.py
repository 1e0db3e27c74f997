"""How servers are found well or not, and what follows from it."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from taskstream.commands.server import RegisterServer, RemoveOffline, RemoveServer
from taskstream.events.envelope import Actor
from taskstream.events.server import ServerEvent
from taskstream.events.subjects import server_root
from taskstream.streams.buckets import Bucket
from taskstream.streams.jetstream.api import ApiError, api
from taskstream.streams.topology.definitions import TIMERS
from taskstream.workers import reconciler
from taskstream.workers.fleet.health import pause_after
from testkit.backend import BackendServer, echo, status
from testkit.service import Service, quick_settings, running_service
from testkit.waiting import wait_until

from ..deciders.support import registered
from .behaviour import errors, submit_all

KEY = "sk-very-secret-0123456789"


class Clinic(BackendServer):
    """A backend whose health checks fail, or hang, when the test says so."""

    fail_next = 0
    """So many further checks fail."""
    hangs = False
    hung = 0
    health_answer: Any = None
    """JSON of healthy answers; None: text."""

    async def _health(self, request: web.Request) -> web.Response:
        if self.hangs:
            self.hung += 1
            await asyncio.Event().wait()
        if self.fail_next:
            self.fail_next -= 1
            self.health_checks += 1
            return web.Response(status=500)
        self.health_headers = request.headers
        if self.health_answer is not None:
            return web.json_response(self.health_answer)
        return await super()._health(request)


async def recorded(service: Service, server_id: str) -> list[ServerEvent]:
    """Return a server's history from the log."""
    history = await service.container.commands.servers.log.load(server_root(server_id))
    return [stored.recorded.event for stored in history]


def names(events: list[ServerEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


async def happened(service: Service, server_id: str, event: str, times: int = 1) -> Any:
    """Wait until an event has been recorded so often; return the last one."""

    async def look() -> Any:
        found = [each for each in await recorded(service, server_id) if type(each).__name__ == event]
        return found[-1] if len(found) >= times else None

    return await wait_until(look, f"{server_id} to have {times} {event}")


async def circuit(service: Service, server_id: str) -> str:
    return str((await service.admin.get(f"/api/servers/{server_id}"))["circuit"])


# Health


async def test_a_server_is_offline_until_its_first_check_and_whenever_its_checks_fail(
    service: Service, backend: BackendServer
) -> None:
    backend.healthy = False
    await service.admin.register(backend, "patient", online=False)
    await wait_until(lambda: backend.health_checks >= 2, "two checks")
    shown = await service.admin.get("/api/servers/patient")
    task_id = await service.alice.submit({"payload": 1})

    backend.healthy = True
    await service.admin.server_is("patient", "online")
    assert (await service.alice.ended(task_id))["status"] == "FINISHED"
    backend.healthy = False
    await service.admin.server_is("patient", "offline")
    backend.healthy = True
    await service.admin.server_is("patient", "online")

    assert (shown["status"], shown["statusReason"]) == ("offline", "health check answered 500")
    events = await recorded(service, "patient")
    assert [(type(event).__name__, getattr(event, "reason", "")) for event in events] == [
        ("ServerRegistered", ""),
        ("ServerStatusReasonChanged", "health check answered 500"),
        ("ServerWentOnline", "health check answered 200"),
        ("ServerWentOffline", "health check answered 500"),
        ("ServerWentOnline", "health check answered 200"),
    ]


async def test_a_failed_check_is_tried_again_before_it_counts(nats_url: str) -> None:
    async with (
        Clinic() as backend,
        running_service(nats_url, health_retries=2, health_retry_delay=0.05, health_interval=0.1) as service,
    ):
        await service.admin.register(backend, "shaky")
        for _ in range(3):
            backend.fail_next = 2
            await wait_until(lambda: not backend.fail_next, "the failed tries")
            seen = backend.health_checks
            await wait_until(lambda wanted=seen + 2: backend.health_checks >= wanted, "the next checks")
        assert names(await recorded(service, "shaky")) == ["ServerRegistered", "ServerWentOnline"]

        backend.fail_next = 3
        await happened(service, "shaky", "ServerWentOffline")


async def test_a_server_that_stays_well_is_checked_less_often_and_a_failing_one_more(nats_url: str) -> None:
    async with (
        Clinic() as stable,
        Clinic() as failing,
        running_service(
            nats_url,
            health_interval=0.1,
            health_interval_stable=600,
            health_interval_failing=300,
            health_stable_checks=3,
            reconcile_interval=60,
        ) as service,
    ):
        failing.healthy = False
        await service.admin.register(stable, "stable")
        await service.admin.register(failing, "failing", online=False)

        async def next_check(server_id: str) -> timedelta | None:
            try:
                found = await api(
                    service.container.reading, f"STREAM.MSG.GET.{TIMERS}", {"last_by_subj": f"timer.check.{server_id}"}
                )
            except ApiError:
                return None  # one has fired, and the next is not set yet
            headers = base64.b64decode(found["message"]["hdrs"]).decode()
            at = headers.partition("@at ")[2].partition("\r\n")[0]
            ahead = datetime.fromisoformat(at) - datetime.now(UTC)
            return ahead if ahead > timedelta(seconds=100) else None

        await wait_until(lambda: stable.health_checks >= 3 and failing.health_checks >= 1, "the checks")
        assert timedelta(seconds=500) < await wait_until(lambda: next_check("stable"), "a distant check")
        assert timedelta(seconds=300) > await wait_until(lambda: next_check("failing"), "a distant check")
        assert (stable.health_checks, failing.health_checks) == (3, 1)


async def test_a_server_that_stays_offline_is_removed_and_back_as_it_was_when_it_answers(nats_url: str) -> None:
    async with (
        Clinic() as backend,
        running_service(nats_url, server_remove_after=0.3, health_interval=0.1) as service,
    ):
        settings = {"labels": {"gpu": "a100"}, "maxConcurrent": 3, "apiKey": KEY, "authHeader": "X-Key"}
        await service.admin.register(backend, "dying", **settings)
        before = (await service.admin.get("/api/servers/dying")).body
        backend.healthy = False

        removed = await happened(service, "dying", "ServerRemoved")

        assert (removed.reason, removed.is_kept) == ("offline for more than 0.3 s: health check answered 500", True)
        assert (await service.admin.get("/api/servers/dying")).status == 404
        assert (await service.admin.get("/api/servers"))["servers"] == []
        task_id = await service.alice.submit({"payload": 1, "require": {"gpu": "a100"}})
        why = await service.alice.get(f"/api/task/{task_id}/why")
        assert why["verdicts"] == [{"verdict": "removed", "text": "was removed for being offline", "count": 1}]
        assert "(offline for more than 0.3 s: health check answered 500)" in why["summary"]
        listed = await service.admin.until(
            "/api/servers?removed=true", lambda page: page["servers"][0]["removed"]["nextCheck"], "a check of it"
        )
        info = listed["servers"][0]["removed"]
        assert (info["reason"], info["by"], info["returns"]) == (
            removed.reason, {"kind": "timer", "id": "health-check"}, True
        )  # fmt: skip
        assert info["lastCheckReason"] == "health check answered 500"

        backend.healthy = True
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"

        assert backend.headers[-1]["X-Key"] == KEY
        assert "Authorization" not in backend.headers[-1]
        after = (await service.admin.get("/api/servers/dying")).body
        same = ("labels", "maxConcurrent", "hasApiKey", "authHeader", "registeredAt", "endpoints", "status", "removed")
        assert {name: after[name] for name in same} == {name: before[name] for name in same}
        assert names(await recorded(service, "dying"))[-2:] == ["ServerRestored", "ServerWentOnline"]


async def test_a_server_that_stays_away_is_forgotten_with_its_key_but_not_by_admins(
    nats_url: str,
) -> None:
    async with (
        Clinic() as backend,
        running_service(nats_url, server_remove_after=0.2, server_forget_after=1, health_interval=0.1) as service,
    ):
        await service.admin.register(backend, "away", apiKey=KEY, weight=7)
        await service.admin.register(backend, "permanent", removeAfter=None)
        backend.healthy = False

        await happened(service, "away", "ServerForgotten")

        secrets = service.container.buckets.secrets
        await wait_until(lambda: no_keys(secrets, "away"), "its key to be destroyed")
        checks = backend.health_checks
        assert (await service.admin.post("/api/servers/away/heartbeat")).status == 404
        assert (await service.admin.post("/api/servers/away/restore")).status == 409
        backend.healthy = True
        await service.admin.server_is("permanent", "online")
        await wait_until(lambda: backend.health_checks > checks + 3, "more checks of the other")
        assert (await service.admin.get("/api/servers/away")).status == 404
        await service.admin.done("POST", "/api/servers/away/restore", {"apiKey": KEY})
        await service.admin.server_is("away", "online")
        assert (await service.admin.get("/api/servers/away"))["weight"] == 7
        assert "ServerRemoved" not in names(await recorded(service, "permanent"))


async def test_a_heartbeat_restores_a_removed_server_without_health_address(
    nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url, server_remove_after=0.1, heartbeat_ttl=0.5, health_interval=0.1) as service:
        await service.admin.register(backend, "quiet", health=False, online=False)
        await happened(service, "quiet", "ServerRemoved")

        assert (await service.admin.post("/api/servers/quiet/heartbeat")).status == 200

        assert names(await recorded(service, "quiet"))[-2:] == ["ServerRestored", "ServerWentOnline"]


def test_a_removed_server_is_checked_ever_more_seldom() -> None:
    settings = quick_settings(health_interval=20)

    assert [pause_after(settings, failed) for failed in (0, 1, 2, 6, 7, 10_000)] == [10, 20, 40, 640, 900, 900]


async def no_keys(secrets: Bucket, server_id: str) -> bool:
    return await secrets.scan(f"server.{server_id}.*") == []


async def test_the_check_carries_the_key_and_expects_what_the_registration_says(service: Service) -> None:
    async with Clinic() as backend:
        backend.health_answer = {"model": {"loaded": False}, "workers": ["up"]}
        expected = {"status": [200, 204], "json": {"$.model.loaded": True, "$.workers[0]": "up"}}
        more = {"apiKey": KEY, "authHeader": "X-API-Key", "healthAuth": True, "healthExpect": expected}
        await service.admin.register(backend, "picky", online=False, **more)
        shown = await service.admin.until(
            "/api/servers/picky", lambda server: server["statusReason"] != "not checked yet", "a check"
        )
        assert (shown["status"], shown["healthExpect"]) == ("offline", expected)
        assert shown["statusReason"] == "health check answered 200, but `$.model.loaded` is not true"

        backend.health_answer = {"model": {"loaded": True}, "workers": ["up"]}
        await service.admin.server_is("picky", "online")

        assert backend.health_headers["X-API-Key"] == KEY
        assert "Authorization" not in backend.health_headers


async def test_a_removed_server_whose_check_is_lost_is_checked_again(
    nats_url: str, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "SETTLED_AFTER", timedelta(0))
    async with running_service(nats_url, reconcile_interval=0.2) as service:
        servers, by = service.container.commands.servers, Actor("system", "tests")
        settings = registered("lost", predict_url=f"{backend.url}/predict", health_url=f"{backend.url}/health")
        later = datetime.now(UTC) + timedelta(days=1)
        handled = await servers.handle("lost", RegisterServer(settings=settings), by=by)
        await servers.handle("lost", RemoveOffline(reason="", since=later), by=by, known=handled.known)

        await service.admin.server_is("lost", "online")

        assert "ServerRestored" in names(await recorded(service, "lost"))


async def test_a_key_that_a_crash_left_after_a_removal_is_destroyed(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url) as service:
        await service.admin.register(backend, "crashed", apiKey=KEY)
        by = Actor("system", "tests")
        await service.container.commands.servers.handle("crashed", RemoveServer(reason=""), by=by)

        await wait_until(lambda: no_keys(service.container.buckets.secrets, "crashed"), "its key to be destroyed")


async def test_a_check_whose_key_cannot_be_opened_says_so_and_is_not_made(nats_url: str) -> None:
    async with Clinic() as backend, running_service(nats_url, health_interval=0.1) as service:
        await service.admin.register(backend, "locked", apiKey=KEY, healthAuth=True)
        state = service.container.fleet.server("locked")
        await service.container.secrets.destroy("locked", state.settings.api_key_id)

        await service.admin.server_is("locked", "offline")

        assert (await service.admin.get("/api/servers/locked"))["statusReason"].startswith("misconfigured: ")


async def test_a_server_whose_name_never_resolves_is_accepted_and_stays_offline(service: Service) -> None:
    body = {
        "id": "nowhere", "name": "nowhere", "provider": "test",
        "endpoints": {"predict": "http://nowhere.invalid/predict", "health": "http://nowhere.invalid/health"},
    }  # fmt: skip
    assert (await service.admin.post("/api/servers", body)).status == 200

    listed = (await service.admin.get("/api/servers"))["servers"]
    assert [(server["id"], server["status"]) for server in listed] == [("nowhere", "offline")]


async def test_a_server_without_health_address_lives_by_heartbeats(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, heartbeat_ttl=3, health_interval=0.1) as service:
        await service.admin.register(backend, "quiet", health=False, online=False)
        shown = await service.admin.until(
            "/api/servers/quiet", lambda server: server["statusReason"] != "not checked yet", "a check"
        )
        assert shown["status"] == "offline"
        assert "it has no `endpoints.health`" in shown["statusReason"]

        assert (await service.admin.post("/api/servers/quiet/heartbeat", {"activeTasks": 2})).status == 200
        shown = await service.admin.get("/api/servers/quiet")
        assert (shown["status"], shown["reportedActiveTasks"]) == ("online", 2)

        assert (await happened(service, "quiet", "ServerWentOffline")).reason.startswith("no sign of life for")


async def test_a_server_without_health_address_lives_by_tasks_done(nats_url: str, backend: BackendServer) -> None:
    ttl = timedelta(seconds=3)
    async with running_service(nats_url, heartbeat_ttl=ttl.total_seconds(), health_interval=0.1) as service:
        await service.admin.register(backend, "busy", health=False, online=False)
        await service.admin.post("/api/servers/busy/heartbeat")
        began = datetime.now(UTC)

        while datetime.now(UTC) < began + 2 * ttl:
            await service.alice.ended(await service.alice.submit({"payload": 1}))

        assert names(await recorded(service, "busy")) == ["ServerRegistered", "ServerWentOnline"]


# Busy is not dead


async def test_a_server_too_busy_for_its_health_check_stays_online_while_it_finishes_tasks(nats_url: str) -> None:
    async with (
        Clinic() as backend,
        running_service(nats_url, health_timeout=0.5, health_interval=0.1, heartbeat_ttl=5) as service,
    ):
        await service.admin.register(backend, "busy")
        await service.alice.ended(await service.alice.submit({"payload": 1}))
        backend.hangs = True
        while backend.hung < 4:
            await service.alice.ended(await service.alice.submit({"payload": 1}))
        assert "ServerWentOffline" not in names(await recorded(service, "busy"))
        shown = await service.admin.get("/api/servers/busy")
        assert shown["statusReason"] == "too busy to answer its health check, but finishing tasks"

        # It works no more, and still does not answer.
        offline = await happened(service, "busy", "ServerWentOffline")
        assert offline.reason == "no answer to the health check in 0.5 s"


async def test_many_servers_that_hang_hold_up_no_check_of_another(nats_url: str, backend: BackendServer) -> None:
    async with Clinic() as silent, running_service(nats_url, health_timeout=60) as service:
        silent.hangs = True
        for number in range(100):
            await service.admin.register(silent, f"silent-{number}", online=False)
        await wait_until(lambda: silent.hung == 100, "all of them to be asked")

        await service.admin.register(backend, "well")


async def test_a_busy_server_keeps_its_circuit_closed(nats_url: str, backend: BackendServer) -> None:
    async def busy(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        code = 429 if len(server.calls) % 2 else 503
        return await (echo if task["attempt"] > 3 else status(code, headers={"Retry-After": "0"}))(
            server, task, request
        )

    backend.answer = busy
    async with running_service(nats_url, circuit_failures=2) as service:
        await service.admin.register(backend, "busy")

        tasks = await submit_all(service.alice, [{"payload": number, "attempts": 2} for number in range(5)])
        for task_id in tasks:
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"
            assert errors(await service.alice.history(task_id)) == []

        assert names(await recorded(service, "busy")) == ["ServerRegistered", "ServerWentOnline"]


async def test_what_a_server_says_of_itself_outlives_its_next_health_check(
    service: Service, backend: BackendServer
) -> None:
    await service.admin.register(backend, "talkative")
    await service.admin.post("/api/servers/talkative/heartbeat", {"activeTasks": 4, "metrics": {"gpu": 0.5}})

    seen = backend.health_checks
    await wait_until(lambda: backend.health_checks >= seen + 2, "further checks")
    await service.alice.ended(await service.alice.submit({"payload": 1}))

    shown = await service.admin.get("/api/servers/talkative")
    assert (shown["reportedActiveTasks"], shown["metrics"]) == (4, {"gpu": 0.5})


# The circuit


async def test_a_server_that_keeps_failing_rests_then_gets_one_task_at_a_time(
    nats_url: str, backend: BackendServer
) -> None:
    backend.answer = status(500, {"error": "out of memory"})
    async with running_service(nats_url, circuit_failures=3, circuit_cooldown=0.5) as service:
        await service.admin.register(backend, "failing", maxConcurrent=2)
        for _ in range(3):
            await service.alice.ended(await service.alice.submit({"payload": 1, "attempts": 1}))
        opened = await happened(service, "failing", "CircuitOpened")
        assert opened.reason.startswith("3 attempts failed since the last success, the last because ")
        assert opened.reason.endswith("the server answered 500: out of memory")
        assert opened.failures == 1
        shown = await service.admin.get("/api/servers/failing")
        assert (shown["status"], shown["circuit"]) == ("online", "open")

        tasks = await submit_all(service.alice, [{"payload": number, "attempts": 1} for number in range(6)])
        assert (await happened(service, "failing", "CircuitOpened", times=2)).failures == 2
        assert len(backend.calls) == 4  # one trial
        backend.answer = echo
        ended = [await service.alice.ended(task_id) for task_id in tasks]

        assert sorted(details["status"] for details in ended) == ["FAILED"] + ["FINISHED"] * 5
        await happened(service, "failing", "CircuitClosed")
        assert names(await recorded(service, "failing"))[2:] == [
            "CircuitOpened", "CircuitHalfOpened", "CircuitOpened", "CircuitHalfOpened", "CircuitClosed",
        ]  # fmt: skip
        assert await circuit(service, "failing") == "closed"


# What a server was registered with


async def test_the_api_key_reaches_the_server_and_nobody_else(service: Service, backend: BackendServer) -> None:
    key = "sk-very-secret-0123456789"
    await service.admin.register(backend, "locked", apiKey=key)
    first = await service.alice.submit({"payload": 1})
    await service.alice.ended(first)
    await service.admin.register(backend, "locked", apiKey=f"{key}-2")
    second = await service.alice.submit({"payload": 2})
    await service.alice.ended(second)

    assert [headers["Authorization"] for headers in backend.headers] == [f"Bearer {key}", f"Bearer {key}-2"]
    shown = await service.admin.get("/api/servers/locked")
    assert shown["hasApiKey"] is True
    said = [shown.body, *await recorded(service, "locked"), *await service.alice.history(first)]
    assert key not in repr(said)


async def test_servers_take_turns_when_that_is_the_setting(nats_url: str, backend: BackendServer) -> None:
    async with BackendServer() as other, running_service(nats_url, balancing="round-robin") as service:
        await service.admin.register(backend, "large", maxConcurrent=100)
        await service.admin.register(other, "small", maxConcurrent=1)

        async def served_by(number: int) -> str:
            return str((await service.alice.ended(await service.alice.submit({"payload": number})))["serverId"])

        async def both_take_part() -> bool:
            await served_by(0)
            return bool(backend.calls and other.calls)

        await wait_until(both_take_part, "the worker to speak for both servers")
        servers = [await served_by(number) for number in range(6)]
    assert servers in (["large", "small"] * 3, ["small", "large"] * 3)


async def test_heavier_servers_get_more_when_that_is_the_setting(nats_url: str, backend: BackendServer) -> None:
    async with BackendServer() as other, running_service(nats_url, balancing="weighted") as service:
        await service.admin.register(backend, "heavy", weight=1000)
        await service.admin.register(other, "light", weight=1)

        for number in range(10):
            await service.alice.ended(await service.alice.submit({"payload": number}))

        assert len(backend.calls) > len(other.calls)
