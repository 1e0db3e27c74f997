import assert from "node:assert/strict";
import { test } from "node:test";
import { focusOn, isDrawable, LONGEST_LAYOUT, levelsOf, neighbour, type TaskGraph } from "../src/graph/graph.ts";
import { place } from "../src/graph/layout.worker.ts";

/** Levels of so many tasks, each with two parents in the level before. */
function graphOf(levels: number, width: number): TaskGraph {
  const graph: TaskGraph = { nodes: [], edges: [], truncated: null };
  for (let level = 0; level < levels; level += 1) {
    for (let at = 0; at < width; at += 1) {
      const id = `${level}-${at}`;
      graph.nodes.push({
        id,
        level,
        status: level ? "WAITING" : "FINISHED",
        type: "a",
        index: null,
        held: at % 2 === 1,
      });
      if (level === 0) continue;
      graph.edges.push({ parent: `${level - 1}-${at}`, child: id });
      graph.edges.push({ parent: `${level - 1}-${(at + 1) % width}`, child: id });
    }
  }
  return graph;
}

test("parents are to the left of their children, and no two tasks overlap", () => {
  const graph = graphOf(4, 3);
  const placed = place(graph);
  for (const { parent, child, points } of placed.edges) {
    assert.ok((placed.nodes[parent]?.x ?? 0) < (placed.nodes[child]?.x ?? 0));
    assert.ok(points.length >= 2);
  }
  const places = Object.values(placed.nodes).map(({ x, y }) => `${Math.round(x)} ${Math.round(y)}`);
  assert.equal(new Set(places).size, graph.nodes.length);
  assert.ok(places.length === 12 && placed.width > 600);
});

test("the largest graph that is drawn is laid out in time", () => {
  const graph = graphOf(40, 10);
  assert.ok(isDrawable(graph) && graph.nodes.length === 400);
  const placed = place(graph);
  assert.equal(Object.keys(placed.nodes).length, 400);
  assert.ok(LONGEST_LAYOUT > 0);
});

test("a graph beyond the bounds is told by its levels", () => {
  const graph = graphOf(3, 200);
  assert.ok(!isDrawable(graph));
  const levels = levelsOf(graph);
  assert.deepEqual(
    levels.map((level) => level.nodes.length),
    [200, 200, 200],
  );
  assert.deepEqual(levels[0]?.counts, [["finished", 200]]);
  assert.deepEqual(levels[1]?.counts, [
    ["waiting", 100],
    ["held", 100],
  ]);
});

test("the arrow keys walk along edges and within a level", () => {
  const graph = graphOf(3, 3);
  const placed = place(graph);
  const right = neighbour(graph, placed, "0-0", "ArrowRight") ?? "";
  assert.match(right, /^1-/);
  assert.match(neighbour(graph, placed, right, "ArrowLeft") ?? "", /^0-/);
  assert.equal(neighbour(graph, placed, "0-0", "ArrowLeft"), null);
  const column = ["0-0", "0-1", "0-2"].sort(
    (one, other) => (placed.nodes[one]?.y ?? 0) - (placed.nodes[other]?.y ?? 0),
  );
  assert.equal(neighbour(graph, placed, column[0] ?? "", "ArrowDown"), column[1]);
  assert.equal(neighbour(graph, placed, column[2] ?? "", "ArrowUp"), column[1]);
});

test("focus leaves a task with its parents and children", () => {
  const focused = focusOn(graphOf(3, 3), "1-1");
  assert.deepEqual(focused.nodes.map((node) => node.id).sort(), ["0-1", "0-2", "1-1", "2-0", "2-1"]);
});
