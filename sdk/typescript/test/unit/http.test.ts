import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, RateLimitedError, Taskstream, UnavailableError } from "../../src/index.ts";

type Answer = () => Response;
const problem = (status: number, headers: Record<string, string> = {}): Answer => {
  const body = JSON.stringify({ status, title: "Title", detail: `detail of ${status}` });
  return () => new Response(body, { status, headers });
};
const json =
  (body: unknown): Answer =>
  () =>
    new Response(JSON.stringify(body));
const cut: Answer = () => {
  throw new TypeError("fetch failed");
};

/** A client whose requests get these answers in turn, the last one again and again. */
function answering(...answers: Answer[]) {
  const calls: { url: string; init: RequestInit; headers: Record<string, string> }[] = [];
  const client = new Taskstream({
    url: "https://tasks.example.org/prefix/",
    token: "a.token",
    fetch: async (url, init = {}) => {
      calls.push({ url, init, headers: init.headers as Record<string, string> });
      return (answers[calls.length - 1] ?? answers.at(-1)!)();
    },
  });
  return { client, calls };
}

test("a submission is repeated with the same key after a cut and a 503", async () => {
  const { client, calls } = answering(cut, problem(503, { "Retry-After": "0" }), json({ taskId: "one" }));
  assert.equal(await client.submit("echo", {}), "one");
  const keys = new Set(calls.map((call) => call.headers["Idempotency-Key"]));
  assert.equal(calls.length, 3);
  assert.equal(keys.size, 1);
  assert.match([...keys][0]!, /^[0-9a-f]{32}$/);
});

test("a request that may not be repeated is made once, unless it was refused by a 429", async () => {
  for (const answer of [cut, problem(503)]) {
    const { client, calls } = answering(answer, json({ taskDetails: {} }));
    await assert.rejects(client.retry("id"));
    assert.equal(calls.length, 1);
  }
  const { client, calls } = answering(problem(429, { "Retry-After": "0" }), json({ taskDetails: {} }));
  await client.retry("id");
  assert.equal(calls.length, 2);
});

test("a service that asks for a long pause is not asked again", async () => {
  const { client, calls } = answering(problem(429, { "Retry-After": "3600" }));
  const error = await client.submit("echo", {}).catch((each) => each);
  assert.ok(error instanceof RateLimitedError);
  assert.equal(error.retryAfterMs, 3_600_000);
  assert.equal(calls.length, 1);
});

test("an answer without JSON is an error that names the service", async () => {
  const { client } = answering(() => new Response("<html>"));
  await assert.rejects(client.me({ signal: AbortSignal.timeout(20_000) }), (error) =>
    /is https:.*prefix the service/.test(`${error}`),
  );
});

test("an error of a proxy is an error with its status", async () => {
  const { client } = answering(() => new Response("<html>Bad gateway", { status: 502 }));
  const error = await client.retry("id").catch((each) => each);
  assert.ok(error instanceof UnavailableError);
  assert.equal(error.problem, null);
  assert.match(error.message, /502/);
});

test("the prefix of an address is kept, and ids are escaped", async () => {
  const { client, calls } = answering(json({ taskDetails: {} }));
  await client.tasks.get("a/../b");
  assert.equal(calls[0]!.url, "https://tasks.example.org/prefix/api/task/a%2F..%2Fb");
});

test("an aborted request is not repeated", async () => {
  const stop = new AbortController();
  const { client, calls } = answering(() => {
    stop.abort("enough");
    throw new TypeError("fetch failed");
  });
  await assert.rejects(client.me({ signal: stop.signal }), (error) => error === "enough");
  assert.equal(calls.length, 1);
});

test("a request without an answer ends in time", async () => {
  const client = new Taskstream({
    url: "http://localhost",
    timeoutMs: 5,
    retries: 0,
    fetch: (_, init) =>
      new Promise((_, reject) => init!.signal!.addEventListener("abort", () => reject(init!.signal!.reason))),
  });
  await assert.rejects(client.me(), ConnectionError);
});
