"""Several workers on one log: they share the servers, take over from one another, and lose nothing on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from taskstream.container import open_container
from taskstream.events.subjects import server_token
from taskstream.running import running_worker
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH, TIMERS
from taskstream.workers.cron import Cron
from taskstream.workers.fleet.assignment import preferred
from taskstream.workers.reconciler import Reconciler
from taskstream.workers.worker import Worker
from testkit import outage
from testkit.backend import BackendServer, accept, echo, hold
from testkit.nats import NatsServer
from testkit.service import Service, quick_settings, running_service
from testkit.waiting import wait_until

from .behaviour import called, errors, queue_holds, submit_all, types

NO_OTHER_WAY: dict[str, Any] = {"ack_wait": 60.0, "reconcile_interval": 600.0}
"""Settings under which timeouts and the reconciler come too late for a test."""


@contextlib.asynccontextmanager
async def worker_alone(nats_url: str, **more: Any) -> AsyncIterator[Worker]:
    """Run a worker without an API, in this process."""
    settings = quick_settings(nats_url=nats_url, **more)
    async with (
        await open_container(settings, nats_url, durability="always") as container,
        running_worker(container) as worker,
    ):
        yield worker


async def holders(service: Service) -> dict[str, str]:
    """Return which worker speaks for each server, by server token."""
    leases = await service.container.buckets.leases.scan("lease.server.*")
    return {entry.key.removeprefix("lease.server."): entry.value.decode() for entry in leases}


async def workers(service: Service) -> list[str]:
    presences = await service.container.buckets.leases.scan("process.*")
    names = [entry.key.removeprefix("process.") for entry in presences]
    return [name for name in names if name.startswith("worker-")]


async def held_by(service: Service, server_id: str, worker: str) -> None:
    async def look() -> bool:
        return (await holders(service)).get(server_token(server_id)) == worker

    await wait_until(look, f"{server_id} to be {worker}'s")


# Sharing and moving


async def test_each_server_is_spoken_for_by_one_worker_and_all_agree_by_which(
    nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url) as service:
        servers = [f"s{number}" for number in range(6)]
        for server_id in servers:
            await service.admin.register(backend, server_id)

        async def shared(count: int) -> bool:
            alive = await workers(service)
            return len(alive) == count and await holders(service) == {name: preferred(name, alive) for name in servers}

        await wait_until(lambda: shared(1), "one worker to have all")
        async with worker_alone(nats_url), worker_alone(nats_url):
            await wait_until(lambda: shared(3), "three workers to share")
        await wait_until(lambda: shared(1), "the one that is left to have all")


async def test_a_busy_server_changes_hands_without_waiting_for_ever(nats_url: str, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats_url, attempt_timeout=60) as service:
        await service.admin.register(backend, "busy", maxConcurrent=2)
        task_id = await service.alice.submit({"payload": 1})
        await called(backend, 1)
        (first,) = await workers(service)
        async with contextlib.AsyncExitStack() as stack:
            preferred_worker = first
            while preferred_worker == first:  # until one joins to whom it belongs
                joined = await stack.enter_async_context(worker_alone(nats_url))
                preferred_worker = preferred("busy", [*await workers(service), joined.members.id])
            backend.let_go.set()
            await held_by(service, "busy", preferred_worker)
            assert (await service.alice.ended(task_id))["attempt"] == 1
            backend.answer = echo
            assert (await service.alice.ended(await service.alice.submit({"payload": 2})))["attempt"] == 1


async def test_a_worker_that_stops_hands_back_long_calls_and_its_servers(nats_url: str, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats_url, worker=False) as service:
        async with worker_alone(nats_url, shutdown_grace=0.1, **NO_OTHER_WAY) as first:
            await service.admin.register(backend, "only")
            task_id = await service.alice.submit({"payload": 1, "attempts": 1})
            await called(backend, 1)
        assert backend.broken_off == 1
        assert await holders(service) == {}
        assert types(await service.alice.history(task_id))[-1] == "AttemptReturned"

        backend.answer = echo
        async with worker_alone(nats_url, **NO_OTHER_WAY) as second:
            details = await service.alice.ended(task_id)
            await held_by(service, "only", second.members.id)

    assert (details["status"], details["attempt"]) == ("FINISHED", 2)
    assert first.members.id != second.members.id


async def test_a_worker_that_is_stopping_keeps_no_task_from_the_others(nats_url: str, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats_url, worker=False) as service:
        async with worker_alone(nats_url, shutdown_grace=1.0, **NO_OTHER_WAY) as stopping:
            await service.admin.register(backend, "only", maxConcurrent=5)
            await service.alice.submit({"payload": 1})
            await called(backend, 1)
            # Once it begins to stop, tasks come that requests still out may bring to it.
            await stopping._dispatcher.drain()
            tasks = await submit_all(service.alice, [{"payload": number} for number in range(3)])
            await queue_holds(service, 4)

        backend.answer = echo
        async with worker_alone(nats_url, **NO_OTHER_WAY):
            for task_id in tasks:
                assert (await service.alice.ended(task_id))["attempt"] == 1


# Workers that die


async def test_a_worker_that_is_cut_off_loses_its_servers_and_calls_when_its_time_is_up(
    nats_url: str, backend: BackendServer
) -> None:
    backend.answer = hold
    async with running_service(nats_url, worker=False) as service:
        container = await open_container(quick_settings(nats_url=nats_url), nats_url, durability="always")
        await container.start()
        cut_off = Worker(container)
        await cut_off.start()
        await service.admin.register(backend, "only", maxConcurrent=1)
        task_id = await service.alice.submit({"payload": 1})
        await called(backend, 1)
        await container.close()  # its connections are gone, and its call goes on

        backend.answer = echo
        async with worker_alone(nats_url, ack_wait=60.0) as second:
            await held_by(service, "only", second.members.id)
            details = await service.alice.ended(task_id)
            assert (details["status"], details["attempt"]) == ("FINISHED", 2)
            assert errors(await service.alice.history(task_id)) == [(1, "worker_lost")]

        for call in cut_off._runner._running:
            call.cancel()
        await asyncio.gather(*cut_off._runner._running, return_exceptions=True)
        await cut_off._session.close()
        await cut_off._webhook_session.close()


async def test_a_worker_too_new_to_be_known_is_not_taken_for_dead(nats_url: str, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats_url, worker=False) as service:
        container = service.container
        members = container.membership("worker")
        await members.renew()
        await members.observe()
        async with worker_alone(nats_url):
            await service.admin.register(backend, "only")
            task_id = await service.alice.submit({"payload": 1})
            await called(backend, 1)
            counts = await Reconciler(container, members, Cron(container)).run_once()
            backend.let_go.set()

            assert counts["attempts_lost"] == 0
            assert (await service.alice.ended(task_id))["attempt"] == 1
        await members.leave()


# What fell between two steps


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed a moment ago counts as settled."""
    monkeypatch.setattr("taskstream.workers.reconciler.SETTLED_AFTER", timedelta(seconds=0.3))


