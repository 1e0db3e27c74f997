/** Everything that a task's page knows: the task, why it is so, its events, and what its server sends as it comes. */
import { type Signal, signal } from "@preact/signals";
import { type ApiError, get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { foldTask, inOrder, type TaskEvent, type TaskStory } from "../fold/task.ts";
import type { Why } from "../fold/why.ts";
import { follow, type StreamState } from "../live/stream.ts";
import { isPaused } from "../parts/resource.ts";

export type Outline = Schema<"TaskOutline">;
type Page = { events: TaskEvent[]; nextAfter: number | null; nextBefore: number | null; total: number };

/** Events but progress: those that phases and attempts are folded from. */
const STRUCTURE = [
  "TaskSubmitted",
  "TaskHeld",
  "TaskQueued",
  "AttemptStarted",
  "AttemptAccepted",
  "AttemptFailed",
  "AttemptReturned",
  "TaskSucceeded",
  "TaskFailed",
  "TaskCancelled",
  "CancelReported",
  "TaskDeleted",
];
const STRUCTURE_SHOWN = 2_000;
const MARKS_SHOWN = 200;
const KEPT = 5_000;
const REFRESH_MS = 300;
const FLUSH_MS = 250;
const WAITING_MS = 5_000;

export const isActive = (status: string): boolean => status === "WAITING" || status === "PROCESSING";

export class TaskFeed {
  readonly id: string;
  readonly outline = signal<Outline | null>(null);
  readonly error = signal<ApiError | Error | null>(null);
  readonly why = signal<Why | null>(null);
  /** Newest last, without bodies. */
  readonly events: Signal<TaskEvent[]> = signal([]);
  readonly story = signal<TaskStory | null>(null);
  /** Events of the task in the log; null: not known yet. */
  readonly total = signal<number | null>(null);
  /** Events that were not loaded, as there are too many. */
  readonly isCut = signal(false);
  readonly stream = signal<StreamState>("connecting");
  readonly streamError = signal<Error | null>(null);
  /** Events that the stream lacks: past the retention. */
  readonly gap = signal(false);
  /** Hears each report as it comes, with its output; null: nobody shows it. */
  listener: ReportListener | null = null;

  private readonly aborting = new AbortController();
  private unfollow: (() => void) | null = null;
  private refreshing: ReturnType<typeof setTimeout> | undefined;
  private waiting: ReturnType<typeof setInterval> | undefined;
  private flushing: ReturnType<typeof setTimeout> | undefined;
  /** Of the last reports, until they are drawn. */
  private reported: { progress?: number; message?: string } = {};

  constructor(id: string) {
    this.id = id;
  }

  private get path(): string {
    return `/api/task/${encodeURIComponent(this.id)}`;
  }

  open(): void {
    void this.load();
    this.waiting = setInterval(() => {
      if (document.visibilityState === "hidden" || isPaused.peek() || this.outline.peek() === null) return;
      void this.refresh();
    }, WAITING_MS);
  }

  close(): void {
    this.aborting.abort();
    this.unfollow?.();
    clearTimeout(this.refreshing);
    clearTimeout(this.flushing);
    clearInterval(this.waiting);
  }

  /** Read everything again. */
  async load(): Promise<void> {
    this.error.value = null;
    try {
      const [outline] = await Promise.all([this.readOutline(), this.readWhy(), this.readHistory()]);
      this.outline.value = outline;
      this.followOn();
    } catch (error) {
      if (!this.aborting.signal.aborted) this.error.value = error as Error;
    }
  }

  /** Read the task and why it is so again, soon. */
  changed(): void {
    clearTimeout(this.refreshing);
    this.refreshing = setTimeout(() => void this.refresh(), REFRESH_MS);
  }

  /** Have a listener hear the reports after the last one that it knows. */
  listen(listener: ReportListener): void {
    this.listener = listener;
    this.followOn();
  }

  private async refresh(): Promise<void> {
    try {
      const before = this.outline.peek();
      const outline = await this.readOutline();
      const changed = before === null || outline.updatedAt !== before.updatedAt || outline.status !== before.status;
      if (changed || isActive(outline.status)) await this.readWhy();
      // What came without the stream: after the end, or while it rests.
      if (changed || this.stream.peek() !== "open") await this.readNew();
      this.outline.value = outline;
      this.error.value = null;
      const rests = this.stream.peek() === "ended" || this.stream.peek() === "refused";
      if (isActive(outline.status) && rests) this.followOn();
    } catch (error) {
      if (!this.aborting.signal.aborted) this.error.value = error as Error;
    }
  }

  private async readOutline(): Promise<Outline> {
    const options = { query: { bodies: false }, signal: this.aborting.signal };
    const answer = await get<{ taskDetails: Outline }>(this.path, options);
    return answer.taskDetails;
  }

  private async readWhy(): Promise<void> {
    this.why.value = await get<Why>(`${this.path}/why`, { signal: this.aborting.signal });
  }

  page(query: Record<string, string | number | boolean | string[]>): Promise<Page> {
    return get<Page>(`${this.path}/events`, { query, signal: this.aborting.signal });
  }

  private async readHistory(): Promise<void> {
    const found: TaskEvent[] = [];
    const event = STRUCTURE.join(",");
    // Newest first, so that what matters most is there if there are too many.
    let page = await this.page({ before: "end", event, bodies: false, limit: 1_000 });
    found.push(...page.events);
    while (page.nextBefore !== null && found.length < STRUCTURE_SHOWN) {
      page = await this.page({ before: page.nextBefore, event, bodies: false, limit: 1_000 });
      found.push(...page.events);
    }
    this.isCut.value = page.nextBefore !== null;
    this.total.value = page.total;
    if (page.total > found.length) {
      const marks = await this.page({ before: "end", event: "ProgressReported", bodies: false, limit: MARKS_SHOWN });
      found.push(...marks.events);
    }
    this.take(found);
  }

  /** Read the events after the last one known. */
  private async readNew(): Promise<void> {
    const events = this.events.peek();
    const last = events[events.length - 1]?.sequence ?? 0;
    const page = await this.page({ after: last, bodies: false, limit: 1_000 });
    this.total.value = page.total;
    if (page.events.length) this.take(page.events);
  }

  private take(events: TaskEvent[]): void {
    const all = inOrder([...this.events.peek(), ...events]).slice(-KEPT);
    this.events.value = all;
    this.story.value = foldTask(all);
  }

  private followOn(): void {
    this.unfollow?.();
    const events = this.events.peek();
    const last = Math.max(events[events.length - 1]?.sequence ?? 0, this.listener?.lastSequence ?? 0);
    this.unfollow = follow(`${this.path}/stream`, {
      after: String(last),
      onMessage: (message) => this.hear(message as unknown as Heard),
      onState: (state, error) => {
        this.stream.value = state;
        this.streamError.value = error;
      },
    });
  }

  private hear(message: Heard): void {
    if (message.type === "reached") return;
    if (message.type === "gap") {
      this.gap.value = true;
      return;
    }
    if (message.type === "reset" || message.type === "expired" || message.event === undefined) {
      if (message.type === "reset") this.events.value = [];
      void this.load();
      return;
    }
    const { event, at, by } = message;
    const recorded: TaskEvent = { sequence: message.sequence ?? 0, at, by, event };
    if (event.type === "ProgressReported") this.hearReport(recorded);
    if (message.sequence !== null) {
      this.take([withoutBodies(recorded)]);
      this.total.value = (this.total.peek() ?? 0) + 1;
    }
    if (event.type === "ProgressReported") return;
    this.changed();
  }

  private flush(): void {
    this.flushing = undefined;
    const outline = this.outline.peek();
    if (outline?.status === "PROCESSING") this.outline.value = { ...outline, ...this.reported };
    this.reported = {};
  }

  /** A report is shown at once, before the log has it. */
  private hearReport(recorded: TaskEvent): void {
    const { event } = recorded;
    if (typeof event.progress === "number") this.reported.progress = event.progress;
    if (typeof event.message === "string") this.reported.message = event.message;
    // There may be a hundred a second.
    this.flushing ??= setTimeout(() => this.flush(), FLUSH_MS);
    this.listener?.hear(recorded);
  }
}

/** What shows the output of a task. */
export interface ReportListener {
  /** Sequence of the last report that it has read from the log; 0: none. */
  lastSequence: number;
  hear: (report: TaskEvent) => void;
}

interface Heard {
  type: string;
  sequence: number | null;
  at: string;
  by: TaskEvent["by"];
  event?: TaskEvent["event"];
}

const BODIES = ["payload", "result", "custom_data", "lines", "output", "merged", "data"];

/** An event as with `bodies=false`: pages keep many of them. */
function withoutBodies(recorded: TaskEvent): TaskEvent {
  const event = { ...recorded.event };
  const sizes: Record<string, number> = {};
  for (const name of BODIES) {
    if (!(name in event) || event[name] === null || event[name] === "") continue;
    const value = event[name];
    sizes[name] = typeof value === "string" ? value.length : JSON.stringify(value).length;
    delete event[name];
  }
  return { ...recorded, event, sizes };
}
