/** What the client has besides tasks. Each call is one request; lists go on by themselves. */
import type { components, operations } from "./api.ts";
import { type Http, newKey, type Query, type RequestOptions, segment } from "./http.ts";
import { type List, listed } from "./pages.ts";
import type {
  DeliverySummary,
  PastScheduleRun,
  RegisterAnswer,
  RegisterBody,
  ScheduleBody,
  ScheduleChange,
  ScheduleDetail,
  SchedulePreview,
  ScheduleRun,
  ScheduleSummary,
  ServerPatch,
  ServerSummary,
  TypeBody,
  TypeSummary,
  WebhookBody,
  WebhookChange,
  WebhookSecret,
  WebhookSummary,
} from "./types.ts";

export interface CallOptions {
  signal?: AbortSignal;
}
/** `idempotencyKey`: calls with the same key and body do it once. By default each call has a key of its own. */
export interface CreateOptions extends CallOptions {
  idempotencyKey?: string;
}
export interface ListOptions extends CallOptions {
  /** Entries of a page. */
  limit?: number;
  cursor?: string;
  /** Another user, for admins and auditors. */
  owner?: string;
}

type QueryOf<Name extends keyof operations> = operations[Name]["parameters"]["query"];

function split<T extends CallOptions>(options: T): { query: Query; signal: AbortSignal | undefined } {
  const { signal, ...query } = options;
  return { query: query as Query, signal };
}

abstract class Resource {
  protected readonly http: Http;

  constructor(http: Http) {
    this.http = http;
  }

  protected call<T>(method: string, path: string, json: unknown, options: RequestOptions): Promise<T> {
    return this.http.json<T>(method, path, { ...options, json });
  }
}

/** Tasks that are submitted again and again. */
export class Schedules extends Resource {
  create(schedule: ScheduleBody, options: CreateOptions = {}): Promise<ScheduleDetail> {
    const { signal, idempotencyKey = newKey() } = options;
    return this.call("POST", "/api/schedules", schedule, { signal, idempotencyKey });
  }

  get(id: string, options: CallOptions = {}): Promise<ScheduleDetail> {
    return this.http.json("GET", `/api/schedules/${segment(id)}`, options);
  }

  list(options: ListOptions & { failing?: boolean } = {}): List<ScheduleSummary> {
    const { query, signal } = split(options);
    return listed(this.http, "/api/schedules", "schedules", query, signal);
  }

  /** Change the given fields. */
  update(id: string, change: ScheduleChange, options: CallOptions = {}): Promise<ScheduleDetail> {
    return this.call("PATCH", `/api/schedules/${segment(id)}`, change, { ...options, isRepeatable: true });
  }

  /** Delete a schedule; its tasks stay. */
  async delete(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/schedules/${segment(id)}`, options);
  }

  pause(id: string, reason?: string, options: CallOptions = {}): Promise<ScheduleDetail> {
    const body = reason === undefined ? {} : { reason };
    return this.call("POST", `/api/schedules/${segment(id)}/pause`, body, { ...options, isRepeatable: true });
  }

  resume(id: string, options: CallOptions = {}): Promise<ScheduleDetail> {
    return this.call("POST", `/api/schedules/${segment(id)}/resume`, {}, { ...options, isRepeatable: true });
  }

  /** Submit its task now. */
  run(id: string, options: CreateOptions = {}): Promise<ScheduleRun> {
    const { signal, idempotencyKey = newKey() } = options;
    return this.http.json("POST", `/api/schedules/${segment(id)}/run`, { signal, idempotencyKey });
  }

  /** Its runs so far, the last one first. */
  runs(id: string, options: ListOptions = {}): List<PastScheduleRun> {
    const { query, signal } = split(options);
    return listed(this.http, `/api/schedules/${segment(id)}/runs`, "runs", query, signal);
  }

  /** Say what a cron expression means, and when it would run; nothing is saved. */
  preview(cron: string, timeZone = "UTC", options: CallOptions = {}): Promise<SchedulePreview> {
    return this.call("POST", "/api/schedules/preview", { cron, timeZone }, { ...options, isRepeatable: true });
  }
}

/** Endpoints of yours that get the events of your tasks. Messages are checked by `verifyWebhook`. */
export class Webhooks extends Resource {
  /** Register an endpoint. Only this answer has the `secret`. */
  create(webhook: WebhookBody, options: CallOptions = {}): Promise<WebhookSecret> {
    return this.call("POST", "/api/webhooks", webhook, options);
  }

  get(id: string, options: CallOptions = {}): Promise<WebhookSummary> {
    return this.http.json("GET", `/api/webhooks/${segment(id)}`, options);
  }

  list(options: ListOptions & { counts?: boolean } = {}): List<WebhookSummary> {
    const { query, signal } = split(options);
    return listed(this.http, "/api/webhooks", "webhooks", query, signal);
  }

  update(id: string, change: WebhookChange, options: CallOptions = {}): Promise<WebhookSummary> {
    return this.call("PATCH", `/api/webhooks/${segment(id)}`, change, { ...options, isRepeatable: true });
  }

  /** Delete a webhook, its secret and what waits to be delivered. */
  async delete(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/webhooks/${segment(id)}`, options);
  }

  /** Make a new secret. For 24 hours messages have both signatures. */
  rotateSecret(id: string, options: CallOptions = {}): Promise<WebhookSecret> {
    return this.http.json("POST", `/api/webhooks/${segment(id)}/secret`, options);
  }

  /** Send a message of the type `webhook.test`. */
  async test(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("POST", `/api/webhooks/${segment(id)}/test`, options);
  }

  deliveries(
    id: string,
    options: ListOptions & { status?: "waiting" | "delivered" | "failed"; since?: string | number } = {},
  ): List<DeliverySummary> {
    const { query, signal } = split(options);
    return listed(this.http, `/api/webhooks/${segment(id)}/deliveries`, "deliveries", query, signal);
  }

  /** Send a delivery again, with the same `webhook-id`. */
  async retryDelivery(id: string, deliveryId: string, options: CallOptions = {}): Promise<void> {
    const path = `/api/webhooks/${segment(id)}/deliveries/${segment(deliveryId)}/retry`;
    await this.http.json("POST", path, options);
  }
}

