/** The fake service: the routes that the client calls, over tasks that handlers in the same process carry out. */
import type { Fetch } from "../http.ts";
import { parse, randomHex, stringify } from "../json.ts";
import { hasEnded } from "../types.ts";
import { answer, conflict, invalid, missing, problem, Refusal } from "./refusal.ts";
import { FakeRegisters, pageOf } from "./registers.ts";
import { detailsOf, FakeLog, type FakeTask, type Json, runAtOf, summaryOf } from "./state.ts";
import { FakeStreams } from "./streams.ts";

export interface Report {
  progress?: number;
  message?: string;
  output?: string;
  log?: string;
}

export interface HandlerContext {
  taskId: string;
  owner: string;
  /** 1 for the first try. */
  attempt: number;
  /** Aborted when the task is cancelled. */
  signal: AbortSignal;
  /** Report progress. */
  report(report: Report): void;
}

/** Does the work of a type. What it returns is the `data` of the result; what it throws is the task's error. */
export type Handler = (payload: never, context: HandlerContext) => unknown;

const OPTIONS = new Set([
  ...["type", "payload", "priority", "timeout", "attempts", "runAt", "delay", "expiresAt", "deadline", "dependsOn"],
  ...["onParentFailure", "concurrencyKey", "prefer", "require"],
]);
const LONGEST_TIMER_MS = 2 ** 31 - 1;

interface Caller {
  subject: string;
  roles: string[];
}

export class FakeService {
  readonly url: string;
  readonly log = new FakeLog();
  readonly streams: FakeStreams;
  /** Requests so far, as `GET /api/tasks`. */
  readonly requests: string[] = [];
  private readonly registers: FakeRegisters;
  private readonly handlers = new Map<string, Handler>();
  private readonly keys = new Map<string, { body: string; answer: unknown }>();
  private readonly signature = randomHex();
  private refusals: { status: number; retryAfterSeconds?: number }[] = [];
  private isDown = false;

  constructor(url: string) {
    this.url = url;
    this.streams = new FakeStreams(this.log, url);
    const run = (owner: string, task: Json, scheduleId: string) =>
      this.submitted(owner, [task], false, scheduleId)[0]!.id;
    this.registers = new FakeRegisters(this.log, run, url);
  }

  /** Carry out tasks of a type, those that wait included. */
  handle(type: string, handler: Handler): void {
    this.handlers.set(type, handler);
    for (const task of this.log.tasks.values()) if (task.type === type) this.consider(task);
  }

  /** Answer the next requests with a status. */
  refuse(status: number, times: number, retryAfterSeconds?: number): void {
    this.refusals = Array.from({ length: times }, () => ({ status, retryAfterSeconds }));
  }

  /** Cut all streams; refuse connections until `start`. */
  stop(): void {
    this.isDown = true;
    this.streams.cut();
  }

  start(): void {
    this.isDown = false;
  }

  /** Return a token, as a JWT that only this fake takes. */
  token(subject: string, roles: readonly string[], lifetimeSeconds: number): string {
    const encoded = (value: unknown) =>
      btoa(
        encodeURIComponent(JSON.stringify(value)).replace(/%([0-9A-F]{2})/g, (_, hex) =>
          String.fromCharCode(Number.parseInt(hex, 16)),
        ),
      );
    const claims = { sub: subject, roles, exp: Math.floor(Date.now() / 1000) + lifetimeSeconds };
    return `${encoded({ alg: "none" })}.${encoded(claims)}.${this.signature}`;
  }

  readonly fetch: Fetch = async (input, init = {}) => {
    const signal = init.signal ?? undefined;
    // As a network does: who asks again and again lets others have their turn.
    await new Promise((resolve) => setTimeout(resolve, 0));
    signal?.throwIfAborted();
    const url = new URL(input);
    const method = init.method ?? "GET";
    this.requests.push(`${method} ${url.pathname}`);
    if (this.isDown) throw new TypeError("fetch failed: the fake is stopped");
    const refused = this.refusals.shift();
    try {
      if (refused)
        throw new Refusal(refused.status, "refused as the test asked for", {
          retryAfterSeconds: refused.retryAfterSeconds,
        });
      const headers = new Headers(init.headers);
      return await this.route(method, url, headers, await bodyOf(init.body), this.caller(headers), signal);
    } catch (error) {
      if (error instanceof Refusal) return problem(error, url.pathname);
      throw error;
    }
  };

