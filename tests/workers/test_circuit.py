"""The circuit of a server between two owners: nothing one of them chooses keeps the other from the server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import structlog
from aiohttp import web

from taskstream.backends.dialects.dialect import (
    Accepted,
    Answer,
    Busy,
    Completed,
    Failed,
    FailedByBackend,
    Unsent,
)
from taskstream.events.server import CircuitOpened, ServerEvent
from taskstream.events.subjects import server_root
from taskstream.instants import iso, milliseconds
from taskstream.scheduling.server_failures import Verdict
from taskstream.workers.fleet.circuit_breaker import verdict_on
from testkit.backend import Answerer, BackendServer, echo, hold, status
from testkit.http_server import break_off
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

from .behaviour import errors, submit_all

CALL_SECONDS = 0.05


async def broken_json(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    return web.Response(body=b'{"data": ', content_type="application/json")


async def cut_off(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    break_off(request)
    return web.Response()


def choking(on_poison: Answerer) -> Answerer:
    """Return a behaviour that takes a moment for each task, and answers poison in its own way."""

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        if task["request"] == "poison":
            return await on_poison(server, task, request)
        await asyncio.sleep(CALL_SECONDS)
        return await echo(server, task, request)

    return answer


VERDICTS: list[tuple[Answer, Verdict]] = [
    (Completed(b"{}"), "success"),
    (FailedByBackend(b"{}", "no"), "success"),
    (Accepted(None), "success"),
    (Failed(kind="rejected", error="422"), "success"),
    (Failed(kind="rejected", error="the model key cannot be decrypted", is_neutral=True), "neutral"),
    (Failed(kind="error", error="500"), "failure"),
    (Failed(kind="error", error="408", is_neutral=True), "neutral"),
    (Failed(kind="error", error="the API key cannot be decrypted", is_unreached=True), "unreached"),
    (Failed(kind="unreachable", error="reset"), "failure"),
    (Failed(kind="unreachable", error="refused", is_unreached=True), "unreached"),
    (Failed(kind="timeout", error="300 s"), "failure"),
    (Failed(kind="bad_answer", error="no JSON"), "neutral"),
    (Busy(error="full"), "neutral"),
    (Unsent(error="no file descriptor left"), "neutral"),
]


@pytest.mark.parametrize(("answer", "verdict"), VERDICTS, ids=repr)
def test_what_an_answer_says_about_its_server(answer: Answer, verdict: Verdict) -> None:
    assert verdict_on(answer, had_time=True) == verdict
    if not (isinstance(answer, Failed) and answer.kind == "timeout"):
        assert verdict_on(answer, had_time=False) == verdict


def test_a_timeout_that_the_owner_chose_says_nothing() -> None:
    assert verdict_on(Failed(kind="timeout", error="0.01 s"), had_time=False) == "neutral"


async def recorded(service: Service, server_id: str = "gpu") -> list[ServerEvent]:
    history = await service.container.commands.servers.log.load(server_root(server_id))
    return [stored.recorded.event for stored in history]


async def changes(service: Service, server_id: str = "gpu") -> list[str]:
    """Return what happened to a server's circuit."""
    names = [type(event).__name__ for event in await recorded(service, server_id)]
    return [name for name in names if name.startswith("Circuit")]


async def has_changed(service: Service, *expected: str) -> None:
    """Wait until a circuit's events are these."""

    async def look() -> bool:
        return await changes(service) == list(expected)

    await wait_until(look, f"the circuit's events to be {expected}")


async def have_failed(client: Client, tasks: list[str], attempts: int) -> None:
    """Wait until so many attempts of tasks have failed."""

    async def look() -> bool:
        return sum([len(errors(await client.history(task_id))) for task_id in tasks]) >= attempts

    await wait_until(look, f"{attempts} attempts to fail")


async def all_finish(client: Client, count: int) -> None:
    """Submit tasks one after the other, and have each finish."""
    for number in range(count):
        task_id = await client.submit({"payload": number, "attempts": 1})
        assert (await client.ended(task_id))["status"] == "FINISHED"


