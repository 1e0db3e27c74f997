"""Results of the tasks that another depends on, which its server receives: small ones inline, the rest as links.

What is sent as a link is not read: its size is in the event, and in the view of the task.
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
from ...events.envelope import NULL
from ...events.ids import TaskRef, parse_task_id
from ...events.task import Plan, StoredResult
from ...projections.task_reader import TaskReader
from ...projections.task_view import ACTIVE, TaskView
from ...streams.results import Results
from ...vault.result_links import ResultLinks

FEW = 8
"""Parents whose histories are read; of more, the views are."""
READ_AT_ONCE = 8
HISTORIES_AT_ONCE = 2
"""Likewise, if the projection lacks a view: a history may be large."""
PROJECTION_TRIES = 20
PROJECTION_PAUSE_SECONDS = 0.1
CACHED_SECONDS = 1.0
"""Many tasks with one parent share a read of it; a parent that is retried may end otherwise, so not for long."""
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
    """Its result, if its history was read."""


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
        file = parent.stored.file if parent.stored is not None else None
        return ParentResult(
            task_id=parent.task_id,
            status=parent.status,
            result=result,
            error=self.error or None,
            file=UNSET
            if file is None or ref is None
            else links.file(ref, parent.sequence, file.media_type, file.size_bytes, until),
        )


class SentParents(NamedTuple):
    """The parents of a task, in the order in which it names them."""

    parents: list[SentParent]
    links: ResultLinks

    def sent(self, deadline: datetime) -> list[ParentResult]:
        """Return what an attempt with this deadline sends."""
        return [parent.sent(self.links, deadline + LINK_MARGIN) for parent in self.parents]


def _ended(ref: TaskRef, view: TaskView) -> Parent:
    sequence = view.ended_sequence if view.result_bytes else 0
    return Parent(ref.id, view.status, view.error, sequence, view.result_bytes)


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

        Each is as it was a second ago, or later. Raises StoreUnavailable.
        """
        if plan is None or not plan.depends_on:
            return None
        ids = plan.depends_on
        is_few = len(ids) <= FEW
        parents = await asyncio.gather(*map(self._find, ids)) if is_few else await self._many(ids)
        chosen = choose(parents, self._inline_bytes)
        places = asyncio.Semaphore(READ_AT_ONCE)

        async def read(choice: Choice) -> SentParent:
            if not choice.is_inline:
                return SentParent(choice.parent, None, choice.error)
            async with places:
                return await self._with_result(choice.parent, choice.error)

        return SentParents(list(await asyncio.gather(*map(read, chosen))), self._links)

    async def _many(self, ids: Sequence[str]) -> list[Parent]:
        """Return parents by their views; one whose view does not show how it ended, by its history.

        The projection gets some time for the last ends.
        """
        refs = [parse_task_id(task_id) for task_id in ids]
        found: dict[str, Parent] = {}
        for _ in range(PROJECTION_TRIES):
            async for views in self._tasks.projected_views([ref for ref in refs if ref.id not in found]):
                found |= {ref.id: _ended(ref, view) for ref, view in views.items() if view.ended_sequence}
            if len(found) >= len(set(ids)) - FEW:
                break
            await asyncio.sleep(PROJECTION_PAUSE_SECONDS)
        places = asyncio.Semaphore(HISTORIES_AT_ONCE)

        async def find(task_id: str) -> Parent:
            async with places:
                parent = await self._find(task_id)
            is_small = parent.size_bytes <= LARGEST_CACHED_BYTES
            return parent if is_small or parent.stored is None or parent.stored.file else parent._replace(stored=None)

        missing = [task_id for task_id in ids if task_id not in found]
        found |= dict(zip(missing, await asyncio.gather(*map(find, missing)), strict=True))
        return [found[task_id] for task_id in ids]

    async def _find(self, task_id: str) -> Parent:
        """Return a parent by its history."""
        if (cached := self._cached.get(task_id)) and time.monotonic() < cached.until:
            return cached.parent
        try:
            detail = await self._tasks.detail(parse_task_id(task_id), deleted=True)
        except NotFound:
            return Parent(task_id, "GONE")
        stored = detail.result
        size = 0 if stored is None else stored.size_bytes
        parent = Parent(task_id, detail.view.status, detail.view.error, detail.result_sequence, size, stored)
        self._cache(parent)
        return parent

    def _cache(self, parent: Parent) -> None:
        inline = parent.stored.inline if parent.stored is not None else NULL
        if parent.status in ACTIVE or len(inline) > LARGEST_CACHED_BYTES:
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
