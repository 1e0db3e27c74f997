"""What the keeper is to do besides releasing tasks."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ..events.ids import TaskRef


class Expire(NamedTuple):
    """The task's time may be up."""

    ref: TaskRef


class Cancel(NamedTuple):
    """The task is to give way to another with its concurrency key, unless it has started."""

    ref: TaskRef
    reason: str


class FailChild(NamedTuple):
    """A parent of the task did not succeed."""

    ref: TaskRef
    parent_id: str
    outcome: str


class AskParent(NamedTuple):
    """The book does not know what became of a parent: it ended before the book began, or is to come."""

    parent_id: str


class Reread(NamedTuple):
    """The book does not know a task that goes on, or missed something of it while it was read."""

    ref: TaskRef


class TakeBack(NamedTuple):
    """A task was granted its start long ago and has not started, while others could."""

    ref: TaskRef
    reason: str


Due: TypeAlias = Expire | Cancel | FailChild | AskParent | Reread | TakeBack
