/** The last hour of each server at a glance: one cell a minute. */

import { EmptyState, Skeleton } from "../parts/states.tsx";
import { preferences } from "../preferences.ts";
import { href } from "../router.ts";
import { clock, count } from "../text/format.ts";
import type { Rates, Server } from "./data.ts";

const CELL = 9;
const HEIGHT = 20;

type Cell = "idle" | "busy" | "mixed" | "failing";
const WORDS: Record<Cell, string> = { idle: "idle", busy: "busy", mixed: "some failed", failing: "most failed" };

function cellOf(point: Rates["series"][number]): Cell {
  const failed = point.failed + point.attemptsFailed;
  if (!failed) return point.running || point.finished || point.attempts ? "busy" : "idle";
  return failed > point.finished ? "failing" : "mixed";
}

export function Heat({ servers, rates }: { servers: Server[]; rates: Map<string, Rates> | undefined }) {
  if (!rates) return <Skeleton rows={8} label="Loading: the last hour" />;
  const rows = servers.filter((each) => rates.has(each.id));
  if (!rows.length)
    return <EmptyState title="Nothing ran in the last hour">Once servers run tasks, each minute is a cell.</EmptyState>;
  return (
    <>
      <div class="table-frame">
        <table class="data heat">
          <thead>
            <tr>
              <th scope="col">Server</th>
              <th scope="col">Last hour, a cell a minute</th>
              <th scope="col" class="number">
                Attempts
              </th>
              <th scope="col" class="number">
                Failed
              </th>
            </tr>
          </thead>
          <tbody>{rows.map((each) => row(each.id, rates.get(each.id) as Rates))}</tbody>
        </table>
      </div>
      <ul class="heat-legend" aria-label="Cells">
        {(Object.keys(WORDS) as Cell[]).map((each) => (
          <li key={each}>
            <svg width="12" height="12" aria-hidden="true">
              <rect class={`heat-${each}`} width="12" height="12" rx="2" />
            </svg>
            {WORDS[each]}
          </li>
        ))}
        {servers.length > rows.length && (
          <li class="muted">{count(servers.length - rows.length)} more ran little: the 20 busiest are counted</li>
        )}
      </ul>
    </>
  );
}

function row(id: string, rates: Rates) {
  const cells = rates.series.map((point) => ({ point, cell: cellOf(point) }));
  const number = (wanted: Cell) => cells.filter(({ cell }) => cell === wanted).length;
  const said = (Object.keys(WORDS) as Cell[]).map((each) => `${WORDS[each]} ${number(each)}`).join(", ");
  const width = cells.length * CELL;
  return (
    <tr key={id}>
      <td>
        <a href={href("/fleet/{id}", { id })}>{id}</a>
      </td>
      <td class="heat-cells">
        <svg
          width={width}
          height={HEIGHT}
          viewBox={`0 0 ${width} ${HEIGHT}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`${id}, minutes: ${said}`}
        >
          {cells.map(({ point, cell }, index) => (
            <rect
              key={point.at}
              class={`heat-${cell}`}
              x={index * CELL}
              y={cell === "failing" ? 2 : 4}
              width={CELL - 1}
              height={cell === "failing" ? HEIGHT - 4 : HEIGHT - 8}
              rx="1.5"
            >
              <title>
                {clock(Date.parse(point.at), preferences.value.zone)}: {point.attempts} started, {point.finished}{" "}
                finished, {point.failed + point.attemptsFailed} failed
              </title>
            </rect>
          ))}
        </svg>
      </td>
      <td class="number">{count(rates.attempts)}</td>
      <td class="number">{count(rates.failed + rates.attemptsFailed)}</td>
    </tr>
  );
}
