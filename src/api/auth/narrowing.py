"""API keys that reach only tasks of some types: which routes take them, and how each keeps them to these.

A route without a mark refuses such a key, so a new route does until somebody has thought of it. One mark per way:

    TASK     the path names a task, which is looked up before the route is called
    BATCH    the path names a batch, all tasks of which must be of the key's types
    LIST     the route selects tasks with `task_filter`, which selects no others
    STREAM   the route's events come from `EventStream`, which sends no others
    MODEL    the route finds what its path names among what the key reaches
    SUBMIT   the route submits by `SubmissionService`, which refuses others
    CALLER   the route is about the caller alone
"""

from __future__ import annotations

from typing import Any

from ...errors import Forbidden, NotFound
from ...events.ids import BatchRef, TaskRef, parse_batch_id, parse_task_id
from ...index.lists import TaskLists
from ...index.query import TaskQuery
from ...push.subscription_filter import TaskAttributeReader
from .identity import Identity

NARROWS = "narrows"
"""Key of the mark in the `opt` of a route."""
TASK = "task"
BATCH = "batch"
LIST = "list"
STREAM = "stream"
MODEL = "model"
SUBMIT = "submit"
CALLER = "caller"


def narrows(how: str) -> dict[str, Any]:
    """Return the `opt` of a route that takes keys which reach only some types."""
    return {NARROWS: how}


def refusal(identity: Identity, what: str) -> Forbidden:
    """Return the error for a key that reaches only some types; `what` says what cannot be limited to them."""
    types = ", ".join(sorted(identity.types or ()))
    return Forbidden(f"this API key reaches only tasks of the types {types}, and {what} cannot be limited to them")


def within(identity: Identity, types: frozenset[str], path: str) -> frozenset[str]:
    """Return the types to select, of those asked for; none asked for means all. Raises Forbidden for others."""
    if identity.types is None:
        return types
    if others := types - identity.types:
        raise Forbidden(
            f"{path}: this API key reaches only tasks of the types {', '.join(sorted(identity.types))}, not "
            f"{min(others)!r}"
        )
    return types or identity.types


class TypeReach:
    """What narrow keys reach."""

    def __init__(self, attributes: TaskAttributeReader, lists: TaskLists) -> None:
        self._attributes = attributes
        self._lists = lists

    async def check_route(self, identity: Identity, opt: dict[str, Any], path: dict[str, Any]) -> None:
        """Raise Forbidden or NotFound if a key must not call a route with these options and parameters in its path."""
        match opt.get(NARROWS):
            case None:
                raise refusal(identity, "this call")
            case "task":
                await self.check_task(identity, parse_task_id(str(path["task_id"])))
            case "batch":
                await self.check_batch(identity, parse_batch_id(str(path["batch_id"])))
            case _:
                pass  # the route narrows what it does

    async def check_task(self, identity: Identity, ref: TaskRef) -> None:
        """Raise NotFound for a task of a type that the caller does not reach."""
        if identity.types is not None and (await self._attributes.facts(ref)).task_type not in identity.types:
            raise NotFound("task", ref.id)

    async def check_batch(self, identity: Identity, ref: BatchRef) -> None:
        """Raise NotFound for a batch with a task of a type that the caller does not reach."""
        if identity.types is None:
            return
        query = TaskQuery(owner=ref.owner, batch=ref.id, deleted=True)
        found = await self._lists.count(query, "type", user=ref.owner)
        if found.groups is None or not set(found.groups.counts) <= identity.types:
            raise NotFound("batch", ref.id)
