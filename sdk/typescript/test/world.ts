/** Where the conformance tests run: on a real service with a backend here, or on the fake. Both do what payloads say. */
import { createHmac } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { type ClientOptions, parseJson, Taskstream } from "../src/index.ts";
import { FakeTaskstream } from "../src/testing.ts";

/** The payload of a task of the types of this world. */
export interface Script {
  /** Reports before the end. */
  reports?: { progress?: number; message?: string; output?: string; log?: string }[];
  /** It goes on when this name is released. */
  hold?: string;
  /** The reason of a failure. */
  error?: string;
  data?: unknown;
  /** JSON of the data, as text: for numbers that JavaScript does not have. */
  raw?: string;
}

export interface World {
  /** Tasks of this type are carried out. */
  type: string;
  client(user: string, options?: Partial<ClientOptions> & { roles?: string[] }): Taskstream;
  /** A bearer token. */
  token(user: string, lifetimeSeconds?: number, roles?: string[]): string;
  url: string;
  fetch: NonNullable<ClientOptions["fetch"]>;
  /** Let tasks go on that hold with this name. */
  release(name: string): void;
  close(): Promise<void>;
}

/** Names that were released, and those who wait for one. */
export class Gates {
  private readonly open = new Set<string>();
  private readonly waiting = new Map<string, (() => void)[]>();

  release(name: string): void {
    this.open.add(name);
    for (const go of this.waiting.get(name) ?? []) go();
    this.waiting.delete(name);
  }

  passed(name: string): Promise<void> {
    if (this.open.has(name)) return Promise.resolve();
    return new Promise((resolve) => {
      this.waiting.set(name, [...(this.waiting.get(name) ?? []), resolve]);
    });
  }
}

export function jwt(secret: string, subject: string, roles: string[], lifetimeSeconds: number): string {
  const now = Math.floor(Date.now() / 1000);
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: subject, roles, iat: Math.min(now, now + lifetimeSeconds), exp: now + lifetimeSeconds };
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

/** A service at a URL; its secret makes tokens. A backend in this process carries out one type. */
export async function serviceWorld(url: string, secret: string): Promise<World> {
  const gates = new Gates();
  const backend = createServer((request, response) => void answer(request, response, gates));
  await new Promise<void>((resolve) => backend.listen(0, "127.0.0.1", resolve));
  const token = (user: string, lifetimeSeconds = 3600, roles = ["user"]) => jwt(secret, user, roles, lifetimeSeconds);
  const type = `script-${process.pid}-${(backend.address() as AddressInfo).port}`;
  const client: World["client"] = (user, { roles = ["user"], ...options } = {}) =>
    new Taskstream({ url, ...(options.getToken ? {} : { token: token(user, 3600, roles) }), ...options });
  const at = `http://127.0.0.1:${(backend.address() as AddressInfo).port}`;
  const admin = client("root", { roles: ["admin"] });
  await admin.servers.register({
    id: type,
    name: "Backend of the tests",
    provider: "here",
    types: [type],
    maxConcurrent: 50,
    endpoints: { predict: `${at}/predict`, health: `${at}/health` },
  });
  while ((await admin.servers.get(type)).status !== "online") await sleep(20);
  return {
    type,
    client,
    token,
    url,
    fetch: (input, init) => fetch(input, init),
    release: (name) => gates.release(name),
    close: () => closed(backend),
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, gates: Gates): Promise<void> {
  if (request.method === "GET") return void response.end("ok");
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  const script = JSON.parse(body).request as Script | null;
  if (script?.error !== undefined && !script.reports && !script.hold) {
    response.writeHead(400, { "Content-Type": "text/plain" });
    return void response.end(script.error);
  }
  response.writeHead(200, { "Content-Type": "application/x-ndjson" });
  response.flushHeaders();
  const say = (update: unknown) => response.write(`${JSON.stringify(update)}\n`);
  for (const report of script?.reports ?? []) {
    say(report);
    await sleep(5);
  }
  if (script?.hold !== undefined) {
    say({ message: `holding ${script.hold}` });
    await gates.passed(script.hold);
  }
  if (script?.error !== undefined) say({ data: null, metadata: { status: "FAILED", message: script.error } });
  else response.write(`{"data": ${script?.raw ?? JSON.stringify(script?.data ?? null)}}\n`);
  response.end();
}

function closed(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}

/** The fake, with handlers that do what payloads say. */
export function fakeWorld(): World {
  const gates = new Gates();
  const fake = new FakeTaskstream();
  const type = "script";
  fake.handle<Script | null>(type, async (script, { report }) => {
    for (const each of script?.reports ?? []) {
      report(each);
      await sleep(1);
    }
    if (script?.hold !== undefined) {
      report({ message: `holding ${script.hold}` });
      await gates.passed(script.hold);
    }
    if (script?.error !== undefined) throw new Error(script.error);
    return script?.raw === undefined ? (script?.data ?? null) : parseJson(script.raw, true);
  });
  return {
    type,
    client: (user, options) => fake.client(user, options),
    token: (user, lifetimeSeconds, roles) => fake.token(user, { lifetimeSeconds, roles }),
    url: fake.url,
    fetch: fake.fetch,
    release: (name) => gates.release(name),
    close: async () => {},
  };
}
