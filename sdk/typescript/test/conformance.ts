/** What the client promises, on whatever world it is given: the real service and the fake pass the same tests. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import {
  AuthenticationError,
  ConflictError,
  InvalidRequestError,
  NotFoundError,
  type Progress,
  type StreamItem,
  TaskCancelledError,
  TaskFailedError,
  type TaskStatus,
  type Taskstream,
  WaitTimeoutError,
} from "../src/index.ts";
import type { Script, World } from "./world.ts";

let count = 0;
const fresh = (name: string) => `${name}-${process.pid}-${count++}`;
const REPORTS: Script = {
  reports: [
    { progress: 10, message: "begun", output: "one " },
    { progress: 50, message: "half", output: "two ", log: "a line" },
    { progress: 90, message: "nearly", output: "three" },
  ],
  data: { words: 3 },
};

/** The events of an item but for progress, of which the log has fewer than are pushed. */
const steps = (items: StreamItem[]) => items.map((item) => item.type).filter((type) => type !== "ProgressReported");
const output = (items: StreamItem[]) =>
  items
    .map((item) =>
      item.type === "ProgressReported" && "event" in item ? (item.event as { output?: string }).output : "",
    )
    .join("");

export function conformance(name: string, make: () => Promise<World>): void {
  describe(name, () => {
    let world: World;
    let alice: Taskstream;
    const submit = (script: Script) => alice.submit(world.type, script);
    const reaches = async (taskId: string, status: TaskStatus) => {
      while ((await alice.tasks.get(taskId, { wait: status === "PROCESSING" ? 0 : 5 })).status !== status);
    };

    before(async () => {
      world = await make();
      alice = world.client(fresh("alice"));
    });
    after(() => world?.close());

    test("run returns the data of the result", async () => {
      assert.deepEqual(await alice.run(world.type, { data: { doubled: 42 } }), { doubled: 42 });
    });

    test("a failed task is an error with its reason and the task", async () => {
      const error = await alice.run(world.type, { error: "no such width" }).catch((each) => each);
      assert.ok(error instanceof TaskFailedError, String(error));
      assert.match(error.message, /no such width/);
      assert.equal(error.task.status, "FAILED");
      assert.equal(typeof error.kind, "string");
    });

    test("progress comes with each report, in order", async () => {
      const reports: Progress[] = [];
      const data = await alice.run(world.type, REPORTS, { onProgress: (each) => reports.push(each) });
      assert.deepEqual(data, { words: 3 });
      const percentages = reports.map((each) => each.progress).filter((each) => each !== null);
      assert.deepEqual(
        percentages,
        [...percentages].sort((a, b) => a - b),
      );
      assert.equal(percentages.at(-1), 90);
    });

    test("an idempotency key makes one task of two calls, and refuses another body", async () => {
      const idempotencyKey = fresh("key");
      const first = await alice.submit(world.type, { data: 1 }, { idempotencyKey });
      assert.equal(await alice.submit(world.type, { data: 1 }, { idempotencyKey }), first);
      await assert.rejects(alice.submit(world.type, { data: 2 }, { idempotencyKey }), InvalidRequestError);
      assert.notEqual(await alice.submit(world.type, { data: 1 }), first);
    });

    test("a wait that is too long is an error, and the task goes on", async () => {
      const hold = fresh("hold");
      const taskId = await submit({ hold, data: "done" });
      await assert.rejects(alice.wait(taskId, { timeoutMs: 50 }), WaitTimeoutError);
      world.release(hold);
      assert.equal((await alice.wait(taskId)).result?.data, "done");
    });

    test("an aborted wait rejects with the reason of its signal", async () => {
      const hold = fresh("hold");
      const taskId = await submit({ hold });
      const stop = new AbortController();
      const waiting = alice.wait(taskId, { signal: stop.signal });
      const following = (async () => {
        for await (const item of alice.stream(taskId, { signal: stop.signal }))
          if (item.type === "state") stop.abort("enough");
      })();
      await assert.rejects(waiting, (error) => error === "enough");
      await assert.rejects(following, (error) => error === "enough");
      world.release(hold);
    });

    test("a stream has the state, then every event, and ends with the task", async () => {
      const hold = fresh("hold");
      const taskId = await submit({ ...REPORTS, hold });
      const items: StreamItem[] = [];
      for await (const item of alice.stream(taskId, { after: "0" })) {
        items.push(item);
        if (output(items) === "one two three") world.release(hold);
      }
      assert.equal(steps(items)[0], "TaskSubmitted");
      assert.ok(steps(items).includes("AttemptStarted"), String(steps(items)));
      assert.equal(steps(items).at(-1), "TaskSucceeded");
      assert.equal(output(items), "one two three");
      for await (const item of alice.stream(taskId)) {
        assert.equal(item.type, "state");
        assert.equal("task" in item && item.task.status, "FINISHED");
      }
    });

    test("a stream that resumes after any item misses nothing and repeats nothing", async () => {
      const taskId = await submit(REPORTS);
      await alice.wait(taskId);
      const all: StreamItem[] = [];
      for await (const item of alice.stream(taskId, { after: "0" })) all.push(item);
      for (const [index, { id }] of all.entries()) {
        const rest: StreamItem[] = [];
        for await (const item of alice.stream(taskId, { after: id })) rest.push(item);
        assert.deepEqual(rest, all.slice(index + 1));
      }
    });

    test("a cancelled task says so, and an ended one cannot be cancelled", async () => {
      const hold = fresh("hold");
      const taskId = await submit({ hold });
      await reaches(taskId, "PROCESSING");
      assert.equal((await alice.cancel(taskId, "not needed")).status, "CANCELLED");
      assert.equal((await alice.cancel(taskId)).status, "CANCELLED");
      await assert.rejects(alice.wait(taskId), TaskCancelledError);
      world.release(hold);
      const ended = await submit({ data: 1 });
      await alice.wait(ended);
      await assert.rejects(alice.cancel(ended), ConflictError);
    });

    test("run with cancelOnAbort cancels a task that takes too long", async () => {
      const key = fresh("key");
      const hold = fresh("hold");
      const options = { idempotencyKey: key, timeoutMs: 50, cancelOnAbort: true };
      await assert.rejects(alice.run(world.type, { hold }, options), WaitTimeoutError);
      const taskId = await alice.submit(world.type, { hold }, { idempotencyKey: key });
      assert.equal((await alice.tasks.get(taskId)).status, "CANCELLED");
    });

    test("a failed task can be retried, a finished one cannot", async () => {
      const failed = await submit({ error: "always" });
      await assert.rejects(alice.wait(failed), TaskFailedError);
      assert.notEqual((await alice.retry(failed)).status, "FAILED");
      await assert.rejects(alice.wait(failed), TaskFailedError);
      const finished = await submit({ data: 1 });
      await alice.wait(finished);
      await assert.rejects(alice.retry(finished), ConflictError);
    });

    test("a batch of more than a thousand keeps its order, and its dependencies", async () => {
      const carol = world.client(fresh("carol"));
      const items = Array.from({ length: 1002 }, (_, index) => ({
        type: world.type,
        payload: { data: index },
        ...(index === 1001 ? { dependsOn: [1000] } : {}),
        ...(index < 1000 ? { runAt: "2099-01-01T00:00:00Z" } : {}),
      }));
      const { batchIds, taskIds, refused } = await carol.batch(items);
      assert.equal(batchIds.length, 2);
      assert.equal(new Set(taskIds).size, 1002);
      assert.deepEqual(refused, []);
      assert.equal((await carol.wait(taskIds[1001]!)).result?.data, 1001);
      assert.deepEqual((await carol.tasks.get(taskIds[1001]!)).dependsOn, [taskIds[1000]]);
      assert.ok((await carol.batches.wait(batchIds[1]!)).done);
      const apart = [...items.slice(0, 1001), { payload: 1, dependsOn: [0] }];
      await assert.rejects(carol.batch(apart), /task 1001 depends on task 0/);
    });

    test("a list goes on over its pages, newest first", async () => {
      const dave = world.client(fresh("dave"));
      const items = Array.from({ length: 25 }, (_, index) => ({ type: world.type, payload: { data: index } }));
      const { taskIds, batchIds } = await dave.batch(items);
      await dave.batches.wait(batchIds[0]!);
      const listed: string[] = [];
      for await (const task of dave.tasks.list({ limit: 10 })) listed.push(task.id);
      assert.deepEqual(listed, [...taskIds].reverse());
      const page = await dave.tasks.list({ limit: 10, status: ["FINISHED"] });
      assert.equal(page.items.length, 10);
      assert.ok(page.nextCursor);
      assert.deepEqual(await dave.tasks.list({ status: ["FAILED"] }).toArray(), []);
      assert.equal((await dave.tasks.count({ type: [world.type] })).count, 25);
    });

    test("refusals are errors of their kind", async () => {
      await assert.rejects(world.client("x", { token: "nonsense" }).submit("a", 1), AuthenticationError);
      await assert.rejects(alice.tasks.get("01KDW1Z6P00000000000000000~nobody"), NotFoundError);
      const theirs = await world.client(fresh("bob")).submit(world.type, { data: 1 });
      await assert.rejects(alice.tasks.get(theirs), NotFoundError);
      const wrong = await alice.submit(world.type, {}, { attempts: 0 }).catch((error) => error);
      assert.ok(wrong instanceof InvalidRequestError, String(wrong));
      assert.equal(wrong.path, "$.attempts");
      assert.equal(wrong.status, 400);
    });

    test("an expired token is replaced once, before or after it is refused", async () => {
      const user = fresh("erin");
      let asked = 0;
      const refused = world.client(user, {
        getToken: () => (asked++ ? world.token(user) : `${world.token(user).slice(0, -4)}AAAA`),
      });
      await refused.submit(world.type, { data: 1 });
      await refused.submit(world.type, { data: 1 });
      assert.equal(asked, 2);
      asked = 0;
      const expiring = world.client(user, { getToken: () => world.token(user, asked++ ? 3600 : -3600) });
      await Promise.all([1, 2, 3].map((data) => expiring.submit(world.type, { data })));
      assert.equal(asked, 2);
    });

    test("integers beyond 2^53 survive both ways", async () => {
      const exact = world.client(fresh("frank"), { bigint: true });
      const taskId = await exact.submit(world.type, { raw: "[9007199254740993, 1.5]", sent: 9007199254740995n });
      const task = await exact.wait(taskId);
      assert.deepEqual(task.result?.data, [9007199254740993n, 1.5]);
      assert.equal((task.request as { sent: unknown }).sent, 9007199254740995n);
    });

    test("parts of a page follow a task and a list, from what was before to the end", async () => {
      const grace = world.client(fresh("grace"));
      const hold = fresh("hold");
      const taskId = await grace.submit(world.type, { ...REPORTS, hold });
      while ((await grace.tasks.get(taskId)).message !== `holding ${hold}`);
      const task = grace.live.task(taskId);
      const list = grace.live.tasks({ status: ["FINISHED"] });
      const ended = new Promise<void>((resolve) => {
        const look = () => task.get().isEnded && list.get().tasks.length && resolve();
        task.subscribe(look);
        list.subscribe(look);
        task.subscribe(
          () => task.get().output === "one two three" && list.get().isLoading === false && world.release(hold),
        );
        list.subscribe(
          () => task.get().output === "one two three" && list.get().isLoading === false && world.release(hold),
        );
      });
      await ended;
      assert.deepEqual(task.get().result, { words: 3 });
      assert.equal(task.get().output, "one two three");
      assert.deepEqual(task.get().logs, ["a line"]);
      assert.deepEqual(
        list.get().tasks.map((each) => each.id),
        [taskId],
      );
      grace.live.close();
    });

    test("a file is stored, read, listed and deleted", async () => {
      const file = await alice.files.upload("hello, file", { name: "hello.txt", type: "text/plain" });
      assert.equal(file.bytes, 11);
      assert.equal((await alice.files.get(file.id)).name, "hello.txt");
      assert.equal(new TextDecoder().decode(await alice.files.bytes(file.id)), "hello, file");
      assert.deepEqual(
        (await alice.files.list().toArray()).map((each) => each.id),
        [file.id],
      );
      assert.match((await alice.files.link(file.id, 60)).url, /token=/);
      await alice.files.delete(file.id);
      await assert.rejects(alice.files.get(file.id), NotFoundError);
    });

    test("a key is shown once, listed and revoked", async () => {
      const { key, details } = await alice.keys.create({ name: "of a test", roles: ["user"] });
      assert.match(key, /^tsk_/);
      assert.equal((await alice.keys.get(details.id)).status, "active");
      assert.ok((await alice.keys.list().toArray()).some((each) => each.id === details.id));
      await alice.keys.revoke(details.id, "the test is over");
      assert.equal((await alice.keys.get(details.id)).status, "revoked");
    });

    test("a schedule is made, changed, paused, run and deleted", async () => {
      const made = await alice.schedules.create({
        cron: "0 3 * * *",
        task: { type: world.type, payload: { data: 7 } },
        name: "nightly",
      });
      assert.equal((await alice.schedules.get(made.id)).cron, "0 3 * * *");
      assert.equal((await alice.schedules.update(made.id, { cron: "0 4 * * *" })).cron, "0 4 * * *");
      assert.equal((await alice.schedules.pause(made.id, "a pause")).paused, true);
      assert.equal((await alice.schedules.resume(made.id)).paused, false);
      const { taskId } = await alice.schedules.run(made.id);
      assert.equal((await alice.wait(taskId)).result?.data, 7);
      assert.ok((await alice.schedules.list().toArray()).some((each) => each.id === made.id));
      await alice.schedules.delete(made.id);
      await assert.rejects(alice.schedules.get(made.id), NotFoundError);
    });

    test("a webhook has a secret once, and can be changed and deleted", async () => {
      const { webhook, secret } = await alice.webhooks.create({ url: "https://example.org/hooks", events: ["ended"] });
      assert.match(secret, /^whsec_/);
      assert.equal((await alice.webhooks.get(webhook.id)).url, "https://example.org/hooks");
      assert.equal((await alice.webhooks.update(webhook.id, { active: false })).active, false);
      assert.notEqual((await alice.webhooks.rotateSecret(webhook.id)).secret, secret);
      assert.deepEqual(
        (await alice.webhooks.list().toArray()).map((each) => each.id),
        [webhook.id],
      );
      await alice.webhooks.delete(webhook.id);
      await assert.rejects(alice.webhooks.get(webhook.id), NotFoundError);
    });
  });
}
