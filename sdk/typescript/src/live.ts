/**
 * What a page shows, over one connection for all its parts: `GET /api/live`. It is opened shortly after the first part
 * asks, opened anew when the parts change, and goes on after its last id over cuts, restarts and remounts. Where streams
 * are blocked, the parts are read again and again instead.
 */
import type { Taskstream } from "./client.ts";
import { type Followed, follow, type StreamTiming } from "./follow.ts";
import { withQuery } from "./http.ts";
import { type Part, type PartHost, QueuedPart, type QueuedView, TaskPart, TasksPart, type TasksView } from "./parts.ts";
import { initialView, type TaskView } from "./task_view.ts";
import type { TaskQuery } from "./types.ts";

/** A value that changes: what `useSyncExternalStore` takes. */
export interface Store<T> {
  get(): T;
  /** Have `listener` called after each change; the returned function ends it. */
  subscribe(listener: () => void): () => void;
}

/** A part of a page. `refresh`: read it anew, now. */
export interface PartStore<T> extends Store<T> {
  refresh(): Promise<void>;
}

/** `live`: changes are pushed. `polling`: streams do not get through. `idle`: nothing is shown. */
export type Connection = "idle" | "connecting" | "live" | "polling";

/** A stream takes 20 topics. Further tasks and lists are read when the topic of all tasks says that something changed. */
const MOST_TASKS = 14;
const MOST_LISTS = 4;
const EVERY_TASK = "tasks:";
const SETTLE_MS = 20;
/** How long a part without listeners is kept: a page that mounts it again finds it as it was. */
const LINGER_MS = 5_000;
/** A hidden page lets its connection go after this: a browser has six for a host. */
const HIDDEN_MS = 20_000;
/** Between two tries where streams do not get through. */
const FIRST_PAUSE_MS = 5_000;
const LONGEST_PAUSE_MS = 60_000;

export class Live implements PartHost {
  readonly client: Taskstream;
  /** How changes come at present. */
  readonly connection: Store<Connection>;
  private readonly timing: StreamTiming;
  private readonly parts = new Map<string, Part<unknown>>();
  private readonly stateListeners = new Set<() => void>();
  private state: Connection = "idle";
  private lastId = "";
  /** Topics of the stream. */
  private opened: readonly string[] = [];
  /** Topics that `lastId` has a place of. */
  private resumed: ReadonlySet<string> = new Set();
  private following: AbortController | null = null;
  private settling: ReturnType<typeof setTimeout> | undefined;
  private polling: ReturnType<typeof setTimeout> | undefined;
  private hiding: ReturnType<typeof setTimeout> | undefined;
  private isWatching = false;

  constructor(client: Taskstream, timing: StreamTiming) {
    this.client = client;
    this.timing = timing;
    this.connection = {
      get: () => this.state,
      subscribe: (listener) => {
        const call = () => listener();
        this.stateListeners.add(call);
        return () => this.stateListeners.delete(call);
      },
    };
  }

  get isLive(): boolean {
    return this.state === "live";
  }

  /** A task as it changes. `revive`: it was retried, follow it again. */
  task(id: string): PartStore<TaskView> & { revive(): void } {
    const key = `task ${id}`;
    const store = this.store(key, initialView(id), () => new TaskPart(this, id));
    return { ...store, revive: () => (this.parts.get(key) as TaskPart | undefined)?.revive() };
  }

  /** A page of tasks as it changes, newest first. */
  tasks(query: TaskQuery = {}): PartStore<TasksView> {
    const initial: TasksView = { tasks: [], isLoading: true, error: null, hasMore: false };
    return this.store(`tasks ${withQuery("", query)}`, initial, () => new TasksPart(this, query));
  }

  /** The chapters and outlines of the caller's projects as they change. */
  queued(): PartStore<QueuedView> {
    return this.store("queued", { tasks: [], isLoading: true, error: null }, () => new QueuedPart(this));
  }

  /** End the connection and forget everything. Who subscribes afterwards opens it again. */
  close(): void {
    this.stop();
    clearTimeout(this.hiding);
    for (const part of this.parts.values()) clearTimeout(part.lingering);
    this.parts.clear();
    this.lastId = "";
    this.resumed = new Set();
    if (this.isWatching) document.removeEventListener("visibilitychange", this.onVisibility);
    this.isWatching = false;
    this.say("idle");
  }