def failed_calls(backend: BackendServer, payload: Any = "poison") -> int:
    return sum(call["request"] == payload for call in backend.calls)


SLOW_FOR_HER: dict[str, Any] = {"payload": 0, "timeout": 0.01}
HOSTILE: dict[str, tuple[Answerer, list[dict[str, Any]]]] = {
    "two short timeouts": (echo, [SLOW_FOR_HER | {"attempts": 5}] * 2),
    "ten short timeouts": (echo, [SLOW_FOR_HER | {"attempts": 5}] * 10),
    "a hundred attempts of high priority": (echo, [SLOW_FOR_HER | {"attempts": 100, "priority": "high"}] * 2),
    "an answer that is no JSON": (broken_json, [{"payload": "poison", "attempts": 5}] * 2),
    "an answer of 408": (status(408), [{"payload": "poison", "attempts": 5}] * 2),
}


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_what_an_owner_chooses_never_opens_a_circuit(nats_url: str, hostile: str) -> None:
    on_poison, bodies = HOSTILE[hostile]
    async with (
        BackendServer(choking(on_poison)) as backend,
        running_service(nats_url, circuit_failures=3, circuit_cooldown=60) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=4)
        await have_failed(service.alice, await submit_all(service.alice, bodies), 8)

        await all_finish(service.bob, 5)

        assert await changes(service) == []


async def test_a_deadline_of_an_owner_never_opens_a_circuit(nats_url: str) -> None:
    async with (
        BackendServer(choking(hold)) as backend,
        running_service(nats_url, circuit_failures=2, circuit_cooldown=60) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=10)
        deadline = int(time.time() * 1000) + 1_000
        tasks = await submit_all(service.alice, [{"payload": "poison", "deadline": deadline} for _ in range(6)])
        for task_id in tasks:
            assert (await service.alice.ended(task_id))["failureKind"] == "deadline"

        await all_finish(service.bob, 3)

        assert failed_calls(backend) == 6
        assert await changes(service) == []


@pytest.mark.parametrize("on_poison", [status(500), cut_off], ids=["500", "connection cut"])
async def test_poison_of_one_owner_never_opens_a_circuit_for_another_whose_work_succeeds(
    nats_url: str, on_poison: Answerer
) -> None:
    async with (
        BackendServer(choking(on_poison)) as backend,
        running_service(nats_url, circuit_failures=3, circuit_cooldown=60) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=4)
        await all_finish(service.bob, 1)
        await submit_all(service.alice, [{"payload": "poison", "attempts": 20} for _ in range(5)])

        while failed_calls(backend) < 50:
            await all_finish(service.bob, 1)

        assert await changes(service) == []


async def test_a_circuit_that_poison_has_opened_lets_another_owner_through_at_once(nats_url: str) -> None:
    async with (
        BackendServer(choking(status(500))) as backend,
        running_service(nats_url, circuit_failures=3, circuit_cooldown=300) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=4)
        poison = await submit_all(service.alice, [{"payload": "poison", "attempts": 100}] * 20)
        await has_changed(service, "CircuitOpened")
        (opened,) = [event for event in await recorded(service) if isinstance(event, CircuitOpened)]
        assert opened.owner == "alice"
        why = await service.admin.done("GET", f"/api/task/{poison[-1]}/why")
        shown = await service.admin.done("GET", "/api/servers/gpu")
        until = milliseconds(opened.until)
        assert [(each["verdict"], each["until"]) for each in why["servers"]] == [("circuit-open", until)]
        assert (shown["circuit"], shown["circuitOpenUntil"]) == ("open", iso(opened.until))
        assert (shown["circuitReason"], shown["circuitOwner"]) == (opened.reason, "alice")

        await all_finish(service.bob, 5)

        assert await changes(service) == ["CircuitOpened", "CircuitClosed"]
        ended = [(await service.alice.details(task_id))["status"] for task_id in poison]
        assert "FAILED" not in ended


