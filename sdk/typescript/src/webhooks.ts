/** Verification of webhook messages (Standard Webhooks), by WebCrypto: Node, browsers, Deno, Bun and edge runtimes. */
import { WebhookVerificationError } from "./errors.ts";
import type { WebhookMessage } from "./types.ts";

type HeaderSource = Headers | Record<string, string | string[] | undefined>;

export interface VerifyOptions {
  /** The body as it came, before any JSON parser. */
  body: string | Uint8Array;
  headers: HeaderSource;
  /** The `whsec_…` of the registration; during a rotation both. */
  secret: string | readonly string[];
  /** How far the message's time may be from now; default 300 s. */
  toleranceSeconds?: number;
  /** In place of the present time, milliseconds. */
  nowMs?: number;
  /** In place of `crypto.subtle`. Node 18 has it in `webcrypto` of node:crypto only. */
  subtle?: SubtleCrypto;
}

/** Return a message that is from the service and recent. Throws WebhookVerificationError. */
export async function verifyWebhook(options: VerifyOptions): Promise<WebhookMessage> {
  const { body, headers, secret, toleranceSeconds = 300, nowMs = Date.now() } = options;
  const id = header(headers, "webhook-id");
  const timestamp = header(headers, "webhook-timestamp");
  if (!/^\d{1,12}$/.test(timestamp)) throw new WebhookVerificationError("`webhook-timestamp` is no time");
  if (Math.abs(nowMs / 1000 - Number(timestamp)) > toleranceSeconds)
    throw new WebhookVerificationError("the message is too old, or the clocks differ");
  const signatures = header(headers, "webhook-signature")
    .split(" ")
    .filter((each) => each.startsWith("v1,"))
    .slice(0, 8)
    .map((each) => bytesOf(each.slice(3)));
  const text = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const prefix = new TextEncoder().encode(`${id}.${timestamp}.`);
  const signed = new Uint8Array(prefix.length + text.length);
  signed.set(prefix);
  signed.set(text, prefix.length);
  const subtle = options.subtle ?? globalThis.crypto?.subtle;
  if (!subtle) throw new TypeError("there is no WebCrypto here; Node 18: `subtle: webcrypto.subtle` of node:crypto");
  for (const each of typeof secret === "string" ? [secret] : secret) {
    const raw = bytesOf(each.replace(/^whsec_/, ""));
    if (!raw?.length) throw new TypeError("the secret is not the `whsec_…` of a webhook");
    const key = await subtle.importKey("raw", raw, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    // `verify` compares in constant time.
    for (const signature of signatures)
      if (signature && (await subtle.verify("HMAC", key, signature, signed)))
        return JSON.parse(typeof body === "string" ? body : new TextDecoder().decode(body)) as WebhookMessage;
  }
  throw new WebhookVerificationError("the signature is not from this secret");
}

function header(headers: HeaderSource, name: string): string {
  let value: string | string[] | null | undefined;
  if (typeof (headers as Headers).get === "function") value = (headers as Headers).get(name);
  else
    for (const [each, given] of Object.entries(headers as Record<string, string | string[] | undefined>))
      if (each.toLowerCase() === name) value = given;
  if (typeof value !== "string" || !value) throw new WebhookVerificationError(`there is no header \`${name}\``);
  return value;
}

function bytesOf(base64: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  } catch {
    return null;
  }
}