  private caller(headers: Headers): Caller {
    const [, claims, signature] =
      headers
        .get("Authorization")
        ?.replace(/^Bearer /, "")
        .split(".") ?? [];
    if (!claims || signature !== this.signature) throw new Refusal(401, "the token is not valid");
    const bytes = Uint8Array.from(atob(claims), (each) => each.charCodeAt(0));
    const { sub, roles, exp } = JSON.parse(new TextDecoder().decode(bytes)) as {
      sub: string;
      roles: string[];
      exp: number;
    };
    if (exp * 1000 <= Date.now()) throw new Refusal(401, "the token has expired");
    return { subject: sub, roles };
  }

  private async route(
    method: string,
    url: URL,
    headers: Headers,
    bytes: Uint8Array<ArrayBuffer>,
    caller: Caller,
    signal: AbortSignal | undefined,
  ): Promise<Response> {
    const [api, name = "", ...rest] = url.pathname
      .replace(new URL(this.url).pathname.replace(/\/$/, ""), "")
      .slice(1)
      .split("/");
    if (api !== "api") throw missing("route");
    const query = url.searchParams;
    const isAdmin = caller.roles.includes("admin");
    const owner = isAdmin ? null : caller.subject;
    const after = headers.get("Last-Event-ID") ?? query.get("after") ?? "";
    const mediaType = headers.get("Content-Type") ?? "application/octet-stream";
    const text = mediaType.includes("json") && bytes.length ? new TextDecoder().decode(bytes) : "{}";
    const body = parse(text, true) as Json;
    const key = headers.get("Idempotency-Key");
    switch (`${method} ${name}`) {
      case "POST task":
        if (rest.length) return this.command(rest[1] ?? "", this.task(rest[0]!, caller), body, caller);
        return this.once(key, `task ${caller.subject}`, text, () => {
          const task = this.submitted(caller.subject, [this.submission(body, "$")], false)[0]!;
          return { taskId: task.id, taskDetails: detailsOf(task, this.url) };
        });
      case "GET task":
        return this.read(this.task(rest[0]!, caller), rest.slice(1), query, after, signal);
      case "POST tasks":
        if (rest[0] === "batch") return this.once(key, `batch ${caller.subject}`, text, () => this.batch(body, caller));
        return this.bulk(rest[0] ?? "", body, owner);
      case "GET tasks":
        if (rest[0] === "stream")
          return this.streams.tasks(owner, listOf(query, "type"), listOf(query, "event"), after, signal);
        return this.list(rest[0] ?? "", query, owner);
      case "GET live": {
        const find = (id: string) => this.task(id, caller);
        const matching = (filter: string) => this.filter(new URLSearchParams(filter));
        return this.streams.live(query.getAll("topic"), after, find, matching, owner, signal);
      }
      case "GET me":
        return answer({ subject: caller.subject, name: caller.subject, roles: caller.roles, version: "fake" });
    }
    if (name === "batches") return this.batches(method, rest, query, owner);
    if (name === "queue") return this.queue(method, rest.slice(1), caller);
    const call = { method, rest, query, body, bytes, mediaType, subject: caller.subject, isAdmin };
    const found = this.registers.handle(name, call);
    if (!found)
      throw new Refusal(501, `the fake has no ${method} ${url.pathname}; test it on a service: taskstream up`);
    return found;
  }

  /** Answer calls with the same key and body alike. */
  private once(key: string | null, scope: string, body: string, make: () => unknown): Response {
    const known = key === null ? undefined : this.keys.get(`${scope} ${key}`);
    if (known && known.body !== body) throw new Refusal(422, "this Idempotency-Key was used with another body");
    const made = known?.answer ?? make();
    if (key !== null) this.keys.set(`${scope} ${key}`, { body, answer: made });
    return answer(made);
  }

  private task(id: string, caller: Caller): FakeTask {
    const task = this.log.tasks.get(decodeURIComponent(id));
    if (!task || task.isDeleted || (task.owner !== caller.subject && !caller.roles.includes("admin")))
      throw missing("task");
    return task;
  }

