"""Dead letters: tasks that failed for good, until somebody retries or discards them.

A task that was late, or whose parent failed, is no dead letter: a retry would fail in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias, get_args

from msgspec import Struct

from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.kinds import word_of
from ..events.subjects import task_ref, tasks_filter
from ..events.task import FailureKind, TaskFailed
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import read_some
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .task_reader import TaskFilter, TaskReader
from .task_view import Listed

DeadLetterKind: TypeAlias = Literal[
    "rejected", "failed", "busy", "error", "unreachable", "timeout", "bad_answer", "worker_lost"
]
"""The kinds of failure that a retry may not repeat."""
KINDS: frozenset[FailureKind] = frozenset(get_args(DeadLetterKind))
READ_AT_ONCE = 200
MOST_READ = 2_000
"""Failures that one page searches before it returns what it has found, with a cursor."""


class DeadLetterFilter(Struct, frozen=True, kw_only=True):
    tasks: TaskFilter = TaskFilter()
    kinds: frozenset[FailureKind] = KINDS
    since: datetime | None = None
    """UTC. Failed then or later."""
    before: datetime | None = None

    def matches(self, listed: Listed) -> bool:
        view = listed.view
        return (
            view.status == "FAILED"
            and view.failure in self.kinds
            and self.tasks.matches(view)
            and (self.since is None or (view.ended_at is not None and view.ended_at >= self.since))
            and (self.before is None or (view.ended_at is not None and view.ended_at < self.before))
        )


class ListedDeadLetters(NamedTuple):
    tasks: list[Listed]
    cursor: int | None
    """The next page comes after this sequence; None after the last page. A page may be short and still have one."""


class DeadLetterReader:
    def __init__(self, tasks: TaskReader, reading: Connection) -> None:
        self._tasks = tasks
        self._reading = reading

    async def page(self, wanted: DeadLetterFilter, limit: int, after: int | None = None) -> ListedDeadLetters:
        """Return up to `limit` dead letters that failed after a sequence, the oldest failure first."""
        found: list[Listed] = []
        looked = 0
        subject = tasks_filter(wanted.tasks.owner, word_of(TaskFailed))
        start_time = wanted.since if after is None else None
        while True:
            first = (after or 0) + 1
            positions = await read_some(self._reading, TASKS, subject, first, READ_AT_ONCE, start_time=start_time)
            if not positions:
                return ListedDeadLetters(found, None)
            start_time = None
            # A task that failed again after a retry counts with its last failure.
            failed_at = {task_ref(at.subject): (at.sequence, decode(task_codec, at).recorded.at) for at in positions}
            for listed in await self._tasks.views(list(failed_at), wanted.tasks.owner):
                if listed.view.ended_at == failed_at[listed.ref][1] and wanted.matches(listed):
                    found.append(listed)
                    if len(found) == limit:
                        return ListedDeadLetters(found, failed_at[listed.ref][0])
            looked += len(positions)
            after = positions[-1].sequence
            if looked >= MOST_READ:
                return ListedDeadLetters(found, after)

    async def among(self, refs: Sequence[TaskRef]) -> set[TaskRef]:
        """Return the tasks, of any owners, that are dead letters."""
        return {listed.ref for listed in await self._tasks.views(refs, None) if DeadLetterFilter().matches(listed)}
