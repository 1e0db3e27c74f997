"""Results of the tasks that another depends on, which its server receives: small ones inline, the rest as links.

What is sent as a link is not read, unless its task has just ended: its size is in the view of the task. The view of a
parent that has not finished is not trusted: it may show the end before a retry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from ...backends.dialects.dialect import ParentResult
from ...errors import NotFound, TooManyReads
from ...events.codec import task_codec
from ...events.envelope import NULL, Stored
from ...events.ids import parse_task_id
from ...events.task import Plan, StoredResult, TaskCancelled, TaskEvent, TaskFailed, TaskSucceeded
from ...projections.task_reader import TaskDetail, TaskReader
from ...streams.log import decode
from ...streams.results import Results
from ...vault.result_links import ResultLinks

FEW = 8
"""Parents whose ends are read, with their results; of more, the views are, as far as these are final."""
READ_AT_ONCE = 8
CACHED_SECONDS = 1.0
"""Many tasks with one parent share a read of it, if it has finished: any other may be retried, and end otherwise."""
MOST_CACHED = 1_000
LARGEST_CACHED_BYTES = 16 * 1024
SHORTENED_ERROR = 200
"""Characters of a parent's error, if the whole of it is too much."""
LINK_MARGIN = timedelta(minutes=5)
"""How long a link outlives its attempt: a server's clock may be behind."""


class Parent(NamedTuple):
    """A parent as it is now."""

    task_id: str
    status: str
    error: str = ""
    sequence: int = 0
    """Sequence of the event with its result; 0: it has none."""
    size_bytes: int = 0
    """Size of its result."""
    stored: StoredResult | None = None
    """Its result, if it was kept."""


class _Cached(NamedTuple):
    until: float
    """Monotonic seconds."""
    parent: Parent


class Choice(NamedTuple):
    """What is sent of a parent: its error, perhaps shortened, and its result inline or not."""

    parent: Parent
    error: str
    is_inline: bool


def choose(parents: Sequence[Parent], most_bytes: int) -> list[Choice]:
    """Return what is sent of each parent: in their order, what still fits, so errors and results have `most_bytes`.

    An error that does not fit is shortened.
    """
    left = most_bytes
    chosen: list[Choice] = []
    for parent in parents:
        error = parent.error if _size(parent.error) <= left else parent.error[:SHORTENED_ERROR]
        left = max(0, left - _size(error))
        is_inline = 0 < parent.size_bytes <= left
        left -= parent.size_bytes if is_inline else 0
        chosen.append(Choice(parent, error, is_inline))
    return chosen


def _size(error: str) -> int:
    return len(msgspec.json.encode(error)) if error else 0


class SentParent(NamedTuple):
    """A parent as a server receives it, but for the links, which depend on the attempt's deadline."""

    parent: Parent
    result: Raw | None
    """None: a link, if it has a result."""
    error: str

    def sent(self, links: ResultLinks, until: datetime) -> ParentResult:
        """Return the parent with links that are valid until an instant."""
        parent = self.parent
        ref = parse_task_id(parent.task_id) if parent.sequence else None
        result: Any = NULL if self.result is None else self.result
        if ref is not None and self.result is None:
            result = links.result(ref, parent.sequence, parent.size_bytes, until)
        found: dict[str, Any] = {}
        if ref is not None and parent.stored is not None:
            found = links.files(ref, parent.sequence, parent.stored, until)
        return ParentResult(
            task_id=parent.task_id,
            status=parent.status,
            result=result,
            error=self.error or None,
            file=found.get("file", UNSET),
            files=found.get("files", UNSET),
        )


class SentParents(NamedTuple):
    """The parents of a task, in the order in which it names them."""

    parents: list[SentParent]
    links: ResultLinks

    def sent(self, deadline: datetime) -> list[ParentResult]:
        """Return what an attempt with this deadline sends."""
        return [parent.sent(self.links, deadline + LINK_MARGIN) for parent in self.parents]


def _ended_by(task_id: str, last: Stored[TaskEvent]) -> Parent | None:
    """Return the parent that an event ended, None if the event ends no task."""
    match last.recorded.event:
        case TaskSucceeded(result=result):
            return _parent(task_id, "FINISHED", "", last.sequence, result)
        case TaskFailed(error=error, result=result):
            return _parent(task_id, "FAILED", error, last.sequence, result)
        case TaskCancelled(reason=reason):
            return _parent(task_id, "CANCELLED", reason, last.sequence, None)
        case _:
            return None


