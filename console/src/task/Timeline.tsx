/** What happened when: one lane for waiting, one for each attempt; the same as a table. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import {
  type Attempt,
  detailOf,
  type Phase,
  phasesUntil,
  type TaskEvent,
  type TaskStory,
  timesOf,
  titleOf,
} from "../fold/task.ts";
import { useKeys } from "../parts/keys.ts";
import { Shape } from "../parts/StateMark.tsx";
import { Exact, now } from "../parts/time.tsx";
import { preferences } from "../preferences.ts";
import { clock, duration } from "../text/format.ts";
import { OUTCOME_MARKS, OUTCOME_WORDS } from "./outcomes.ts";
import { Safe } from "./Safe.tsx";
import { byPhase, linear, type Scale, ticks } from "./scale.ts";

const LANE = 24;
const AXIS = 20;
const MOST_LANES = 8;
/** Below this share of the whole, a phase is not seen on an axis in proportion. */
const UNSEEN = 0.004;

export function Timeline({ story, events, isCut }: { story: TaskStory; events: TaskEvent[]; isCut: boolean }) {
  const isOver = story.end !== null;
  const until = isOver ? (story.end?.at ?? 0) : now.value;
  const phases = useMemo(() => phasesUntil(story, until), [story, until]);
  const [asTable, setAsTable] = useState(false);
  const [even, setEven] = useState<boolean | null>(null);
  const [zoom, setZoom] = useState<[number, number] | null>(null);
  const [cursor, setCursor] = useState<number | null>(null);
  const [allLanes, setAllLanes] = useState(false);
  const from = phases[0]?.from ?? story.submission?.at ?? until;
  const to = Math.max(from + 1, until);
  // A wait of hours beside a run of a second: the run would not be seen.
  const isEven =
    even ?? phases.some((phase) => phase.kind === "running" && (phase.to ?? to) - phase.from < (to - from) * UNSEEN);
  const scale = zoom ? linear(zoom[0], zoom[1]) : isEven ? byPhase(phases, from, to) : linear(from, to);
  const at = cursor === null ? -1 : events.findIndex((event) => event.sequence === cursor);
  const step = (by: number) => {
    const next = events[Math.max(0, Math.min(events.length - 1, at < 0 ? (by > 0 ? 0 : events.length - 1) : at + by))];
    if (next) setCursor(next.sequence);
  };
  useKeys("Timeline", [
    { key: "ArrowLeft", label: "Previous event", run: () => step(-1) },
    { key: "ArrowRight", label: "Next event", run: () => step(1) },
    { key: "v", label: "Timeline as a table", run: () => setAsTable(!asTable) },
  ]);
  const times = timesOf(phases);
  const current = events[at];
  const hidden = allLanes ? 0 : Math.max(0, story.attempts.length - MOST_LANES);
  const attempts = story.attempts.slice(hidden);
  return (
    <section class="timeline card" aria-label="Timeline">
      <div class="timeline-head">
        <h2>Timeline</h2>
        <ul class="timeline-times meta">
          {(["held", "queued", "retry", "running"] as const).map(
            (kind) =>
              times[kind] > 0 && (
                <li key={kind}>
                  <svg width="18" height="8" aria-hidden="true">
                    <PhaseLine kind={kind} x={0} width={18} y={4} />
                  </svg>
                  {WORDS[kind]} <b class="number">{duration(times[kind] / 1000)}</b>
                </li>
              ),
          )}
        </ul>
        <span class="grow" />
        <span class="choices">
          <button type="button" class="small" aria-pressed={!isEven && !asTable} onClick={() => choose(false)}>
            to scale
          </button>
          <button type="button" class="small" aria-pressed={isEven && !asTable} onClick={() => choose(true)}>
            all seen
          </button>
          <button type="button" class="small" aria-pressed={asTable} onClick={() => setAsTable(!asTable)}>
            table
          </button>
        </span>
        {zoom && (
          <button type="button" class="small" onClick={() => setZoom(null)}>
            Fit
          </button>
        )}
      </div>
      {isCut && <p class="muted meta">The oldest events of this task are not loaded.</p>}
      {story.submission === null && !isCut && (
        <p class="muted meta">The beginning of this history is past its retention.</p>
      )}
      {hidden > 0 && !asTable && (
        <button type="button" class="quiet small" onClick={() => setAllLanes(true)}>
          {hidden} earlier attempts
        </button>
      )}
      {asTable ? (
        <PhaseTable phases={phases} attempts={story.attempts} />
      ) : (
        <Lanes
          phases={phases}
          attempts={attempts}
          scale={scale}
          until={to}
          isOver={isOver}
          isEven={isEven && !zoom}
          summary={summaryOf(phases, story)}
          events={events}
          cursor={current ? Date.parse(current.at) : null}
          onZoom={setZoom}
          onEvent={setCursor}
        />
      )}
      {current && (
        <p class="timeline-event meta" role="status">
          <b>{titleOf(current)}</b> <Exact at={current.at} />{" "}
          <span class="muted">
            by {current.by.kind} <Safe text={current.by.id} />
          </span>{" "}
          <Safe text={detailOf(current)} />
        </p>
      )}
    </section>
  );

  function choose(wanted: boolean) {
    setEven(wanted);
    setAsTable(false);
    setZoom(null);
  }
}

