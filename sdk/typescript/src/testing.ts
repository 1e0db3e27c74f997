/**
 * A service in memory, for tests of programs that use the client. It passes the same tests as the real service, for what it
 * has: tasks, batches, streams, lists, schedules, webhooks, files. It has no limits, no deadlines, no further attempts
 * after a failure; schedules do not fire, and webhooks are not sent. What it lacks is a 501 that says so.
 */
import { type ClientOptions, Taskstream } from "./client.ts";
import { FakeService, type Handler, type HandlerContext, type Report } from "./fake/service.ts";
import type { Fetch } from "./http.ts";

export type { Handler, HandlerContext, Report };

export class FakeTaskstream {
  /** Requests go to this function; nothing listens there. */
  readonly url: string;
  /** In place of the global `fetch`. */
  readonly fetch: Fetch;
  private readonly service: FakeService;

  constructor(url = "http://taskstream.test") {
    this.url = url;
    this.service = new FakeService(url);
    this.fetch = this.service.fetch;
  }

  /** Return a client of a user. */
  client(user = "alice", options: Partial<ClientOptions> & { roles?: readonly string[] } = {}): Taskstream {
    const { roles = ["user"], ...rest } = options;
    const token = rest.getToken || rest.token !== undefined ? {} : { token: this.token(user, { roles }) };
    return new Taskstream({ url: this.url, fetch: this.fetch, ...token, ...rest });
  }

  /** Return a token of a user. */
  token(user = "alice", options: { roles?: readonly string[]; lifetimeSeconds?: number } = {}): string {
    const { roles = ["user"], lifetimeSeconds = 3600 } = options;
    return this.service.token(user, roles, lifetimeSeconds);
  }

  /** Carry out the tasks of a type. Without a handler they wait. */
  handle<P = unknown>(type: string, handler: (payload: P, context: HandlerContext) => unknown): this {
    this.service.handle(type, handler as Handler);
    return this;
  }

  /** Requests so far, as `POST /api/task`. */
  get requests(): readonly string[] {
    return this.service.requests;
  }

  /** Streams that are open. */
  get openStreams(): number {
    return this.service.streams.count;
  }

  /** Refuse the next requests, as `refuse(503, { times: 2, retryAfterSeconds: 0 })`. */
  refuse(status: number, options: { times?: number; retryAfterSeconds?: number } = {}): void {
    this.service.refuse(status, options.times ?? 1, options.retryAfterSeconds);
  }

  /** Cut all streams; who follows goes on. */
  cutStreams(): void {
    this.service.streams.cut();
  }

  /** Answer nobody until `start`. Tasks go on. */
  stop(): void {
    this.service.stop();
  }

  start(): void {
    this.service.start();
  }
}

/** Return headers and body of a webhook message with a good signature, to test a receiver. */
export async function signedMessage(
  secret: string,
  message: { type: string; data: unknown },
  options: { id?: string; nowMs?: number } = {},
): Promise<{ headers: Record<string, string>; body: string }> {
  const { id = "msg_of_a_test", nowMs = Date.now() } = options;
  const timestamp = String(Math.floor(nowMs / 1000));
  const body = JSON.stringify({ timestamp: new Date(nowMs).toISOString(), ...message });
  const raw = Uint8Array.from(atob(secret.replace(/^whsec_/, "")), (each) => each.charCodeAt(0));
  const { subtle } = globalThis.crypto;
  const key = await subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const signature = await subtle.sign("HMAC", key, new TextEncoder().encode(`${id}.${timestamp}.${body}`));
  const text = btoa(String.fromCharCode(...new Uint8Array(signature)));
  return { headers: { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": `v1,${text}` }, body };
}