/** Backends, for admins. */
export class Servers extends Resource {
  /** Register a server, or replace the registration with the same id. */
  register(server: RegisterBody, options: CallOptions = {}): Promise<RegisterAnswer> {
    return this.call("POST", "/api/servers", server, { ...options, isRepeatable: true });
  }

  get(id: string, options: CallOptions = {}): Promise<ServerSummary> {
    return this.http.json("GET", `/api/servers/${segment(id)}`, options);
  }

  list(options: CallOptions & NonNullable<QueryOf<"listServers">> = {}): List<ServerSummary> {
    const { query, signal } = split(options);
    return listed(this.http, "/api/servers", "servers", query, signal);
  }

  /** Change the given fields; null removes a setting. */
  update(id: string, change: ServerPatch, options: CallOptions = {}): Promise<ServerSummary> {
    return this.call("PATCH", `/api/servers/${segment(id)}`, change, { ...options, isRepeatable: true });
  }

  async remove(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/servers/${segment(id)}`, options);
  }

  /** Begin or end maintenance: no new tasks, running ones go on. */
  async setMaintenance(id: string, maintenance: boolean, reason = "", options: CallOptions = {}): Promise<void> {
    const body = { maintenance, ...(reason ? { reason } : {}) };
    await this.call("POST", `/api/servers/${segment(id)}/maintenance`, body, { ...options, isRepeatable: true });
  }
}

/** Kinds of work, and their limits; changes are for admins. */
export class Types extends Resource {
  get(name: string, options: CallOptions = {}): Promise<TypeSummary> {
    return this.http.json("GET", `/api/types/${segment(name)}`, options);
  }

  list(options: ListOptions = {}): List<TypeSummary> {
    const { query, signal } = split(options);
    return listed(this.http, "/api/types", "types", query, signal);
  }

  /** Define a type, or replace its definition. */
  async put(name: string, type: TypeBody, options: CallOptions = {}): Promise<void> {
    await this.call("PUT", `/api/types/${segment(name)}`, type, options);
  }

  async delete(name: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/types/${segment(name)}`, options);
  }
}

type KeySummary = components["schemas"]["KeySummary"];

/** Long-lived keys for programs: as `token`, in place of a JWT. */
export class Keys extends Resource {
  /** Make a key. Only this answer has its text, so the request is not repeated after a cut. */
  create(key: components["schemas"]["KeyBody"], options: CreateOptions = {}): Promise<components["schemas"]["NewKey"]> {
    return this.call("POST", "/api/keys", key, { ...options, isRepeatable: false });
  }

  get(id: string, options: CallOptions = {}): Promise<KeySummary> {
    return this.http.json("GET", `/api/keys/${segment(id)}`, options);
  }

  list(options: ListOptions = {}): List<KeySummary> {
    const { query, signal } = split(options);
    return listed(this.http, "/api/keys", "keys", query, signal);
  }

  /** Revoke a key: when this answers, no process accepts it any more. */
  revoke(id: string, reason?: string, options: CallOptions = {}): Promise<components["schemas"]["RevokedKey"]> {
    return this.call("DELETE", `/api/keys/${segment(id)}`, reason === undefined ? {} : { reason }, options);
  }
}

/** The chapters and outlines of a user's projects, for older clients. */
export class Queue extends Resource {
  /** Those that have not ended, and the latest of those that ended within the hour; oldest first. */
  async list(options: CallOptions = {}): Promise<components["schemas"]["QueuedTask"][]> {
    const answer = await this.http.json<components["schemas"]["QueueTasksAnswer"]>("GET", "/api/queue/tasks", options);
    return answer.tasks;
  }

  async cancel(id: string, options: CallOptions = {}): Promise<void> {
    const path = `/api/queue/tasks/${segment(id)}/cancel`;
    await this.http.json("POST", path, { ...options, isRepeatable: true });
  }

  /** Take an ended task out of every list. */
  async delete(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/queue/tasks/${segment(id)}`, options);
  }
}