  /** Return a submission that is in order. A body without any option is a payload. */
  private submission(body: unknown, path: string): Json {
    const given = body as Json;
    if (given === null || typeof given !== "object") throw invalid("must be an object", path);
    if (!Object.keys(given).some((name) => OPTIONS.has(name))) return { type: "default", payload: given };
    if (!("payload" in given)) throw invalid("is missing", `${path}.payload`);
    for (const name of Object.keys(given)) if (!OPTIONS.has(name)) throw invalid("is no option", `${path}.${name}`);
    const { attempts, delay, priority, type = "default" } = given;
    if (attempts !== undefined && !(Number.isInteger(attempts) && (attempts as number) > 0))
      throw invalid("must be 1 or more", `${path}.attempts`);
    if (delay !== undefined && !(typeof delay === "number" && delay >= 0))
      throw invalid("must be a number of seconds", `${path}.delay`);
    if (priority !== undefined && !["high", "normal", "low"].includes(priority as string))
      throw invalid("must be high, normal or low", `${path}.priority`);
    if (typeof type !== "string" || !/^[A-Za-z0-9_.-]{1,64}$/.test(type))
      throw invalid("must be a name", `${path}.type`);
    return { ...given, type };
  }

  /** Store tasks that belong together, and begin those that nothing holds. */
  private submitted(owner: string, items: Json[], isBatch: boolean, scheduleId: string | null = null): FakeTask[] {
    const ids = this.log.newIds(owner, items.length);
    const tasks = items.map((item, index) => {
      const { payload, type = "default", ...options } = item;
      const parents = (options.dependsOn as (string | number)[] | undefined)?.map((each) =>
        typeof each === "number" ? ids[each] : each,
      );
      for (const parent of parents ?? [])
        if (!ids.includes(parent as string) && this.log.tasks.get(parent as string)?.owner !== owner)
          throw invalid("names no task of yours", "$.dependsOn");
      const now = Date.now();
      const task: FakeTask = {
        ...{
          id: ids[index]!,
          owner,
          type: type as string,
          payload,
          options: { ...options, ...(parents ? { dependsOn: parents } : {}) },
        },
        ...{ status: "WAITING", held: false, attempt: 0, progress: null, message: null, result: null, error: null },
        ...{ failureKind: null, batchId: isBatch ? ids[0]! : null, scheduleId, createdAt: now, updatedAt: now },
        ...{ startedAt: null, endedAt: null, isDeleted: false, events: [], running: null },
      };
      return task;
    });
    for (const task of tasks) {
      this.log.tasks.set(task.id, task);
      const { type, payload } = task;
      this.log.append(task, "TaskSubmitted", { task_type: type, payload, owner }, { kind: "user", id: owner });
    }
    for (const task of tasks) this.consider(task);
    return tasks;
  }

  /** Begin a waiting task if nothing holds it; later, if its time has not come. */
  private consider(task: FakeTask): void {
    if (task.status !== "WAITING" || task.running) return;
    const parents = ((task.options.dependsOn ?? []) as string[]).map((id) => this.log.tasks.get(id));
    if (parents.some((parent) => parent && !hasEnded(parent))) {
      task.held = true;
      return;
    }
    if (parents.some((parent) => parent?.status !== "FINISHED") && task.options.onParentFailure !== "run") {
      if (task.options.onParentFailure === "skip")
        this.log.append(task, "TaskCancelled", { reason: "a task that it depends on did not succeed" });
      else
        this.log.append(task, "TaskFailed", {
          kind: "parent_failed",
          error: "a task that it depends on did not succeed",
        });
      this.release(task);
      return;
    }
    const leftMs = (runAtOf(task) ?? 0) - Date.now();
    task.held = leftMs > 0;
    if (leftMs > 0) {
      const timer = setTimeout(() => this.consider(task), Math.min(leftMs, LONGEST_TIMER_MS)) as unknown as {
        unref?: () => void;
      };
      timer.unref?.();
      return;
    }
    const handler = this.handlers.get(task.type);
    if (!handler) return;
    task.running = new AbortController();
    // Not at once: who submits has its answer first.
    setTimeout(() => void this.work(task, handler), 0);
  }

