/** The client: submit, wait, follow, cancel, retry; and lists of tasks and batches. */
import { TaskCancelledError, TaskFailedError, TaskstreamError, WaitTimeoutError } from "./errors.ts";
import { Files } from "./files.ts";
import { type FollowOptions, follow, followTask, type StreamTiming } from "./follow.ts";
import { type ConnectionOptions, Http, newKey, type Query, segment } from "./http.ts";
import { Live } from "./live.ts";
import { type List, listed } from "./pages.ts";
import { type CallOptions, type CreateOptions, Keys, Queue, Schedules, Servers, Types, Webhooks } from "./resources.ts";
import { throwIfAborted } from "./timing.ts";
import {
  type BatchItem,
  type BatchSummary,
  type BatchTask,
  type BulkAnswer,
  type BulkFilter,
  hasEnded,
  type ListedBatch,
  type Me,
  type RecordedEvent,
  type StreamItem,
  type SubmitOptions,
  type TaskCount,
  type TaskDetails,
  type TaskOutline,
  type TaskQuery,
  type TaskSummary,
  type WhyAnswer,
} from "./types.ts";

export interface ClientOptions extends ConnectionOptions {
  /** For streams; the defaults suit everybody but tests. */
  streams?: StreamTiming;
}

/** A report of a running task. */
export interface Progress {
  /** Percent; null: not said. */
  progress: number | null;
  message: string | null;
  /** Text produced since the last report. */
  output: string;
  logs: string[];
}

export interface WaitOptions extends CallOptions {
  /** Longest wait; default: none. The task goes on. */
  timeoutMs?: number;
  /** Called with each report. The task is then followed over a stream. */
  onProgress?: (progress: Progress) => void;
}

export interface RunOptions extends SubmitOptions, WaitOptions {
  idempotencyKey?: string;
  /** True: a task whose wait is aborted or too long is cancelled. */
  cancelOnAbort?: boolean;
}

export interface StreamOptions extends StreamTiming, CallOptions {
  /** The `id` of the last item that you have: the stream goes on behind it. "0": the whole history. */
  after?: string;
}

export interface SubmittedBatch {
  /** One id for each 1,000 tasks. */
  batchIds: string[];
  /** In the order given. */
  taskIds: string[];
  /** Tasks that were cancelled at once, as their concurrency key is in use. */
  refused: { index: number; error: string }[];
}

/** Tasks of one request. */
export const BATCH_SIZE = 1_000;
const LONGEST_WAIT_SECONDS = 30;

export class Taskstream {
  readonly http: Http;
  readonly tasks: Tasks;
  readonly batches: Batches;
  readonly schedules: Schedules;
  readonly webhooks: Webhooks;
  readonly servers: Servers;
  readonly types: Types;
  readonly files: Files;
  readonly keys: Keys;
  readonly queue: Queue;
  private readonly timing: StreamTiming;
  private shared: Live | null = null;

  constructor(options: ClientOptions = {}) {
    this.http = new Http(options);
    this.timing = options.streams ?? {};
    this.tasks = new Tasks(this.http, this.timing);
    this.batches = new Batches(this.http);
    this.schedules = new Schedules(this.http);
    this.webhooks = new Webhooks(this.http);
    this.servers = new Servers(this.http);
    this.types = new Types(this.http);
    this.files = new Files(this.http);
    this.keys = new Keys(this.http);
    this.queue = new Queue(this.http);
  }

  /** What a page shows, over one connection for all its parts. */
  get live(): Live {
    this.shared ??= new Live(this, this.timing);
    return this.shared;
  }

  /** Submit a task and return its id. Its own repetitions after a cut or a 503 make no second task. */
  async submit(
    type: string,
    payload: unknown,
    options: SubmitOptions & CreateOptions & { prefer?: Record<string, string> } = {},
  ): Promise<string> {
    const { signal, idempotencyKey = newKey(), ...rest } = options;
    const answer = await this.http.json<{ taskId: string }>("POST", "/api/task", {
      json: { type, payload, ...rest },
      signal,
      idempotencyKey,
    });
    return answer.taskId;
  }

  /**
   * Wait for the end of a task and return it. Throws TaskFailedError, TaskCancelledError, WaitTimeoutError.
   * The wait survives cuts and restarts of the service.
   */
  async wait(taskId: string, options: WaitOptions = {}): Promise<TaskDetails> {
    const task = await this.ended(taskId, options);
    if (task.status === "FAILED") throw new TaskFailedError(task);
    if (task.status === "CANCELLED") throw new TaskCancelledError(task);
    return task;
  }

