import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { verifyWebhook, WebhookVerificationError } from "../../src/index.ts";

const SECRET = `whsec_${Buffer.from("0123456789abcdef0123456789abcdef").toString("base64")}`;
const OTHER = `whsec_${Buffer.from("another secret of the same length").toString("base64")}`;
const NOW = 1_767_225_605;
const body = '{"type":"task.succeeded","data":{"taskId":"ü"}}';

function message(secret = SECRET, at = NOW) {
  const key = Buffer.from(secret.slice(6), "base64");
  const signature = createHmac("sha256", key).update(`msg_1.${at}.${body}`).digest("base64");
  return { "webhook-id": "msg_1", "Webhook-Timestamp": String(at), "webhook-signature": `v1a,x v1,${signature}` };
}
const verify = (headers: ReturnType<typeof message>, more: object = {}) =>
  verifyWebhook({ body, headers, secret: SECRET, nowMs: NOW * 1000, ...more });

test("a signed message is returned, as text or as bytes", async () => {
  assert.equal((await verify(message())).type, "task.succeeded");
  assert.equal((await verify(message(), { body: new TextEncoder().encode(body) })).type, "task.succeeded");
  assert.equal(
    (await verifyWebhook({ body, headers: new Headers(message()), secret: [OTHER, SECRET], nowMs: NOW * 1000 })).type,
    "task.succeeded",
  );
});

test("another secret, body, time or header is refused", async () => {
  const refused = async (given: Promise<unknown>) => assert.rejects(given, WebhookVerificationError);
  await refused(verify(message(OTHER)));
  await refused(verify(message(), { body: `${body} ` }));
  await refused(verify(message(SECRET, NOW - 301)));
  await refused(verify({ ...message(), "Webhook-Timestamp": "NaN" }));
  await refused(verify({ ...message(), "webhook-id": "" }));
  await refused(verify({ ...message(), "webhook-signature": "v1,%%%" }));
  await assert.rejects(verify(message(), { secret: "" }), TypeError);
});