async def test_the_log_says_that_a_circuit_opens_and_closes_and_why(nats_url: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            BackendServer(choking(status(500))) as backend,
            running_service(nats_url, circuit_failures=2, circuit_cooldown=300) as service,
        ):
            await service.admin.register(backend, "gpu", maxConcurrent=1)
            await submit_all(service.alice, [{"payload": "poison", "attempts": 100}] * 2)
            await has_changed(service, "CircuitOpened")
            (opened,) = [event for event in await recorded(service) if isinstance(event, CircuitOpened)]

            await all_finish(service.bob, 1)

            await has_changed(service, "CircuitOpened", "CircuitClosed")

    assert [line for line in logs if line["event"] in ("circuit-breaker.opened", "circuit-breaker.closed")] == [
        {"event": "circuit-breaker.opened", "log_level": "warning", "server": "gpu", "reason": opened.reason,
         "owner": "alice", "until": iso(opened.until)},
        {"event": "circuit-breaker.closed", "log_level": "info", "server": "gpu", "reason": "an attempt succeeded"},
    ]  # fmt: skip


async def test_the_trial_is_not_given_to_the_task_that_keeps_failing_while_another_waits(nats_url: str) -> None:
    async with (
        BackendServer(choking(status(500))) as backend,
        running_service(nats_url, circuit_failures=2, circuit_cooldown=3, retry_cap=0.05) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=1)
        await submit_all(service.alice, [{"payload": "poison", "attempts": 100, "priority": "high"}] * 2)
        await has_changed(service, "CircuitOpened")
        before = failed_calls(backend)

        await all_finish(service.alice, 1)

        assert failed_calls(backend) == before
        await has_changed(service, "CircuitOpened", "CircuitHalfOpened", "CircuitClosed")


async def test_a_lone_task_that_failed_is_the_trial_in_the_end(nats_url: str) -> None:
    async with (
        BackendServer(choking(status(500))) as backend,
        running_service(nats_url, circuit_failures=2, circuit_cooldown=0.5) as service,
    ):
        await service.admin.register(backend, "gpu")
        tasks = await submit_all(service.alice, [{"payload": "poison", "attempts": 100}] * 2)
        await has_changed(service, "CircuitOpened")
        backend.answer = echo

        for task_id in tasks:
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        assert (await changes(service))[-1] == "CircuitClosed"


async def test_a_trial_whose_end_says_nothing_is_followed_by_the_next_at_once(nats_url: str) -> None:
    async with (
        BackendServer(choking(status(500))) as backend,
        running_service(nats_url, circuit_failures=2, circuit_cooldown=2) as service,
    ):
        await service.admin.register(backend, "gpu")
        await submit_all(service.alice, [{"payload": "poison", "attempts": 1}] * 2)
        await has_changed(service, "CircuitOpened")
        backend.answer = hold

        await have_failed(service.bob, await submit_all(service.bob, [SLOW_FOR_HER | {"attempts": 1}] * 5), 5)
        assert await changes(service) == ["CircuitOpened"]
        backend.answer = echo
        await all_finish(service.bob, 1)

        await has_changed(service, "CircuitOpened", "CircuitClosed")


async def test_a_long_trial_keeps_nobody_from_the_server(nats_url: str) -> None:
    async with (
        BackendServer(choking(status(500))) as backend,
        running_service(nats_url, circuit_failures=2, circuit_cooldown=0.5) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=4)
        await submit_all(service.alice, [{"payload": "poison", "attempts": 1}] * 2)
        await has_changed(service, "CircuitOpened")
        backend.answer = hold
        held = await service.bob.submit({"payload": "long"})
        await wait_until(lambda: failed_calls(backend, "long") == 1, "the long trial")
        backend.answer = echo

        await all_finish(service.bob, 3)

        assert (await service.bob.details(held))["status"] == "PROCESSING"
        assert (await changes(service))[-1] == "CircuitClosed"


