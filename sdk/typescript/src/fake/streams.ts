/** The streams of the fake: one task, all tasks, live topics. */
import { stringify } from "../json.ts";
import { hasEnded } from "../types.ts";
import { detailsOf, type FakeLog, type FakeTask, type Json, type LoggedEvent, summaryOf } from "./state.ts";

type Send = (message: Json, id: string) => void;

export class FakeStreams {
  private readonly log: FakeLog;
  private readonly url: string;
  private readonly open = new Set<() => void>();

  constructor(log: FakeLog, url: string) {
    this.log = log;
    this.url = url;
  }

  /** How many are open. */
  get count(): number {
    return this.open.size;
  }

  /** Cut all streams, as a restart of the service does. */
  cut(): void {
    for (const end of [...this.open]) end();
  }

  /** A task's state and events. */
  task(task: FakeTask, after: string, signal: AbortSignal | undefined): Response {
    const last = placeOf(after);
    const isOver = () => hasEnded(task) && !task.running;
    if (last !== null && isOver() && (task.events.at(-1)?.sequence ?? 0) <= last)
      return new Response(null, { status: 204 });
    return this.response(signal, (send, end) => {
      if (last === null) send({ type: "state", ...this.stateOf(task) }, idOf(this.log.sequence));
      else {
        send({ type: "reached" }, idOf(last));
        for (const entry of task.events) if (entry.sequence > last) send(pushed(task, entry), idOf(entry.sequence));
      }
      if (hasEnded(task)) {
        end();
        return undefined;
      }
      return this.log.listen((changed, entry) => {
        if (changed !== task) return;
        send(pushed(task, entry), idOf(entry.sequence));
        if (hasEnded(task)) end();
      });
    });
  }

  /** All tasks of a user. */
  tasks(
    owner: string | null,
    types: readonly string[],
    events: readonly string[],
    after: string,
    signal: AbortSignal | undefined,
  ): Response {
    const last = placeOf(after);
    const isWanted = (task: FakeTask, entry: LoggedEvent) =>
      (owner === null || task.owner === owner) &&
      (!types.length || types.includes(task.type)) &&
      (!events.length || events.includes(entry.event.type));
    return this.response(signal, (send) => {
      if (last === null) {
        const active = this.log
          .listed(owner)
          .filter((task) => !hasEnded(task))
          .reverse();
        for (const task of active) send({ type: "state", ...this.stateOf(task) }, idOf(this.log.sequence));
        if (!active.length) send({ type: "reached" }, idOf(this.log.sequence));
      } else {
        send({ type: "reached" }, idOf(last));
        const missed = [...this.log.tasks.values()].flatMap((task) => task.events.map((entry) => ({ task, entry })));
        missed.sort((a, b) => a.entry.sequence - b.entry.sequence);
        for (const { task, entry } of missed)
          if (entry.sequence > last && isWanted(task, entry)) send(pushed(task, entry), idOf(entry.sequence));
      }
      return this.log.listen((task, entry) => isWanted(task, entry) && send(pushed(task, entry), idOf(entry.sequence)));
    });
  }

  /** Live topics: `task:<id>` and `tasks:<filter>`. `find`: a task that the caller may see, `matching`: a filter. */
  live(
    topics: readonly string[],
    after: string,
    find: (id: string) => FakeTask,
    matching: (filter: string) => (task: FakeTask) => boolean,
    owner: string | null,
    signal: AbortSignal | undefined,
  ): Response {
    const places = new Map(after.split("|").map((part) => part.split("=") as [string, string]));
    const tasks = topics
      .filter((topic) => topic.startsWith("task:"))
      .map((topic) => ({ topic, task: find(topic.slice(5)) }));
    const lists = topics
      .filter((topic) => topic.startsWith("tasks:"))
      .map((topic) => ({ topic, matches: matching(topic.slice(6)) }));
    const id = () => topics.map((topic) => `${digest(topic)}=${this.log.sequence}`).join("|");
    return this.response(signal, (send) => {
      send({ type: "open" }, id());
      for (const { topic, task } of tasks) {
        const last = places.get(digest(topic));
        const missed = task.events.filter((entry) => last !== undefined && entry.sequence > Number(last));
        const events: Json[] =
          last === undefined ? [{ type: "state", ...this.stateOf(task) }] : missed.map((entry) => pushed(task, entry));
        if (events.length) send({ topic, type: "events", events }, id());
        if (hasEnded(task)) send({ topic, type: "ended" }, id());
      }
      for (const { topic, matches } of lists) {
        const last = places.get(digest(topic));
        const changed =
          last === undefined
            ? []
            : this.log.listed(owner).filter((task) => (task.events.at(-1)?.sequence ?? 0) > Number(last));
        for (const task of changed) send(this.rowOf(topic, task, matches), id());
      }
      return this.log.listen((task, entry) => {
        for (const each of tasks)
          if (each.task === task) {
            send({ topic: each.topic, type: "events", events: [pushed(task, entry)] }, id());
            if (hasEnded(task)) send({ topic: each.topic, type: "ended" }, id());
          }
        if (owner === null || task.owner === owner)
          for (const { topic, matches } of lists) send(this.rowOf(topic, task, matches), id());
      });
    });
  }

  private rowOf(topic: string, task: FakeTask, matches: (task: FakeTask) => boolean): Json {
    const isIn = !task.isDeleted && matches(task);
    return {
      topic,
      type: "tasks",
      rows: isIn ? [summaryOf(task, this.url)] : [],
      left: isIn ? [] : [task.id],
      more: 0,
    };
  }

  private stateOf(task: FakeTask): Json {
    return { taskId: task.id, sequence: task.events.at(-1)?.sequence ?? 0, task: detailsOf(task, this.url) };
  }

  /** Return a response that `begin` fills; what `begin` returns ends its listening. */
  private response(
    signal: AbortSignal | undefined,
    begin: (send: Send, end: () => void) => (() => void) | undefined,
  ): Response {
    const encoder = new TextEncoder();
    let stop: () => void = () => {};
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        let isOpen = true;
        let listening: (() => void) | undefined;
        const end = (close = () => controller.close()) => {
          if (!isOpen) return;
          isOpen = false;
          this.open.delete(cut);
          listening?.();
          close();
        };
        const cut = () => end();
        stop = () => end(() => {});
        this.open.add(cut);
        signal?.addEventListener("abort", () => end(() => controller.error(signal.reason)));
        const send: Send = (message, id) => {
          if (isOpen) controller.enqueue(encoder.encode(`id: ${id}\ndata: ${stringify(message)}\n\n`));
        };
        listening = begin(send, cut);
        if (!isOpen) listening?.();
      },
      cancel: () => stop(),
    });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }
}

function pushed(task: FakeTask, { sequence, at, by, event }: LoggedEvent): Json {
  return { type: event.type, taskId: task.id, sequence, at, by, event };
}

const idOf = (sequence: number) => `fake-${sequence}`;

function placeOf(after: string): number | null {
  const [, digits] = /^(?:fake-)?(\d{1,15})$/.exec(after) ?? [];
  return digits === undefined ? null : Number(digits);
}

/** A short name of a topic, for the id. */
function digest(topic: string): string {
  let hash = 0;
  for (const character of topic) hash = (hash * 31 + character.charCodeAt(0)) % 4_294_967_291;
  return hash.toString(36);
}