def _by_history(detail: TaskDetail) -> Parent:
    view = detail.view
    return _parent(detail.ref.id, view.status, view.error, detail.result_sequence, detail.result)


def _parent(task_id: str, status: str, error: str, sequence: int, result: StoredResult | None) -> Parent:
    if result is None:
        return Parent(task_id, status, error)
    return Parent(task_id, status, error, sequence, result.size_bytes, result)


class Parents:
    """Reads parents. `inline_bytes`: the largest total of results and errors that is sent inline."""

    def __init__(self, tasks: TaskReader, results: Results, links: ResultLinks, inline_bytes: int) -> None:
        self._tasks = tasks
        self._results = results
        self._links = links
        self._inline_bytes = inline_bytes
        self._cached: dict[str, _Cached] = {}

    async def of(self, plan: Plan | None) -> SentParents | None:
        """Return the parents of a task in the order in which it names them, None if it has none.

        Raises StoreUnavailable.
        """
        if plan is None or not plan.depends_on:
            return None
        ids = plan.depends_on
        found = await self._finished(ids) if len(ids) > FEW else {}
        places = asyncio.Semaphore(READ_AT_ONCE)

        async def find(task_id: str) -> Parent:
            if task_id in found:
                return found[task_id]
            async with places:
                parent = await self._find(task_id)
            stored = parent.stored
            is_small = stored is None or stored.all_files or len(stored.inline) <= LARGEST_CACHED_BYTES
            is_kept = len(ids) <= FEW or is_small
            return parent if is_kept else parent._replace(stored=None)

        async def read(choice: Choice) -> SentParent:
            if not choice.is_inline:
                return SentParent(choice.parent, None, choice.error)
            async with places:
                return await self._with_result(choice.parent, choice.error)

        chosen = choose(await asyncio.gather(*map(find, ids)), self._inline_bytes)
        return SentParents(list(await asyncio.gather(*map(read, chosen))), self._links)

    async def _finished(self, ids: Sequence[str]) -> dict[str, Parent]:
        """Return the parents that have finished according to their views, which no later event can change."""
        found: dict[str, Parent] = {}
        async for views in self._tasks.projected_views([parse_task_id(task_id) for task_id in ids]):
            for ref, view in views.items():
                if view.status == "FINISHED":
                    sequence = view.ended_sequence if view.result_bytes else 0
                    found[ref.id] = Parent(ref.id, "FINISHED", "", sequence, view.result_bytes)
        return found

    async def _find(self, task_id: str) -> Parent:
        """Return a parent as the last event of its task has it, or its history if it is active or deleted."""
        if (cached := self._cached.get(task_id)) and time.monotonic() < cached.until:
            return cached.parent
        ref = parse_task_id(task_id)
        try:
            last = decode(task_codec, await self._tasks.last_event(ref, deleted=True))
            parent = _ended_by(task_id, last) or _by_history(await self._tasks.detail(ref, deleted=True))
        except NotFound:
            return Parent(task_id, "GONE")
        self._cache(parent)
        return parent

    def _cache(self, parent: Parent) -> None:
        inline = parent.stored.inline if parent.stored is not None else NULL
        if parent.status != "FINISHED" or len(inline) > LARGEST_CACHED_BYTES:
            return
        if len(self._cached) >= MOST_CACHED:
            self._cached.clear()
        self._cached[parent.task_id] = _Cached(time.monotonic() + CACHED_SECONDS, parent)

    async def _with_result(self, parent: Parent, error: str) -> SentParent:
        """Return a parent with its result; without it if too many results are being read."""
        ref = parse_task_id(parent.task_id)
        try:
            if parent.stored is None:
                parent = parent._replace(stored=(await self._tasks.result_at(ref, parent.sequence)).stored)
            assert parent.stored is not None
            name = parent.stored.object_name
            if name is None:
                return SentParent(parent, parent.stored.inline, error)
            async with self._results.opened(name, ref.owner) as parts:
                return SentParent(parent, Raw(b"".join([part async for part in parts])), error)
        except NotFound:
            return SentParent(Parent(parent.task_id, "GONE"), None, "")
        except TooManyReads:
            return SentParent(parent, None, error)