  private async work(task: FakeTask, handler: Handler): Promise<void> {
    const running = task.running as AbortController;
    const isOver = () => running.signal.aborted || hasEnded(task);
    if (isOver()) return;
    const attempt = task.attempt + 1;
    this.log.append(task, "AttemptStarted", { attempt, server_id: "fake", worker_id: "fake" });
    const report = ({ log, ...rest }: Report) => {
      if (!isOver())
        this.log.append(task, "ProgressReported", { attempt, ...rest, lines: log === undefined ? [] : [log] });
    };
    const context: HandlerContext = { taskId: task.id, owner: task.owner, attempt, signal: running.signal, report };
    try {
      const data = await handler(structuredClone(task.payload) as never, context);
      if (isOver()) return;
      const inline = { task_id: task.id, data: data ?? null, metadata: { status: "FINISHED", server_id: "fake" } };
      task.running = null;
      this.log.append(task, "TaskSucceeded", {
        attempt,
        server_id: "fake",
        result: { inline, size_bytes: stringify(inline).length },
      });
    } catch (error) {
      if (isOver()) return;
      task.running = null;
      const text = error instanceof Error ? error.message : String(error);
      this.log.append(task, "TaskFailed", { attempt, server_id: "fake", kind: "failed", error: text, result: null });
    }
    this.release(task);
  }

  /** Look again at the tasks that depend on one that has ended. */
  private release(ended: FakeTask): void {
    for (const task of this.log.tasks.values())
      if ((task.options.dependsOn as string[] | undefined)?.includes(ended.id)) this.consider(task);
  }

  private command(command: string, task: FakeTask, body: Json, caller: Caller): Response {
    const by = { kind: "user", id: caller.subject };
    if (command === "cancel") {
      if (hasEnded(task) && task.status !== "CANCELLED") throw conflict(`the task has ended: ${task.status}`);
      this.cancel(task, (body.reason as string) ?? "", by);
    } else if (command === "retry") {
      if (!hasEnded(task) || task.status === "FINISHED")
        throw conflict(`only failed and cancelled tasks can be retried, this one is ${task.status}`);
      this.retry(task, by);
    } else throw missing("route");
    return answer({ taskId: task.id, taskDetails: detailsOf(task, this.url) });
  }

  private cancel(task: FakeTask, reason: string, by: { kind: string; id: string }): void {
    if (hasEnded(task)) return;
    const { running } = task;
    task.running = null;
    this.log.append(task, "TaskCancelled", { reason }, by);
    running?.abort();
    this.release(task);
  }

  private retry(task: FakeTask, by: { kind: string; id: string }): void {
    this.log.append(task, "TaskQueued", { renewed: true }, by);
    this.consider(task);
  }

  private async read(
    task: FakeTask,
    rest: string[],
    query: URLSearchParams,
    after: string,
    signal: AbortSignal | undefined,
  ): Promise<Response> {
    switch (rest[0]) {
      case undefined: {
        await this.ended(task, Number(query.get("wait") ?? 0), signal);
        const { request, result, ...outline } = detailsOf(task, this.url);
        const sizes = {
          requestBytes: stringify(request).length,
          resultBytes: result ? stringify(result).length : null,
        };
        return answer({
          taskId: task.id,
          taskDetails: query.get("bodies") === "false" ? { ...outline, ...sizes } : { ...outline, request, result },
        });
      }
      case "stream":
        return this.streams.task(task, after, signal);
      case "events": {
        const wanted = listOf(query, "event");
        const all = task.events.filter(({ event }) => !wanted.length || wanted.includes(event.type));
        if (query.get("before") === "end")
          return answer({
            events: all.slice(-Number(query.get("limit") ?? 200)).reverse(),
            nextBefore: null,
            nextAfter: null,
            total: task.events.length,
          });
        const page = all.filter(({ sequence }) => sequence > Number(query.get("after") ?? 0));
        const events = page.slice(0, 200);
        return answer({
          events,
          nextAfter: page.length > 200 ? events.at(-1)!.sequence : null,
          nextBefore: null,
          total: task.events.length,
        });
      }
      case "result":
        if (rest.length > 1) throw missing("file");
        return answer(task.result);
      case "payload":
        return answer(task.payload);
      case "why":
        return answer({
          taskId: task.id,
          status: task.status,
          held: task.held,
          holds: [],
          verdicts: [],
          summary: this.handlers.has(task.type) ? "" : `The fake has no handler for the type ${task.type}.`,
        });
      default:
        throw missing("route");
    }
  }

