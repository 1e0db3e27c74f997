/** The parts of a page: a task, a list of tasks, the queue of a user's projects. */
import type { Taskstream } from "./client.ts";
import { ApiError, AuthenticationError, TaskCancelledError, TaskFailedError, TaskstreamError } from "./errors.ts";
import type { EventAnswer, Followed } from "./follow.ts";
import { segment, withQuery } from "./http.ts";
import { initialView, type TaskView, withEvent, withOutput, withTask } from "./task_view.ts";
import {
  hasEnded,
  type QueuedTask,
  type StreamItem,
  type TaskDetails,
  type TaskQuery,
  type TaskSummary,
} from "./types.ts";

export interface TasksView {
  tasks: readonly TaskSummary[];
  isLoading: boolean;
  error: Error | null;
  /** There are more than `limit`. */
  hasMore: boolean;
}

export interface QueuedView {
  tasks: readonly QueuedTask[];
  isLoading: boolean;
  error: Error | null;
}

/** Who keeps the parts up to date. */
export interface PartHost {
  readonly client: Taskstream;
  readonly isLive: boolean;
  /** What the parts ask for has changed. */
  plan(): void;
}

const RELOAD_MS = 1_000;

type Message = Followed["message"];

/** A part of a page: what it shows, who listens, and how it is kept up to date. */
export abstract class Part<T> {
  value: T;
  readonly listeners = new Set<() => void>();
  /** Ends it a while after its last listener has gone. */
  lingering: ReturnType<typeof setTimeout> | undefined;
  /** True: the stream has no place for its topic. It stays so, or the stream would be opened anew for it. */
  isCrowded = false;
  protected readonly live: PartHost;
  private reading: Promise<void> | null = null;
  private isStale = false;
  private reloading: ReturnType<typeof setTimeout> | undefined;

  constructor(live: PartHost, value: T) {
    this.live = live;
    this.value = value;
  }

  /** True: it was read, or found to be unreadable. */
  get isLoaded(): boolean {
    return !(this.value as { isLoading: boolean }).isLoading;
  }

  /** What it asks of the stream; null: nothing any more. */
  abstract get topic(): string | null;
  abstract take(message: Message): void;
  /** Read it anew. */
  protected abstract read(): Promise<void>;
  /** Show an error. `isFinal`: another try does not mend it. */
  protected abstract fail(error: Error, isFinal: boolean): void;
  /** Take a message of the topic of all tasks: this part has no topic of its own in the stream. */
  abstract takeOther(message: Message): void;

  /** Read it anew; calls at the same time make one further reading. */
  refresh(): Promise<void> {
    if (this.reading) {
      this.isStale = true;
      return this.reading;
    }
    this.reading = this.readUntilFresh().finally(() => {
      this.reading = null;
    });
    return this.reading;
  }

  /** Read it anew in a moment, once for all changes until then. */
  protected reload(): void {
    this.reloading ??= setTimeout(() => {
      this.reloading = undefined;
      if (this.listeners.size) void this.refresh();
    }, RELOAD_MS);
  }

  protected set(value: T): void {
    if (value === this.value) return;
    this.value = value;
    for (const listener of [...this.listeners]) listener();
  }

  private async readUntilFresh(): Promise<void> {
    do {
      this.isStale = false;
      try {
        await this.read();
      } catch (error) {
        // An outage is shown by `connection`; what was read before stays.
        if (error instanceof ApiError && error.status < 500 && error.status !== 429)
          this.fail(error, !(error instanceof AuthenticationError));
      }
      if (this.isStale) await new Promise((resolve) => setTimeout(resolve, RELOAD_MS));
    } while (this.isStale && this.listeners.size);
  }
}

export class TaskPart extends Part<TaskView> {
  private readonly id: string;
  /** Up to where its events are in the view. */
  private sequence = 0;
  /** True: reports are in the view that the log may have in another form. */
  private hasLiveReports = false;
  /** True: its stream has ended, or it cannot be read. */
  private isOver = false;
  /** Messages are taken one after the other, each when what it needs was read. */
  private work: Promise<void> = Promise.resolve();

