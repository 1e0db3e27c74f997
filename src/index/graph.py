"""The tasks around a task, and those of a batch, with what depends on what: a bounded walk over the index.

The walk goes breadth first in both directions, so the nearest tasks are in it. A task that was reached is not walked
again, so it ends whatever the tasks depend on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from ..events.ids import TaskRef, is_task_id, parse_task_id
from ..projections.task_view import Listed, Status
from .facts import HOLDS
from .schema import STATUSES
from .views import decode

MOST_NODES = 400
MOST_EDGES = 800
MOST_DEPTH = 80
MOST_NEIGHBOURS = 20_000
"""Neighbours that one step of a walk looks at."""
AT_ONCE = 500
"""Ids in one statement."""

T = TypeVar("T")
Reason = Literal["nodes", "edges", "depth"]
Neighbours = Callable[[Sequence[str], int], Iterable[tuple[str, str]]]
"""Returns pairs of a task and a neighbour of it, for some tasks, up to a number of pairs."""


class GraphBounds(NamedTuple):
    nodes: int = MOST_NODES
    edges: int = MOST_EDGES
    depth: int = MOST_DEPTH


class Walk(NamedTuple):
    """Tasks by id, and the edges between them."""

    levels: dict[str, int]
    """Levels of the tasks: of parents of the first one -1, -2, …, of its children 1, 2, …; nearest first."""
    edges: list[tuple[str, str]]
    """Parent and child."""
    nodes_left_out: int
    """Neighbours of these tasks that are not among them. There may be others behind them."""
    edges_left_out: int
    reasons: list[Reason]
    """The bounds that left something out."""


class Node(NamedTuple):
    """A task of a graph. What is None is unknown: its events are past their retention."""

    ref: TaskRef
    status: Status | None = None
    task_type: str | None = None
    held: bool = False
    in_batch: bool = False
    is_deleted: bool = False


class Graph(NamedTuple):
    nodes: dict[str, Node]
    """In the order of the walk."""
    walk: Walk


def walk_around(start: str, parents: Neighbours, children: Neighbours, bounds: GraphBounds) -> Walk:
    """Return the tasks that a task depends on and those that depend on it, in however many steps."""
    levels = {start: 0}
    left_out: set[str] = set()
    reasons: set[Reason] = set()
    ways = {-1: parents, 1: children}
    reached: dict[int, list[str]] = {-1: [start], 1: [start]}
    for depth in range(1, bounds.depth + 2):
        for direction, neighbours in ways.items():
            following: list[str] = []
            for _, found in _bounded(neighbours(reached[direction], MOST_NEIGHBOURS), "nodes", reasons):
                if found in levels:
                    continue
                if depth > bounds.depth or len(levels) >= bounds.nodes:
                    left_out.add(found)
                    reasons.add("depth" if depth > bounds.depth else "nodes")
                else:
                    levels[found] = direction * depth
                    following.append(found)
            reached[direction] = following
    return _with_edges(levels, parents, bounds, left_out - levels.keys(), reasons)


def walk_within(tasks: Sequence[str], parents: Neighbours, bounds: GraphBounds) -> Walk:
    """Return tasks with the edges between them. A task's level is the longest way to it, from 0."""
    among = {task: number for number, task in enumerate(tasks)}
    waits_for: dict[str, set[str]] = {task: set() for task in tasks}
    children: dict[str, list[str]] = {}
    reasons: set[Reason] = set()
    for child, parent in _bounded(parents(tasks, MOST_NEIGHBOURS), "edges", reasons):
        if parent in among and parent not in waits_for[child]:
            waits_for[child].add(parent)
            children.setdefault(parent, []).append(child)
    levels: dict[str, int] = {}
    level, ready = 0, [task for task in tasks if not waits_for[task]]
    while ready and level <= bounds.depth:
        levels |= dict.fromkeys(ready, level)
        freed = []
        for task in ready:
            for child in children.get(task, ()):
                waits_for[child].discard(task)
                if not waits_for[child]:
                    freed.append(child)
        level, ready = level + 1, sorted(freed, key=among.__getitem__)
    reasons |= {"depth"} if len(levels) < len(tasks) else set()
    kept = dict(list(levels.items())[: bounds.nodes])
    reasons |= {"nodes"} if len(kept) < len(levels) else set()
    return _with_edges(kept, parents, bounds, among.keys() - kept.keys(), reasons)


def _with_edges(
    levels: dict[str, int], parents: Neighbours, bounds: GraphBounds, left_out: set[str], reasons: set[Reason]
) -> Walk:
    edges: dict[tuple[str, str], None] = {}
    edges_left_out = 0
    for child, parent in _bounded(parents(list(levels), MOST_NEIGHBOURS), "edges", reasons):
        if parent not in levels or (parent, child) in edges:
            continue
        if len(edges) < bounds.edges:
            edges[parent, child] = None
        else:
            edges_left_out += 1
    if edges_left_out:
        reasons.add("edges")
    return Walk(levels, list(edges), len(left_out), edges_left_out, sorted(reasons))


def _bounded(pairs: Iterable[tuple[str, str]], reason: Reason, reasons: set[Reason]) -> Iterator[tuple[str, str]]:
    """Yield pairs; add the reason if they are as many as one step looks at, so there may be more."""
    for count, pair in enumerate(pairs, 1):
        yield pair
        if count == MOST_NEIGHBOURS:
            reasons.add(reason)