  /** Submit a task, wait for its end, and return the `data` of its result. Throws what `submit` and `wait` throw. */
  async run<T = unknown>(type: string, payload: unknown, options: RunOptions = {}): Promise<T> {
    const { timeoutMs, onProgress, cancelOnAbort, ...rest } = options;
    const taskId = await this.submit(type, payload, rest);
    try {
      const task = await this.wait(taskId, { signal: options.signal, timeoutMs, onProgress });
      return task.result?.data as T;
    } catch (error) {
      const isOver = options.signal?.aborted || error instanceof WaitTimeoutError;
      if (cancelOnAbort && isOver) await this.cancel(taskId, "its caller stopped waiting").catch(() => {});
      throw error;
    }
  }

  /**
   * Follow a task: its state, then each event and each report, to its end. A cut or a restart of the service is not
   * seen: the stream goes on after the last item, without gaps and without repetitions.
   */
  stream(taskId: string, options: StreamOptions = {}): AsyncGenerator<StreamItem> {
    return followTask(this.http, taskId, { ...this.timing, ...options });
  }

  /** Cancel a task and return it. One that was cancelled before stays so; one that has ended is a ConflictError. */
  async cancel(taskId: string, reason?: string, options: CallOptions = {}): Promise<TaskDetails> {
    return this.command(taskId, "cancel", reason, { ...options, isRepeatable: true });
  }

  /** Run a failed or cancelled task again, with its full number of attempts. */
  async retry(taskId: string, reason?: string, options: CallOptions = {}): Promise<TaskDetails> {
    return this.command(taskId, "retry", reason, { ...options, isRepeatable: false });
  }

  /**
   * Submit any number of tasks, 1,000 in a request; each request stores all of its tasks or none. `dependsOn` may have
   * indexes into `items`, of the same thousand. Repeating it with the same `idempotencyKey` makes no further tasks.
   */
  async batch(
    items: readonly (BatchItem | Record<string, unknown>)[],
    options: CreateOptions = {},
  ): Promise<SubmittedBatch> {
    const { signal, idempotencyKey = newKey() } = options;
    const done: SubmittedBatch = { batchIds: [], taskIds: [], refused: [] };
    const chunks = chunked(items);
    for (const [number, { start, tasks }] of chunks.entries()) {
      const answer = await this.http.json<{ batchId: string; taskIds: string[]; refused: SubmittedBatch["refused"] }>(
        "POST",
        "/api/tasks/batch",
        { json: tasks, signal, idempotencyKey: chunks.length > 1 ? `${idempotencyKey}.${number}` : idempotencyKey },
      );
      done.batchIds.push(answer.batchId);
      done.taskIds.push(...answer.taskIds);
      done.refused.push(...answer.refused.map(({ index, error }) => ({ index: index + start, error })));
    }
    return done;
  }

  /** Return who the caller is, and what the token permits. */
  me(options: CallOptions = {}): Promise<Me> {
    return this.http.json("GET", "/api/me", options);
  }

  /** Wait for the end of a task, whatever it is. */
  private async ended(taskId: string, options: WaitOptions): Promise<TaskDetails> {
    const { signal, timeoutMs, onProgress } = options;
    const until = timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeoutMs;
    if (onProgress) return this.reported(taskId, until, options, onProgress);
    for (;;) {
      throwIfAborted(signal);
      const left = until - Date.now();
      const wait = Math.max(0, Math.min(LONGEST_WAIT_SECONDS, Math.ceil(left / 1000)));
      const task = await this.tasks.get(taskId, { wait, signal, retries: 20 });
      if (hasEnded(task)) return task;
      if (Date.now() >= until) throw new WaitTimeoutError(taskId, timeoutMs ?? 0);
    }
  }

  private async reported(
    taskId: string,
    until: number,
    { signal, timeoutMs }: WaitOptions,
    onProgress: (progress: Progress) => void,
  ): Promise<TaskDetails> {
    const timeout = new AbortController();
    const stop = () => timeout.abort(signal?.reason);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
    const late = new WaitTimeoutError(taskId, timeoutMs ?? 0);
    const timer =
      until === Number.POSITIVE_INFINITY ? undefined : setTimeout(() => timeout.abort(late), until - Date.now());
    try {
      for await (const item of this.stream(taskId, { signal: timeout.signal })) {
        const progress = progressOf(item);
        if (progress) onProgress(progress);
      }
      return await this.tasks.get(taskId, { signal: timeout.signal });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    }
  }

  private async command(
    taskId: string,
    command: string,
    reason: string | undefined,
    options: CallOptions & { isRepeatable: boolean },
  ): Promise<TaskDetails> {
    const json = reason === undefined ? {} : { reason };
    const path = `/api/task/${segment(taskId)}/${command}`;
    const answer = await this.http.json<{ taskDetails: TaskDetails }>("POST", path, { ...options, json });
    return answer.taskDetails;
  }
}