  constructor(live: PartHost, id: string) {
    super(live, initialView(id));
    this.id = id;
  }

  get topic(): string | null {
    return this.isOver ? null : `task:${this.id}`;
  }

  /** Follow it again: it was retried. */
  revive(): void {
    this.isOver = false;
    this.live.plan();
  }

  take(message: Message): void {
    this.work = this.work.then(() => this.apply(message)).catch(() => this.reload());
  }

  takeOther(message: Message): void {
    const rows = (message.rows as TaskSummary[] | undefined) ?? [];
    const isOther = message.type === "tasks" && !(message.more as number) && !rows.some((row) => row.id === this.id);
    if (!isOther) this.reload();
  }

  private async apply(message: Message): Promise<void> {
    if (message.type === "events") for (const item of message.events as StreamItem[]) await this.applyItem(item);
    else if (message.type === "ended") {
      if (!this.value.isEnded) await this.readTask();
      this.isOver = true;
      this.live.plan();
    } else if (message.type === "more" || message.type === "broken" || message.type === "reset") await this.rebuild();
  }

  private async applyItem(item: StreamItem): Promise<void> {
    if (item.type === "state" && "task" in item) {
      this.set(withTask(this.value, item.task as TaskDetails));
      if (hasEnded(item.task) || item.task.attempt > 0) await this.rebuild();
      this.sequence = Math.max(this.sequence, item.sequence);
      return;
    }
    if (item.type === "gap" || item.type === "reset") return this.rebuild();
    if (!("event" in item)) return;
    if (item.sequence === null) this.hasLiveReports = true;
    else if (item.sequence <= this.sequence) return;
    else this.sequence = item.sequence;
    if (item.type === "TaskDeleted") return this.fail(new TaskstreamError("the task was deleted"), true);
    const { isEnded, task } = this.value;
    // What was read of the end is newer than events that were missed before.
    const isOlder = isEnded && task !== null && Date.parse(item.at) < task.updatedAt;
    this.set(
      isOlder ? withOutput(this.value, item.type, item.event as Record<string, unknown>) : withEvent(this.value, item),
    );
    if (item.type === "TaskSucceeded" || item.type === "TaskFailed" || item.type === "TaskCancelled")
      await this.readTask();
  }

  protected read(): Promise<void> {
    const reading = this.work.then(async () => {
      if (this.hasLiveReports) return this.rebuild();
      this.set(await this.caughtUp(this.value));
      return this.readTask();
    });
    this.work = reading.catch(() => {});
    return reading;
  }

  /** Make the view anew from the log. */
  private async rebuild(): Promise<void> {
    this.hasLiveReports = false;
    this.sequence = 0;
    const { output, logs } = await this.caughtUp(initialView(this.id));
    this.value = { ...this.value, output, logs };
    await this.readTask();
  }

  /** Return a view with the output and lines that the log has behind `sequence`. */
  private async caughtUp(view: TaskView): Promise<TaskView> {
    let after: number | null = this.sequence;
    while (after !== null) {
      const page: EventAnswer = await this.live.client.http.json("GET", `/api/task/${segment(this.id)}/events`, {
        query: { after, event: "ProgressReported,AttemptStarted" },
      });
      for (const { sequence, event } of page.events) {
        view = withOutput(view, event.type, event as Record<string, unknown>);
        this.sequence = Math.max(this.sequence, sequence);
      }
      after = page.nextAfter;
    }
    return view;
  }

  private async readTask(): Promise<void> {
    const task = await this.live.client.tasks.get(this.id);
    const error =
      task.status === "FAILED"
        ? new TaskFailedError(task)
        : task.status === "CANCELLED"
          ? new TaskCancelledError(task)
          : null;
    this.set({ ...withTask(this.value, task), error });
    // Where nothing is pushed, nothing says `ended` either.
    if (hasEnded(task) && !this.live.isLive) this.isOver = true;
  }

  protected fail(error: Error, isFinal: boolean): void {
    this.isOver = isFinal;
    this.set({ ...this.value, isLoading: false, error });
    this.live.plan();
  }
}

