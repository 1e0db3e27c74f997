"""Operations: what one looks for, and what its page of tasks does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ..commands.operation import Operation
from ..container import Container
from ..errors import InvalidInput, UnreadableEvent
from ..events.codec import task_codec
from ..events.envelope import Actor
from ..events.ids import TaskRef, operation_cause, owner_token, parse_batch_id, parse_task_id
from ..events.operation import OperationAction, OperationCounts, OperationStarted, RefusalCount
from ..events.subjects import events_filter
from ..index.query import TaskQuery
from ..projections.dead_letters import is_dead_letter
from ..streams.jetstream.messages import read, read_current
from ..streams.log import decode
from ..streams.topology.definitions import TASKS
from .auth.access import Origin
from .auth.authenticator import Identity
from .schemas.bulk import DeadLettersFilter
from .task_actions import NO_TASK, BulkCommand, TaskAction, command_for
from .task_filter import dead_letter_filter, filters_nothing, read_place, task_filter

PAGE = 250
"""Tasks that an operation commands before it records what came of them; a crash repeats one page at most."""
AT_ONCE = 16
"""Commands of an operation that run at the same time. Few, so requests of users are answered in between."""
LONGEST_SEARCH_SECONDS = 2.0
"""How long a page is searched; then its place is recorded, and the search goes on."""
LOOKED_UP_AT_ONCE = 16
NO_DEAD_LETTER = "this is not a dead letter: it has not failed for good, or a retry could not help"
ACTIONS: dict[OperationAction, TaskAction] = {
    "cancel": "cancel",
    "retry": "retry",
    "delete": "delete",
    "discard": "delete",
}
WORDS: dict[TaskAction, tuple[str, ...]] = {
    "cancel": ("cancelled",),
    "retry": ("queued", "held"),
    "delete": ("deleted",),
}
"""The kinds of events that a command appends."""


class OperationPart(NamedTuple):
    """A page of tasks that match."""

    ids: tuple[str, ...]
    cursor: str
    """Where the next page begins."""
    is_last: bool


def operation_query(identity: Identity, started: OperationStarted, given: DeadLettersFilter) -> TaskQuery:
    """Return the query of an operation, in an order in which each task has one place for good.

    A retry goes to parents first, which were submitted before their children. Raises InvalidInput and Forbidden.
    """
    if started.dead_letters:
        query = dead_letter_filter(identity, given, "command", since=given.since, before=given.before)
    elif given.since is not None or given.before is not None:
        raise InvalidInput("is for dead letters; use `endedSince` or `endedBefore`", "$.filter.since")
    elif filters_nothing(given):
        raise InvalidInput("the filter is empty; give a status, type, batch, schedule, project or time", "$.filter")
    else:
        query = task_filter(identity, given, "command")
    return replace(query, sort="created", descending=started.action != "retry")


def query_of(operation: Operation) -> TaskQuery:
    """Return the query of an operation that was started. Raises Refused if it has become impossible."""
    started = operation.started
    given = msgspec.json.decode(started.filter, type=DeadLettersFilter)
    roles = frozenset({"user", "admin"} if started.is_admin else {"user"})
    query = operation_query(Identity(subject=started.owner, roles=roles), started, given)
    return replace(query, now=operation.started_at) if query.min_run is not None else query


async def find_part(container: Container, operation: Operation) -> OperationPart:
    """Return the next page of an operation. Raises Refused, StoreError."""
    started = operation.started
    if started.ids:
        start = int(operation.cursor or 0)
        ids = started.ids[start : start + PAGE]
        return OperationPart(ids, str(start + len(ids)), is_last=start + len(ids) >= len(started.ids))
    query = query_of(operation)
    if query.batch:
        await container.batches.find(parse_batch_id(query.batch))
    found: list[str] = []
    cursor: str | None = operation.cursor or (str(started.as_of + 1) if query.descending else None)
    give_up_at = time.monotonic() + LONGEST_SEARCH_SECONDS
    user = owner_token(started.owner)
    while True:
        place = read_place(query, cursor, "$.cursor")
        page = await container.lists.page(query, PAGE - len(found), place, user=user)
        in_time = [listed for listed in page.tasks if listed.view.created_sequence <= started.as_of]
        found += [listed.ref.id for listed in in_time]
        if page.cursor is None or len(in_time) < len(page.tasks):
            return OperationPart(tuple(found), cursor or "", is_last=True)
        cursor = page.cursor
        if len(found) >= PAGE or time.monotonic() > give_up_at:
            return OperationPart(tuple(found), cursor, is_last=False)


async def command_part(container: Container, operation: Operation, *, may_have_begun: bool) -> OperationCounts:
    """Command the tasks of an operation's page; return what came of it.

    `may_have_begun`: tasks may have the command already, in the name of this operation: these are done. Raises
    StoreError: some tasks have the command then.
    """
    started = operation.started
    action = ACTIONS[started.action]
    refs = [parse_task_id(task_id) for task_id in operation.ids]
    had = await _commanded(container, operation, refs) if may_have_begun and not started.dry_run else frozenset()
    signed: Origin = {"by": Actor("user", started.owner, operation.key), "cause": operation_cause(started.operation_id)}
    bulk = BulkCommand(
        container,
        signed,
        command_for(action, started.reason, started.owner, bulk=True),
        dry_run=started.dry_run,
        at_once=AT_ONCE,
        skips_unreadable=True,
    )
    rest = [ref for ref in refs if ref not in had]
    if started.ids:
        rest = await _reachable(container, started, bulk, rest)
    await bulk.run(rest)
    answer = bulk.answer()
    return OperationCounts(
        done=answer.done + len(had),
        unchanged=answer.unchanged,
        refused=tuple(RefusalCount(reason=each.reason, count=each.count) for each in answer.refused),
    )


async def _reachable(
    container: Container, started: OperationStarted, bulk: BulkCommand, refs: Sequence[TaskRef]
) -> list[TaskRef]:
    """Return the named tasks that the operation may command, and count the others as refused."""
    own = owner_token(started.owner)
    reachable = [ref for ref in refs if ref.owner == own or started.is_admin]
    bulk.refuse(NO_TASK, set(refs).difference(reachable))
    if not started.dead_letters:
        return reachable
    found = await container.lists.views(reachable, user=own)
    fitting = {ref for ref, view in found if is_dead_letter(view)}
    bulk.refuse(NO_DEAD_LETTER, set(reachable) - fitting)
    return [ref for ref in reachable if ref in fitting]


async def _commanded(container: Container, operation: Operation, refs: Collection[TaskRef]) -> frozenset[TaskRef]:
    """Return the tasks that have an event of this operation. Raises StoreError."""
    cause = operation_cause(operation.started.operation_id)
    words = WORDS[ACTIONS[operation.started.action]]
    found: set[TaskRef] = set()
    pending = iter(refs)

    async def look() -> None:
        for ref in pending:
            for word in words:
                if await _has_event_of(container, events_filter(ref, word), cause):
                    found.add(ref)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(LOOKED_UP_AT_ONCE):
                group.create_task(look())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return frozenset(found)


async def _has_event_of(container: Container, subjects: str, cause: str) -> bool:
    reading = container.reading
    positions = await read_current(reading, TASKS, subjects, lambda: read(reading, TASKS, subjects))
    try:
        return any(decode(task_codec, position).recorded.cause == cause for position in positions)
    except UnreadableEvent:
        return False  # the command is refused then
