// The tasks of a batch as cells: each as its state and the events of the batch's stream say. Pure.

import type { TaskStatus } from "../api/types.ts";

export interface Cell {
  id: string;
  /** Place in the batch, from 0. */
  index: number;
  type: string;
  status: TaskStatus;
  held: boolean;
  progress: number | null;
  server: string;
  error: string;
  kind: string;
  attempt: number;
  attempts: number;
  startedAt: number | null;
  endedAt: number | null;
  nextAttemptAt: number | null;
}

export interface Summary {
  id: string;
  type: string;
  status: TaskStatus;
  held: boolean;
  progress: number | null;
  serverId: string | null;
  error: string | null;
  failureKind: string | null;
  attempt: number;
  attempts: number;
  startedAt: number | null;
  endedAt: number | null;
  nextAttemptAt: number | null;
}

const DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** The index of a task in its batch: the last two digits of its id before the owner, in base 32. */
export function indexOf(id: string): number {
  const key = id.split("~")[0] ?? "";
  return DIGITS.indexOf(key.at(-2) ?? "") * 32 + DIGITS.indexOf(key.at(-1) ?? "");
}

export function cellOf(task: Summary): Cell {
  return {
    id: task.id,
    index: indexOf(task.id),
    type: task.type,
    status: task.status,
    held: task.held,
    progress: task.progress,
    server: task.serverId ?? "",
    error: task.error ?? "",
    kind: task.failureKind ?? "",
    attempt: task.attempt,
    attempts: task.attempts,
    startedAt: task.startedAt,
    endedAt: task.endedAt,
    nextAttemptAt: task.nextAttemptAt,
  };
}

/** A cell after an event of its task; null: the task is deleted. */
export function after(cell: Cell, event: { type: string; [field: string]: unknown }, at: number): Cell | null {
  const text = (name: string): string => (typeof event[name] === "string" ? (event[name] as string) : "");
  const waiting = { status: "WAITING" as const, progress: null, endedAt: null, nextAttemptAt: null };
  switch (event.type) {
    case "TaskHeld":
      return { ...cell, ...waiting, held: true, ...(event.renewed === true ? { error: "", kind: "" } : {}) };
    case "TaskQueued":
      return { ...cell, ...waiting, held: false, ...(event.renewed === true ? { error: "", kind: "" } : {}) };
    case "AttemptStarted":
      return {
        ...cell,
        status: "PROCESSING",
        held: false,
        server: text("server_id"),
        attempt: Number(event.attempt ?? cell.attempt),
        startedAt: cell.startedAt ?? at,
        nextAttemptAt: null,
      };
    case "ProgressReported":
      return typeof event.progress === "number" ? { ...cell, progress: event.progress } : cell;
    case "AttemptFailed":
      return {
        ...cell,
        ...waiting,
        error: text("error"),
        kind: text("kind"),
        nextAttemptAt: Date.parse(text("retry_at")),
      };
    case "AttemptReturned":
      return { ...cell, ...waiting };
    case "TaskSucceeded":
      return { ...cell, status: "FINISHED", held: false, progress: 100, error: "", kind: "", endedAt: at };
    case "TaskFailed":
      return { ...cell, status: "FAILED", held: false, error: text("error"), kind: text("kind"), endedAt: at };
    case "TaskCancelled":
      return { ...cell, status: "CANCELLED", held: false, error: text("reason"), kind: "", endedAt: at };
    case "TaskDeleted":
      return null;
    default:
      return cell;
  }
}

export type State = "finished" | "processing" | "waiting" | "held" | "failed" | "cancelled";
/** In the order of a bar: what is done first. */
export const STATES: State[] = ["finished", "failed", "cancelled", "processing", "waiting", "held"];

export function stateOf(cell: Pick<Cell, "status" | "held">): State {
  return cell.status === "WAITING" && cell.held ? "held" : (cell.status.toLowerCase() as State);
}

export function countStates(cells: Iterable<Cell>): Record<State, number> {
  const counts: Record<State, number> = { finished: 0, failed: 0, cancelled: 0, processing: 0, waiting: 0, held: 0 };
  for (const cell of cells) counts[stateOf(cell)] += 1;
  return counts;
}

export interface ErrorGroup {
  kind: string;
  /** The error of one of them. */
  sample: string;
  cells: Cell[];
}

/** Failed tasks by their errors, without numbers and ids; the largest group first. */
export function groupErrors(cells: readonly Cell[]): ErrorGroup[] {
  const groups = new Map<string, ErrorGroup>();
  for (const cell of cells) {
    if (cell.status !== "FAILED") continue;
    const form = `${cell.kind} ${cell.error.slice(0, 300).replace(/[0-9A-HJKMNP-TV-Z]{20,}|0x[0-9a-f]+|\d+/gi, "#")}`;
    const group = groups.get(form);
    if (group) group.cells.push(cell);
    else groups.set(form, { kind: cell.kind, sample: cell.error, cells: [cell] });
  }
  return [...groups.values()].sort((one, other) => other.cells.length - one.cells.length);
}

const ENOUGH = 20;
const SHORT_MS = 60_000;
const LONG_MS = 300_000;

/** Seconds until all have ended, as a range, by the rates of the last minute and the last five; null: not known. */
export function timeLeft(cells: readonly Cell[], now: number): [number, number] | null {
  const ends = cells.flatMap((cell) => (cell.endedAt === null ? [] : [cell.endedAt])).sort((one, other) => one - other);
  const left = cells.length - ends.length;
  if (left === 0 || ends.length < ENOUGH) return null;
  const rate = (window: number): number => {
    const since = Math.max(now - window, ends[0] ?? now);
    const ended = ends.filter((at) => at >= since).length;
    return now > since ? (ended / (now - since)) * 1000 : 0;
  };
  const rates = [rate(SHORT_MS), rate(LONG_MS)];
  if (rates.some((each) => each <= 0)) return null;
  return [left / Math.max(...rates), left / Math.min(...rates)];
}