class GraphWalker:
    """The tasks of one owner in an index, and what depends on what."""

    def __init__(self, connection: sqlite3.Connection, owner: str, *, deleted: bool) -> None:
        """`owner`: its token. `deleted`: include deleted tasks."""
        self._connection = connection
        self._owner = owner
        self._deleted = deleted
        row = connection.execute("SELECT id FROM names WHERE text = ?", (owner,)).fetchone()
        self._number: int = row[0] if row else -1
        self._nodes: dict[str, tuple[int, Node]] = {}
        """Created sequence and node, by id, as far as read."""

    def around(self, start: TaskRef, bounds: GraphBounds) -> Graph:
        return self._graph(walk_around(start.id, self._parents, self._children, bounds))

    def within(self, tasks: Sequence[TaskRef], bounds: GraphBounds) -> Graph:
        self._read(ref.id for ref in tasks)
        ids = [ref.id for ref in tasks if ref.id in self._nodes and self._is_shown(ref.id)]
        return self._graph(walk_within(ids, self._parents, bounds))

    def children_page(self, parent: TaskRef, after: int, limit: int) -> tuple[list[Listed], int | None]:
        """Return up to `limit` children of a task, as submitted, and the last one's sequence if there are more."""
        rows = self._connection.execute(
            "SELECT c.created_sequence, t.unique_token, v.view FROM children c"
            " JOIN tasks t ON t.created_sequence = c.created_sequence"
            " JOIN views v ON v.created_sequence = c.created_sequence"
            " WHERE c.parent = ? AND c.created_sequence > ? AND t.owner = ? AND (t.deleted = 0 OR ?)"
            " ORDER BY c.created_sequence LIMIT ?",
            (parent.id, after, self._number, self._deleted, limit + 1),
        ).fetchall()
        shown = [Listed(TaskRef(self._owner, unique), decode(view)) for _, unique, view in rows[:limit]]
        return shown, rows[limit - 1][0] if len(rows) > limit else None

    def _graph(self, walk: Walk) -> Graph:
        self._read(walk.levels)
        nodes = {
            task: self._nodes[task][1] if task in self._nodes else Node(parse_task_id(task)) for task in walk.levels
        }
        return Graph(nodes, walk)

    def _parents(self, tasks: Sequence[str], limit: int) -> Iterator[tuple[str, str]]:
        """Yield pairs of a task and a parent of it; of the owner's tasks only."""
        self._read(tasks)
        by_sequence = {self._nodes[task][0]: task for task in tasks if task in self._nodes}
        count = 0
        for some in _in_steps(sorted(by_sequence), AT_ONCE):
            rows = self._connection.execute(
                f"SELECT created_sequence, parent FROM children WHERE created_sequence IN ({_marks(some)})"
                " ORDER BY created_sequence, parent LIMIT ?",
                (*some, limit - count),
            ).fetchall()
            self._read(parent for _, parent in rows)
            for sequence, parent in rows:
                count += 1
                if self._is_shown(parent):
                    yield by_sequence[sequence], parent

    def _children(self, tasks: Sequence[str], limit: int) -> Iterator[tuple[str, str]]:
        count = 0
        for some in _in_steps(tasks, AT_ONCE):
            rows = self._connection.execute(
                "SELECT c.parent, t.unique_token FROM children c"
                " JOIN tasks t ON t.created_sequence = c.created_sequence"
                f" WHERE c.parent IN ({_marks(some)}) AND t.owner = ? AND (t.deleted = 0 OR ?)"
                " ORDER BY c.parent, c.created_sequence LIMIT ?",
                (*some, self._number, self._deleted, limit - count),
            ).fetchall()
            count += len(rows)
            yield from ((parent, TaskRef(self._owner, unique).id) for parent, unique in rows)

    def _is_shown(self, task: str) -> bool:
        """Return False for a task of another owner, and for a deleted one unless these are included."""
        if not is_task_id(task) or parse_task_id(task).owner != self._owner:
            return False
        return self._deleted or task not in self._nodes or not self._nodes[task][1].is_deleted

    def _read(self, tasks: Iterable[str]) -> None:
        """Read the nodes of tasks that were not read yet."""
        new = [task for task in dict.fromkeys(tasks) if task not in self._nodes and is_task_id(task)]
        refs = [ref for ref in map(parse_task_id, new) if ref.owner == self._owner]
        for some in _in_steps(refs, AT_ONCE):
            rows = self._connection.execute(
                "SELECT t.created_sequence, t.unique_token, t.status, n.text, t.hold, t.batch IS NOT NULL, t.deleted"
                " FROM tasks t LEFT JOIN names n ON n.id = t.type"
                f" WHERE t.owner = ? AND t.unique_token IN ({_marks(some)})",
                (self._number, *(ref.unique for ref in some)),
            )
            for sequence, unique, status, task_type, hold, in_batch, deleted in rows:
                ref = TaskRef(self._owner, unique)
                held = HOLDS[hold] in ("parents", "time", "limit")
                node = Node(ref, STATUSES[status], task_type, held, bool(in_batch), bool(deleted))  # type: ignore[arg-type]
                self._nodes[ref.id] = sequence, node


def _in_steps(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
