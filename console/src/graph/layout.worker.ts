// The layout of a graph, in a worker of its own: the page goes on, and may end a layout that takes too long.

import { Graph, layout } from "@dagrejs/dagre";
import { NODE_HEIGHT, NODE_WIDTH, type Placed, type TaskGraph } from "./graph.ts";

export function place(graph: TaskGraph): Placed {
  const drawn = new Graph();
  drawn.setGraph({ rankdir: "LR", ranker: "longest-path", nodesep: 14, ranksep: 56, marginx: 12, marginy: 12 });
  drawn.setDefaultEdgeLabel(() => ({}));
  for (const node of graph.nodes) drawn.setNode(node.id, { width: NODE_WIDTH, height: NODE_HEIGHT });
  for (const edge of graph.edges) drawn.setEdge(edge.parent, edge.child);
  layout(drawn);
  const nodes: Placed["nodes"] = Object.create(null) as Placed["nodes"];
  for (const node of graph.nodes) {
    const { x, y } = drawn.node(node.id) as { x: number; y: number };
    nodes[node.id] = { x, y };
  }
  const edges = graph.edges.map(({ parent, child }) => {
    const { points } = drawn.edge(parent, child) as { points: { x: number; y: number }[] };
    return { parent, child, points: points.map(({ x, y }) => ({ x, y })) };
  });
  const { width = 0, height = 0 } = drawn.graph() as { width?: number; height?: number };
  return { width, height, nodes, edges };
}

if (typeof postMessage === "function" && typeof document === "undefined") {
  addEventListener("message", (event: MessageEvent<TaskGraph>) => postMessage(place(event.data)));
}
