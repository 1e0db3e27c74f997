/** The state of the fake: a log of events per task, and tasks as they are folded from it. */
import type { TaskStatus } from "../types.ts";

export type Json = Record<string, unknown>;

export interface LoggedEvent {
  sequence: number;
  at: string;
  by: { kind: string; id: string };
  event: Json & { type: string };
}

export interface FakeTask {
  id: string;
  owner: string;
  type: string;
  payload: unknown;
  options: Json;
  status: TaskStatus;
  held: boolean;
  attempt: number;
  progress: number | null;
  message: string | null;
  result: Json | null;
  error: string | null;
  failureKind: string | null;
  batchId: string | null;
  scheduleId: string | null;
  createdAt: number;
  updatedAt: number;
  startedAt: number | null;
  endedAt: number | null;
  isDeleted: boolean;
  events: LoggedEvent[];
  /** Aborted when the task is cancelled. */
  running: AbortController | null;
}

const DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ENDINGS: ReadonlySet<string> = new Set(["TaskSucceeded", "TaskFailed", "TaskCancelled"]);

function base32(value: number, length: number): string {
  let text = "";
  for (let rest = value; text.length < length; rest = Math.floor(rest / 32)) text = DIGITS[rest % 32] + text;
  return text;
}

/** Return the end of ids of a user's things. */
export function ownerToken(owner: string): string {
  const plain = /^[A-Za-z0-9_-]{1,30}$/.test(owner);
  return plain
    ? owner
    : Array.from(owner, (each) => (/[A-Za-z0-9_-]/.test(each) ? each : "="))
        .join("")
        .slice(0, 36);
}

export class FakeLog {
  readonly tasks = new Map<string, FakeTask>();
  sequence = 0;
  private ids = 0;
  private readonly listeners = new Set<(task: FakeTask, entry: LoggedEvent) => void>();

  /** Return ids for things of a user that are made together: the first ends in 00 before the `~`. */
  newIds(owner: string, count: number): string[] {
    const start = `01FAKE${base32(this.ids++, 18)}`;
    return Array.from({ length: count }, (_, index) => `${start}${base32(index, 2)}~${ownerToken(owner)}`);
  }

  /** Have `listener` called with each event; the returned function ends it. */
  listen(listener: (task: FakeTask, entry: LoggedEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  append(task: FakeTask, type: string, fields: Json = {}, by = { kind: "system", id: "fake" }): void {
    const now = Date.now();
    this.sequence += 1;
    const entry = { sequence: this.sequence, at: new Date(now).toISOString(), by, event: { type, ...fields } };
    task.events.push(entry);
    task.updatedAt = now;
    fold(task, entry.event, now);
    for (const listener of [...this.listeners]) listener(task, entry);
  }

  /** The tasks of a user that are in lists, newest first; null: everybody's. */
  listed(owner: string | null): FakeTask[] {
    return [...this.tasks.values()]
      .filter((task) => !task.isDeleted && (owner === null || task.owner === owner))
      .reverse();
  }
}

function fold(task: FakeTask, event: Json, now: number): void {
  switch (event.type) {
    case "TaskQueued":
    case "TaskHeld":
      task.status = "WAITING";
      task.held = event.type === "TaskHeld";
      if (event.renewed)
        Object.assign(task, { endedAt: null, error: null, failureKind: null, result: null, attempt: 0 });
      break;
    case "AttemptStarted":
      task.status = "PROCESSING";
      task.attempt = event.attempt as number;
      task.startedAt ??= now;
      task.progress = null;
      task.message = null;
      break;
    case "ProgressReported":
      task.progress = (event.progress as number | undefined) ?? task.progress;
      task.message = (event.message as string | undefined) ?? task.message;
      break;
    case "TaskSucceeded":
      task.status = "FINISHED";
      task.result = (event.result as { inline: Json }).inline;
      break;
    case "TaskFailed":
      task.status = "FAILED";
      task.error = event.error as string;
      task.failureKind = event.kind as string;
      break;
    case "TaskCancelled":
      task.status = "CANCELLED";
      task.error = (event.reason as string) || null;
      break;
    case "TaskDeleted":
      task.isDeleted = true;
      break;
  }
  if (ENDINGS.has(event.type as string)) task.endedAt = now;
}

/** A task as lists show it. */
export function summaryOf(task: FakeTask, url: string): Json {
  const { id, status, type, owner, error, progress, message, attempt, held, failureKind, batchId, scheduleId } = task;
  const { options, createdAt, updatedAt, startedAt, endedAt } = task;
  return {
    ...{ id, status, type, priority: options.priority ?? "normal", owner },
    ...{ serverId: attempt ? "fake" : null, error, progress, message, attempt, attempts: options.attempts ?? 3 },
    ...{ createdAt, updatedAt, startedAt, endedAt, nextAttemptAt: null, callbackUrl: `${url}/api/task/${id}`, held },
    ...{ failureKind, runAt: runAtOf(task), expiresAt: options.expiresAt ?? null, deadline: options.deadline ?? null },
    ...{ concurrencyKey: options.concurrencyKey ?? null, batchId, scheduleId, cancelOutcome: null },
  };
}

/** A task by itself, with its payload and result. */
export function detailsOf(task: FakeTask, url: string): Json {
  const { options, payload, result, progress, message, status } = task;
  const report = { data: null, metadata: { status, progress, message } };
  return {
    ...summaryOf(task, url),
    request: payload,
    dependsOn: options.dependsOn ?? [],
    onParentFailure: options.onParentFailure ?? "fail",
    prefer: options.prefer ?? {},
    require: options.require ?? {},
    result: result ?? (status === "PROCESSING" && progress !== null ? report : null),
  };
}

/** Return the earliest start of a task; null: at once. */
export function runAtOf(task: FakeTask): number | null {
  const { runAt, delay } = task.options as { runAt?: number | string | null; delay?: number | null };
  if (typeof delay === "number") return task.createdAt + delay * 1000;
  return typeof runAt === "string" ? Date.parse(runAt) : (runAt ?? null);
}