export class TasksPart extends Part<TasksView> {
  readonly query: TaskQuery;
  private readonly limit: number;
  private isRefused = false;

  constructor(live: PartHost, query: TaskQuery) {
    super(live, { tasks: [], isLoading: true, error: null, hasMore: false });
    this.query = query;
    this.limit = query.limit ?? 50;
  }

  get topic(): string | null {
    if (this.isRefused) return null;
    const { limit: _, cursor: __, sort: ___, count: ____, ...filters } = this.query;
    return `tasks:${withQuery("", filters).slice(1)}`;
  }

  take(message: Message): void {
    const isOrdered = !this.query.sort || this.query.sort === "-created";
    if (message.type === "reset" || message.type === "more" || (message.more as number) > 0 || !isOrdered)
      this.reload();
    if (message.type !== "tasks" || !isOrdered) return;
    const { rows, left } = message as unknown as { rows: TaskSummary[]; left: string[] };
    const gone = new Set(left);
    const changed = new Map(rows.map((row) => [row.id, row]));
    const kept = this.value.tasks.filter((task) => !gone.has(task.id));
    const isShort = kept.length < this.value.tasks.length;
    const tasks = kept.map((task) => {
      const row = changed.get(task.id);
      changed.delete(task.id);
      return row && row.updatedAt >= task.updatedAt ? row : task;
    });
    const last = this.value.hasMore ? tasks.at(-1) : undefined;
    for (const row of changed.values()) if (!last || row.createdAt >= last.createdAt) tasks.push(row);
    tasks.sort((a, b) => b.createdAt - a.createdAt || (a.id < b.id ? 1 : -1));
    const hasMore = this.value.hasMore || tasks.length > this.limit;
    this.set({ ...this.value, tasks: tasks.slice(0, this.limit), hasMore });
    if (isShort && this.value.hasMore) this.reload();
  }

  protected async read(): Promise<void> {
    const page = await this.live.client.tasks.list({ ...this.query, limit: this.limit });
    this.isRefused = false;
    this.set({ tasks: page.items, isLoading: false, error: null, hasMore: page.nextCursor !== null });
  }

  takeOther(): void {
    this.reload();
  }

  protected fail(error: Error, isFinal: boolean): void {
    this.isRefused = isFinal;
    this.live.plan();
    this.set({ ...this.value, isLoading: false, error });
  }
}

const QUEUE_STATUS: Record<string, QueuedTask["status"]> = {
  WAITING: "pending",
  PROCESSING: "processing",
  FINISHED: "completed",
  FAILED: "failed",
  CANCELLED: "failed",
};

export class QueuedPart extends Part<QueuedView> {
  constructor(live: PartHost) {
    super(live, { tasks: [], isLoading: true, error: null });
  }

  get topic(): string {
    return "tasks:type=chapter&type=outline";
  }

  take(message: Message): void {
    if (message.type === "reset" || message.type === "more") this.reload();
    if (message.type !== "tasks") return;
    const { rows, left, more } = message as unknown as { rows: TaskSummary[]; left: string[]; more: number };
    const changed = new Map(rows.map((row) => [row.id, row]));
    const tasks = this.value.tasks.map((task) => {
      const row = changed.get(task.id);
      if (!row || hasEnded(row) || row.updatedAt < task.updatedAt) return task;
      changed.delete(task.id);
      const progress = Math.floor(row.progress ?? task.progress);
      return {
        ...task,
        status: QUEUE_STATUS[row.status] ?? task.status,
        progress,
        message: row.message,
        updatedAt: row.updatedAt,
      };
    });
    this.set({ ...this.value, tasks });
    // New ones, and ended ones, have fields that rows lack.
    if (changed.size || left.length || more) this.reload();
  }

  protected async read(): Promise<void> {
    this.set({ tasks: await this.live.client.queue.list(), isLoading: false, error: null });
  }

  takeOther(): void {}

  protected fail(error: Error): void {
    this.set({ ...this.value, isLoading: false, error });
  }
}
