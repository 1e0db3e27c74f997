/** What happened in a window: a few numbers, and finished above failed per step. */
import type { ComponentChildren } from "preact";
import type { Schema } from "../api/types.ts";
import { Duration } from "../parts/time.tsx";
import { preferences } from "../preferences.ts";
import { clock, count } from "../text/format.ts";
import { failureRate, percent } from "./server_state.ts";

type Stats = Schema<"StatsAnswer">;
const UP = 40;
const DOWN = 18;
const BAR = 6;

/** Bars: finished above the axis, failed below it and hatched. */
export function Bars({ stats, label }: { stats: Stats; label: string }) {
  const most = Math.max(...stats.series.map((each) => each.finished), 1);
  const worst = Math.max(...stats.series.map((each) => each.failed + each.attemptsFailed), 1);
  const scale = Math.max(most / UP, worst / DOWN);
  const width = stats.series.length * BAR;
  const happened = stats.window;
  return (
    <svg
      class="bars"
      viewBox={`0 0 ${width} ${UP + DOWN + 2}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={`${label}: ${count(happened.finished)} finished, ${count(happened.failed + happened.attemptsFailed)} attempts failed`}
    >
      <defs>
        <pattern id="hatch" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect width="4" height="4" class="hatch-ground" />
          <path d="M0 0v4" class="hatch-line" />
        </pattern>
      </defs>
      {stats.series.map((each, index) => {
        const good = each.finished / scale;
        const bad = (each.failed + each.attemptsFailed) / scale;
        return (
          <g key={each.at}>
            <title>
              {clock(Date.parse(each.at), preferences.value.zone)}: {each.finished} finished,{" "}
              {each.failed + each.attemptsFailed} failed
            </title>
            <rect class="bars-hit" x={index * BAR} y="0" width={BAR} height={UP + DOWN + 2} />
            {good > 0 && (
              <rect
                class="bars-good"
                x={index * BAR}
                y={UP - Math.max(1, good)}
                width={BAR - 1}
                height={Math.max(1, good)}
              />
            )}
            {bad > 0 && <rect class="bars-bad" x={index * BAR} y={UP + 1} width={BAR - 1} height={Math.max(1, bad)} />}
          </g>
        );
      })}
      <path class="bars-axis" d={`M0 ${UP + 0.5}h${width}`} />
    </svg>
  );
}

export function Facts({ facts }: { facts: [name: string, value: ComponentChildren][] }) {
  return (
    <dl class="fact-list">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** The numbers of a window beside each other. */
export function Figures({ stats }: { stats: Stats }) {
  const { window: happened } = stats;
  const rate = failureRate(happened);
  return (
    <Facts
      facts={[
        ["finished", count(happened.finished)],
        ["failed", `${count(happened.failed)}${rate ? `, ${percent(rate.share)} of attempts` : ""}`],
        ["attempts", count(happened.attempts)],
        ["wait p50 · p95", pair(happened.wait)],
        ["run p50 · p95", pair(happened.run)],
      ]}
    />
  );
}

const pair = ({ p50, p95 }: { p50: number | null; p95: number | null }) => (
  <>
    <Duration seconds={p50} /> · <Duration seconds={p95} />
  </>
);