/** Return the report in an item of a stream; null: it is none. */
export function progressOf(item: StreamItem): Progress | null {
  if (item.type === "ProgressReported") {
    const { progress, message, output, lines } = (item as { event: Partial<Record<string, unknown>> }).event;
    return {
      progress: (progress as number | null) ?? null,
      message: (message as string | null) ?? null,
      output: (output as string) ?? "",
      logs: (lines as string[]) ?? [],
    };
  }
  if (item.type === "state") {
    const { progress, message, status } = (item as { task: TaskSummary }).task;
    if (status === "PROCESSING" && (progress !== null || message !== null))
      return { progress, message, output: "", logs: [] };
  }
  return null;
}

/** Divide tasks into requests; indexes in `dependsOn` become those of their request. */
function chunked(items: readonly unknown[]): { start: number; tasks: unknown[] }[] {
  const chunks: { start: number; tasks: unknown[] }[] = [];
  for (let start = 0; start < items.length || start === 0; start += BATCH_SIZE) {
    const tasks = items.slice(start, start + BATCH_SIZE).map((item, index) => {
      const parents = (item as { dependsOn?: unknown } | null)?.dependsOn;
      if (!start || !Array.isArray(parents)) return checked(item, parents, start, items.length);
      return { ...(item as object), dependsOn: parents.map((parent) => shifted(parent, start, start + index)) };
    });
    chunks.push({ start, tasks });
  }
  return chunks;
}

function checked(item: unknown, parents: unknown, start: number, count: number): unknown {
  if (count > BATCH_SIZE && Array.isArray(parents)) for (const parent of parents) shifted(parent, start, 0);
  return item;
}

function shifted(parent: unknown, start: number, index: number): unknown {
  if (typeof parent !== "number") return parent;
  if (parent < start || parent >= start + BATCH_SIZE)
    throw new RangeError(
      `task ${index} depends on task ${parent}, which is in another request of ${BATCH_SIZE}: submit that one first and name its id`,
    );
  return parent - start;
}

export class Tasks {
  private readonly http: Http;
  private readonly timing: StreamTiming;

  constructor(http: Http, timing: StreamTiming) {
    this.http = http;
    this.timing = timing;
  }

  /** Return a task with its payload and result. `wait`: seconds to wait for its end, 60 at most. */
  async get(taskId: string, options: CallOptions & { wait?: number; retries?: number } = {}): Promise<TaskDetails> {
    const { wait, ...rest } = options;
    const timeoutMs = ((wait ?? 0) + 30) * 1000;
    const path = `/api/task/${segment(taskId)}`;
    const answer = await this.http.json<{ taskDetails: TaskDetails }>("GET", path, {
      ...rest,
      query: { wait },
      timeoutMs,
    });
    return answer.taskDetails;
  }

  /** Return a task without payload and result, and with their sizes. */
  async outline(taskId: string, options: CallOptions = {}): Promise<TaskOutline> {
    const path = `/api/task/${segment(taskId)}`;
    const answer = await this.http.json<{ taskDetails: TaskOutline }>("GET", path, {
      ...options,
      query: { bodies: false },
    });
    return answer.taskDetails;
  }

  /** List tasks, newest first: `for await` gives all of them, `await` the first page. */
  list(
    options: TaskQuery & CallOptions & Record<`label.${string}` | `payload.${string}`, string> = {},
  ): List<TaskSummary> {
    const { signal, ...query } = options;
    return listed(this.http, "/api/tasks", "tasks", query as Query, signal as AbortSignal | undefined);
  }

  /** Count tasks; with `by`, for each status, type, pool, server, owner, kind or hold. */
  count(
    options: Omit<TaskQuery, "limit" | "cursor" | "count" | "sort"> & CallOptions & { by?: string } = {},
  ): Promise<TaskCount> {
    const { signal, ...query } = options;
    return this.http.json("GET", "/api/tasks/count", { query: query as Query, signal });
  }

  /** A task's history as recorded, oldest first. */
  async *events(taskId: string, options: CallOptions & { after?: number } = {}): AsyncGenerator<RecordedEvent> {
    let after: number | null = options.after ?? 0;
    while (after !== null) {
      const page: { events: RecordedEvent[]; nextAfter: number | null } = await this.http.json(
        "GET",
        `/api/task/${segment(taskId)}/events`,
        { query: { after }, signal: options.signal },
      );
      yield* page.events;
      after = page.nextAfter;
    }
  }

  /** Return what a task waits for. */
  why(taskId: string, options: CallOptions = {}): Promise<WhyAnswer> {
    return this.http.json("GET", `/api/task/${segment(taskId)}/why`, options);
  }

