"""Commands to many tasks at once: by ids, by a filter, or by a batch. Bounded work for each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from litestar import Router, post
from msgspec import Struct, field

from ..clock import utc_now
from ..commands.task import CancelTask, DeleteTask, RetryTask, TaskCommand, decide
from ..core import Core
from ..errors import Forbidden, InvalidInput, NotFound, Refused
from ..events.ids import TaskRef, owner_token, parse_batch_id, parse_task_id
from ..events.subjects import task_root
from ..projections.task_reader import TaskFilter
from ..wire import instant
from .access import ApiRequest, actor
from .bodies import described, read_as, schema_of
from .bulk_shapes import BulkAnswer, BulkBody, BulkFilter, RefusedTasks
from .edge import request_id
from .examples import BULK_EXAMPLES
from .parameters import read_cursor
from .problems import answers

Deed = Literal["cancel", "retry", "delete"]

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
NO_TASK = "there is no such task"


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


def command_for(deed: Deed, reason: str, subject: str) -> TaskCommand:
    """Return the command that a user gives by this word."""
    match deed:
        case "cancel":
            return CancelTask(reason=reason or f"Cancelled by {subject}")
        case "retry":
            return RetryTask(reason=reason or f"retried by {subject}")
        case "delete":
            return DeleteTask(reason=reason or f"Cancelled by {subject}")


class Bulk:
    """What the routes do, apart from HTTP."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def command(self, request: ApiRequest, deed: Deed) -> BulkAnswer:
        body = await read_as(request, BulkBody, self._core.settings.max_json_depth)
        command = command_for(deed, body.reason, request.user.subject)
        if (body.ids is None) == (body.filter is None):
            raise InvalidInput("give `ids` or `filter`, and not both", "$")
        if body.ids is not None:
            tally = Tally(matched=len(set(body.ids)))
            refs = list(self.allowed(request, body.ids, tally))
            await self.give(request, refs, command, tally, dry_run=body.dry_run)
            return tally.answer(dry_run=body.dry_run)
        assert body.filter is not None
        refs, cursor = await self._matching(wanted(request, body.filter), read_cursor(body.cursor))
        tally = Tally(matched=len(refs))
        await self.give(request, refs, command, tally, dry_run=body.dry_run)
        return tally.answer(dry_run=body.dry_run, cursor=cursor)

    async def give(
        self, request: ApiRequest, refs: Iterable[TaskRef], command: TaskCommand, tally: Tally, *, dry_run: bool
    ) -> None:
        """Give all these tasks a command, and count what comes of it; with `dry_run` only what would.

        Raises StoreUnavailable where NATS is away: some have it, some do not, and giving it again is safe.
        """
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
        commands = self._core.commands
        if dry_run:
            known = await commands.tasks.load(task_root(ref))
            return bool(decide(command, known.state, utc_now()))
        handled = await commands.task(ref, command, by=actor(request.user), cause=request_id(request.scope))
        return bool(handled.appended)

    def allowed(self, request: ApiRequest, ids: Iterable[str], tally: Tally) -> Iterator[TaskRef]:
        """Yield the tasks that the caller may change, each once; the others are counted as refused."""
        own = owner_token(request.user.subject)
        for task_id in dict.fromkeys(ids):
            ref = parse_task_id(task_id)
            if ref.owner == own or request.user.has("admin"):
                yield ref
            else:
                tally.refuse(NO_TASK, task_id)

    async def _matching(self, filter_: TaskFilter, before: int | None) -> tuple[list[TaskRef], int | None]:
        """Return tasks that match, newest first, that were submitted before a sequence, and where to go on."""
        tasks = self._core.tasks
        if filter_.batch:
            batch = await self._core.batches.find(parse_batch_id(filter_.batch))
            listed = await tasks.views(batch.refs, batch.ref.owner) if filter_.owner in (None, batch.ref.owner) else []
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
        batch=parse_batch_id(asked.batch).id if asked.batch else "",
        project=asked.project or "",
        created_since=within_reach(asked.created_after),
        created_before=within_reach(asked.created_before),
    )


def within_reach(given: int | datetime | None) -> datetime | None:
    """Return an instant that a client gave; one in which there can be no task as the nearest in which there can."""
    at = instant(given)
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


def bulk_router(core: Core) -> Router:
    """Return the routes."""
    bulk = Bulk(core)
    bodies = described(schema_of(BulkBody), BULK_EXAMPLES)
    errors = answers(400, 401, 403, 404, 413, 415, 503)
    counts = "How many it was done for, and why not for the others"

    @post(
        "/tasks/cancel",
        status_code=200,
        operation_class=bodies,
        responses=errors,
        response_description=counts,
        summary="Cancel many tasks",
    )
    async def cancel_tasks(request: ApiRequest) -> BulkAnswer:
        """End the tasks that have not ended: up to 1,000 by ids, or those that a filter matches.

        With `dryRun`, only say what would be done. An answer with a `nextCursor` was not all: send it as `cursor`.
        """
        return await bulk.command(request, "cancel")

    @post(
        "/tasks/retry",
        status_code=200,
        operation_class=bodies,
        responses=errors,
        response_description=counts,
        summary="Retry many tasks",
    )
    async def retry_tasks(request: ApiRequest) -> BulkAnswer:
        """Queue failed and cancelled tasks again, each with a fresh budget of attempts; body as for cancelling."""
        return await bulk.command(request, "retry")

    @post(
        "/tasks/delete",
        status_code=200,
        operation_class=bodies,
        responses=errors,
        response_description=counts,
        summary="Delete many tasks",
    )
    async def delete_tasks(request: ApiRequest) -> BulkAnswer:
        """Take tasks out of every list; those that have not ended are cancelled first. Body as for cancelling."""
        return await bulk.command(request, "delete")

    return Router(path="/", route_handlers=[cancel_tasks, retry_tasks, delete_tasks], tags=["Bulk"])
