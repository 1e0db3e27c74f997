/** One cell a task, in the order of the batch. Arrows move, Enter opens. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { markOf, StateMark } from "../parts/StateMark.tsx";
import { href, navigate } from "../router.ts";
import { Safe } from "../task/Safe.tsx";
import { type Cell, STATES, stateOf } from "./cells.ts";

const PITCH = 16;
const SIZE = 13;

export function Grid({ cells }: { cells: Cell[] }) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(640);
  const [at, setAt] = useState(0);
  const [isFocused, setFocused] = useState(false);
  useEffect(() => {
    if (!box.current) return;
    const observer = new ResizeObserver(([entry]) => setWidth(entry?.contentRect.width ?? 640));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const columns = Math.max(1, Math.floor(width / PITCH));
  const rows = Math.ceil(cells.length / columns);
  const current = cells[Math.min(at, cells.length - 1)];
  const onKey = (event: KeyboardEvent) => {
    const steps: Record<string, number> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -cells.length,
      End: cells.length,
    };
    const step = steps[event.key];
    if (event.key === "Enter" && current) {
      event.preventDefault();
      navigate(href("/task/{id}", { id: current.id }));
    } else if (step !== undefined) {
      event.preventDefault();
      event.stopPropagation();
      setAt(Math.max(0, Math.min(cells.length - 1, at + step)));
    }
  };
  return (
    <div class="cells">
      <div
        ref={box}
        class="cells-box"
        role="application"
        tabIndex={0}
        aria-label={`${cells.length} tasks in order. Arrows move, Enter opens a task.`}
        aria-describedby="cell-current"
        onKeyDown={onKey}
        onFocus={() => setFocused(true)}
        onBlur={() => setFocused(false)}
      >
        <svg width={columns * PITCH} height={rows * PITCH} aria-hidden="true">
          <Shapes />
          {cells.map((cell, index) => (
            <CellView
              key={cell.id}
              cell={cell}
              x={(index % columns) * PITCH}
              y={Math.floor(index / columns) * PITCH}
              isCurrent={isFocused && index === at}
              onPick={() => setAt(index)}
            />
          ))}
        </svg>
      </div>
      <p class="meta cell-current" id="cell-current" role="status">
        {current && (
          <>
            <span class="number muted">#{current.index}</span>{" "}
            <StateMark mark={markOf(current)} progress={current.progress} />{" "}
            <a href={href("/task/{id}", { id: current.id })}>
              <Safe text={current.type} />
            </a>{" "}
            <span class="muted">
              <Safe text={current.error || current.server} />
            </span>
          </>
        )}
      </p>
    </div>
  );
}

interface CellProps {
  cell: Cell;
  x: number;
  y: number;
  isCurrent: boolean;
  onPick: () => void;
}

function CellView({ cell, x, y, isCurrent, onPick }: CellProps) {
  const state = stateOf(cell);
  // Drawn again only when it changes: a batch has up to 1,000.
  return useMemo(
    () => (
      // biome-ignore lint/a11y/noStaticElementInteractions: the box has the keys
      <g
        class={`cell cell-${state} ${isCurrent ? "cell-on" : ""}`}
        transform={`translate(${x} ${y})`}
        onMouseEnter={onPick}
        onClick={() => navigate(href("/task/{id}", { id: cell.id }))}
      >
        <title>{`#${cell.index} ${state === "processing" ? "running" : state} ${cell.type}`}</title>
        <use href={`#cell-${state}`} />
      </g>
    ),
    [state, x, y, isCurrent, cell.id],
  );
}

/** A shape for each state: what is done is filled, what failed has a cross, what is held is dashed. */
function Shapes() {
  const rect = <rect width={SIZE} height={SIZE} rx="2" />;
  return (
    <defs>
      {STATES.map((state) => (
        <g key={state} id={`cell-${state}`}>
          {rect}
          {state === "failed" && <path class="cell-sign" d="M4 4l5 5M9 4l-5 5" />}
          {state === "cancelled" && <path d="M3 10l7-7" />}
          {state === "processing" && <rect class="cell-half" y={SIZE / 2} width={SIZE} height={SIZE / 2} rx="1" />}
        </g>
      ))}
    </defs>
  );
}