async def test_a_worker_that_ends_during_a_trial_does_not_leave_the_server_shut(nats_url: str) -> None:
    quick = {"circuit_failures": 2, "circuit_cooldown": 0.5, "shutdown_grace": 0}
    async with BackendServer(choking(status(500))) as backend:
        async with running_service(nats_url, **quick) as service:
            await service.admin.register(backend, "gpu", maxConcurrent=4)
            await submit_all(service.alice, [{"payload": "poison", "attempts": 1}] * 2)
            await has_changed(service, "CircuitOpened")
            backend.answer = hold
            tasks = await submit_all(service.alice, [{"payload": number} for number in range(3)])
            await has_changed(service, "CircuitOpened", "CircuitHalfOpened")
            await wait_until(lambda: len(backend.calls) == 3, "the trial")
        backend.answer = echo

        async with running_service(nats_url, **quick) as service:
            for task_id in tasks:
                assert (await service.alice.ended(task_id))["status"] == "FINISHED"
            await has_changed(service, "CircuitOpened", "CircuitHalfOpened", "CircuitClosed")


async def test_quick_errors_do_not_outrun_slow_successes(nats_url: str) -> None:
    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        if task["request"] % 8 == 7 and task["attempt"] == 1:
            return await status(500)(server, task, request)
        await asyncio.sleep(0.3)
        return await echo(server, task, request)

    async with (
        BackendServer(answer) as backend,
        running_service(nats_url, circuit_failures=5, circuit_cooldown=60, inline_result=1024) as service,
    ):
        await service.admin.register(backend, "gpu", maxConcurrent=64)
        tasks = await submit_all(service.alice, [{"payload": number} for number in range(200)])
        for task_id in tasks:
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"

        assert await changes(service) == []


async def test_a_server_that_never_answers_opens_by_the_time_of_the_type(nats_url: str, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats_url, circuit_failures=3, circuit_cooldown=60) as service:
        await service.admin.register(backend, "gpu")
        await service.admin.done("PUT", "/api/types/slow", {"timeout": 0.2})

        chosen: dict[str, Any] = {"type": "slow", "payload": 0, "attempts": 1}
        for timeout in (0.1, 0.1999):
            await have_failed(service.alice, await submit_all(service.alice, [chosen | {"timeout": timeout}] * 5), 5)
        assert await changes(service) == []

        await submit_all(service.alice, [chosen, chosen | {"timeout": 0.2}, chosen | {"timeout": 0.3}])
        await has_changed(service, "CircuitOpened")


async def test_a_server_that_is_gone_opens_for_all_and_recovers(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, circuit_failures=3, circuit_cooldown=1, heartbeat_ttl=600) as service:
        await service.admin.register(backend, "gpu", health=False, online=False)
        await service.admin.post("/api/servers/gpu/heartbeat")
        await service.admin.server_is("gpu", "online")
        await all_finish(service.bob, 2)
        await backend.stop()

        tasks = [
            (client, task_id)
            for client in (service.alice, service.bob)
            for task_id in await submit_all(client, [{"payload": number, "attempts": 50} for number in range(5)])
        ]
        await wait_until(lambda: changes(service), "the circuit to open")
        (opened, *_) = [event for event in await recorded(service) if isinstance(event, CircuitOpened)]
        await backend.start()

        for client, task_id in tasks:
            assert (await client.ended(task_id))["status"] == "FINISHED"
        assert (opened.owner, opened.failures) == ("", 1)
        assert (await changes(service))[-1] == "CircuitClosed"


async def test_a_server_that_answers_500_to_everybody_opens_for_all_and_recovers(
    nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url, circuit_failures=3, circuit_cooldown=0.5) as service:
        await service.admin.register(backend, "gpu")
        await all_finish(service.bob, 1)
        await all_finish(service.alice, 1)
        backend.answer = status(500)
        tasks = [
            (client, task_id)
            for client in (service.alice, service.bob)
            for task_id in await submit_all(client, [{"payload": number, "attempts": 50} for number in range(5)])
        ]
        await wait_until(lambda: changes(service), "the circuit to open")
        called = len(backend.calls) - 2
        backend.answer = echo

        for client, task_id in tasks:
            assert (await client.ended(task_id))["status"] == "FINISHED"
        assert called <= 20
        assert (await changes(service))[-1] == "CircuitClosed"
