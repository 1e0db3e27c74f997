"""Routes of graphs: the tasks around a task, its children, and the tasks of a batch with what depends on what."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Annotated, TypeVar

from litestar.params import QueryParameter

from ...container import Container
from ...errors import NotFound
from ...events.ids import owner_token
from ...index.graph import MOST_DEPTH, MOST_EDGES, MOST_NODES, GraphBounds, GraphWalker
from ..auth.access import READERS_OF_ALL, ApiRequest, owned_batch, owned_ref
from ..parameters import BatchId, Cursor, Limit, TaskId, next_cursor, read_cursor
from ..routing import RouteHandler, Routes
from ..schemas import graphs
from ..schemas.graphs import ChildPage, graph_answer
from ..schemas.tasks import task_summary

T = TypeVar("T")

MostNodes = Annotated[int, QueryParameter(ge=1, le=MOST_NODES, description="Most tasks in the graph")]
MostEdges = Annotated[int, QueryParameter(ge=0, le=MOST_EDGES, description="Most edges in the graph")]
MostDepth = Annotated[
    int, QueryParameter(ge=0, le=MOST_DEPTH, description="Most steps from the task, or levels of the batch")
]


def graph_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Tasks")

    async def ask(request: ApiRequest, owner: str, question: Callable[[GraphWalker], T]) -> T:
        """Return what the index says of an owner's tasks. Raises what `IndexReader.run` raises."""
        deleted = request.user.has(*READERS_OF_ALL)

        def query(connection: sqlite3.Connection) -> T:
            return question(GraphWalker(connection, owner, deleted=deleted))

        return await container.index.run(query, owner_token(request.user.subject))

    @routes.get(
        "/task/{task_id:str}/graph",
        "Read the tasks around a task",
        "The tasks that it depends on and that depend on it, in however many steps",
    )
    async def get_task_graph(
        request: ApiRequest,
        task_id: TaskId,
        nodes: MostNodes = MOST_NODES,
        edges: MostEdges = MOST_EDGES,
        depth: MostDepth = MOST_DEPTH,
    ) -> graphs.TaskGraph:
        """Return the graph of `dependsOn` around a task, the nearest tasks first.

        `truncated` says what a graph with more tasks, edges or levels lacks.
        """
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        await container.tasks.last_event(ref, deleted=request.user.has(*READERS_OF_ALL))
        bounds = GraphBounds(nodes, edges, depth)
        return graph_answer(await ask(request, ref.owner, lambda tasks: tasks.around(ref, bounds)))

    @routes.get("/task/{task_id:str}/children", "List a task's children", "A page of tasks that depend on it")
    async def list_children(
        request: ApiRequest, task_id: TaskId, limit: Limit = 50, cursor: Cursor = None
    ) -> ChildPage:
        """List the tasks that name this one in their `dependsOn`, in the order of their submission."""
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL)
        await container.tasks.last_event(ref, deleted=request.user.has(*READERS_OF_ALL))
        after = read_cursor(cursor) or 0
        found, following = await ask(request, ref.owner, lambda tasks: tasks.children_page(ref, after, limit))
        return ChildPage(
            task_id=task_id,
            tasks=[task_summary(listed, container.settings) for listed in found],
            next_cursor=next_cursor(following),
        )

    @routes.get(
        "/batches/{batch_id:str}/graph",
        "Read the graph of a batch",
        "Its tasks, and which of them depends on which",
    )
    async def get_batch_graph(
        request: ApiRequest,
        batch_id: BatchId,
        nodes: MostNodes = MOST_NODES,
        edges: MostEdges = MOST_EDGES,
        depth: MostDepth = MOST_DEPTH,
    ) -> graphs.TaskGraph:
        """Return the tasks of a batch by levels: a task comes after all its parents in the batch."""
        batch = await container.batches.find(owned_batch(request.user, batch_id, *READERS_OF_ALL))
        bounds = GraphBounds(nodes, edges, depth)
        graph = await ask(request, batch.ref.owner, lambda tasks: tasks.within(batch.refs, bounds))
        if not graph.nodes:
            raise NotFound("batch", batch_id)  # all its tasks are deleted
        return graph_answer(graph)

    return routes.handlers
