/** Tasks that one waits for: the title of the tab says how they are, and a note says when one ends. */
import { effect, signal } from "@preact/signals";
import { ApiError, get } from "../api/client.ts";
import { toast } from "../parts/toasts.tsx";
import { shortId } from "../text/format.ts";
import { isActive, type Outline } from "./feed.ts";

const MOST_WATCHED = 10;
const EVERY_MS = 3_000;

/** The tasks by id, as they were last seen. */
export const watched = signal<ReadonlyMap<string, Outline | null>>(new Map());
/** What the title of the tab begins with; "": nothing. */
export const titleMark = signal("");

export function watch(id: string, task: Outline | null): void {
  const next = new Map(watched.peek());
  next.set(id, task);
  for (const key of next.keys()) if (next.size > MOST_WATCHED) next.delete(key);
  watched.value = next;
}

export function unwatch(id: string): void {
  const next = new Map(watched.peek());
  next.delete(id);
  watched.value = next;
}

/** Take what a page has learnt of a task that is watched. */
export function seen(task: Outline): void {
  if (!watched.peek().has(task.id)) return;
  if (isActive(task.status)) {
    watch(task.id, task);
    return;
  }
  unwatch(task.id);
  const sign = SIGNS[task.status] ?? "●";
  titleMark.value = `${sign} ${task.status.toLowerCase()}: ${task.type}`;
  toast(
    `${shortId(task.id)} (${task.type}): ${task.status.toLowerCase()}`,
    task.status === "FAILED" ? "failed" : "note",
  );
}

const SIGNS: Record<string, string> = { FINISHED: "✓", FAILED: "✗", CANCELLED: "⊘" };

async function look(): Promise<void> {
  for (const id of watched.peek().keys()) {
    try {
      const path = `/api/task/${encodeURIComponent(id)}`;
      const answer = await get<{ taskDetails: Outline }>(path, { query: { bodies: false }, noted: false, quiet: true });
      seen(answer.taskDetails);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) unwatch(id);
    }
  }
}

let timer: ReturnType<typeof setInterval> | undefined;
effect(() => {
  const count = watched.value.size;
  if (count && timer === undefined) timer = setInterval(() => void look(), EVERY_MS);
  if (!count && timer !== undefined) {
    clearInterval(timer);
    timer = undefined;
  }
});

/** Keep the mark at the beginning of the tab's title until one looks at it. */
effect(() => {
  if (typeof document === "undefined") return;
  const running = [...watched.value.values()].find((task) => task !== null);
  const progress = running?.progress == null ? "…" : `${Math.round(running.progress)} %`;
  const mark = titleMark.value || (running ? `${progress} ${running.type}` : "");
  const plain = document.title.replace(/^.*? \| /, "");
  document.title = mark ? `${mark} | ${plain}` : plain;
});
