import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, NotFoundError, type StreamItem, StreamsBlockedError, Taskstream } from "../../src/index.ts";

const encoder = new TextEncoder();
const block = (id: string, message: object) => `id: ${id}\ndata: ${JSON.stringify(message)}\n\n`;
const SSE = { "Content-Type": "text/event-stream" };

/** A response that sends these pieces; then it ends, breaks, or stays silent until it is aborted. */
function stream(pieces: string[], end: "ends" | "breaks" | "stays", signal?: AbortSignal | null): Response {
  const rest = [...pieces];
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        signal?.addEventListener("abort", () => controller.error(signal.reason));
      },
      pull(controller) {
        const piece = rest.shift();
        if (piece !== undefined) controller.enqueue(encoder.encode(piece));
        else if (end === "ends") controller.close();
        else if (end === "breaks") controller.error(new TypeError("terminated"));
      },
    },
    { highWaterMark: 0 },
  );
  return new Response(body, { headers: SSE });
}

function client(
  answer: (call: { path: string; last: string | undefined; number: number; signal: AbortSignal }) => Response,
) {
  const calls: string[] = [];
  const made = new Taskstream({
    url: "http://service",
    retries: 0,
    streams: { firstWordMs: 50, silenceMs: 50, pollMs: 1 },
    fetch: async (url, init) => {
      const path = url.replace("http://service", "");
      const last = (init!.headers as Record<string, string>)["Last-Event-ID"];
      calls.push(path);
      return answer({ path, last, number: calls.length, signal: init!.signal! });
    },
  });
  return { made, calls };
}

async function all(items: AsyncIterable<StreamItem>): Promise<string[]> {
  const found: string[] = [];
  for await (const item of items) found.push(`${item.id} ${item.type}`);
  return found;
}

test("a stream goes on after its last whole message when it is cut, ends, or falls silent", async () => {
  const asked: (string | undefined)[] = [];
  const { made } = client(({ last, number, signal }) => {
    asked.push(last);
    if (number === 1) return stream([block("a", { type: "state" }), 'id: b\ndata: {"type":"Lo'], "breaks");
    if (number === 2) return stream([block("a", { type: "reached" }), block("b", { type: "One" })], "ends");
    if (number === 3) return stream([block("c", { type: "Two" })], "stays", signal);
    return new Response(null, { status: 204 });
  });
  assert.deepEqual(await all(made.stream("id")), ["a state", "b One", "c Two"]);
  assert.deepEqual(asked, [undefined, "a", "b", "c"]);
});

test("a refusal ends a stream with its error", async () => {
  const { made } = client(() => new Response(JSON.stringify({ detail: "no such task" }), { status: 404 }));
  await assert.rejects(all(made.stream("id")), NotFoundError);
});

test("a stream that a proxy collects is replaced by requests, which have every event once", async () => {
  const events = [3, 4, 5].map((sequence) => ({ sequence, at: "", by: {}, event: { type: `Event${sequence}` } }));
  let reads = 0;
  const { made, calls } = client(({ path, signal }) => {
    if (path.endsWith("/stream")) return stream([], "stays", signal);
    if (path.includes("before=end")) return Response.json({ events: [events[0]], nextAfter: null });
    if (path.includes("/events")) {
      const after = Number(new URL(path, "http://x").searchParams.get("after"));
      const rest = events.filter((each) => each.sequence > after).slice(0, 1);
      return Response.json({ events: rest, nextAfter: reads > 2 && rest.length ? rest[0]!.sequence : null });
    }
    return Response.json({ taskDetails: { status: reads++ > 2 ? "FINISHED" : "PROCESSING" } });
  });
  assert.deepEqual(await all(made.stream("id")), ["3 state", "4 Event4", "5 Event5"]);
  assert.equal(calls.filter((path) => path.endsWith("/stream")).length, 1);
});

test("a page in place of a stream is no stream", async () => {
  const { made } = client(() => new Response("<html>", { headers: { "Content-Type": "text/html" } }));
  await assert.rejects(async () => {
    for await (const _ of made.tasks.stream());
  }, StreamsBlockedError);
});

test("breaking out of the loop closes the connection", async () => {
  let signal: AbortSignal | null | undefined;
  const made = new Taskstream({
    url: "http://service",
    fetch: async (_, init) => {
      signal = init!.signal;
      return stream([block("a", { type: "state" })], "stays", signal);
    },
  });
  for await (const _ of made.stream("id")) break;
  assert.equal(signal?.aborted, true);
});

test("a service that stays away ends the wait with an error", async () => {
  const { made } = client(() => {
    throw new TypeError("refused");
  });
  await assert.rejects(
    all(made.tasks.stream()),
    (error) => error instanceof StreamsBlockedError || error instanceof ConnectionError,
  );
});
