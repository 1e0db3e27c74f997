/** Schedules, webhooks, servers, types and files of the fake: kept, listed, changed. Nothing fires, nothing is sent. */
import { randomHex } from "../json.ts";
import { answer, invalid, missing } from "./refusal.ts";
import type { FakeLog, Json } from "./state.ts";

export interface Call {
  method: string;
  /** Segments behind the name of the register. */
  rest: string[];
  query: URLSearchParams;
  body: Json;
  bytes: Uint8Array<ArrayBuffer>;
  mediaType: string;
  subject: string;
  isAdmin: boolean;
}

interface Thing {
  owner: string;
  shown: Json;
  bytes?: Uint8Array<ArrayBuffer>;
  mediaType?: string;
}

type Run = (owner: string, task: Json, scheduleId: string) => string;

/** Return a page of a list, by the position of its first entry. */
export function pageOf<T>(all: readonly T[], query: URLSearchParams): { items: T[]; nextCursor: string | null } {
  const limit = Number(query.get("limit") ?? 50);
  if (!Number.isInteger(limit) || limit < 1 || limit > 200)
    throw invalid("must be a whole number of at most 200", "limit");
  const start = Number(query.get("cursor") ?? 0);
  const end = start + limit;
  return { items: all.slice(start, end), nextCursor: end < all.length ? String(end) : null };
}

export class FakeRegisters {
  private readonly log: FakeLog;
  private readonly run: Run;
  private readonly url: string;
  private readonly things = new Map<string, Map<string, Thing>>();

  constructor(log: FakeLog, run: Run, url: string) {
    this.log = log;
    this.run = run;
    this.url = url;
  }

  /** Return the answer of a register; null: it is none. */
  handle(name: string, call: Call): Response | null {
    switch (name) {
      case "schedules":
        return this.schedules(call);
      case "webhooks":
        return this.webhooks(call);
      case "files":
        return this.files(call);
      case "keys":
        return this.keys(call);
      case "servers":
        return this.named(name, "server", call, () => ({ status: "online", ...call.body }));
      case "types":
        return this.named(name, "type", call, () => ({ name: call.rest[0], ...call.body }));
      default:
        return null;
    }
  }

  private of(register: string): Map<string, Thing> {
    const found = this.things.get(register) ?? new Map();
    this.things.set(register, found);
    return found;
  }

  private found(register: string, kind: string, call: Call): Thing {
    const thing = this.of(register).get(decodeURIComponent(call.rest[0] ?? ""));
    if (!thing || !(call.isAdmin || thing.owner === call.subject)) throw missing(kind);
    return thing;
  }

  private list(register: string, key: string, call: Call): Response {
    const own = [...this.of(register).values()].filter((thing) => call.isAdmin || thing.owner === call.subject);
    const { items, nextCursor } = pageOf(own.reverse(), call.query);
    return answer({ [key]: items.map((thing) => thing.shown), nextCursor });
  }

  private add(register: string, call: Call, shown: (id: string) => Json, more: Partial<Thing> = {}): Thing {
    const id = this.log.newIds(call.subject, 1)[0] as string;
    const thing = { owner: call.subject, shown: { id, owner: call.subject, ...shown(id) }, ...more };
    this.of(register).set(id, thing);
    return thing;
  }

  private remove(register: string, kind: string, call: Call): Response {
    const { id } = this.found(register, kind, call).shown as { id: string };
    this.of(register).delete(id);
    return answer({ id, success: true });
  }

  private schedules(call: Call): Response {
    const { method, rest, body } = call;
    const [id, action] = rest;
    if (id === undefined) {
      if (method === "GET") return this.list("schedules", "schedules", call);
      checkCron(body.cron);
      const given = { timeZone: "UTC", missed: "skip", catchUp: 1, name: "", description: "", ...body };
      const times = { createdAt: Date.now(), updatedAt: Date.now(), nextAt: null, nextRuns: [], heldReason: null };
      const none = { lastFired: null, lastFailure: null, lastTriggeredTaskId: null, counts: {}, pauseReason: null };
      return answer(this.add("schedules", call, () => ({ ...given, paused: false, ...times, ...none })).shown);
    }
    if (id === "preview") {
      checkCron(body.cron);
      return answer({ cron: body.cron, timeZone: body.timeZone, description: String(body.cron), nextRuns: [] });
    }
    const thing = this.found("schedules", "schedule", call);
    if (method === "DELETE") return this.remove("schedules", "schedule", call);
    if (action === "run") {
      const taskId = this.run(thing.owner, thing.shown.task as Json, thing.shown.id as string);
      thing.shown = { ...thing.shown, lastTriggeredTaskId: taskId };
      return answer({ id: thing.shown.id, taskId, success: true });
    }
    if (action === "runs") return answer({ runs: [], nextCursor: null });
    if (action === "pause") thing.shown = { ...thing.shown, paused: true, pauseReason: body.reason ?? null };
    if (action === "resume") thing.shown = { ...thing.shown, paused: false, pauseReason: null };
    if (method === "PATCH") {
      if (body.cron !== undefined) checkCron(body.cron);
      thing.shown = { ...thing.shown, ...body, updatedAt: Date.now() };
    }
    return answer(thing.shown);
  }

