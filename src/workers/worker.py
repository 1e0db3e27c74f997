"""A worker: everything that makes tasks move, wired together and started."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from functools import partial

import structlog
from nats.aio.msg import Msg

from ..backends.client import Backend
from ..clock import jitter, utc_now
from ..container import Core
from ..errors import StoreError
from ..events.codec import task_codec
from ..events.envelope import Actor
from ..events.subjects import task_ref
from ..events.task import TaskCancelled
from ..projections.registry_projection import RegistryProjection
from ..projections.task_projection import TaskProjection
from ..streams.backlog import take_back
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease
from ..streams.tail import Tail
from ..streams.topology.definitions import FLEET, SERVERS, TASKS
from ..submission.body import Submissions
from ..webhooks.sender import Stores, WebhookSender
from .attempts.in_flight import InHand
from .attempts.outcomes import Outcomes
from .attempts.parents import Parents
from .attempts.runner import AttemptRunner, Keys
from .cron import Schedules
from .dispatch.dispatcher import Dispatcher
from .dispatch.pressure import Pressure
from .dispatch.queues import Queues
from .dispatch.sourcing import LoneSourcing, Sourcing
from .fleet.assignment import Shares
from .fleet.circuit_breaker import Judge
from .fleet.health import Health
from .fleet.placement import policy
from .fleet.slots import Slots
from .projector import Projector
from .reconciler import Reconciler
from .scheduler import Keeper
from .timers import Timekeeper

log = structlog.get_logger(__name__)


class Worker:
    """Dispatches, keeps time, checks health, projects and reconciles, until stopped."""

    def __init__(self, core: Core) -> None:
        settings = core.settings
        self._core = core
        self.members = core.membership("worker")
        self._session = core.egress.session()
        self._in_hand = InHand(core.consuming, settings.ack_wait)
        self._shares = Shares(self.members, core.fleet, core.buckets.tasks, core.consuming, core.commands)
        self._slots = Slots(
            core.fleet, policy(settings.balancing, jitter), utc_now, in_force=lambda: self._shares.in_force
        )
        self._shares.bind(self._slots)
        worker = Actor("worker", self.members.id)
        self._runner = AttemptRunner(
            callback_base=settings.callback_base,
            commands=core.commands,
            timers=core.timers,
            backend=Backend(self._session, settings.max_result),
            keys=Keys(core.server_keys, core.task_keys),
            parents=Parents(core.tasks),
            progress=core.progress,
            slots=self._slots,
            in_hand=self._in_hand,
            members=self.members,
            outcomes=Outcomes(settings, core.commands, core.timers, core.results, core.progress, self._slots, worker),
            judge=Judge(settings, core.commands, self._slots, core.heartbeats, worker),
        )
        self._queues = Queues(core.consuming, settings, self._slots.freed.set)
        tail = Tail(core.reading, TASKS, "task.>")
        self._dispatcher = Dispatcher(
            commands=core.commands,
            fleet=core.fleet,
            slots=self._slots,
            queues=self._queues,
            runner=self._runner,
            in_hand=self._in_hand,
            tail=tail,
            worker=worker,
            ageing_seconds=settings.priority_ageing,
            now=utc_now,
        )
        self._pressure = Pressure(
            settings, core.consuming, core.fleet, self._slots, self._queues, core.intake.admission.held_back, utc_now
        )
        schedules = Schedules(
            settings, core.reading, core.commands, core.timers, Submissions(settings, core.fleet), core.intake
        )
        self._timekeeper = Timekeeper(
            settings=settings,
            connection=core.consuming,
            commands=core.commands,
            timers=core.timers,
            health=Health(
                settings, self._session, core.commands, core.fleet, core.heartbeats, core.server_keys, core.timers
            ),
            schedules=schedules,
            in_hand=self._in_hand,
        )
        self._reconciler = Reconciler(
            settings=settings,
            members=self.members,
            connection=core.reading,
            commands=core.commands,
            timers=core.timers,
            fleet=core.fleet,
            tasks_bucket=core.buckets.tasks,
            task_keys=core.task_keys,
            schedules=schedules,
        )
        self._keeper = Keeper(
            settings=settings,
            members=self.members,
            connection=core.reading,
            commands=core.commands,
            fleet=core.fleet,
            tasks_bucket=core.buckets.tasks,
            tail=tail,
        )
        self._sourcing = (
            Sourcing(self.members, core.reading)
            if settings.replicas > 1
            else LoneSourcing(core.reading, settings, self._reconciler.uncopied_from)
        )
        self.projectors = [
            Projector(
                "tasks", tail.follow, TaskProjection(core.buckets.tasks), Lease(self.members, "projector.tasks"),
            ),
            Projector(
                "registry", partial(follow, core.reading, SERVERS, FLEET), RegistryProjection(core.buckets.registry),
                Lease(self.members, "projector.registry"),
            ),
        ]  # fmt: skip
        webhook_stores = Stores(
            settings=core.settings,
            commands=core.commands,
            reading=core.reading,
            consuming=core.consuming,
            deliveries=core.deliveries,
            secrets=core.webhook_secrets,
            chooser=core.chooser,
        )
        self._webhooks = WebhookSender(webhook_stores, self.members, self._session)
        self._dispatching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to work; returns once the queue is being fed and the worker has announced itself."""
        core = self._core
        await self._sourcing.begin()
        await self.members.renew()
        await self._take_back()
        await core.consuming.subscribe("event.*.*.cancelled.*", self._on_cancelled)
        core.fleet.watch(self._on_fleet_change)
        core.background(self.members.run, "membership")
        core.background(self._in_hand.run, "keepalive")
        core.background(self._shares.run, "shares")
        core.background(self._pressure.run, "pressure")
        core.background(self._timekeeper.run, "timekeeper")
        core.background(self._reconciler.run, "reconciler")
        core.background(self._keep, "keeper")
        core.background(self._sourcing.run, "sourcing")
        for projector in self.projectors:
            core.background(partial(self._project, projector), f"projector-{projector.name}")
        core.background(self._webhooks.run, "webhooks")
        self._dispatching = core.background(self._dispatcher.run, "dispatcher")
        log.info("worker.started", worker=self.members.id)

    async def stop(self) -> None:
        """Take nothing more, finish or hand back what is under way, and give up every lease."""
        grace = self._core.settings.shutdown_grace
        log.info("worker.stopping", worker=self.members.id, grace_seconds=grace)
        await self._timekeeper.stop()
        self._dispatcher.stop()
        if self._dispatching is not None:
            await asyncio.wait([self._dispatching], timeout=2)
        self._core.background(self._dispatcher.return_late, "late")
        await self._runner.drain(grace)
        await self._webhooks.stop()
        await self._shares.give_all()
        await self._keeper.stop()
        await self._reconciler.stop()
        await self._sourcing.stop()
        for projector in self.projectors:
            await projector.stop()
        await self.members.leave()
        await self._session.close()
        log.info("worker.stopped", worker=self.members.id)

    async def _take_back(self) -> None:
        """Have what workers had in hand that are gone handed out again, and not only when `ack_wait` has passed."""
        with contextlib.suppress(StoreError):
            await self.members.observe()
            if self.members.alive("worker") == [self.members.id] and (count := await take_back(self._core.consuming)):
                log.info("queue.taken-back", messages=count)

    async def _keep(self) -> None:
        await self._keeper.run()
        if self._keeper.halted:
            self._core.halted["the keeper"] = self._keeper.halted

    async def _project(self, projector: Projector) -> None:
        await projector.run()
        if projector.halted:
            self._core.halted[f"the projection of {projector.name}"] = projector.halted

    def _on_fleet_change(self, names: Collection[str]) -> None:
        self._shares.look(names)
        self._slots.freed.set()

    async def _on_cancelled(self, message: Msg) -> None:
        event = task_codec.decode(message.data).event
        if isinstance(event, TaskCancelled):
            self._runner.close_call(task_ref(message.subject), event.attempt)
