/** The rules of a registration that need no service: said while one types. The service has the last word. */
import { type Draft, type Field, hasField, labelsOf, PRESET } from "./registration.ts";

export type Problems = Partial<Record<Field, string>>;

const CONTROL = /[\x00-\x1f\x7f]/;
const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;
const HEADER_VALUE = /^[!-~](?:[ -~]*[!-~])?$/;

function named(text: string, most = 128): string | undefined {
  if (CONTROL.test(text)) return "must not have control characters";
  return text.length > most ? `must have at most ${most} characters; it has ${text.length}` : undefined;
}

function address(text: string): string | undefined {
  if (text.length > 2048) return "must have at most 2,048 characters";
  if (!/^https?:\/\//i.test(text)) return "must begin with http:// or https://";
  try {
    const url = new URL(text);
    if (url.username || url.password) return "must not have a user or a password: use the API key";
  } catch {
    return "must be a URL, as in http://gpu-1:8000/v1";
  }
}

function number(text: string, least: number, most: number, whole = true): string | undefined {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (Number.isNaN(value) || (whole && !Number.isInteger(value))) return `must be a ${whole ? "whole " : ""}number`;
  if (value < least || value > most)
    return `must be between ${least.toLocaleString("en")} and ${most.toLocaleString("en")}`;
}

function statuses(text: string, least: number): string | undefined {
  for (const each of text.split(/[\s,]+/).filter(Boolean)) {
    const wrong = number(each, least, 599);
    if (wrong) return `${each}: a status ${wrong}`;
  }
}

function json(text: string, what: string): string | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return `must be an object, ${what}`;
  } catch (error) {
    return `must be JSON: ${error instanceof Error ? error.message : "it cannot be read"}`;
  }
}

function id(text: string): string | undefined {
  if (!text) return "is required: it names the server in paths";
  if (text.includes("/")) return "must not have a slash";
  if (text === "." || text === ".." || text === "cleanup") return "is reserved; choose another one";
  return named(text);
}

function labels(text: string): string | undefined {
  const found = Object.entries(labelsOf(text));
  if (found.length > 50) return `at most 50 labels; these are ${found.length}`;
  for (const [name, value] of found) {
    if (!name) return "each line must be name=value";
    const wrong = named(name) ?? named(value, 256);
    if (wrong) return `${name}: ${wrong}`;
  }
}

/** Return what is wrong with a draft, by field. Fields that the program does not have are not looked at. */
export function problemsOf(draft: Draft): Problems {
  const found: Problems = {};
  const check = (field: Field, wrong: string | undefined) => {
    if (wrong && hasField(draft, field)) found[field] = wrong;
  };
  check("id", id(draft.id.trim()));
  check("name", named(draft.name.trim()));
  check("provider", named(draft.provider.trim()));
  const predict = draft.predict.trim();
  check("predict", predict ? address(predict) : "is required: where tasks are sent");
  const health = draft.health.trim();
  if (health) check("health", address(health));
  if (draft.healthStatus.trim()) check("healthStatus", statuses(draft.healthStatus, 100));
  if (draft.healthJson.trim()) check("healthJson", json(draft.healthJson, 'as in {"$.model.loaded": true}'));
  check("labels", labels(draft.labels));
  check("maxConcurrent", number(draft.maxConcurrent, 1, 10_000));
  check("weight", number(draft.weight, 1, 1_000));
  if (draft.model.trim()) check("model", named(draft.model.trim()));
  if (draft.program === "oip" && predict && !draft.model.trim() && !/\/models\/[^/]+/.test(predict))
    check("predict", "must name the model, as in …/v2/models/{model}/infer; or fill in `model`");
  if (draft.models === "list" && !draft.modelNames.trim()) check("modelNames", "name at least one model");
  if (draft.overflowWaiting.trim()) check("overflowWaiting", number(draft.overflowWaiting, 0, 10_000_000));
  if (draft.overflowOldest.trim()) check("overflowOldest", number(draft.overflowOldest, 0.001, 604_800, false));
  if (draft.apiKey && !HEADER_VALUE.test(draft.apiKey))
    check("apiKey", "must be printable ASCII text without spaces around it");
  else if (draft.apiKey.length > 4096) check("apiKey", "must have at most 4,096 characters");
  if (draft.authHeader.trim() && !HEADER_NAME.test(draft.authHeader.trim()))
    check("authHeader", "must be the name of a header, as in X-API-Key");
  if (draft.busyStatus.trim() && draft.busyStatus.trim() !== "none")
    check("busyStatus", statuses(draft.busyStatus, 400));
  if (draft.removal === "after") check("removeAfter", number(draft.removeAfter, 0.001, 366 * 86_400, false));
  if (draft.exchange.trim()) check("exchange", json(draft.exchange, 'as in {"result": "$.output"}'));
  return found;
}

/** Return what is allowed, and likely not meant, by field. */
export function adviceFor(draft: Draft): Problems {
  const found: Problems = {};
  const isUnchecked = draft.program === "bare" || draft.program === "taskstream" || draft.program === "type";
  if ((isUnchecked || draft.program.startsWith(PRESET)) && !draft.health.trim() && draft.predict.trim())
    found.health = "Without it the server is offline unless it sends heartbeats.";
  if (draft.answers !== "now" && hasField(draft, "answers"))
    found.answers = "It reports to TASKSTREAM_PUBLIC_URL: its machine must reach that address.";
  return found;
}