async def purge(service: Service, stream: str, subject: str) -> None:
    """Take messages out of a stream as soon as there are any."""

    async def look() -> bool:
        answer = await api(service.container.reading, f"STREAM.PURGE.{stream}", {"filter": subject})
        return bool(answer["purged"])

    await wait_until(look, f"{subject} to be in {stream}")


async def test_a_task_that_comes_out_of_the_queue_once_more_keeps_its_room(
    nats_url: str, backend: BackendServer
) -> None:
    """As when NATS fills the queue again from the log."""
    backend.answer = accept
    async with running_service(nats_url) as service:
        await service.admin.register(backend, "only", callback=True, maxConcurrent=2, **{"async": True})
        runs = await service.alice.submit({"payload": 1, "timeout": 60})
        await service.alice.reaches(runs, "PROCESSING")
        await api(service.container.appending, f"STREAM.DELETE.{DISPATCH}")
    async with running_service(nats_url) as service:
        second, third = [await service.alice.submit({"payload": n, "timeout": 60}) for n in (2, 3)]  # in this order

        async def has_no_room() -> bool:
            why = await service.alice.get(f"/api/task/{third}/why")
            return [hold["kind"] for hold in why["holds"]] == ["server-busy"]

        await wait_until(has_no_room, "the third to wait for a server")
        assert [call["task_id"] for call in backend.calls] == [runs, second]


@pytest.mark.usefixtures("soon")
async def test_a_task_that_fell_out_of_the_queue_is_queued_again(service: Service, backend: BackendServer) -> None:
    task_id = await service.alice.submit({"payload": 1})
    await purge(service, DISPATCH, ">")

    await queue_holds(service, 1)
    await service.admin.register(backend, "only")

    assert (await service.alice.ended(task_id))["attempt"] == 1
    history = await service.alice.history(task_id)
    assert types(history) == ["TaskSubmitted", "TaskQueued", "AttemptStarted", "TaskSucceeded"]
    assert history[1]["reason"] == "it was in no queue"


