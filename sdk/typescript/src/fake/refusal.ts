/** Answers of the fake. */
import { stringify } from "../json.ts";

/** A request that is refused. */
export class Refusal extends Error {
  readonly status: number;
  readonly fields: Record<string, unknown>;

  constructor(status: number, detail: string, fields: Record<string, unknown> = {}) {
    super(detail);
    this.status = status;
    this.fields = fields;
  }
}

export const invalid = (detail: string, path?: string) => new Refusal(400, detail, path ? { path } : {});
export const missing = (what: string) => new Refusal(404, `no ${what} with this id`);
export const conflict = (detail: string) => new Refusal(409, detail);

export function problem(refusal: Refusal, instance: string): Response {
  const { status, message: detail, fields } = refusal;
  const { retryAfterSeconds, ...rest } = fields;
  const body = { type: "about:blank", title: `Status ${status}`, status, detail, error: detail, instance, ...rest };
  const headers: Record<string, string> = { "Content-Type": "application/problem+json", "X-Request-Id": "fake" };
  if (retryAfterSeconds !== undefined) headers["Retry-After"] = String(retryAfterSeconds);
  return new Response(stringify(body), { status, headers });
}

export function answer(body: unknown): Response {
  return new Response(stringify(body), { headers: { "Content-Type": "application/json" } });
}
