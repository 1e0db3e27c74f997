"""Commands of all vocabularies, each wired to its log and its deciders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..events.batch_job import BatchJobEvent
from ..events.codec import (
    Codec,
    batch_job_codec,
    file_codec,
    key_codec,
    operation_codec,
    owner_codec,
    pool_codec,
    schedule_codec,
    server_codec,
    task_codec,
    type_codec,
    webhook_codec,
)
from ..events.envelope import Actor, Event
from ..events.file import FileCreated, FileEvent
from ..events.ids import BatchJobRef, FileRef, KeyRef, OperationRef, ScheduleRef, TaskRef, WebhookRef
from ..events.key import KeyEvent
from ..events.kinds import REPLACED_WORDS, word_of
from ..events.operation import OperationEvent
from ..events.owner import OwnerEvent
from ..events.pool import PoolEvent
from ..events.schedule import ScheduleEvent
from ..events.server import ServerEvent
from ..events.subjects import (
    batch_job_root,
    file_root,
    key_root,
    operation_root,
    owner_root,
    pool_root,
    schedule_root,
    server_root,
    task_root,
    task_word,
    type_root,
    webhook_root,
)
from ..events.task import TaskEvent
from ..events.task_type import TypeEvent
from ..events.webhook import WebhookEvent
from ..streams.client.connection import Connection
from ..streams.committer import Committer
from ..streams.log import CondensedLog, EndsLog, LatestLog, Log
from ..streams.topology.definitions import BATCH_JOBS, FILES, KEYS, OPERATIONS, SCHEDULES, SERVERS, TASKS, WEBHOOKS
from . import batch_job, file, key, operation, owner, pool, schedule, server, task, task_state, task_type, webhook
from .handler import PATIENCE_SECONDS, Handled, Handler, HandlerCommand, Known
from .task_commands import SubmitTask, TaskCommand
from .task_state import TaskState

E = TypeVar("E", bound=Event)


class Commands:
    """One handler for each vocabulary."""

    def __init__(self, appending: Connection, reading: Connection, *, replicated: bool) -> None:
        def log(stream: str, codec: Codec[E], committer: Committer) -> Log[E]:
            return Log(stream, codec, committer, reading, replicated=replicated)

        fleet = Committer(appending)
        self.tasks: Handler[TaskRef, TaskState, TaskCommand, TaskEvent] = Handler(
            CondensedLog(
                TASKS,
                task_codec,
                Committer(appending),
                reading,
                replicated=replicated,
                is_replaced=lambda subject: task_word(subject) in REPLACED_WORDS,
            ),
            task_root,
            task_state.UNKNOWN,
            task.decide,
            task_state.evolve,
        )
        self.servers: Handler[str, server.ServerState, server.ServerCommand, ServerEvent] = Handler(
            log(SERVERS, server_codec, fleet), server_root, server.ABSENT, server.decide, server.evolve
        )
        self.types: Handler[str, task_type.TypeState, task_type.TypeCommand, TypeEvent] = Handler(
            log(SERVERS, type_codec, fleet),
            type_root,
            task_type.UNDEFINED,
            lambda command, state, _: task_type.decide(command, state),
            task_type.evolve,
        )
        self.pools: Handler[str, pool.PoolState, pool.PoolCommand, PoolEvent] = Handler(
            log(SERVERS, pool_codec, fleet), pool_root, pool.NEVER_PAUSED, pool.decide, pool.evolve
        )
        self.owners: Handler[str, owner.OwnerState, owner.OwnerCommand, OwnerEvent] = Handler(
            log(SERVERS, owner_codec, fleet), owner_root, owner.NEVER_LIMITED, owner.decide, owner.evolve
        )
        """An owner's key is the subject of their JWT."""
        self.webhooks: Handler[WebhookRef, webhook.WebhookState, webhook.WebhookCommand, WebhookEvent] = Handler(
            log(WEBHOOKS, webhook_codec, Committer(appending)),
            webhook_root,
            webhook.UNREGISTERED,
            webhook.decide,
            webhook.evolve,
        )
        self.schedules: Handler[ScheduleRef, schedule.ScheduleState, schedule.ScheduleCommand, ScheduleEvent] = Handler(
            LatestLog(SCHEDULES, schedule_codec, Committer(appending), reading, replicated=replicated),
            schedule_root,
            schedule.UNCREATED,
            schedule.decide,
            schedule.evolve,
        )
        self.operations: Handler[OperationRef, operation.OperationState, operation.OperationCommand, OperationEvent] = (
            Handler(
                LatestLog(OPERATIONS, operation_codec, Committer(appending), reading, replicated=replicated),
                operation_root,
                operation.UNSTARTED,
                operation.decide,
                operation.evolve,
            )
        )
        self.batch_jobs: Handler[BatchJobRef, batch_job.BatchJobState, batch_job.BatchJobCommand, BatchJobEvent] = (
            Handler(
                LatestLog(BATCH_JOBS, batch_job_codec, Committer(appending), reading, replicated=replicated),
                batch_job_root,
                batch_job.UNKNOWN_JOB,
                batch_job.decide,
                batch_job.evolve,
            )
        )
        self.files: Handler[FileRef, file.FileState, file.FileCommand, FileEvent] = Handler(
            EndsLog(
                FILES,
                file_codec,
                Committer(appending),
                reading,
                replicated=replicated,
                first=lambda root: f"{root}.{word_of(FileCreated)}.*",
            ),
            file_root,
            file.ABSENT,
            file.decide,
            file.evolve,
        )
        self.keys: Handler[KeyRef, key.ApiKeyState, key.KeyCommand, KeyEvent] = Handler(
            log(KEYS, key_codec, Committer(appending)), key_root, key.UNMADE, key.decide, key.evolve
        )

    async def task(
        self,
        ref: TaskRef,
        command: TaskCommand,
        *,
        by: Actor,
        cause: str = "",
        known: Known[TaskState] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Handled[TaskState, TaskEvent]:
        """Execute a command on a task, as `Handler.handle` does."""
        return await self.tasks.handle(ref, command, by=by, cause=cause, known=known, patience_seconds=patience_seconds)

    async def submit_together(
        self, submissions: Sequence[tuple[TaskRef, SubmitTask]], *, by: Actor, cause: str = ""
    ) -> list[Handled[TaskState, TaskEvent]]:
        """Submit new tasks, all or none. Tasks that the same request submitted before stay as they are.

        Raises IdempotencyConflict or AlreadyExists for a task of another request.
        """
        new = self.tasks.fold([])
        orders: list[HandlerCommand[TaskRef, TaskState, TaskCommand]] = [
            HandlerCommand(key=ref, command=command, known=new) for ref, command in submissions
        ]
        return await self.tasks.handle_together(orders, by=by, cause=cause)
