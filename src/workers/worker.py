"""A worker: its parts wired together, started and stopped."""

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
from ..events.subjects import FLEET, TASK_SUBJECTS
from ..projections.registry_projection import RegistryProjection
from ..projections.task_projection import TaskProjection
from ..runtime.service import Service
from ..streams.backlog import take_back
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease
from ..streams.tail import Tail
from ..streams.topology.definitions import SERVERS, TASKS
from ..webhooks.client import WebhookClient
from ..webhooks.delivery_loop import DeliveryTools
from ..webhooks.sender import WebhookSender
from .attempts.in_flight import InFlight
from .attempts.outcomes import Outcomes
from .attempts.parents import Parents
from .attempts.runner import AttemptRunner
from .cron import Cron
from .dispatch.backlog_monitor import BacklogMonitor
from .dispatch.dispatcher import Dispatcher
from .dispatch.queues import Queues
from .dispatch.sourcing import LoneSourcing, Sourcing
from .fleet.assignment import ServerAssignment
from .fleet.capacity import policy
from .fleet.circuit_breaker import CircuitBreaker
from .fleet.health import Health
from .fleet.slots import Slots
from .projector import Projector
from .reconciler import Reconciler
from .scheduler import Scheduler
from .task_events import TaskEventListener
from .timers import DueTimers

log = structlog.get_logger(__name__)


class Worker:
    """Dispatches tasks, runs timers and health checks, projects and reconciles, until stopped."""

    def __init__(self, container: Container) -> None:
        settings = container.settings
        self._container = container
        self.members = container.membership("worker")
        self._session = container.egress.session()
        self._in_flight = InFlight(container.consuming, settings.ack_wait)
        self._slots = Slots(
            container.fleet, policy(settings.balancing, jitter), utc_now, in_force=lambda: self._assignment.in_force
        )
        self._assignment = ServerAssignment(
            self.members, container.fleet, container.buckets.tasks, container.reading, container.commands, self._slots
        )
        worker = Actor("worker", self.members.id)
        backend = BackendClient(self._session, settings.max_result, settings.health_timeout)
        self._runner = AttemptRunner(
            callback_base=settings.callback_base,
            commands=container.commands,
            timers=container.timers,
            backend=backend,
            secrets=container.secrets,
            parents=Parents(container.tasks),
            slots=self._slots,
            in_flight=self._in_flight,
            members=self.members,
            outcomes=Outcomes(container.commands, container.timers, container.reports, self._slots, worker),
            circuit_breaker=CircuitBreaker(settings, container.commands, self._slots, container.heartbeats, worker),
        )
        queues = Queues(container.consuming, settings, self._slots.freed.set)
        tail = Tail(container.reading, TASKS, TASK_SUBJECTS)
        self._dispatcher = Dispatcher(
            commands=container.commands,
            fleet=container.fleet,
            slots=self._slots,
            queues=queues,
            runner=self._runner,
            in_flight=self._in_flight,
            tail=tail,
            worker=worker,
            ageing_seconds=settings.priority_ageing,
            now=utc_now,
        )
        backlog_monitor = BacklogMonitor(
            settings,
            container.consuming,
            container.fleet,
            self._slots,
            queues,
            container.submissions.admission.held_back,
            utc_now,
        )
        cron = Cron(settings, container.reading, container.commands, container.timers, container.submissions)
        self._due_timers = DueTimers(
            settings=settings,
            connection=container.consuming,
            commands=container.commands,
            timers=container.timers,
            health=Health(
                settings,
                backend,
                container.commands,
                container.fleet,
                container.heartbeats,
                container.secrets,
                container.timers,
            ),
            schedules=cron,
            in_flight=self._in_flight,
        )
        reconciler = Reconciler(
            settings=settings,
            members=self.members,
            connection=container.reading,
            commands=container.commands,
            timers=container.timers,
            fleet=container.fleet,
            tasks_bucket=container.buckets.tasks,
            secrets=container.secrets,
            schedules=cron,
        )
        scheduler = Scheduler(
            settings=settings,
            members=self.members,
            connection=container.reading,
            commands=container.commands,
            fleet=container.fleet,
            tasks_bucket=container.buckets.tasks,
            tail=tail,
        )
        self._sourcing = (
            Sourcing(self.members, container.reading)
            if settings.replicas > 1
            else LoneSourcing(container.reading, settings, reconciler.uncopied_from)
        )
        projectors = [
            Projector(
                "tasks",
                tail.follow,
                TaskProjection(container.buckets.tasks),
                Lease(self.members, "projector.tasks"),
            ),
            Projector(
                "registry",
                partial(follow, container.reading, SERVERS, FLEET),
                RegistryProjection(container.buckets.registry),
                Lease(self.members, "projector.registry"),
            ),
        ]
        tools = DeliveryTools(
            settings=settings,
            commands=container.commands,
            reading=container.reading,
            consuming=container.consuming,
            deliveries=container.deliveries,
            secrets=container.secrets,
            task_attributes=container.task_attributes,
            client=WebhookClient(self._session, container.secrets, settings.webhook_timeout),
        )
        self._task_events = TaskEventListener(tail, container.reading, self._slots, self._runner)
        self._services: list[Service] = [
            self.members,
            self._in_flight,
            self._task_events,
            self._assignment,
            backlog_monitor,
            self._due_timers,
            reconciler,
            scheduler,
            self._sourcing,
            *projectors,
            WebhookSender(tools, Lease(self.members, "webhooks")),
            self._dispatcher,
        ]
        """In the order in which they start; they stop in reverse."""

    async def start(self) -> None:
        """Start every service; return once the queue is being filled and the worker has announced itself."""
        container = self._container
        if isinstance(self._sourcing, LoneSourcing):
            await self._sourcing.begin()
        await self.members.renew()
        await self._take_back()
        await self._task_events.begin()
        container.fleet.watch(self._on_fleet_change)
        container.services.start(*self._services)
        log.info("worker.started", worker=self.members.id)

    async def stop(self) -> None:
        """Take no more tasks, finish or return those in progress, and release every lease."""
        grace = self._container.settings.shutdown_grace
        log.info("worker.stopping", worker=self.members.id, grace_seconds=grace)
        await self._due_timers.stop()
        await self._dispatcher.drain()
        await self._runner.drain(grace)
        for service in reversed(self._services):
            await service.stop()
        await self.members.leave()
        await self._session.close()
        log.info("worker.stopped", worker=self.members.id)

    async def _take_back(self) -> None:
        """If no other worker lives, have the messages of dead ones delivered again now, not after `ack_wait`."""
        with contextlib.suppress(StoreError):
            await self.members.observe()
            if self.members.alive("worker") == [self.members.id] and (
                count := await take_back(self._container.consuming)
            ):
                log.info("dispatcher.messages_taken_back", messages=count)

    def _on_fleet_change(self, names: Collection[str]) -> None:
        self._assignment.on_fleet_change(names)
        self._slots.freed.set()
