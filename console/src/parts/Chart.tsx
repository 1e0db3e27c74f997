/**
 * A time series: a drawing by uPlot, a sentence for those who do not see it, and a table of the same numbers.
 * Bars of `below` hang under the axis, hatched.
 */
import { useEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import { preferences } from "../preferences.ts";
import { address, navigate } from "../router.ts";
import { clock } from "../text/format.ts";
import { prefersDark } from "./scheme.ts";

export interface Series {
  label: string;
  values: (number | null)[];
  /** A colour token: `finished`, `failed`. */
  tone: "finished" | "failed" | "processing" | "waiting" | "held" | "cancelled" | "warning";
  kind?: "bars" | "line" | "dashed";
  below?: boolean;
}

interface Props {
  title: string;
  /** One sentence. */
  summary: string;
  /** Starts of the steps, milliseconds. */
  times: number[];
  series: Series[];
  format?: (value: number) => string;
  height?: number;
  asTable?: boolean;
  /** Called with the range that was dragged, milliseconds. */
  onRange?: (from: number, to: number) => void;
  /** Logarithmic values: durations. */
  log?: boolean;
  /** Instants at which something changed, milliseconds: a line with a diamond on top. */
  marks?: number[];
}

const plain = (value: number) => value.toLocaleString("en-US", { maximumFractionDigits: 2 });

export function Chart(props: Props) {
  const { title, summary, times, series, format = plain, height = 160, asTable, onRange, log } = props;
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const dark = prefersDark.value;
  const zone = preferences.value.zone;
  const shape = series.map((each) => `${each.label} ${each.tone} ${each.kind} ${each.below}`).join("|");
  const data = useMemo(
    () =>
      [
        times.map((at) => at / 1000),
        ...series.map(({ values, below }) =>
          values.map((value) => (value === null ? null : below ? -value || null : value)),
        ),
      ] as uPlot.AlignedData,
    [times, series],
  );
  useEffect(() => {
    const root = place.current;
    if (!root || asTable) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const axis = {
      stroke: colour("muted"),
      grid: { stroke: colour("line"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui",
    };
    const options: uPlot.Options = {
      width: Math.max(200, root.clientWidth),
      height,
      legend: { show: false },
      cursor: { drag: { x: Boolean(onRange), y: false, setScale: false }, points: { show: false } },
      scales: {
        x: { time: true },
        y: log
          ? {
              distr: 3,
              range: (_, low, high) => [Math.max(0.001, (low || 0.01) / 2), Math.max(0.1, (high || 1) * 1.5)],
            }
          : { range: (_, low, high) => [Math.min(0, low * 1.1), Math.max(1, high * 1.1)] },
      },
      axes: [
        { ...axis, size: 24, values: (_, splits) => splits.map((at) => clock(at * 1000, zone).slice(0, 5)) },
        {
          ...axis,
          size: 56,
          space: 28,
          // Of a logarithm: powers of ten only.
          filter: log ? (_, splits) => splits.map((at) => (Number.isInteger(Math.log10(at)) ? at : null)) : undefined,
          values: (_, splits) =>
            splits.map((value) =>
              value === null ? "" : (latest.current.format?.(Math.abs(value)) ?? plain(Math.abs(value))),
            ),
        },
      ],
      series: [
        {},
        ...series.map((each): uPlot.Series => {
          const stroke = colour(each.tone);
          if (each.kind === "line" || each.kind === "dashed")
            return {
              label: each.label,
              stroke,
              width: 1.5,
              dash: each.kind === "dashed" ? [5, 4] : undefined,
              points: { show: false },
              spanGaps: true,
            };
          return {
            label: each.label,
            stroke,
            width: each.below ? 1 : 0,
            fill: each.below ? hatched(stroke) : stroke,
            paths: uPlot.paths.bars?.({ size: [0.8, 40], gap: 0 }),
            points: { show: false },
          };
        }),
      ],
      hooks: {
        draw: [(self) => drawMarks(self, latest.current.marks ?? [], colour("warning"))],
        setSelect: [
          (self) => {
            const { left, width } = self.select;
            if (width < 4) return;
            latest.current.onRange?.(self.posToVal(left, "x") * 1000, self.posToVal(left + width, "x") * 1000);
            self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
      },
    };
    const made = new uPlot(options, data, root);
    plot.current = made;
    const observer = new ResizeObserver(() => {
      const width = Math.max(200, root.clientWidth);
      if (width !== made.width) made.setSize({ width, height });
    });
    observer.observe(root);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, height, dark, zone, asTable, log, Boolean(onRange)]);
  useEffect(() => plot.current?.setData(data), [data, props.marks]);
  return (
    <figure class="chart" aria-label={title}>
      <figcaption>
        <b>{title}</b>
        <span class="legend" aria-hidden="true">
          {series.map((each) => (
            <span key={each.label} class={`state-${each.tone}`}>
              <svg width="14" height="10" aria-hidden="true">
                <path
                  d="M1 5h12"
                  stroke="currentColor"
                  stroke-width={each.kind === "line" || each.kind === "dashed" ? 2 : 8}
                  stroke-dasharray={each.kind === "dashed" ? "3 2" : each.below ? "2 1" : undefined}
                />
              </svg>{" "}
              {each.label}
            </span>
          ))}
        </span>
      </figcaption>
      {asTable ? (
        <div class="table-frame chart-table" role="region" aria-label={title} tabIndex={0}>
          <table class="data">
            <thead>
              <tr>
                <th scope="col">Time</th>
                {series.map((each) => (
                  <th key={each.label} scope="col" class="number">
                    {each.label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {times
                .map((at, index) => (
                  <tr key={at}>
                    <th scope="row">{clock(at, zone)}</th>
                    {series.map((each) => {
                      const value = each.values[index];
                      return (
                        <td key={each.label} class="number">
                          {value === null || value === undefined ? "–" : format(value)}
                        </td>
                      );
                    })}
                  </tr>
                ))
                .reverse()}
            </tbody>
          </table>
        </div>
      ) : (
        <div ref={place} class="chart-place" role="img" aria-label={`${title}: ${summary}`} />
      )}
    </figure>
  );
}

const MARK = 4;

function drawMarks(plot: uPlot, marks: number[], colour: string): void {
  const { ctx: pen, bbox } = plot;
  pen.save();
  pen.strokeStyle = pen.fillStyle = colour;
  pen.setLineDash([2, 3]);
  for (const at of marks) {
    const x = plot.valToPos(at / 1000, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const size = MARK * devicePixelRatio;
    pen.beginPath();
    pen.moveTo(x, bbox.top + 2 * size);
    pen.lineTo(x, bbox.top + bbox.height);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(x, bbox.top);
    pen.lineTo(x + size, bbox.top + size);
    pen.lineTo(x, bbox.top + 2 * size);
    pen.lineTo(x - size, bbox.top + size);
    pen.fill();
  }
  pen.restore();
}

/** Diagonal lines: what is below the axis is told apart without its colour. */
function hatched(stroke: string): CanvasPattern | string {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  if (!pen) return stroke;
  pen.strokeStyle = stroke;
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(-1, 7);
  pen.lineTo(7, -1);
  pen.moveTo(-1, 1);
  pen.lineTo(1, -1);
  pen.moveTo(5, 7);
  pen.lineTo(7, 5);
  pen.stroke();
  return pen.createPattern(tile, "repeat") ?? stroke;
}

/** A range that was dragged on a chart goes into the page's address. */
export function rangeToAddress(from: number, to: number): void {
  const query = new URLSearchParams(address.value.query);
  query.set("from", new Date(from).toISOString());
  query.set("to", new Date(to).toISOString());
  navigate(`#${address.value.path}?${query}`);
}
