import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError, UnavailableError, verifyWebhook } from "../../src/index.ts";
import { FakeTaskstream, signedMessage } from "../../src/testing.ts";
import { conformance } from "../conformance.ts";
import { fakeWorld } from "../world.ts";

conformance("the fake", async () => fakeWorld());

test("the fake refuses as often as it is told to, and the client goes on", async () => {
  const fake = new FakeTaskstream().handle("double", (n: number) => 2 * n);
  fake.refuse(503, { times: 2, retryAfterSeconds: 0 });
  assert.equal(await fake.client().run("double", 21), 42);
  assert.equal(fake.requests.filter((each) => each === "POST /api/task").length, 3);
  fake.refuse(503, { times: 99 });
  await assert.rejects(fake.client("bob", { retries: 0 }).submit("double", 1), UnavailableError);
});

test("a stream of the fake goes on after cuts, and all are closed at the end", async () => {
  const fake = new FakeTaskstream();
  let go = () => {};
  fake.handle("slow", async (_, { report }) => {
    report({ output: "one " });
    await new Promise<void>((resolve) => {
      go = resolve;
    });
    report({ output: "two" });
  });
  const client = fake.client();
  const taskId = await client.submit("slow", null);
  let output = "";
  for await (const item of client.stream(taskId, { after: "0" })) {
    if (item.type !== "ProgressReported" || !("event" in item)) continue;
    output += (item.event as { output?: string }).output;
    fake.cutStreams();
    go();
  }
  assert.equal(output, "one two");
  assert.equal(fake.openStreams, 0);
});

test("what the fake lacks is an error that says so", async () => {
  const error = await new FakeTaskstream()
    .client()
    .tasks.list({ minRun: "5s" })
    .toArray()
    .catch((each) => each);
  assert.ok(error instanceof ApiError);
  assert.equal(error.status, 501);
  assert.match(error.message, /minRun.*taskstream up/);
});

test("a message of the fake is verified as a real one", async () => {
  const client = new FakeTaskstream().client();
  const { secret } = await client.webhooks.create({ url: "https://example.org/hooks" });
  const { headers, body } = await signedMessage(secret, { type: "task.succeeded", data: { taskId: "one" } });
  assert.equal((await verifyWebhook({ body, headers, secret })).type, "task.succeeded");
});
