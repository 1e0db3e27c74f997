"""A worker: its services, wired together, started and stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from functools import partial

import structlog

from ..backends.client import BackendClient
from ..clock import jitter, utc_now
from ..container import Container
from ..errors import StoreError
from ..events.envelope import Actor
from ..events.subjects import FLEET, TASK_SUBJECTS, is_quiet
from ..projections.fleet import RegistryProjection
from ..projections.task_projection import TaskProjection
from ..projections.usage import COUNTED_LOGS, OF_TASKS, CountedLog, UsageProjection
from ..runtime.service import Service
from ..streams.backlog import take_back
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease, Membership
from ..streams.tail import Tail
from ..streams.topology.definitions import SERVERS, TASKS
from ..webhooks.client import WebhookClient
from ..webhooks.delivery_loop import DeliveryTools
from ..webhooks.sender import WebhookSender
from .attempts.in_flight import InFlight
from .attempts.runner import AttemptRunner
from .cron import Cron
from .dispatch.backlog_monitor import BacklogMonitor
from .dispatch.dispatcher import Dispatcher
from .dispatch.ended_tasks import EndedTasks
from .dispatch.queues import Queues
from .dispatch.sourcing import LoneSourcing, Sourcing
from .fleet.ask_desk import AskDesk
from .fleet.assignment import ServerAssignment
from .fleet.busy_reports import BusyReports
from .fleet.capacity import policy
from .fleet.health import Health
from .fleet.slots import Slots
from .projector import USAGE_LINGER_SECONDS, Projector
from .reconciler import Reconciler
from .scheduler import Scheduler
from .task_events import TaskEventListener
from .timers import DueTimers

log = structlog.get_logger(__name__)


class Worker:
    """Dispatches tasks, handles timers, checks servers, projects and reconciles, until stopped."""

    def __init__(self, container: Container) -> None:
        settings = container.settings
        self._container = container
        self.members = members = container.membership("worker")
        members.on_lapse_over(container.services.wake)
        worker = Actor("worker", members.id)
        self._session = container.egress.session()
        self._webhook_session = container.webhook_egress.session()
        backend = BackendClient(self._session, settings.max_result, settings.health_timeout)
        in_flight = InFlight(container.consuming, settings.ack_wait)
        tail = Tail(container.reading, TASKS, TASK_SUBJECTS, is_quiet=is_quiet)
        self._slots = slots = Slots(
            container.fleet,
            policy(settings.balancing, jitter),
            utc_now,
            lambda: self._assignment.in_force,
            settings.circuit_failures,
            settings.circuit_cooldown,
        )
        self._assignment = ServerAssignment(container, members, slots)
        container.on_scrape.append(slots.observe)
        self._runner = runner = AttemptRunner(container, members, slots, in_flight, backend)
        ended_tasks = EndedTasks()
        queues = Queues(container.consuming, settings, slots.freed.set)
        self._dispatcher = Dispatcher(container, slots, queues, runner, in_flight, tail, ended_tasks, worker)
        cron = Cron(container)
        self._due_timers = DueTimers(container, Health(container, backend), cron, in_flight)
        reconciler = Reconciler(container, members, cron)
        delivery_tools = DeliveryTools(
            settings=settings,
            commands=container.commands,
            reading=container.reading,
            consuming=container.consuming,
            tail=container.tail,
            deliveries=container.deliveries,
            secrets=container.secrets,
            task_attributes=container.task_attributes,
            tracing=container.tracing,
            links=container.links,
            predictions=container.predictions,
            client=WebhookClient(
                container.webhook_egress, self._webhook_session, container.secrets, settings.webhook_timeout
            ),
        )
        follow_fleet = partial(follow, container.reading, SERVERS, FLEET)
        self._services: list[Service] = [
            (
                Sourcing(members, container.reading)
                if settings.replicas > 1
                else LoneSourcing(container.reading, settings, reconciler.uncopied_from)
            ),
            members,
            in_flight,
            TaskEventListener(tail, container.reading, slots, runner, ended_tasks),
            self._assignment,
            AskDesk(container, slots),
            BacklogMonitor(container, slots, queues),
            BusyReports(container, slots),
            self._due_timers,
            reconciler,
            Scheduler(container, members, tail),
            Projector("tasks", TASKS, tail.follow, TaskProjection(container.buckets.tasks), members),
            *(_usage_projector(container, members, tail, of) for of in COUNTED_LOGS),
            Projector("registry", SERVERS, follow_fleet, RegistryProjection(container.buckets.registry), members),
            WebhookSender(delivery_tools, Lease(members, "webhooks")),
            self._dispatcher,
        ]
        """In the order in which they start; they stop in reverse."""

    async def start(self) -> None:
        """Start every service; return once the queue is being filled and the worker has announced itself."""
        container = self._container
        for service in self._services:
            await service.begin()
        await self._take_back()
        container.fleet.watch(self._on_fleet_change)
        container.services.start(*self._services)
        log.info("worker.started", worker=self.members.id)

    async def stop(self) -> None:
        """Take no more tasks, finish or return those in progress, and release every lease."""
        grace = self._container.settings.shutdown_grace
        log.info("worker.stopping", worker=self.members.id, grace_seconds=grace)
        try:
            await self._due_timers.stop()
            await self._dispatcher.drain()
            await self._runner.drain(grace)
            for service in reversed(self._services):
                await service.stop()
            await self.members.leave()
        finally:
            await self._session.close()
            await self._webhook_session.close()
        log.info("worker.stopped", worker=self.members.id)

    async def _take_back(self) -> None:
        """Have the messages of dead workers redelivered now, not after `ack_wait`, if no other worker is alive."""
        with contextlib.suppress(StoreError):
            await self.members.observe()
            if self.members.alive("worker") == [self.members.id] and (
                count := await take_back(self._container.consuming)
            ):
                log.info("worker.messages-redelivered", messages=count)

    def _on_fleet_change(self, names: Collection[str]) -> None:
        self._assignment.on_fleet_change(names)
        self._slots.freed.set()


def _usage_projector(container: Container, members: Membership, tail: Tail, of: CountedLog) -> Projector:
    """Return the projector of the stored bytes in one log."""
    projection = UsageProjection(container.buckets.usage, of)
    reader = tail.follow if of is OF_TASKS else partial(follow, container.reading, of.stream, [of.subjects])
    return Projector(of.name, of.stream, reader, projection, members, USAGE_LINGER_SECONDS)