@pytest.mark.usefixtures("soon")
async def test_an_accepted_attempt_whose_deadline_was_lost_expires(service: Service, backend: BackendServer) -> None:
    backend.answer = accept
    await service.admin.register(backend, "forgetful", **{"async": True, "callback": True})
    task_id = await service.alice.submit({"payload": 1, "timeout": 1, "attempts": 1})
    await purge(service, TIMERS, "timer.deadline.>")

    assert (await service.alice.ended(task_id))["status"] == "FAILED"
    assert errors(await service.alice.history(task_id)) == [(1, "timeout")]


@pytest.mark.usefixtures("soon")
async def test_a_server_whose_next_check_was_lost_is_checked(nats_url: str, backend: BackendServer) -> None:
    async with running_service(nats_url, health_interval=600) as service:
        await service.admin.register(backend, "only")
        await purge(service, TIMERS, "timer.check.only")
        await wait_until(lambda: backend.health_checks == 2, "another check")


# NATS goes away


async def test_the_outcome_of_a_call_is_recorded_once_nats_is_back(nats: NatsServer, backend: BackendServer) -> None:
    backend.answer = hold
    async with running_service(nats.url, worker=False) as service, worker_alone(nats.url, lease_ttl=3.0) as worker:
        container = worker._container
        connections = (
            service.container.appending,
            service.container.reading,
            container.appending,
            container.reading,
            container.consuming,
        )
        await service.admin.register(backend, "only", maxConcurrent=3)
        tasks = await submit_all(service.alice, [{"payload": number} for number in range(5)])
        await called(backend, 3)

        await outage.end(nats, *connections)
        backend.let_go.set()
        await wait_until(lambda: backend.running == 0, "the calls to end")
        await wait_until(lambda: not worker.members.is_current, "the outage to outlast the lease")
        await outage.begin(nats, *connections)

        for task_id in tasks:
            details = await service.alice.ended(task_id)
            assert (details["status"], details["attempt"]) == ("FINISHED", 1)
        assert len(backend.calls) == 5

        # Whatever loops there are go on: new servers are checked and taken, new tasks run.
        await service.admin.register(backend, "new", types=["new"])
        assert (await service.alice.ended(await service.alice.submit({"type": "new", "payload": 1})))["attempt"] == 1
        await queue_holds(service, 0)


async def test_an_outage_makes_no_worker_believe_another_dead(nats: NatsServer, backend: BackendServer) -> None:
    backend.answer = hold
    async with (
        running_service(nats.url, worker=False) as service,
        worker_alone(nats.url, lease_ttl=3.0, reconcile_interval=0.2) as first,
        worker_alone(nats.url, lease_ttl=3.0, reconcile_interval=0.2) as second,
    ):
        connections = [connection for worker in (first, second) for connection in (
            worker._container.appending, worker._container.reading, worker._container.consuming,
        )]  # fmt: skip
        for number in range(4):
            await service.admin.register(backend, f"s{number}", maxConcurrent=1)
        tasks = await submit_all(service.alice, [{"payload": number} for number in range(4)])
        await called(backend, 4)

        await outage.end(nats, *connections)
        await wait_until(
            lambda: not (first.members.is_current or second.members.is_current), "the outage to outlast the leases"
        )
        await outage.begin(nats, *connections)
        await wait_until(
            lambda: first.members.is_current and second.members.is_current, "both workers to be counted on again"
        )
        assert (await service.alice.ended(await _release(service, backend)))["status"] == "FINISHED"

        for task_id in tasks:
            assert (await service.alice.ended(task_id))["attempt"] == 1
            assert errors(await service.alice.history(task_id)) == []


async def _release(service: Service, backend: BackendServer) -> str:
    backend.let_go.set()
    return await service.alice.submit({"payload": "afterwards"})


async def test_the_queue_is_never_told_to_begin_behind_a_task_that_waits(
    service: Service, backend: BackendServer
) -> None:
    async def floors() -> set[int]:
        config = (await api(service.container.reading, f"STREAM.INFO.{DISPATCH}"))["config"]
        return {source.get("opt_start_seq", 0) for source in config["sources"] if source["name"] == "TASKS"}

    await service.admin.register(backend, "only", types=["served"])
    for _ in range(5):
        await service.alice.ended(await service.alice.submit({"type": "served", "payload": {}}))
    waiting = await service.alice.submit({"type": "unserved", "payload": {}})
    submitted = (await service.alice.get(f"/api/task/{waiting}/events"))["events"][0]["sequence"]
    for _ in range(5):
        await service.alice.ended(await service.alice.submit({"type": "served", "payload": {}}))

    async def raised() -> bool:
        return await floors() == {submitted}

    await wait_until(raised, f"the floor to be {submitted}")