  /** Open the stream anew if what the parts ask for has changed: once for all changes of a moment. */
  plan(): void {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settle(), SETTLE_MS);
  }

  private store<T>(key: string, initial: T, make: () => Part<T>): PartStore<T> {
    return {
      get: () => (this.parts.get(key) as Part<T> | undefined)?.value ?? initial,
      refresh: async () => this.parts.get(key)?.refresh(),
      subscribe: (listener) => {
        const part = this.parts.get(key) ?? (make() as Part<unknown>);
        this.parts.set(key, part);
        // The same function may listen twice.
        const call = () => listener();
        part.listeners.add(call);
        clearTimeout(part.lingering);
        this.watchVisibility();
        this.plan();
        if (this.state === "polling") void part.refresh();
        return () => {
          if (!part.listeners.delete(call) || part.listeners.size) return;
          part.lingering = setTimeout(() => {
            if (this.parts.get(key) === part) this.parts.delete(key);
            this.plan();
          }, LINGER_MS);
        };
      },
    };
  }

  /** What the parts ask of the stream, within its bounds. */
  private topics(): string[] {
    const topics = new Set<string>();
    let tasks = 0;
    let lists = 0;
    for (const part of this.parts.values()) {
      const { topic } = part;
      if (topic === null || topics.has(topic)) continue;
      if (part instanceof TaskPart) part.isCrowded ||= tasks++ >= MOST_TASKS;
      else if (part instanceof TasksPart) part.isCrowded ||= lists++ >= MOST_LISTS;
      topics.add(part.isCrowded ? EVERY_TASK : topic);
    }
    return [...topics].sort();
  }

  private settle(): void {
    if (isHidden() && !this.following) return;
    const topics = this.topics();
    // Topics that nobody needs any more stay until others come.
    if (topics.length ? topics.every((topic) => this.opened.includes(topic)) : !this.opened.length) return;
    this.stop();
    this.opened = topics;
    if (!topics.length) {
      this.say("idle");
      return;
    }
    this.following = new AbortController();
    // While topics change, what was live goes on being so in a moment.
    if (this.state === "idle") this.say("connecting");
    this.pollSoon();
    void this.run(topics, this.following.signal);
  }

  private async run(topics: string[], signal: AbortSignal): Promise<void> {
    for (let pauseMs = FIRST_PAUSE_MS; !signal.aborted; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      this.opened = topics;
      try {
        const onOpen = (isOpen: boolean) => {
          if (signal.aborted || isOpen) return;
          if (this.state === "live") this.say("connecting");
          this.pollSoon();
        };
        const options = { ...this.timing, query: { topic: topics }, after: this.lastId, signal, onOpen };
        for await (const { id, message } of follow(this.client.http, "/api/live", options)) {
          if (signal.aborted) return;
          if (id) this.lastId = id;
          pauseMs = FIRST_PAUSE_MS;
          this.deliver(message);
        }
      } catch {
        // The parts say what is wrong: one that cannot be read makes the whole stream a refusal, and reading finds it.
      }
      if (signal.aborted) return;
      // So that a part whose reading fails makes another stream, without it.
      this.opened = [];
      this.say("polling");
      await this.poll();
      if (signal.aborted) return;
      this.pollSoon();
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  private deliver(message: Followed["message"]): void {
    const { topic } = message;
    if (message.type === "open") {
      clearTimeout(this.polling);
      this.polling = undefined;
      const { resumed } = this;
      this.resumed = new Set(this.opened);
      this.say("live");
      // Nothing that happens from now on is missed. A task's topic begins with its state; others are read.
      for (const part of this.parts.values()) {
        const own = part.topic !== null && this.opened.includes(part.topic) ? part.topic : EVERY_TASK;
        const isKnown = resumed.has(own) && part.isLoaded;
        if (part.topic !== null && !isKnown && !(part instanceof TaskPart && own === part.topic)) void part.refresh();
      }
      return;
    }
    for (const part of this.parts.values()) {
      if (part.topic === null) continue;
      if (part.topic === topic) part.take(message);
      else if (topic === EVERY_TASK && !this.opened.includes(part.topic)) part.takeOther(message);
    }
  }

  /** Read all parts that are shown. */
  private async poll(): Promise<void> {
    const shown = [...this.parts.values()].filter((part) => part.listeners.size && part.topic !== null);
    await Promise.all(shown.map((part) => part.refresh()));
  }

  /** Read the parts after a while, again and again, until the stream is open. */
  private pollSoon(): void {
    this.polling ??= setTimeout(async () => {
      const mine = this.following;
      if (!isHidden()) await this.poll();
      if (this.following !== mine || mine === null) return;
      this.polling = undefined;
      if (!this.isLive) this.pollSoon();
    }, this.timing.pollMs ?? 3_000);
  }

  private stop(): void {
    this.following?.abort();
    this.following = null;
    this.opened = [];
    clearTimeout(this.settling);
    clearTimeout(this.polling);
    this.polling = undefined;
  }

  private say(state: Connection): void {
    if (state === this.state) return;
    this.state = state;
    for (const listener of [...this.stateListeners]) listener();
  }

  private watchVisibility(): void {
    if (this.isWatching || typeof document === "undefined" || !document.addEventListener) return;
    this.isWatching = true;
    document.addEventListener("visibilitychange", this.onVisibility);
  }

  private readonly onVisibility = (): void => {
    clearTimeout(this.hiding);
    if (!isHidden()) {
      this.plan();
      return;
    }
    this.hiding = setTimeout(() => {
      this.stop();
      this.say("idle");
    }, HIDDEN_MS);
  };
}

function isHidden(): boolean {
  return typeof document !== "undefined" && document.visibilityState === "hidden";
}
