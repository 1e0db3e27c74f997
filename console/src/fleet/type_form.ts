/** The settings of a task type as a form. What is left empty comes from the service; what is sent replaces all. */

export interface TypeDraft {
  description: string;
  pool: string;
  priority: "high" | "normal" | "low";
  attempts: string;
  timeout: string;
  backoffBase: string;
  backoffCap: string;
  busyFor: string;
  concurrency: string;
  perSecond: string;
  burst: string;
  keyConcurrency: string;
  onConflict: "wait" | "replace" | "refuse";
  accepts: "any" | "json";
  indexed: string;
  sessionAffinity: boolean;
  dialect: string;
  model: string;
  /** `any`: any payload. `own`: the text below. `server`: asked of a server when it is saved. */
  schema: "any" | "own" | "server";
  schemaText: string;
  schemaServer: string;
}
export type TypeField = keyof TypeDraft;

export const EMPTY_TYPE: TypeDraft = {
  description: "",
  pool: "",
  priority: "normal",
  attempts: "",
  timeout: "",
  backoffBase: "",
  backoffCap: "",
  busyFor: "",
  concurrency: "",
  perSecond: "",
  burst: "",
  keyConcurrency: "1",
  onConflict: "wait",
  accepts: "any",
  indexed: "",
  sessionAffinity: false,
  dialect: "",
  model: "",
  schema: "any",
  schemaText: "",
  schemaServer: "",
};

/** A type's own settings, and its schema, as the API returns them. */
export interface OwnType {
  own: Record<string, unknown> | null;
  schema: unknown;
}

const NUMBERS = [
  "attempts",
  "timeout",
  "backoffBase",
  "backoffCap",
  "busyFor",
  "concurrency",
  "perSecond",
  "burst",
] as const;
const LIMITS: Record<string, [least: number, most: number, whole: boolean]> = {
  attempts: [1, 100, true],
  timeout: [0.001, 604_800, false],
  backoffBase: [0.001, 604_800, false],
  backoffCap: [0.001, 604_800, false],
  busyFor: [0.001, 604_800, false],
  concurrency: [1, 1_000_000, true],
  perSecond: [0.00001, 1_000_000, false],
  burst: [1, 1_000_000, true],
  keyConcurrency: [1, 1_000_000, true],
};
const MODEL = /^[A-Za-z0-9](?:[A-Za-z0-9._:@+-]|\/(?!\/|$)){0,199}$/;
const INDEXED = /^\$(?:\.[A-Za-z0-9_-]{1,64}){1,8}$/;

const words = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);

export function typeDraft(type: OwnType): TypeDraft {
  const own = type.own ?? {};
  const draft = { ...EMPTY_TYPE };
  for (const name of [...NUMBERS, "keyConcurrency"] as const)
    if (own[name] !== undefined && own[name] !== null) draft[name] = String(own[name]);
  for (const name of [
    "description",
    "pool",
    "priority",
    "onConflict",
    "accepts",
    "sessionAffinity",
    "dialect",
    "model",
  ] as const)
    if (own[name] !== undefined && own[name] !== null) Object.assign(draft, { [name]: own[name] });
  if (Array.isArray(own.indexed)) draft.indexed = own.indexed.join("\n");
  if (type.schema !== null && type.schema !== undefined) {
    draft.schema = "own";
    draft.schemaText = JSON.stringify(type.schema, null, 2);
  }
  return draft;
}

export function typeProblems(draft: TypeDraft): Partial<Record<TypeField, string>> {
  const found: Partial<Record<TypeField, string>> = {};
  for (const [name, [least, most, whole]] of Object.entries(LIMITS)) {
    const text = draft[name as TypeField] as string;
    if (!text.trim()) continue;
    const value = Number(text);
    if (Number.isNaN(value) || (whole && !Number.isInteger(value)))
      found[name as TypeField] = `must be a ${whole ? "whole " : ""}number`;
    else if (value < least || value > most)
      found[name as TypeField] =
        `must be between ${least.toLocaleString("en", { maximumFractionDigits: 5 })} and ${most.toLocaleString("en")}`;
  }
  if (draft.burst.trim() && !draft.perSecond.trim())
    found.burst = "needs starts per second: it is how far they may be exceeded";
  if (draft.pool && !/^[A-Za-z0-9_-]{1,32}$/.test(draft.pool))
    found.pool = "must be 1 to 32 letters, digits, dashes and underscores";
  if (draft.model && !MODEL.test(draft.model))
    found.model = "must be letters, digits, . _ : @ + - and single slashes, such as acme/flux; at most 200";
  if (draft.description.length > 1000)
    found.description = `must have at most 1,000 characters; it has ${draft.description.length}`;
  const indexed = words(draft.indexed);
  const wrong = indexed.find((path) => !INDEXED.test(path));
  if (wrong) found.indexed = `${wrong}: must be a path such as $.order.customer`;
  else if (indexed.length > 8) found.indexed = "at most 8 fields";
  if (draft.schema === "own") found.schemaText = schemaProblem(draft.schemaText);
  if (!found.schemaText) delete found.schemaText;
  if (draft.schema === "server" && !draft.schemaServer) found.schemaServer = "choose a server";
  return found;
}

function schemaProblem(text: string): string | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value))
      return 'must be an object, as in {"type": "object"}';
  } catch (error) {
    return `must be JSON: ${error instanceof Error ? error.message : "it cannot be read"}`;
  }
}

/** Return what is wrong with the name of a new type, undefined if nothing is. */
export function typeNameProblem(name: string): string | undefined {
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) return undefined;
  return "must be 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit";
}

/** Return the body of `PUT /api/types/{name}` as JSON text: a schema is sent as it was written. */
export function typeBody(draft: TypeDraft): string {
  const body: Record<string, unknown> = {};
  for (const name of NUMBERS) if (draft[name].trim()) body[name] = Number(draft[name]);
  for (const name of [
    "description",
    "pool",
    "priority",
    "onConflict",
    "accepts",
    "sessionAffinity",
    "dialect",
    "model",
  ] as const)
    if (draft[name] !== EMPTY_TYPE[name]) body[name] = draft[name];
  if (draft.keyConcurrency.trim() && draft.keyConcurrency.trim() !== "1")
    body.keyConcurrency = Number(draft.keyConcurrency);
  const indexed = words(draft.indexed);
  if (indexed.length) body.indexed = indexed;
  if (draft.schema === "server") body.schemaFrom = { server: draft.schemaServer };
  const text = JSON.stringify(body);
  if (draft.schema !== "own") return text;
  return `${text.slice(0, -1)}${text === "{}" ? "" : ","}"schema":${draft.schemaText.trim()}}`;
}

/** Return a type's rules in one line: what differs from the service's own first. */
export function rulesText(type: {
  attempts: number;
  timeout: number;
  concurrency: number | null;
  perSecond: number | null;
  schema: unknown;
}): string {
  const parts = [`${type.attempts} attempts`, `timeout ${type.timeout} s`];
  if (type.concurrency) parts.push(`${type.concurrency} at once`);
  if (type.perSecond) parts.push(`${type.perSecond}/s`);
  if (type.schema) parts.push("schema");
  return parts.join(" · ");
}
