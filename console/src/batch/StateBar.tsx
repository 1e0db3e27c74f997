import { count } from "../text/format.ts";
import { STATES, type State } from "./cells.ts";

/** Tasks by state as parts of one bar. */
export function StateBar({ counts, wide = false }: { counts: Record<State, number>; wide?: boolean }) {
  const all = STATES.reduce((sum, state) => sum + counts[state], 0);
  const width = wide ? 1000 : 160;
  const height = wide ? 10 : 8;
  const words = STATES.filter((state) => counts[state]).map((state) => `${count(counts[state])} ${wordOf(state)}`);
  if (!words.length) words.push("no tasks yet");
  let at = 0;
  return (
    <svg
      class={wide ? "state-bar state-bar-wide" : "state-bar"}
      width={wide ? undefined : width}
      height={height}
      viewBox={`0 0 ${width} ${height}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={words.join(", ")}
    >
      <title>{words.join(", ")}</title>
      {STATES.map((state) => {
        const part = all ? (counts[state] / all) * width : 0;
        const x = at;
        at += part;
        return part > 0 ? <rect key={state} class={`part-${state}`} x={x} width={part} height={height} /> : null;
      })}
    </svg>
  );
}

export function wordOf(state: State): string {
  return state === "processing" ? "running" : state;
}
