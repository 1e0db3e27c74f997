// Uses the client and the fake as they are built, on whatever runs this.
import { Taskstream, verifyWebhook } from "@taskstream/client";
import { FakeTaskstream, signedMessage } from "@taskstream/client/testing";

const fake = new FakeTaskstream();
fake.handle("double", ({ number }, { report }) => {
  report({ progress: 50, output: "half" });
  return 2 * number;
});
const client = fake.client("alice");
if (!(client instanceof Taskstream)) throw new Error("another class");
if ((await client.run("double", { number: 21 })) !== 42) throw new Error("run");
const taskId = await client.submit("double", { number: 1 });
const types = [];
for await (const item of client.stream(taskId, { after: "0" })) types.push(item.type);
if (types.at(-1) !== "TaskSucceeded") throw new Error(types.join());
const { batchIds } = await client.batch(Array.from({ length: 1500 }, (_, number) => ({ type: "double", payload: { number } })));
for (const batchId of batchIds) await client.batches.wait(batchId);
// Node 18 has WebCrypto in a module only.
if (!globalThis.crypto) globalThis.crypto = (await import("node:crypto")).webcrypto;
const secret = `whsec_${btoa("0123456789abcdef0123456789abcdef")}`;
await verifyWebhook({ ...(await signedMessage(secret, { type: "task.succeeded", data: {} })), secret });
console.log("the client works here");
