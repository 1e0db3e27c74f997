"""Actions of users on tasks that exist: cancel, retry, delete; for one task or for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from graphlib import TopologicalSorter
from typing import Literal, TypeAlias

from ..clock import utc_now
from ..commands.task import decide
from ..commands.task_commands import CancelTask, DeleteTask, RetryTask, TaskCommand
from ..container import Container
from ..errors import InvalidInput, NotFound, Refused, UnreadableEvent
from ..events.ids import TaskRef, owner_token, parse_task_id
from ..events.task import NO_PLAN
from .auth.access import ApiRequest, Origin, origin
from .schemas.bulk import BulkAnswer, ManyTasks, RefusedTasks

TaskAction = Literal["cancel", "retry", "delete"]
AT_ONCE = 64
"""Commands of one request that run at the same time."""
NO_TASK = "there is no such task"
UNREADABLE = "an event of its history does not decode"

Find: TypeAlias = Callable[[str | None], Awaitable[tuple[list[TaskRef], str | None]]]
"""Returns a page of tasks that match a filter: takes the cursor of the page, returns that of the next one."""
Among: TypeAlias = Callable[[list[TaskRef]], Awaitable[Collection[TaskRef]]]
"""Returns those of the named tasks that the route is for."""


def command_for(action: TaskAction, reason: str, subject: str, *, bulk: bool = False) -> TaskCommand:
    """Return the command for an action of a user. An empty `reason` is replaced by one with their name.

    `bulk`: the task is one of very many.
    """
    match action:
        case "cancel":
            return CancelTask(reason=reason or f"Cancelled by {subject}")
        case "retry":
            return RetryTask(reason=reason or f"retried by {subject}", bulk=bulk)
        case "delete":
            return DeleteTask(reason=reason or f"Cancelled by {subject}")


async def give_command(container: Container, ref: TaskRef, command: TaskCommand, signed: Origin) -> bool:
    """Give a command to a task; return True if that changes the task. Raises Refused.

    A retry counts as a submission for the quota of stored bytes: each stores events, and perhaps one more large result.
    """
    if isinstance(command, RetryTask):
        await container.submissions.check_bytes(ref.owner)
    return bool((await container.commands.task(ref, command, **signed)).appended)


class BulkCommand:
    """One command for many tasks, and what came of it for each."""

    def __init__(
        self,
        container: Container,
        signed: Origin,
        command: TaskCommand,
        *,
        dry_run: bool = False,
        at_once: int = AT_ONCE,
        skips_unreadable: bool = False,
    ) -> None:
        """`skips_unreadable`: count a task whose history does not decode as refused, instead of raising."""
        self._container = container
        self._at_once = at_once
        self._skips_unreadable = skips_unreadable
        self._signed = signed
        self._command = command
        self._dry_run = dry_run
        self._done = 0
        self._unchanged = 0
        self._refused: dict[str, list[str]] = {}
        """Ids by reason."""

    async def run(self, refs: Iterable[TaskRef]) -> None:
        """Give the command to all these tasks; with `dry_run` only decide what it would do.

        A retry goes to parents before their children, so that the children wait for them. Raises StoreUnavailable if
        NATS is away: some tasks have the command then and some do not, and running it again is safe.
        """
        if isinstance(self._command, RetryTask) and not self._dry_run:
            for level in await self._parents_first(list(refs)):
                await self._run_each(level)
        else:
            await self._run_each(refs)

    def refuse(self, reason: str, refs: Iterable[TaskRef]) -> None:
        """Count tasks as refused."""
        for ref in refs:
            self._refused.setdefault(reason, []).append(ref.id)

    def answer(self, cursor: str | None = None) -> BulkAnswer:
        """Return what came of it. `cursor`: where the next page of matching tasks starts."""
        return BulkAnswer(
            dry_run=self._dry_run,
            matched=self._done + self._unchanged + sum(map(len, self._refused.values())),
            done=self._done,
            unchanged=self._unchanged,
            refused=[
                RefusedTasks(reason=reason, count=len(ids), ids=sorted(ids)) for reason, ids in self._refused.items()
            ],
            next_cursor=cursor,
        )

    async def _parents_first(self, refs: Sequence[TaskRef]) -> list[tuple[TaskRef, ...]]:
        """Return the tasks in levels, each task in a later level than its parents among them."""
        graph: dict[TaskRef, set[TaskRef]] = {ref: set() for ref in refs}
        for ref, view in await self._container.lists.views(refs, user=owner_token(self._signed["by"].id)):
            graph[ref] = graph.keys() & set(map(parse_task_id, (view.plan or NO_PLAN).depends_on))
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        levels = []
        while sorter.is_active():
            levels.append(sorter.get_ready())
            sorter.done(*levels[-1])
        return levels

    async def _run_each(self, refs: Iterable[TaskRef]) -> None:
        pending = iter(refs)

        async def work() -> None:
            for ref in pending:
                try:
                    has_changed = await self._run_one(ref)
                except NotFound:
                    self.refuse(NO_TASK, [ref])
                except Refused as refusal:
                    self.refuse(str(refusal), [ref])
                except UnreadableEvent:
                    if not self._skips_unreadable:
                        raise
                    self.refuse(UNREADABLE, [ref])
                else:
                    self._done += has_changed
                    self._unchanged += not has_changed

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _run_one(self, ref: TaskRef) -> bool:
        """Return True if the command changes the task."""
        if self._dry_run:
            known = await self._container.commands.tasks.load(ref)
            return bool(decide(self._command, known.state, utc_now()))
        return await give_command(self._container, ref, self._command, self._signed)


async def command_many(
    container: Container,
    request: ApiRequest,
    action: TaskAction,
    body: ManyTasks,
    find: Find | None,
    *,
    among: Among | None = None,
    otherwise: str = "",
) -> BulkAnswer:
    """Give a command to the tasks that a body names by ids or by a filter, which `find` evaluates.

    Raises InvalidInput unless the body has exactly one of the two. Others' tasks are refused as if they did not exist,
    except to admins. Named tasks not `among` those the route is for are refused with the reason `otherwise`.
    """
    if (body.ids is None) == (find is None):
        raise InvalidInput("send `ids` or `filter`, and not both", "$")
    identity = request.user
    command = command_for(action, body.reason, identity.subject)
    bulk = BulkCommand(container, origin(request), command, dry_run=body.dry_run)
    cursor: str | None = None
    if find is not None:
        refs, cursor = await find(body.cursor)
    else:
        named = [parse_task_id(task_id) for task_id in dict.fromkeys(body.ids or ())]
        if body.cursor is not None:
            raise InvalidInput("`cursor` works only with `filter`; leave it out with `ids`", "$.cursor")
        own = owner_token(identity.subject)
        reachable = [ref for ref in named if ref.owner == own or identity.has("admin")]
        bulk.refuse(NO_TASK, set(named).difference(reachable))
        fitting = set(reachable if among is None else await among(reachable))
        bulk.refuse(otherwise, set(reachable) - fitting)
        refs = [ref for ref in reachable if ref in fitting]
    await bulk.run(refs)
    return bulk.answer(cursor)
