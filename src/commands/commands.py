"""The commands of all vocabularies, wired: each by the name of what it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeAlias

from ..events.codec import (
    owner_codec,
    pool_codec,
    schedule_codec,
    server_codec,
    task_codec,
    type_codec,
    webhook_codec,
)
from ..events.envelope import Actor, Stored
from ..events.ids import ScheduleRef, TaskRef, WebhookRef
from ..events.owner import OwnerEvent
from ..events.pool import PoolEvent
from ..events.schedule import ScheduleEvent
from ..events.server import ServerEvent
from ..events.subjects import (
    owner_root,
    owner_subject,
    pool_root,
    pool_subject,
    schedule_root,
    schedule_subject,
    server_root,
    server_subject,
    task_root,
    task_subject,
    type_root,
    type_subject,
    webhook_root,
    webhook_subject,
)
from ..events.task import TaskEvent
from ..events.task_type import TypeEvent
from ..events.webhook import WebhookEvent
from ..streams.client.connection import Connection
from ..streams.committer import Committer
from ..streams.latest import LatestLog
from ..streams.log import Log
from ..streams.topology.definitions import SCHEDULES, SERVERS, TASKS, WEBHOOKS
from . import owner, pool, schedule, server, task, task_type, webhook
from .handler import PATIENCE_SECONDS, Handled, Handler, HandlerCommand, Known
from .task import SubmitTask, TaskCommand, TaskState

TaskEnded: TypeAlias = Callable[[TaskRef, task.Ended], Awaitable[None]]


class Commands:
    """The commands of all vocabularies, each by the name of what it is about."""

    def __init__(self, appending: Connection, reading: Connection, *, replicated: bool) -> None:
        task_log = Log(TASKS, task_codec, Committer(appending), reading, replicated=replicated)
        fleet_committer = Committer(appending)
        server_log = Log(SERVERS, server_codec, fleet_committer, reading, replicated=replicated)
        type_log = Log(SERVERS, type_codec, fleet_committer, reading, replicated=replicated)
        self.tasks: Handler[task.TaskState, task.TaskCommand, TaskEvent] = Handler(
            task_log, task.UNKNOWN, task.decide, task.evolve
        )
        self.servers: Handler[server.ServerState, server.ServerCommand, ServerEvent] = Handler(
            server_log, server.ABSENT, server.decide, server.evolve
        )
        self.types: Handler[task_type.TypeState, task_type.TypeCommand, TypeEvent] = Handler(
            type_log, task_type.UNDEFINED, _decide_type, task_type.evolve
        )
        pool_log = Log(SERVERS, pool_codec, fleet_committer, reading, replicated=replicated)
        self.pools: Handler[pool.PoolState, pool.PoolCommand, PoolEvent] = Handler(
            pool_log, pool.NEVER_PAUSED, pool.decide, pool.evolve
        )
        owner_log = Log(SERVERS, owner_codec, fleet_committer, reading, replicated=replicated)
        self.owners: Handler[owner.OwnerState, owner.OwnerCommand, OwnerEvent] = Handler(
            owner_log, owner.NEVER_LIMITED, owner.decide, owner.evolve
        )
        webhook_log = Log(WEBHOOKS, webhook_codec, Committer(appending), reading, replicated=replicated)
        self.webhooks: Handler[webhook.WebhookState, webhook.WebhookCommand, WebhookEvent] = Handler(
            webhook_log, webhook.UNREGISTERED, webhook.decide, webhook.evolve
        )
        schedule_log = LatestLog(SCHEDULES, schedule_codec, Committer(appending), reading, replicated=replicated)
        self.schedules: Handler[schedule.ScheduleState, schedule.ScheduleCommand, ScheduleEvent] = Handler(
            schedule_log, schedule.UNCREATED, schedule.decide, schedule.evolve
        )
        self._on_task_ended: TaskEnded | None = None

    def on_task_ended(self, act: TaskEnded) -> None:
        """Have something done once this process has ended a task; a crash may prevent it."""
        self._on_task_ended = act

    async def task(
        self,
        ref: TaskRef,
        command: task.TaskCommand,
        *,
        by: Actor,
        cause: str = "",
        known: Known[task.TaskState] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Handled[task.TaskState, TaskEvent]:
        handled = await self.tasks.handle(
            task_root(ref),
            lambda event: task_subject(ref, event),
            command,
            by=by,
            cause=cause,
            known=known,
            patience_seconds=patience_seconds,
        )
        if self._on_task_ended is not None and handled.appended and isinstance(handled.known.state, task.Ended):
            await self._on_task_ended(ref, handled.known.state)
        return handled

    async def submit_together(
        self, submissions: Sequence[tuple[TaskRef, SubmitTask]], *, by: Actor, cause: str = ""
    ) -> list[Handled[TaskState, TaskEvent]]:
        """Submit new tasks, all of them or none; those that are there already, by the same request, stay as they are.

        Raises IdempotencyConflict or AlreadyExists for those that are there by another.
        """
        new = self.tasks.fold([])
        orders: list[HandlerCommand[TaskState, TaskCommand, TaskEvent]] = [
            HandlerCommand(root=task_root(ref), subject=partial(task_subject, ref), command=command, known=new)
            for ref, command in submissions
        ]
        return await self.tasks.handle_together(orders, by=by, cause=cause)

    async def server(
        self, server_id: str, command: server.ServerCommand, *, by: Actor, cause: str = ""
    ) -> Handled[server.ServerState, ServerEvent]:
        return await self.servers.handle(server_root(server_id), server_subject, command, by=by, cause=cause)

    async def type(
        self, name: str, command: task_type.TypeCommand, *, by: Actor, cause: str = ""
    ) -> Handled[task_type.TypeState, TypeEvent]:
        return await self.types.handle(type_root(name), type_subject, command, by=by, cause=cause)

    async def pool(
        self, name: str, command: pool.PoolCommand, *, by: Actor, cause: str = ""
    ) -> Handled[pool.PoolState, PoolEvent]:
        return await self.pools.handle(pool_root(name), pool_subject, command, by=by, cause=cause)

    async def owner(
        self, subject: str, command: owner.OwnerCommand, *, by: Actor, cause: str = ""
    ) -> Handled[owner.OwnerState, OwnerEvent]:
        """`subject`: the owner's, of their JWT."""
        return await self.owners.handle(owner_root(subject), owner_subject, command, by=by, cause=cause)

    async def webhook(
        self, ref: WebhookRef, command: webhook.WebhookCommand, *, by: Actor, cause: str = ""
    ) -> Handled[webhook.WebhookState, WebhookEvent]:
        return await self.webhooks.handle(
            webhook_root(ref), lambda event: webhook_subject(ref, event), command, by=by, cause=cause
        )

    async def schedule(
        self,
        ref: ScheduleRef,
        command: schedule.ScheduleCommand,
        *,
        by: Actor,
        cause: str = "",
        known: Known[schedule.ScheduleState] | None = None,
    ) -> Handled[schedule.ScheduleState, ScheduleEvent]:
        return await self.schedules.handle(
            schedule_root(ref), lambda event: schedule_subject(ref, event), command, by=by, cause=cause, known=known
        )

    async def load_task(self, ref: TaskRef) -> list[Stored[TaskEvent]]:
        """Return a task's history, oldest first; empty if there is none."""
        return await self.tasks.log.load(task_root(ref))


def _decide_type(
    command: task_type.TypeCommand,
    state: task_type.TypeState,
    now: datetime,  # noqa: ARG001 - as every decider
) -> Sequence[TypeEvent]:
    return task_type.decide(command, state)
