"""A restart of NATS: nothing waits for a period to pass, and nothing works in vain while it is away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import taskstream.workers.dispatch.dispatcher
import taskstream.workers.dispatch.queues
import taskstream.workers.timers
from taskstream.api.alarm_desk import AlarmDesk
from taskstream.api.auth.api_keys import KeyUses
from taskstream.api.facades.openai.batches.runner import BatchRunner
from taskstream.api.operation_runner import OperationRunner
from taskstream.container import FleetFollower
from taskstream.index.indexer import Indexer
from taskstream.projections.keys import KeyFollower
from taskstream.runtime.service import SHORTEST_PAUSE_SECONDS, Service
from taskstream.streams.jetstream import consumers
from taskstream.streams.leases import Membership
from taskstream.streams.storage import StoreSpace
from taskstream.webhooks.sender import WebhookSender
from taskstream.workers.attempts.in_flight import InFlight
from taskstream.workers.dispatch.backlog_monitor import BacklogMonitor
from taskstream.workers.dispatch.dispatcher import Dispatcher
from taskstream.workers.dispatch.sourcing import LoneSourcing
from taskstream.workers.fleet.ask_desk import AskDesk
from taskstream.workers.fleet.assignment import ServerAssignment
from taskstream.workers.fleet.busy_reports import BusyReports
from taskstream.workers.projector import Projector
from taskstream.workers.reconciler import Reconciler
from taskstream.workers.scheduler import Scheduler
from taskstream.workers.task_events import TaskEventListener
from taskstream.workers.timers import DueTimers
from testkit.backend import BackendServer
from testkit.nats import NatsServer
from testkit.outage import end
from testkit.service import running_service
from testkit.ticks import ticking
from testkit.waiting import wait_until

OF_BOTH = {
    *(AlarmDesk, BatchRunner, OperationRunner),
    *(
        FleetFollower,
        KeyFollower,
        KeyUses,
        StoreSpace,
        Membership,
        Indexer,
        InFlight,
        AskDesk,
        BacklogMonitor,
        Dispatcher,
        LoneSourcing,
        ServerAssignment,
        BusyReports,
    ),
    *(Projector, Reconciler, Scheduler, TaskEventListener, DueTimers, WebhookSender),
}
TICKS_AWAY = 30


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each service has run, by name."""
    found: Counter[str] = Counter()
    run = Service._try

    async def counted(service: Service) -> float:
        found[service.name] += 1
        return await run(service)

    monkeypatch.setattr(Service, "_try", counted)
    return found


async def test_a_new_task_runs_after_a_restart_though_the_pull_has_an_hour_left(
    nats: NatsServer, backend: BackendServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taskstream.workers.dispatch.queues, "NEWS_EXPIRES_SECONDS", 3600.0)
    monkeypatch.setattr(taskstream.workers.dispatch.dispatcher, "IDLE_LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(taskstream.workers.dispatch.dispatcher, "RETRY_SECONDS", 3600.0)
    monkeypatch.setattr(taskstream.workers.timers, "WAIT_SECONDS", 3600.0)
    async with running_service(nats.url, reconcile_interval=3600.0, ack_wait=3600.0) as service:
        await service.admin.register(backend, "one")
        await service.alice.ended(await service.alice.submit({"payload": {}}))
        connections = (service.container.appending, service.container.reading, service.container.consuming)

        await end(nats, *connections)
        nats.start()

        task_id = await wait_until(lambda: accepted(service.alice), "a task to be accepted")
        await wait_until(lambda: all(each.is_connected for each in connections), "every connection to be back")
        assert (await service.alice.ended(task_id))["status"] == "FINISHED"


async def accepted(client: object) -> str | None:
    answer = await client.post("/api/task", {"payload": {}})  # type: ignore[attr-defined]
    return str(answer["taskId"]) if answer.status == 200 else None


async def test_while_nats_is_away_no_service_spins_and_the_process_says_that_it_lives(
    nats: NatsServer, backend: BackendServer, runs: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # NATS is away for longer than any pull lives.
    monkeypatch.setattr(taskstream.workers.dispatch.queues, "NEWS_EXPIRES_SECONDS", 0.2)
    monkeypatch.setattr(taskstream.workers.timers, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(consumers, "ANSWER_GRACE_SECONDS", 0.1)
    async with running_service(nats.url) as service:
        await service.admin.register(backend, "one")
        connections = (service.container.appending, service.container.reading, service.container.consuming)
        assert {type(each) for each in service.container.services} == OF_BOTH
        await end(nats, *connections)
        runs.clear()

        async with ticking(SHORTEST_PAUSE_SECONDS) as ticks:
            while ticks.count < TICKS_AWAY:
                assert (await service.anonymous.get("/health/live")).status == 200
                ready = await service.anonymous.get("/health/ready")
                assert ready.status == 503
                assert any("NATS does not answer" in warning for warning in ready["warnings"])
                await ticks.passed(1)

        assert runs["dispatcher"] > 0
        assert {name: count for name, count in runs.items() if count > ticks.count + 3} == {}
