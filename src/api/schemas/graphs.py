"""Graphs of tasks, as clients see them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ...events.ids import batch_index
from ...index.graph import Graph, Node
from ...projections.task_view import Status
from .shared import Page
from .tasks import TaskSummary


class GraphNode(Struct, kw_only=True):
    """A task of a graph."""

    id: str
    level: int
    """Around a task: -1 for its parents, -2 for theirs, 1 for its children. In a batch: its longest way, from 0."""
    status: Status | None
    """Null: its events are past their retention."""
    type: str | None
    index: int | None
    """Its index in its batch; null: it is in none."""
    held: bool
    """True while the task must wait before it is queued."""


class GraphEdge(Struct, kw_only=True):
    """A task depends on another."""

    parent: str
    child: str


class LeftOut(Struct, kw_only=True):
    """What a graph lacks."""

    by: list[Literal["nodes", "edges", "depth"]]
    """The bounds that were reached."""
    nodes: int
    """Neighbours of the tasks of the graph that are not in it. There may be more tasks behind them."""
    edges: int
    """Edges between tasks of the graph that are not in it."""


class TaskGraph(Struct, kw_only=True):
    """Tasks, nearest first, and which depends on which."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]
    truncated: LeftOut | None
    """Null: the graph is complete."""


class ChildPage(Page, kw_only=True, rename="camel"):
    """Children of a task, in the order of their submission."""

    task_id: str
    tasks: list[TaskSummary]


def graph_answer(graph: Graph) -> TaskGraph:
    walk = graph.walk
    left_out = LeftOut(by=walk.reasons, nodes=walk.nodes_left_out, edges=walk.edges_left_out)
    return TaskGraph(
        nodes=[_node(task, node, walk.levels[task]) for task, node in graph.nodes.items()],
        edges=[GraphEdge(parent=parent, child=child) for parent, child in walk.edges],
        truncated=left_out if walk.reasons else None,
    )


def _node(task: str, node: Node, level: int) -> GraphNode:
    return GraphNode(
        id=task,
        level=level,
        status=node.status,
        type=node.task_type,
        index=batch_index(node.ref) if node.in_batch else None,
        held=node.held,
    )
