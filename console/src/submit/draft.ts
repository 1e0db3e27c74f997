// A task that is being written: its options, the text of its request, and what is wrong with it. Pure. The payload is text
// from the beginning to the end, so 64-bit numbers and the order of keys stay.

import { offsetAt, readJson } from "../text/json.ts";

export interface Draft {
  type: string;
  /** JSON text. */
  payload: string;
  /** Empty: as the type says. So are the others. */
  priority: string;
  attempts: string;
  timeout: string;
  start: "now" | "delay" | "at";
  delay: string;
  /** Of `<input type="datetime-local">`, in the zone of the browser. */
  runAt: string;
  expiresAt: string;
  deadline: string;
  /** Ids, one a line. */
  dependsOn: string;
  onParentFailure: string;
  concurrencyKey: string;
  /** `name=value`, one a line. */
  require: string;
  prefer: string;
}

export const EMPTY: Draft = {
  type: "default",
  payload: "{}",
  priority: "",
  attempts: "",
  timeout: "",
  start: "now",
  delay: "",
  runAt: "",
  expiresAt: "",
  deadline: "",
  dependsOn: "",
  onParentFailure: "fail",
  concurrencyKey: "",
  require: "",
  prefer: "",
};

/** What is wrong, by the path in the request. */
export type Problems = Record<string, string>;

export interface Request {
  text: string;
  problems: Problems;
}

/** The body of `POST /api/task`, and what the page can say of it without asking the service. */
export function requestOf(draft: Draft): Request {
  const problems: Problems = {};
  const options: [string, unknown][] = [];
  const number = (name: "attempts" | "timeout" | "delay", wanted: string) => {
    const text = draft[name].trim();
    if (text === "") return;
    const value = Number(text);
    if (!Number.isFinite(value) || value < 0) problems[`$.${name}`] = `must be ${wanted}`;
    else options.push([name, value]);
  };
  const instant = (name: "runAt" | "expiresAt" | "deadline") => {
    const text = draft[name].trim();
    if (text === "") return;
    const at = Date.parse(text);
    if (Number.isNaN(at)) problems[`$.${name}`] = "must be an instant, such as 2026-12-01T09:00";
    else options.push([name, new Date(at).toISOString()]);
  };
  if (draft.priority) options.push(["priority", draft.priority]);
  number("attempts", "a number from 1 to 100");
  number("timeout", "a number of seconds");
  if (draft.start === "delay") number("delay", "a number of seconds");
  if (draft.start === "at") instant("runAt");
  instant("expiresAt");
  instant("deadline");
  const parents = draft.dependsOn.split(/[\s,]+/).filter(Boolean);
  if (parents.length) options.push(["dependsOn", parents], ["onParentFailure", draft.onParentFailure]);
  if (draft.concurrencyKey) options.push(["concurrencyKey", draft.concurrencyKey]);
  for (const name of ["require", "prefer"] as const) {
    const [labels, wrong] = labelsOf(draft[name]);
    if (wrong) problems[`$.${name}`] = `"${wrong}" is not of the form name=value`;
    else if (Object.keys(labels).length) options.push([name, labels]);
  }
  const type = draft.type.trim();
  if (!type) problems["$.type"] = "must not be empty";
  const payload = draft.payload.trim();
  const wrong = syntaxError(payload);
  if (wrong) problems["$.payload"] = wrong;
  const members = [
    `"type": ${JSON.stringify(type)}`,
    `"payload": ${payload || "null"}`,
    ...options.map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`),
  ];
  return { text: `{${members.join(", ")}}`, problems };
}

function labelsOf(text: string): [Record<string, string>, string] {
  const labels: Record<string, string> = {};
  for (const line of text.split(/[\n,]+/)) {
    const trimmed = line.trim();
    if (!trimmed) continue;
    const at = trimmed.indexOf("=");
    if (at <= 0) return [{}, trimmed];
    Object.defineProperty(labels, trimmed.slice(0, at).trim(), {
      value: trimmed.slice(at + 1).trim(),
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return [labels, ""];
}

/** Why a text is no JSON, with its line; empty if it is. */
export function syntaxError(text: string): string {
  if (text.trim() === "") return "must not be empty: null is the empty payload";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    const message = error instanceof Error ? error.message : "";
    const [, position] = /position (\d+)/.exec(message) ?? [];
    const [, line] = /line (\d+)/.exec(message) ?? [];
    const where = line ?? (position === undefined ? "" : String(lineAt(text, Number(position))));
    return where
      ? `is not JSON: look at line ${where}`
      : "is not JSON: it ends too early, or a bracket or quote is missing";
  }
}

/** The line of a place in a text, from 1. */
export function lineAt(text: string, place: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at >= 0 && at < place; at = text.indexOf("\n", at + 1)) line += 1;
  return line;
}

/** Where in the payload's text a path such as `$.payload.images[3].url` is; null: it is not in the payload, or not there. */
export function placeOf(payload: string, path: string): number | null {
  const steps = stepsOf(path);
  if (steps === null || steps[0] !== "payload") return null;
  const json = readJson(payload);
  for (let length = steps.length; length > 0; length -= 1) {
    const place = offsetAt(json, steps.slice(1, length));
    if (place !== null) return place;
  }
  return null;
}

/** `$.a[3].b` as keys and indexes; null if it has another form. */
export function stepsOf(path: string): (string | number)[] | null {
  if (!path.startsWith("$")) return null;
  const steps: (string | number)[] = [];
  let rest = path.slice(1);
  while (rest) {
    const found = /^(?:\.([^.[\]]+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\])/.exec(rest);
    if (!found) return null;
    const [whole, name, index, quoted] = found;
    steps.push(name ?? (index === undefined ? (JSON.parse(`"${quoted}"`) as string) : Number(index)));
    rest = rest.slice(whole.length);
  }
  return steps;
}

/** The request as a command. The token is not in it. */
export function asCurl(address: string, body: string): string {
  let end = "EOF";
  while (body.split("\n").includes(end)) end += "_";
  return [
    `curl -sS --fail-with-body '${address.replaceAll("'", "'\\''")}' \\`,
    `  -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\`,
    `  --data-binary @- <<'${end}'`,
    body,
    end,
  ].join("\n");
}

/** A value that shows the form of a JSON Schema: what is required, with defaults and examples where it has them. */
export function exampleOf(schema: unknown, depth = 0): unknown {
  if (typeof schema !== "object" || schema === null || depth > 6) return null;
  const { type, properties, required, items, ...rest } = schema as Record<string, unknown>;
  for (const name of ["default", "const"]) if (name in rest) return rest[name];
  for (const name of ["examples", "enum"]) if (Array.isArray(rest[name]) && rest[name].length) return rest[name][0];
  for (const name of ["anyOf", "oneOf", "allOf"])
    if (Array.isArray(rest[name])) return exampleOf(rest[name][0], depth + 1);
  const kind = Array.isArray(type) ? type[0] : type;
  if (kind === "object" || properties) {
    const all = (properties ?? {}) as Record<string, unknown>;
    const wanted = Array.isArray(required) && required.length ? (required as string[]) : Object.keys(all).slice(0, 8);
    return Object.fromEntries(wanted.slice(0, 50).map((name) => [name, exampleOf(all[name], depth + 1)]));
  }
  if (kind === "array") return items ? [exampleOf(items, depth + 1)] : [];
  if (kind === "string") return "";
  if (kind === "integer" || kind === "number") return typeof rest.minimum === "number" ? rest.minimum : 0;
  return kind === "boolean" ? false : null;
}
