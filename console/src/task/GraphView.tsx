/** Tasks and what depends on what: drawn from left to right, or as levels. The list is the accessible form. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { TaskStatus } from "../api/types.ts";
import { layOut } from "../graph/draw.ts";
import {
  focusOn,
  type GraphNode,
  levelsOf,
  NODE_HEIGHT,
  NODE_WIDTH,
  neighbour,
  type Placed,
  stateOf,
  type TaskGraph,
} from "../graph/graph.ts";
import { IdLink } from "../parts/IdLink.tsx";
import { type Mark, markOf, Shape, StateMark } from "../parts/StateMark.tsx";
import { href, navigate } from "../router.ts";
import { plural, shortId } from "../text/format.ts";
import { Safe } from "./Safe.tsx";

const LISTED = 100;

export function GraphView({ graph, current, label }: { graph: TaskGraph; current?: string; label: string }) {
  const [focus, setFocus] = useState<string | null>(null);
  const [asList, setAsList] = useState(false);
  const shown = useMemo(() => (focus ? focusOn(graph, focus) : graph), [graph, focus]);
  // The layout depends on who is there, not on their states.
  const form = shown.nodes.map((node) => node.id).join() + shown.edges.length;
  const [layout, setLayout] = useState<{ form: string; placed: Placed | null } | null>(null);
  useEffect(() => {
    let ended = false;
    void layOut(shown).then((placed) => !ended && setLayout({ form, placed }));
    return () => {
      ended = true;
    };
  }, [form]);
  const placed = layout?.form === form ? layout.placed : undefined;
  const isList = asList || placed === null;
  return (
    <div class="graph">
      <div class="viewer-bar">
        <span class="muted meta number">
          {plural(graph.nodes.length, "task")}, {plural(graph.edges.length, "dependency", "dependencies")}
        </span>
        {graph.truncated && (
          <span class="meta">There are more: the graph ends at its bound of {graph.truncated.by.join(" and ")}.</span>
        )}
        {placed === null && !asList && <span class="meta">Too large to draw: shown by levels.</span>}
        <span class="grow" />
        {focus && (
          <button type="button" class="small" onClick={() => setFocus(null)}>
            Show all
          </button>
        )}
        <span class="choices">
          <button
            type="button"
            class="small"
            aria-pressed={!isList}
            disabled={placed === null}
            onClick={() => setAsList(false)}
          >
            graph
          </button>
          <button type="button" class="small" aria-pressed={isList} onClick={() => setAsList(true)}>
            levels
          </button>
        </span>
      </div>
      {isList ? (
        <Levels graph={shown} isBatch={current === undefined} />
      ) : placed ? (
        <Drawing graph={shown} placed={placed} current={current} label={label} onFocus={(id) => setFocus(id)} />
      ) : (
        <p class="muted" role="status">
          Laying out…
        </p>
      )}
    </div>
  );
}

function mark(node: GraphNode): Mark {
  return node.status === null ? "cancelled" : markOf({ status: node.status as TaskStatus, held: node.held });
}

interface DrawingProps {
  graph: TaskGraph;
  placed: Placed;
  current?: string;
  label: string;
  onFocus: (id: string) => void;
}

function Drawing({ graph, placed, current, label, onFocus }: DrawingProps) {
  const [at, setAt] = useState<string>(current && placed.nodes[current] ? current : (graph.nodes[0]?.id ?? ""));
  const box = useRef<HTMLDivElement>(null);
  const byId = useMemo(() => new Map(graph.nodes.map((node) => [node.id, node])), [graph]);
  useEffect(() => {
    const place = placed.nodes[at];
    const element = box.current;
    if (!place || !element) return;
    element.scrollTo({ left: place.x - element.clientWidth / 2, top: place.y - element.clientHeight / 2 });
  }, [placed]);
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter") {
      event.preventDefault();
      return navigate(href("/task/{id}", { id: at }));
    }
    if (event.key === "f") {
      event.preventDefault();
      event.stopPropagation();
      return onFocus(at);
    }
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    event.stopPropagation();
    const next = neighbour(graph, placed, at, event.key);
    if (next === null) return;
    setAt(next);
    const place = placed.nodes[next];
    const element = box.current;
    if (place && element) {
      const out =
        place.x - NODE_WIDTH < element.scrollLeft ||
        place.x + NODE_WIDTH > element.scrollLeft + element.clientWidth ||
        place.y - NODE_HEIGHT < element.scrollTop ||
        place.y + NODE_HEIGHT > element.scrollTop + element.clientHeight;
      if (out) element.scrollTo({ left: place.x - element.clientWidth / 2, top: place.y - element.clientHeight / 2 });
    }
  };
  const selected = byId.get(at);
  return (
    <>
      <div
        class="graph-box"
        ref={box}
        tabIndex={0}
        role="application"
        aria-label={`${label}. Arrow keys follow dependencies, Enter opens a task, f shows its neighbours.`}
        aria-describedby="graph-current"
        onKeyDown={onKey}
      >
        <svg width={placed.width} height={placed.height} aria-hidden="true">
          {placed.edges.map((edge) => (
            <path
              key={`${edge.parent} ${edge.child}`}
              class={`edge ${edge.parent === at || edge.child === at ? "edge-on" : ""}`}
              d={curve(ends(edge.points, placed.nodes[edge.parent], placed.nodes[edge.child]))}
            />
          ))}
          {graph.nodes.map((node) => {
            const place = placed.nodes[node.id];
            if (!place) return null;
            const state = stateOf(node);
            return (
              // biome-ignore lint/a11y/noStaticElementInteractions: the box has the keys
              <g
                key={node.id}
                class={`node node-${state} ${node.id === at ? "node-on" : ""} ${node.id === current ? "node-current" : ""}`}
                transform={`translate(${place.x - NODE_WIDTH / 2} ${place.y - NODE_HEIGHT / 2})`}
                onClick={() => setAt(node.id)}
                onDblClick={() => navigate(href("/task/{id}", { id: node.id }))}
              >
                <title>{`${node.id}: ${state}`}</title>
                <rect width={NODE_WIDTH} height={NODE_HEIGHT} rx="6" />
                <g class={`state-${mark(node)}`} transform="translate(10 12)">
                  <Shape mark={mark(node)} />
                </g>
                <text class="node-id" x="34" y="17">
                  {node.index === null ? shortId(node.id).split("~")[0] : `#${node.index}`}
                </text>
                <text class="node-type" x="34" y="31">
                  {cut(node.type ?? "not known", 20)}
                </text>
              </g>
            );
          })}
        </svg>
      </div>
      <p class="graph-current meta" id="graph-current" role="status">
        {selected && (
          <>
            <StateMark mark={mark(selected)} word={selected.status === null ? "past its retention" : undefined} />{" "}
            <IdLink id={selected.id} full /> <Safe text={selected.type ?? ""} />{" "}
            {graph.nodes.length > 2 && (
              <button type="button" class="quiet small" onClick={() => onFocus(at)}>
                Only its neighbours
              </button>
            )}
          </>
        )}
      </p>
    </>
  );
}

function cut(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

type Point = { x: number; y: number };

/** An edge from the right side of a parent to the left side of a child. */
function ends(points: Point[], parent: Point | undefined, child: Point | undefined): Point[] {
  if (!parent || !child) return points;
  const [from, to] = [
    { x: parent.x + NODE_WIDTH / 2, y: parent.y },
    { x: child.x - NODE_WIDTH / 2, y: child.y },
  ];
  return [from, ...points.slice(1, -1), to];
}

