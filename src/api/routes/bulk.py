"""Commands to many tasks at once: by ids, by a filter, or by a batch. Bounded work for each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from graphlib import TopologicalSorter
from typing import TypeAlias

from litestar import Router, post
from litestar.openapi.spec import Example
from msgspec import Struct, field

from ...clock import utc_now
from ...commands.task import RetryTask, TaskCommand, decide
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound, Refused
from ...events.ids import TaskRef, owner_token, parse_batch_id, parse_task_id
from ...events.task import NO_PLAN
from ...projections.task_reader import TaskFilter
from ...wire.fields import instant
from ..auth.access import ApiRequest, actor
from ..bodies import described, read_as, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import BULK_EXAMPLES
from ..parameters import read_cursor
from ..problems import answers
from ..schemas.bulk import BulkAnswer, BulkBody, BulkFilter, ManyTasks, RefusedTasks
from ..task_actions import TaskAction, command_for

AT_ONCE = 64
MOST_MATCHED = 1_000
"""Tasks that one request does something with; with more, its answer has a cursor."""
LONGEST_SEARCH_SECONDS = 3.0
"""Likewise, of looking for tasks that match."""
CLOCKS = timedelta(seconds=5)
"""By how much the clock that dates submissions and that of NATS may differ."""
EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""NATS counts nanoseconds from 1970 in 64 bits."""
EVERYBODY = "*"
COUNTS = "How many it was done for, and why not for the others"
NO_TASK = "there is no such task"

Find: TypeAlias = Callable[[int | None], Awaitable[tuple[list[TaskRef], int | None]]]
"""Returns tasks from a cursor on, None for the first ones, and where to go on, None after the last."""
Narrow: TypeAlias = Callable[[list[TaskRef], "Tally"], Awaitable[list[TaskRef]]]
"""Returns those of these tasks that it is about; the others are counted as refused."""


class Tally(Struct):
    """What came of a command to many tasks."""

    matched: int = 0
    done: int = 0
    unchanged: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Ids, by the reason."""

    def refuse(self, reason: str, task_id: str) -> None:
        self.refused.setdefault(reason, []).append(task_id)

    def answer(self, *, dry_run: bool, cursor: int | None = None) -> BulkAnswer:
        return BulkAnswer(
            dry_run=dry_run,
            matched=self.matched,
            done=self.done,
            unchanged=self.unchanged,
            refused=[
                RefusedTasks(reason=reason, count=len(ids), ids=sorted(ids)) for reason, ids in self.refused.items()
            ],
            next_cursor=None if cursor is None else str(cursor),
        )


class Bulk:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self._container = container

    async def command(self, request: ApiRequest, action: TaskAction) -> BulkAnswer:
        body = await read_as(request, BulkBody, self._container.settings.max_json_depth)
        find = partial(self._matching, wanted(request, body.filter)) if body.filter is not None else None
        return await self.carry_out(request, action, body, find)

    async def carry_out(
        self, request: ApiRequest, action: TaskAction, body: ManyTasks, find: Find | None, narrow: Narrow | None = None
    ) -> BulkAnswer:
        """Do something with the tasks that a body names, or with those that its filter does, which `find` looks for.

        `narrow` may refuse some of those named. Raises InvalidInput unless there is one of the two.
        """
        if (body.ids is None) == (find is None):
            raise InvalidInput("give `ids` or `filter`, and not both", "$")
        cursor: int | None = None
        if find is not None:
            refs, cursor = await find(read_cursor(body.cursor, "$.cursor"))
            tally = Tally(matched=len(refs))
        else:
            ids = dict.fromkeys(body.ids or ())
            tally = Tally(matched=len(ids))
            refs = list(self._allowed(request, ids, tally))
            if body.cursor is not None:
                raise InvalidInput("a cursor goes with the filter whose `nextCursor` it was, not with ids", "$.cursor")
            if narrow is not None:
                refs = await narrow(refs, tally)
        command = command_for(action, body.reason, request.user.subject)
        await self.give(request, refs, command, tally, dry_run=body.dry_run)
        return tally.answer(dry_run=body.dry_run, cursor=cursor)

    async def give(
        self, request: ApiRequest, refs: Iterable[TaskRef], command: TaskCommand, tally: Tally, *, dry_run: bool
    ) -> None:
        """Give all these tasks a command, and count what comes of it; with `dry_run` only what would.

        A retry is given to parents before their children, which so wait for them.
        Raises StoreUnavailable where NATS is away: some have it, some do not, and giving it again is safe.
        """
        if isinstance(command, RetryTask) and not dry_run:
            for level in await self._parents_first(list(refs)):
                await self._give_each(request, level, command, tally, dry_run=dry_run)
        else:
            await self._give_each(request, refs, command, tally, dry_run=dry_run)

    async def _parents_first(self, refs: Sequence[TaskRef]) -> list[tuple[TaskRef, ...]]:
        """Return tasks by levels, each task after those of them that it depends on: they go on when it looks."""
        owners = {ref.owner for ref in refs}
        graph: dict[TaskRef, set[TaskRef]] = {ref: set() for ref in refs}
        for ref, view in await self._container.tasks.views(refs, owners.pop() if len(owners) == 1 else None):
            graph[ref] = graph.keys() & set(map(parse_task_id, (view.plan or NO_PLAN).depends_on))
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        levels = []
        while sorter.is_active():
            levels.append(sorter.get_ready())
            sorter.done(*levels[-1])
        return levels

    async def _give_each(
        self, request: ApiRequest, refs: Iterable[TaskRef], command: TaskCommand, tally: Tally, *, dry_run: bool
    ) -> None:
        waiting = iter(refs)

        async def work() -> None:
            for ref in waiting:
                try:
                    is_news = await self._give(request, ref, command, dry_run=dry_run)
                except NotFound:
                    tally.refuse(NO_TASK, ref.id)
                except Refused as refusal:
                    tally.refuse(str(refusal), ref.id)
                else:
                    tally.done += is_news
                    tally.unchanged += not is_news

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _give(self, request: ApiRequest, ref: TaskRef, command: TaskCommand, *, dry_run: bool) -> bool:
        """Tell whether the command changes anything."""
        commands = self._container.commands
        if dry_run:
            known = await commands.tasks.load(ref)
            return bool(decide(command, known.state, utc_now()))
        handled = await commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return bool(handled.appended)

    def _allowed(self, request: ApiRequest, ids: Iterable[str], tally: Tally) -> Iterator[TaskRef]:
        """Yield the tasks that the caller may change; the others are counted as refused."""
        own = owner_token(request.user.subject)
        for task_id in ids:
            ref = parse_task_id(task_id)
            if ref.owner == own or request.user.has("admin"):
                yield ref
            else:
                tally.refuse(NO_TASK, task_id)

    async def _matching(self, filter_: TaskFilter, before: int | None) -> tuple[list[TaskRef], int | None]:
        """Return tasks that match, newest first, that were submitted before a sequence, and where to go on."""
        tasks = self._container.tasks
        if filter_.batch:
            ref = parse_batch_id(filter_.batch)
            if filter_.owner not in (None, ref.owner):
                raise NotFound("batch", ref.id)
            batch = await self._container.batches.find(ref)
            listed = await tasks.views(batch.refs, ref.owner)
            return [ref for ref, view in listed if filter_.matches(view)], None
        oldest = 0
        if filter_.created_since is not None:
            oldest = await tasks.sequence_at(filter_.created_since - CLOCKS)
        if filter_.created_before is not None:
            newest = await tasks.sequence_at(filter_.created_before + CLOCKS)
            before = min(before or newest, newest)
        found: list[TaskRef] = []
        give_up_at = time.monotonic() + LONGEST_SEARCH_SECONDS
        while True:
            page = await tasks.page(filter_, MOST_MATCHED - len(found), before)
            found.extend(listed.ref for listed in page.tasks)
            before = page.cursor
            if before is None or before <= oldest:
                return found, None
            if len(found) >= MOST_MATCHED or time.monotonic() > give_up_at:
                return found, before


def wanted(request: ApiRequest, asked: BulkFilter) -> TaskFilter:
    """Return what a filter means for this caller. Raises InvalidInput, and Forbidden for others' tasks."""
    if asked == BulkFilter(owner=asked.owner):
        raise InvalidInput("say which tasks are meant: by status, type, batch, project or time", "$.filter")
    return TaskFilter(
        owner=meant_owner(request, asked.owner),
        statuses=frozenset(asked.status or ()),
        types=frozenset(asked.type or ()),
        batch=asked.batch or "",
        project=asked.project or "",
        created_since=within_reach(asked.created_after, "$.filter.createdAfter"),
        created_before=within_reach(asked.created_before, "$.filter.createdBefore"),
    )


