// Graphs of tasks: their bounds, their levels as lists, and the neighbours of a task. Pure.

export interface GraphNode {
  id: string;
  level: number;
  status: string | null;
  type: string | null;
  index: number | null;
  held: boolean;
}

export interface GraphEdge {
  parent: string;
  child: string;
}

export interface TaskGraph {
  nodes: GraphNode[];
  edges: GraphEdge[];
  truncated: { by: string[]; nodes: number; edges: number } | null;
}

/** Beyond these a graph is shown as levels. The service has the same bounds. */
export const MOST_NODES = 400;
export const MOST_EDGES = 800;
export const MOST_LEVELS = 80;
/** Milliseconds for the layout. */
export const LONGEST_LAYOUT = 3_000;

export const NODE_WIDTH = 168;
export const NODE_HEIGHT = 40;

export interface Placed {
  width: number;
  height: number;
  /** By id: the middle of each node. */
  nodes: Record<string, { x: number; y: number }>;
  edges: { parent: string; child: string; points: { x: number; y: number }[] }[];
}

export interface Level {
  level: number;
  nodes: GraphNode[];
  /** Tasks by state. */
  counts: [string, number][];
}

export function stateOf(node: GraphNode): string {
  return node.status === null ? "gone" : node.status === "WAITING" && node.held ? "held" : node.status.toLowerCase();
}

export function levelsOf(graph: TaskGraph): Level[] {
  const byLevel = new Map<number, GraphNode[]>();
  for (const node of graph.nodes) byLevel.set(node.level, [...(byLevel.get(node.level) ?? []), node]);
  return [...byLevel.entries()]
    .sort(([one], [other]) => one - other)
    .map(([level, nodes]) => {
      const counts = new Map<string, number>();
      for (const node of nodes) counts.set(stateOf(node), (counts.get(stateOf(node)) ?? 0) + 1);
      return { level, nodes, counts: [...counts.entries()] };
    });
}

/** True if a graph can be drawn. */
export function isDrawable(graph: TaskGraph): boolean {
  const levels = new Set(graph.nodes.map((node) => node.level)).size;
  return graph.nodes.length <= MOST_NODES && graph.edges.length <= MOST_EDGES && levels <= MOST_LEVELS;
}

/** The part of a graph around a task: itself, its parents and its children. */
export function focusOn(graph: TaskGraph, id: string): TaskGraph {
  const edges = graph.edges.filter((edge) => edge.parent === id || edge.child === id);
  const near = new Set([id, ...edges.flatMap((edge) => [edge.parent, edge.child])]);
  return { nodes: graph.nodes.filter((node) => near.has(node.id)), edges, truncated: null };
}

export function parentsOf(graph: TaskGraph, id: string): string[] {
  return graph.edges.filter((edge) => edge.child === id).map((edge) => edge.parent);
}

export function childrenOf(graph: TaskGraph, id: string): string[] {
  return graph.edges.filter((edge) => edge.parent === id).map((edge) => edge.child);
}

/** The task that an arrow key leads to; null: none. Left and right follow edges, up and down stay in the level. */
export function neighbour(graph: TaskGraph, placed: Placed, id: string, key: string): string | null {
  const here = placed.nodes[id];
  if (here === undefined) return null;
  const nearest = (ids: string[]): string | null => {
    let best: string | null = null;
    let least = Number.POSITIVE_INFINITY;
    for (const other of ids) {
      const place = placed.nodes[other];
      if (place === undefined || other === id) continue;
      const distance = Math.abs(place.y - here.y);
      if (distance < least) [best, least] = [other, distance];
    }
    return best;
  };
  if (key === "ArrowLeft") return nearest(parentsOf(graph, id));
  if (key === "ArrowRight") return nearest(childrenOf(graph, id));
  const column = Object.entries(placed.nodes).filter(([, place]) => Math.abs(place.x - here.x) < NODE_WIDTH / 2);
  if (key === "ArrowUp") return nearest(column.filter(([, place]) => place.y < here.y).map(([other]) => other));
  if (key === "ArrowDown") return nearest(column.filter(([, place]) => place.y > here.y).map(([other]) => other));
  return null;
}