function curve(points: Point[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  const last = rest[rest.length - 1] ?? first;
  if (points.length <= 3) {
    const middle = (first.x + last.x) / 2;
    return `M${first.x} ${first.y}C${middle} ${first.y} ${middle} ${last.y} ${last.x} ${last.y}`;
  }
  let path = `M${first.x} ${first.y}`;
  for (let at = 1; at < points.length - 1; at += 1) {
    const here = points[at] as Point;
    const next = points[at + 1] as Point;
    const end = at === points.length - 2 ? next : { x: (here.x + next.x) / 2, y: (here.y + next.y) / 2 };
    path += `Q${here.x} ${here.y} ${end.x} ${end.y}`;
  }
  return path;
}

function Levels({ graph, isBatch }: { graph: TaskGraph; isBatch: boolean }) {
  return (
    <ol class="levels">
      {levelsOf(graph).map((level) => (
        <li key={level.level}>
          <h3>
            {nameOf(level.level, isBatch)}{" "}
            <span class="muted meta">
              {level.counts
                .map(([state, number]) => `${number} ${state === "processing" ? "running" : state}`)
                .join(", ")}
            </span>
          </h3>
          <ul class="level-tasks">
            {level.nodes.slice(0, LISTED).map((node) => (
              <li key={node.id}>
                <StateMark mark={mark(node)} word="" /> <IdLink id={node.id} />{" "}
                <span class="muted">
                  <Safe text={node.type ?? ""} />
                </span>
              </li>
            ))}
            {level.nodes.length > LISTED && <li class="muted">and {plural(level.nodes.length - LISTED, "other")}</li>}
          </ul>
        </li>
      ))}
    </ol>
  );
}

function nameOf(level: number, isBatch: boolean): string {
  if (isBatch) return `Level ${level + 1}`;
  if (level === 0) return "This task";
  if (level === -1) return "Parents";
  if (level === 1) return "Children";
  return level < 0 ? `${-level} steps before` : `${level} steps after`;
}
