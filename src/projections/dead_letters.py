"""Dead letters: tasks that failed for good, and wait for somebody to try them again or to discard them.

A task whose time was up, or whose parent failed, is none: trying it again would only come to the same.
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
from ..streams.jetstream.messages import read
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .task_reader import Listed, TaskReader

DeadLetterKind: TypeAlias = Literal[
    "rejected", "failed", "busy", "error", "unreachable", "timeout", "bad_answer", "worker_lost"
]
"""Of the kinds of failure those that another try may not come to."""
KINDS: frozenset[FailureKind] = frozenset(get_args(DeadLetterKind))
READ_AT_ONCE = 200
MOST_READ = 2_000
"""Failures that one page looks at for those wanted, before it answers with what it has and a cursor."""


class DeadLetterFilter(Struct, frozen=True, kw_only=True):
    owner: str | None = None
    """Owner token; None: everybody's."""
    types: frozenset[str] = frozenset()
    """Empty: all."""
    kinds: frozenset[FailureKind] = KINDS
    since: datetime | None = None
    """Failed then or later."""
    before: datetime | None = None

    def matches(self, listed: Listed) -> bool:
        view = listed.view
        return (
            view.status == "FAILED"
            and not view.deleted
            and view.failure in self.kinds
            and (not self.types or view.task_type in self.types)
            and (self.since is None or (view.ended_at is not None and view.ended_at >= self.since))
            and (self.before is None or (view.ended_at is not None and view.ended_at < self.before))
        )


class ListedDeadLetters(NamedTuple):
    tasks: list[Listed]
    cursor: int | None
    """The sequence that the next page comes after; None after the last. A page may be short and still have one."""


class DeadLetterReader:
    def __init__(self, tasks: TaskReader, reading: Connection) -> None:
        self._tasks = tasks
        self._reading = reading

    async def page(self, wanted: DeadLetterFilter, limit: int, after: int | None = None) -> ListedDeadLetters:
        """Return up to `limit` dead letters, those that failed first first, that failed after a sequence."""
        found: list[Listed] = []
        looked = 0
        subject = tasks_filter(wanted.owner, word_of(TaskFailed))
        start_time = wanted.since if after is None else None
        while True:
            positions = await read(self._reading, TASKS, subject, (after or 0) + 1, READ_AT_ONCE, start_time=start_time)
            start_time = None
            # Of a task that failed, was tried again and failed again, the last failure counts.
            failed_at = {task_ref(at.subject): (at.sequence, decode(task_codec, at).recorded.at) for at in positions}
            for listed in await self._tasks.views(list(failed_at), wanted.owner):
                if listed.view.ended_at == failed_at[listed.ref][1] and wanted.matches(listed):
                    found.append(listed)
                    if len(found) == limit:
                        return ListedDeadLetters(found, failed_at[listed.ref][0])
            looked += len(positions)
            if len(positions) < READ_AT_ONCE:
                return ListedDeadLetters(found, None)
            after = positions[-1].sequence
            if looked >= MOST_READ:
                return ListedDeadLetters(found, after)

    async def among(self, refs: Sequence[TaskRef]) -> set[TaskRef]:
        """Return those of these tasks, of whatever owners, that are dead letters."""
        return {listed.ref for listed in await self._tasks.views(refs, None) if DeadLetterFilter().matches(listed)}