const WORDS: Record<Phase["kind"], string> = {
  held: "held",
  queued: "in queue",
  retry: "until retry",
  running: "running",
};

function summaryOf(phases: Phase[], story: TaskStory): string {
  const parts = phases.map(
    (phase) => `${WORDS[phase.kind]} ${duration(((phase.to ?? phase.from) - phase.from) / 1000)}`,
  );
  const end = story.end ? `, then ${story.end.status.toLowerCase()}` : ", until now";
  return `${parts.slice(-12).join(", ")}${end}`;
}

function PhaseLine({ kind, x, width, y }: { kind: Phase["kind"]; x: number; width: number; y: number }) {
  if (kind === "running")
    return <rect class="phase-running" x={x} y={y - 4} width={Math.max(2, width)} height="8" rx="2" />;
  return <line class={`phase-${kind}`} x1={x} x2={x + Math.max(1, width)} y1={y} y2={y} />;
}

interface LanesProps {
  phases: Phase[];
  attempts: Attempt[];
  scale: Scale;
  until: number;
  isOver: boolean;
  isEven: boolean;
  summary: string;
  events: TaskEvent[];
  cursor: number | null;
  onZoom: (range: [number, number] | null) => void;
  onEvent: (sequence: number) => void;
}

function Lanes({
  phases,
  attempts,
  scale,
  until,
  isOver,
  isEven,
  summary,
  events,
  cursor,
  onZoom,
  onEvent,
}: LanesProps) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(800);
  const [drag, setDrag] = useState<[number, number] | null>(null);
  useEffect(() => {
    if (!box.current) return;
    const observer = new ResizeObserver(([entry]) => setWidth(entry?.contentRect.width ?? 800));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const gutter = width < 500 ? 84 : 132;
  const room = Math.max(100, width - gutter - 24);
  const x = (at: number) => gutter + scale.place(at) * room;
  const waits = phases.filter((phase) => phase.kind !== "running");
  const height = (1 + attempts.length) * LANE + AXIS;
  const length = scale.to - scale.from;
  const start = phases[0]?.from ?? scale.from;
  const marks = isEven ? [] : ticks(length, Math.max(2, Math.floor(room / 110))).map((offset) => scale.from + offset);
  const placeOf = (event: PointerEvent) => {
    const bounds = box.current?.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - (bounds?.left ?? 0) - gutter) / room));
  };
  const finish = (event: PointerEvent) => {
    if (!drag) return;
    const [one, other] = [drag[0], placeOf(event)].sort((a, b) => a - b) as [number, number];
    setDrag(null);
    if ((other - one) * room > 8) return onZoom([scale.at(one), Math.max(scale.at(other), scale.at(one) + 1)]);
    const here = scale.at(other);
    const nearest = events.reduce<TaskEvent | null>((best, each) => {
      const distance = Math.abs(Date.parse(each.at) - here);
      return best === null || distance < Math.abs(Date.parse(best.at) - here) ? each : best;
    }, null);
    if (nearest) onEvent(nearest.sequence);
  };
  return (
    <div class="lanes" ref={box}>
      <svg
        width={width}
        height={height}
        role="img"
        aria-label={summary}
        onPointerDown={(event) => setDrag([placeOf(event), placeOf(event)])}
        onPointerMove={(event) => drag && setDrag([drag[0], placeOf(event)])}
        onPointerUp={finish}
        onPointerLeave={() => setDrag(null)}
      >
        {marks.map((at) => (
          <g key={at} class="tick">
            <line x1={x(at)} x2={x(at)} y1="0" y2={height - AXIS} />
            <text class={x(at) > gutter + room - 40 ? "tick-end" : ""} x={x(at)} y={height - 6}>
              {at === start ? clock(at, preferences.value.zone) : offsetOf(at - start)}
            </text>
          </g>
        ))}
        {isEven && (
          <text class="tick-text" x={gutter} y={height - 6}>
            {clock(start, preferences.value.zone)}, {duration((scale.to - start) / 1000)} in all; lengths are not to
            scale
          </text>
        )}
        <text class="lane-name" x="0" y={LANE / 2 + 4}>
          waiting
        </text>
        {waits.map((phase) => {
          const end = phase.to ?? until;
          if (end < scale.from || phase.from > scale.to) return null;
          return (
            <g key={`${phase.sequence} ${phase.kind}`}>
              <title>{`${WORDS[phase.kind]} ${duration((end - phase.from) / 1000)}`}</title>
              <PhaseLine kind={phase.kind} x={x(phase.from)} width={x(end) - x(phase.from)} y={LANE / 2} />
              {x(end) - x(phase.from) > 84 && (
                <text class="phase-text" x={(x(phase.from) + x(end)) / 2} y={LANE / 2 - 4}>
                  {WORDS[phase.kind]} {duration((end - phase.from) / 1000)}
                </text>
              )}
            </g>
          );
        })}
        {attempts.map((attempt, lane) => (
          <Bar
            key={attempt.number}
            attempt={attempt}
            y={(lane + 1) * LANE + LANE / 2}
            x={x}
            scale={scale}
            until={until}
            isOver={isOver}
            room={gutter + room}
            letters={Math.floor((gutter - 28) / 7)}
          />
        ))}
        {cursor !== null && cursor >= scale.from && cursor <= scale.to && (
          <line class="lane-cursor" x1={x(cursor)} x2={x(cursor)} y1="0" y2={height - AXIS} />
        )}
        {drag && (
          <rect
            class="lane-drag"
            x={gutter + Math.min(...drag) * room}
            width={Math.abs(drag[1] - drag[0]) * room}
            y="0"
            height={height - AXIS}
          />
        )}
      </svg>
    </div>
  );
}