  private ended(task: FakeTask, seconds: number, signal: AbortSignal | undefined): Promise<void> {
    if (hasEnded(task) || !seconds) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const done = (go: () => void) => {
        clearTimeout(timer);
        stop();
        signal?.removeEventListener("abort", onAbort);
        go();
      };
      const onAbort = () => done(() => reject(signal!.reason));
      const timer = setTimeout(() => done(resolve), seconds * 1000);
      const stop = this.log.listen((changed) => changed === task && hasEnded(task) && done(resolve));
      signal?.addEventListener("abort", onAbort);
    });
  }

  private batch(body: unknown, caller: Caller): Json {
    if (!Array.isArray(body) || !body.length || body.length > 1000)
      throw invalid("must be a list of 1 to 1,000 tasks", "$");
    const errors: Json[] = [];
    const items = body.map((item, index) => {
      try {
        return this.submission(item, "$");
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        errors.push({ index, error: error.message, ...error.fields });
        return {};
      }
    });
    if (errors.length) throw new Refusal(400, `${errors.length} tasks are not in order`, { errors });
    const taskIds = this.submitted(caller.subject, items, true).map((task) => task.id);
    return { batchId: taskIds[0], taskIds, repeated: false, refused: [] };
  }

  /** Return what a filter of lists selects. */
  private filter(query: URLSearchParams): (task: FakeTask) => boolean {
    const [statuses, types] = [listOf(query, "status"), listOf(query, "type")];
    for (const name of query.keys())
      if (
        ![
          "status",
          "type",
          "batch",
          "schedule",
          "key",
          "id",
          "limit",
          "cursor",
          "sort",
          "count",
          "by",
          "owner",
        ].includes(name)
      )
        throw new Refusal(501, `the fake does not filter by \`${name}\`; test it on a service: taskstream up`);
    if ((query.get("sort") ?? "-created") !== "-created") throw new Refusal(501, "the fake lists the newest first");
    const [batch, schedule, key, id] = ["batch", "schedule", "key", "id"].map((name) => query.get(name));
    return (task) =>
      (!statuses.length || statuses.includes(task.status)) &&
      (!types.length || types.includes(task.type)) &&
      (!batch || task.batchId === batch) &&
      (!schedule || task.scheduleId === schedule) &&
      (!key || task.options.concurrencyKey === key) &&
      (!id || task.id.startsWith(id));
  }

  private list(what: string, query: URLSearchParams, owner: string | null): Response {
    const found = this.log.listed(query.get("owner") ?? owner).filter(this.filter(query));
    if (what === "count") return answer({ count: found.length, capped: false });
    const { items, nextCursor } = pageOf(found, query);
    const total = query.get("count") === "true" ? { total: { count: found.length, capped: false } } : {};
    return answer({
      tasks: items.map((task) => summaryOf(task, this.url)),
      nextCursor,
      asOf: this.log.sequence,
      ...total,
    });
  }

  private bulk(action: string, body: Json, owner: string | null): Response {
    const { ids, filter, dryRun = false } = body as { ids?: string[]; filter?: Json; dryRun?: boolean };
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(filter ?? {}))
      for (const each of [value].flat()) query.append(name, String(each));
    const matches = this.filter(query);
    const chosen = this.log.listed(owner).filter((task) => (ids ? ids.includes(task.id) : matches(task)));
    return answer({
      dryRun,
      matched: ids?.length ?? chosen.length,
      ...this.commanded(
        action,
        chosen,
        dryRun,
        (ids ?? []).filter((id) => !chosen.some((task) => task.id === id)),
      ),
      nextCursor: null,
    });
  }

  private commanded(action: string, tasks: FakeTask[], dryRun: boolean, unknown: string[] = []): Json {
    const by = { kind: "user", id: "fake" };
    let [done, unchanged] = [0, 0];
    const refused: string[] = [...unknown];
    for (const task of tasks) {
      const isRetryable = task.status === "FAILED" || task.status === "CANCELLED";
      if (action === "cancel" && task.status === "CANCELLED") unchanged++;
      else if (action === "cancel" ? hasEnded(task) : action === "retry" ? !isRetryable : !hasEnded(task))
        refused.push(task.id);
      else {
        done++;
        if (dryRun) continue;
        if (action === "cancel") this.cancel(task, "", by);
        else if (action === "retry") this.retry(task, by);
        else this.log.append(task, "TaskDeleted", {}, by);
      }
    }
    const reasons = refused.length ? [{ reason: `cannot ${action}`, count: refused.length, ids: refused }] : [];
    return { done, unchanged, refused: reasons };
  }

  private batches(method: string, rest: string[], query: URLSearchParams, owner: string | null): Response {
    const [id, what] = rest.map(decodeURIComponent);
    const all = this.log
      .listed(owner)
      .filter((task) => task.batchId !== null)
      .reverse();
    const shown = (batchId: string) => {
      const tasks = all.filter((task) => task.batchId === batchId);
      if (!tasks.length) throw missing("batch");
      const counts: Record<string, number> = { WAITING: 0, PROCESSING: 0, FINISHED: 0, FAILED: 0, CANCELLED: 0 };
      for (const task of tasks) counts[task.status]! += 1;
      const done = tasks.every(hasEnded);
      const progress =
        tasks.reduce((sum, task) => sum + (hasEnded(task) ? 100 : (task.progress ?? 0)), 0) / tasks.length;
      const endedAt = done ? Math.max(...tasks.map((task) => task.endedAt!)) : null;
      const { owner: of, createdAt } = tasks[0]!;
      return {
        tasks,
        summary: {
          id: batchId,
          owner: of,
          size: tasks.length,
          counts,
          held: tasks.filter((task) => task.held).length,
          progress,
          done,
          createdAt,
          updatedAt: Math.max(...tasks.map((task) => task.updatedAt)),
          endedAt,
        },
      };
    };
    if (id === undefined) {
      const { items, nextCursor } = pageOf([...new Set(all.map((task) => task.batchId!))].reverse(), query);
      return answer({ batches: items.map((each) => shown(each).summary), nextCursor });
    }
    const { tasks, summary } = shown(id);
    if (method === "DELETE")
      return answer({
        dryRun: false,
        matched: tasks.length,
        ...this.commanded("delete", tasks, false),
        nextCursor: null,
      });
    if (method === "POST")
      return answer({
        dryRun: false,
        matched: tasks.length,
        ...this.commanded(what ?? "", tasks, false),
        nextCursor: null,
      });
    if (what !== "tasks") return answer(summary);
    const statuses = listOf(query, "status");
    const { items, nextCursor } = pageOf(
      tasks.filter((task) => !statuses.length || statuses.includes(task.status)),
      query,
    );
    const result = (task: FakeTask) => (query.get("results") === "true" ? task.result : null);
    return answer({
      tasks: items.map((task) => ({ ...summaryOf(task, this.url), index: tasks.indexOf(task), result: result(task) })),
      nextCursor,
    });
  }

  /** The chapters and outlines of a user, as older clients see them. */
  private queue(method: string, rest: string[], caller: Caller): Response {
    const [id, action] = rest;
    if (id !== undefined) {
      const task = this.task(id, caller);
      if (method === "DELETE") this.log.append(task, "TaskDeleted", {});
      else if (action === "cancel") this.cancel(task, "Cancelled by user", { kind: "user", id: caller.subject });
      return answer({ success: true });
    }
    const status = {
      WAITING: "pending",
      PROCESSING: "processing",
      FINISHED: "completed",
      FAILED: "failed",
      CANCELLED: "failed",
    };
    const tasks = this.log
      .listed(caller.subject)
      .filter((task) => ["chapter", "outline"].includes(task.type))
      .reverse();
    return answer({
      success: true,
      tasks: tasks.map((task) => ({
        ...{
          id: task.id,
          type: task.type,
          projectId: projectOf(task),
          projectName: projectOf(task),
          userId: task.owner,
        },
        ...{ params: task.payload, aiConfig: { provider: "fake", model: "fake" }, status: status[task.status] },
        ...{
          progress: task.status === "FINISHED" ? 100 : Math.floor(task.progress ?? 0),
          message: task.message,
          error: task.error,
        },
        ...{
          createdAt: task.createdAt,
          updatedAt: task.updatedAt,
          startedAt: task.startedAt,
          completedAt: task.endedAt,
        },
      })),
    });
  }
}

function projectOf(task: FakeTask): string {
  return String((task.payload as { project?: unknown } | null)?.project ?? "project");
}

/** Return the values of a parameter: repeated, or comma-separated. */
function listOf(query: URLSearchParams, name: string): string[] {
  return query
    .getAll(name)
    .flatMap((value) => value.split(","))
    .filter(Boolean);
}

async function bodyOf(body: BodyInit | null | undefined): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(body === null || body === undefined ? [] : await new Response(body).arrayBuffer());
}