def within_reach(given: int | datetime | None, path: str) -> datetime | None:
    """Return an instant that a client gave; one in which there can be no task as the nearest in which there can."""
    at = instant(given, path)
    return None if at is None else min(max(at, EARLIEST), LATEST)


def meant_owner(request: ApiRequest, owner: str | None) -> str | None:
    """Return the token of the owner whose tasks are meant, None for everybody's. Raises Forbidden."""
    own = owner_token(request.user.subject)
    if owner is None:
        return own
    if request.user.has("admin"):
        return None if owner == EVERYBODY else owner_token(owner)
    if owner_token(owner) != own:
        raise Forbidden("only admins do this with other users' tasks; leave `owner` out for your own")
    return own


def bulk_route(body: type[ManyTasks], examples: dict[str, Example]) -> partial[post]:
    """Return how routes are made that do something with many tasks."""
    return partial(
        post,
        status_code=200,
        operation_class=described(schema_of(body), examples),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
        response_description=COUNTS,
    )


def bulk_router(container: Container) -> Router:
    """Return the routes."""
    bulk = Bulk(container)
    route = bulk_route(BulkBody, BULK_EXAMPLES)

    @route("/tasks/cancel", summary="Cancel many tasks")
    async def cancel_tasks(request: ApiRequest) -> BulkAnswer:
        """End the tasks that have not ended: up to 1,000 by ids, or those that a filter matches.

        With `dryRun`, only say what would be done. An answer with a `nextCursor` was not all: send it as `cursor`.
        """
        return await bulk.command(request, "cancel")

    @route("/tasks/retry", summary="Retry many tasks")
    async def retry_tasks(request: ApiRequest) -> BulkAnswer:
        """Queue failed and cancelled tasks again, each with a fresh budget of attempts; body as for cancelling."""
        return await bulk.command(request, "retry")

    @route("/tasks/delete", summary="Delete many tasks")
    async def delete_tasks(request: ApiRequest) -> BulkAnswer:
        """Take tasks out of every list; those that have not ended are cancelled first. Body as for cancelling."""
        return await bulk.command(request, "delete")

    return Router(path="/", route_handlers=[cancel_tasks, retry_tasks, delete_tasks], tags=["Bulk"])