  private webhooks(call: Call): Response {
    const { method, rest, body } = call;
    const [id, action] = rest;
    const secret = () => `whsec_${btoa(randomHex())}`;
    if (id === undefined) {
      if (method === "GET") return this.list("webhooks", "webhooks", call);
      if (typeof body.url !== "string" || !/^https?:\/\//.test(body.url))
        throw invalid("must be an http(s) URL", "$.url");
      const given = { events: ["ended"], types: [], taskId: null, description: "", active: true, ...body };
      const webhook = this.add("webhooks", call, () => ({ ...given, createdAt: Date.now(), disabledReason: null }));
      return answer({ webhook: webhook.shown, secret: secret(), previousUntil: null });
    }
    const thing = this.found("webhooks", "webhook", call);
    if (method === "DELETE") return this.remove("webhooks", "webhook", call);
    if (method === "PATCH") thing.shown = { ...thing.shown, ...body };
    if (action === "secret")
      return answer({ webhook: thing.shown, secret: secret(), previousUntil: Date.now() + 86_400_000 });
    if (action === "deliveries") return answer({ deliveries: [], nextCursor: null });
    if (action === "test") return answer({ id, success: true });
    return answer(thing.shown);
  }

  /** Keys are kept and shown; the fake takes none as a token. */
  private keys(call: Call): Response {
    const { method, rest, body } = call;
    if (rest[0] === undefined) {
      if (method === "GET") return this.list("keys", "keys", call);
      if (typeof body.name !== "string" || !Array.isArray(body.roles)) throw invalid("must have a name and roles", "$");
      const given = { types: [], servers: null, payloads: null, rate: null, expiresAt: null, ...body };
      const none = { lastUsedAt: null, revokedAt: null, revokedBy: null, reason: "", createdBy: {} };
      const key = this.add("keys", call, () => ({ ...given, status: "active", createdAt: Date.now(), ...none }));
      return answer({ key: `tsk_${randomHex()}_${randomHex()}`, details: key.shown });
    }
    const thing = this.found("keys", "key", call);
    if (method !== "DELETE") return answer(thing.shown);
    const revokedAt = Date.now();
    thing.shown = { ...thing.shown, status: "revoked", revokedAt, reason: body.reason ?? "" };
    return answer({ id: thing.shown.id, revokedAt, confirmed: true });
  }

  private files(call: Call): Response {
    const { method, rest, query, bytes, mediaType } = call;
    const [id, action] = rest;
    if (id === undefined) {
      if (method === "GET") return this.list("files", "files", call);
      const file = this.add(
        "files",
        call,
        (made) => ({
          name: query.get("name") ?? "",
          mediaType: query.get("type") ?? mediaType,
          bytes: bytes.length,
          sha256: "",
          purpose: query.get("purpose") ?? "",
          metadata: {},
          taskId: null,
          createdAt: new Date().toISOString(),
          expiresAt: null,
          url: `${this.url}/api/files/${made}`,
        }),
        { bytes },
      );
      return answer(file.shown);
    }
    const thing = this.found("files", "file", call);
    if (method === "DELETE") return this.remove("files", "file", call);
    if (action === "info") return answer(thing.shown);
    if (action === "links")
      return answer({ url: `${this.url}/api/files/${id}?token=fake`, expiresAt: new Date().toISOString() });
    return new Response(thing.bytes, { headers: { "Content-Type": thing.shown.mediaType as string } });
  }

  /** Things that admins name: servers and types. */
  private named(register: string, kind: string, call: Call, shown: () => Json): Response {
    const { method, rest, body } = call;
    const [id, action] = rest;
    if (id === undefined && method === "GET") return this.list(register, register, { ...call, isAdmin: true });
    if (method !== "GET" && !call.isAdmin) throw invalid("needs a token with the role admin");
    const name = decodeURIComponent(id ?? String(body.id ?? ""));
    if ((method === "POST" && id === undefined) || method === "PUT") {
      this.of(register).set(name, { owner: call.subject, shown: shown() });
      return answer({ id: name, name, success: true });
    }
    const thing = this.found(register, kind, { ...call, isAdmin: true });
    if (method === "DELETE") {
      this.of(register).delete(name);
      return answer({ id: name, success: true });
    }
    if (action === "maintenance" || method === "PATCH") thing.shown = { ...thing.shown, ...body };
    return answer(thing.shown);
  }
}

function checkCron(cron: unknown): void {
  const isCron = typeof cron === "string" && (/^@\w+$/.test(cron) || [5, 6].includes(cron.trim().split(/\s+/).length));
  if (!isCron) throw invalid("must be a cron expression of five or six fields", "$.cron");
}
