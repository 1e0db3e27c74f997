/** A batch as its stream tells it: the states of its tasks, then each event. Drawn at most four times a second. */
import { signal } from "@preact/signals";
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { follow, type StreamState } from "../live/stream.ts";
import { after, type Cell, cellOf, type Summary } from "./cells.ts";

export type BatchSummary = Schema<"BatchSummary">;

const FLUSH_MS = 250;

interface Heard {
  type: string;
  taskId?: string;
  sequence: number | null;
  at: string;
  task?: Summary;
  batch?: BatchSummary;
  event?: { type: string; [field: string]: unknown };
}

export class BatchFeed {
  readonly id: string;
  readonly summary = signal<BatchSummary | null>(null);
  readonly error = signal<Error | null>(null);
  /** In the order of the batch. */
  readonly cells = signal<Cell[]>([]);
  readonly stream = signal<StreamState>("connecting");

  private readonly byId = new Map<string, Cell>();
  private readonly aborting = new AbortController();
  private flushing: ReturnType<typeof setTimeout> | undefined;
  private unfollow: (() => void) | null = null;

  constructor(id: string) {
    this.id = id;
  }

  private get path(): string {
    return `/api/batches/${encodeURIComponent(this.id)}`;
  }

  async open(): Promise<void> {
    this.error.value = null;
    try {
      this.summary.value = await get<BatchSummary>(this.path, { signal: this.aborting.signal });
      this.restart();
    } catch (error) {
      if (!this.aborting.signal.aborted) this.error.value = error as Error;
    }
  }

  close(): void {
    this.aborting.abort();
    this.unfollow?.();
    clearTimeout(this.flushing);
  }

  /** Follow anew, from the present states: after an action on tasks that had ended. */
  restart(): void {
    this.unfollow?.();
    this.unfollow = follow(`${this.path}/stream`, {
      after: "",
      onMessage: (message) => this.hear(message as unknown as Heard),
      onState: (state, error) => {
        this.stream.value = state;
        if (state === "refused") this.error.value = error;
      },
    });
  }

  private hear(message: Heard): void {
    if (message.batch) this.summary.value = message.batch;
    else if (message.task) {
      const cell = cellOf(message.task);
      this.byId.set(cell.id, cell);
    } else if (message.type === "gap" || message.type === "reset" || message.type === "expired") {
      if (message.type === "reset") this.byId.clear();
      this.restart();
    } else if (message.event && message.taskId) {
      const cell = this.byId.get(message.taskId);
      if (!cell) return;
      const next = after(cell, message.event, Date.parse(message.at));
      if (next) this.byId.set(cell.id, next);
      else this.byId.delete(cell.id);
    } else return;
    this.flushing ??= setTimeout(() => {
      this.flushing = undefined;
      this.cells.value = [...this.byId.values()].sort((one, other) => one.index - other.index);
    }, FLUSH_MS);
  }
}