  /** Return the file that is a task's result, or with `number` a file within it. The body is not read. */
  file(taskId: string, options: CallOptions & { number?: number; range?: string } = {}): Promise<Response> {
    const { number, range, signal } = options;
    const path = `/api/task/${segment(taskId)}/result/file${number === undefined ? "" : `/${number}`}`;
    return this.http.response("GET", path, {
      signal,
      headers: range ? { Accept: "*/*", Range: range } : { Accept: "*/*" },
    });
  }

  /** Follow all of your tasks, new ones too; without end, as `stream` follows one. Throws StreamsBlockedError. */
  async *stream(
    options: FollowOptions & { type?: string[]; event?: string[]; owner?: string } = {},
  ): AsyncGenerator<StreamItem> {
    const { type, event, owner, ...rest } = options;
    const given = { ...this.timing, ...rest, query: { type, event, owner } };
    for await (const { id, message } of follow(this.http, "/api/tasks/stream", given))
      yield { ...message, id } as unknown as StreamItem;
  }

  /** Cancel tasks by ids, or by a filter. Up to 1,000; with a `nextCursor` in the answer there may be more. */
  cancel(which: BulkSelection, options: CallOptions = {}): Promise<BulkAnswer> {
    return this.http.json("POST", "/api/tasks/cancel", { ...options, json: which, isRepeatable: true });
  }

  retry(which: BulkSelection, options: CallOptions = {}): Promise<BulkAnswer> {
    return this.http.json("POST", "/api/tasks/retry", { ...options, json: which });
  }

  /** Take ended tasks out of every list. */
  delete(which: BulkSelection, options: CallOptions = {}): Promise<BulkAnswer> {
    return this.http.json("POST", "/api/tasks/delete", { ...options, json: which, isRepeatable: true });
  }
}

export interface BulkSelection {
  ids?: string[];
  filter?: BulkFilter;
  reason?: string;
  dryRun?: boolean;
  cursor?: string;
}

export class Batches {
  private readonly http: Http;

  constructor(http: Http) {
    this.http = http;
  }

  get(id: string, options: CallOptions = {}): Promise<BatchSummary> {
    return this.http.json("GET", `/api/batches/${segment(id)}`, options);
  }

  list(
    options: CallOptions & { limit?: number; cursor?: string; counts?: boolean; owner?: string } = {},
  ): List<ListedBatch> {
    const { signal, ...query } = options;
    return listed(this.http, "/api/batches", "batches", query, signal);
  }

  /** Its tasks in the order given; with `results`, what they came to. */
  tasks(
    id: string,
    options: CallOptions & { status?: string[]; results?: boolean; limit?: number; cursor?: string } = {},
  ): List<BatchTask> {
    const { signal, ...query } = options;
    return listed(this.http, `/api/batches/${segment(id)}/tasks`, "tasks", query, signal);
  }

  /** Wait until all tasks of a batch have ended, however they ended. */
  async wait(
    id: string,
    options: CallOptions & { timeoutMs?: number; onProgress?: (batch: BatchSummary) => void } = {},
  ): Promise<BatchSummary> {
    const { signal, timeoutMs, onProgress } = options;
    const until = timeoutMs === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeoutMs;
    for (;;) {
      const batch = await this.http.json<BatchSummary>("GET", `/api/batches/${segment(id)}`, { signal, retries: 20 });
      onProgress?.(batch);
      if (batch.done) return batch;
      if (Date.now() >= until) throw new TaskstreamError(`the batch ${id} has not ended in time; it goes on`);
      // The task that comes last, more or less: a request that waits instead of many that do not.
      const page = await listed<BatchTask>(
        this.http,
        `/api/batches/${segment(id)}/tasks`,
        "tasks",
        { status: ["WAITING", "PROCESSING"], limit: 1 },
        signal,
      );
      const [open] = page.items;
      const left = Math.ceil((until - Date.now()) / 1000);
      const wait = Math.max(0, Math.min(onProgress ? 2 : LONGEST_WAIT_SECONDS, left));
      if (open)
        await this.http.json("GET", `/api/task/${segment(open.id)}`, {
          query: { wait, bodies: false },
          signal,
          timeoutMs: 60_000,
        });
    }
  }

  cancel(id: string, reason?: string, options: CallOptions = {}): Promise<BulkAnswer> {
    const json = reason === undefined ? {} : { reason };
    return this.http.json("POST", `/api/batches/${segment(id)}/cancel`, { ...options, json, isRepeatable: true });
  }

  retry(id: string, reason?: string, options: CallOptions = {}): Promise<BulkAnswer> {
    const json = reason === undefined ? {} : { reason };
    return this.http.json("POST", `/api/batches/${segment(id)}/retry`, { ...options, json });
  }

  async delete(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/batches/${segment(id)}`, options);
  }
}