interface BarProps {
  attempt: Attempt;
  y: number;
  x: (at: number) => number;
  scale: Scale;
  until: number;
  isOver: boolean;
  room: number;
  letters: number;
}

function Bar({ attempt, y, x, scale, until, room, letters }: BarProps) {
  const from = attempt.startedAt ?? scale.from;
  const to = attempt.endedAt ?? until;
  const mark = OUTCOME_MARKS[attempt.outcome];
  const label = `#${attempt.number} ${attempt.server}`;
  const length = duration((to - from) / 1000);
  const isSeen = to >= scale.from && from <= scale.to;
  const width = Math.max(3, x(to) - x(from));
  const words =
    attempt.outcome === "running" || attempt.outcome === "succeeded"
      ? length
      : `${attempt.kind || OUTCOME_WORDS[attempt.outcome]}, ${length}`;
  const after = x(from) + width + 22;
  const letterWidth = 6.6;
  const fits = after + words.length * letterWidth < room + 20;
  const fitsInside = !fits && width > words.length * letterWidth + 24;
  return (
    <g class={`bar-${mark}`}>
      <title>{`${label}: ${OUTCOME_WORDS[attempt.outcome]} after ${length}`}</title>
      <text class="lane-name" x="0" y={y + 4}>
        {label.length > letters ? `${label.slice(0, letters - 1)}…` : label}
      </text>
      {isSeen && (
        <>
          <rect class="attempt" x={x(from)} y={y - 7} width={width} height="14" rx="3" />
          {thinned(attempt.marks).map((each, index) => (
            <line key={index} class="progress-mark" x1={x(each.at)} x2={x(each.at)} y1={y - 4} y2={y + 4} />
          ))}
          <g class={`state-${mark}`} transform={`translate(${x(from) + width + 4} ${y - 7}) scale(0.875)`}>
            <Shape mark={mark} progress={attempt.progress} />
          </g>
          <text
            class={fits || fitsInside ? "bar-text" : "bar-text bar-text-end"}
            x={fits ? after : fitsInside ? x(from) + 8 : x(from) - 6}
            y={y + 4}
          >
            {words}
          </text>
        </>
      )}
    </g>
  );
}

const MOST_TICKS = 80;

/** Some of many, evenly. */
function thinned<T>(all: T[]): T[] {
  const step = Math.ceil(all.length / MOST_TICKS);
  return step > 1 ? all.filter((_, index) => index % step === 0) : all;
}

/** Of a tick: milliseconds below a second, so that no two are equal. */
function offsetOf(milliseconds: number): string {
  return `+${milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : duration(milliseconds / 1000)}`;
}

function PhaseTable({ phases, attempts }: { phases: Phase[]; attempts: Attempt[] }) {
  return (
    <div class="table-frame">
      <table class="data">
        <thead>
          <tr>
            <th scope="col">phase</th>
            <th scope="col">from</th>
            <th scope="col" class="number">
              length
            </th>
            <th scope="col">server</th>
            <th scope="col">outcome, reason</th>
          </tr>
        </thead>
        <tbody>
          {phases.map((phase, index) => {
            const attempt = attempts.find((each) => each.number === phase.attempt);
            const isRun = phase.kind === "running";
            return (
              <tr key={index}>
                <td>{isRun ? `attempt ${phase.attempt}` : WORDS[phase.kind]}</td>
                <td class="number-left">
                  <Exact at={phase.from} />
                </td>
                <td class="number" data-title="length">
                  {duration(((phase.to ?? phase.from) - phase.from) / 1000)}
                </td>
                <td>{isRun && <Safe text={attempt?.server ?? ""} />}</td>
                <td class="wide">
                  {isRun && attempt ? (
                    `${OUTCOME_WORDS[attempt.outcome]} ${attempt.kind}`
                  ) : (
                    <Safe text={phase.reason} />
                  )}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
