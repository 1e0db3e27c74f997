/**
 * The filter of a list of tasks. The address, the list, its count and a bulk command have the same names for the same
 * things, so one object of this module is all of them.
 */

export type ListKey = "status" | "type" | "pool" | "server" | "priority" | "kind" | "hold";
const LISTS: ListKey[] = ["status", "type", "pool", "server", "priority", "kind", "hold"];
const INSTANTS = [
  "createdAfter",
  "createdSince",
  "createdBefore",
  "startedSince",
  "startedBefore",
  "endedSince",
  "endedBefore",
  "updatedSince",
  "updatedBefore",
];
const TEXTS = ["batch", "schedule", "project", "error", "shape", "key", "id", "minRun", "owner"];
const NAMED: [prefix: string, field: string][] = [
  ["label.", "labels"],
  ["payload.", "payload"],
];

export const STATUSES = ["WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED"];
export const KINDS = [
  "rejected",
  "failed",
  "busy",
  "error",
  "unreachable",
  "timeout",
  "bad_answer",
  "worker_lost",
  "expired",
  "deadline",
  "parent_failed",
];
export const HOLDS = ["parents", "time", "limit", "retry", "server-busy"];
/** Holds of tasks that are in no queue. */
export const HELD = ["parents", "time", "limit"];
export const SORTS = ["-created", "created", "-ended", "ended", "-duration", "duration"];

export function isFilterName(name: string): boolean {
  return (
    (LISTS as string[]).includes(name) ||
    INSTANTS.includes(name) ||
    TEXTS.includes(name) ||
    name === "attempts" ||
    NAMED.some(([prefix]) => name.startsWith(prefix) && name.length > prefix.length)
  );
}

/** Return the parameters that select tasks; what else an address has (sort, view) is left out. */
export function filterOf(query: URLSearchParams): URLSearchParams {
  const found = new URLSearchParams();
  for (const [name, value] of query) if (isFilterName(name) && value !== "") found.append(name, value);
  return found;
}

export function isEmpty(filter: URLSearchParams): boolean {
  return [...filter.keys()].every((name) => name === "owner");
}

const RELATIVE = /^-?(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$/;
const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };

/** Return an instant of a filter in ISO 8601; a time ago, as `1h`, is taken from `now` (milliseconds). */
export function fixedInstant(value: string, now: number): string {
  const [, amount, unit] = value.match(RELATIVE) ?? [];
  if (amount && unit) return new Date(now - Number(amount) * (UNIT_MS[unit] ?? 0)).toISOString();
  return /^\d+$/.test(value) ? new Date(Number(value)).toISOString() : value;
}

/** Return the filter with instants in place of times ago, so that a list, a dry run and a run mean the same tasks. */
export function fixed(filter: URLSearchParams, now: number): URLSearchParams {
  const found = new URLSearchParams();
  for (const [name, value] of filter) found.append(name, INSTANTS.includes(name) ? fixedInstant(value, now) : value);
  return found;
}

/** Return the filter as the JSON of a bulk command. Values separated by commas are several. */
export function bulkFilter(filter: URLSearchParams): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const name of new Set(filter.keys())) {
    const named = NAMED.find(([prefix]) => name.startsWith(prefix));
    if (named) {
      const field = (found[named[1]] ?? {}) as Record<string, string>;
      field[name.slice(named[0].length)] = filter.get(name) ?? "";
      found[named[1]] = field;
    } else if ((LISTS as string[]).includes(name)) {
      const values = filter.getAll(name);
      found[name] = name === "server" ? values : values.flatMap((value) => value.split(",")).filter(Boolean);
    } else if (name === "attempts") found[name] = Number(filter.get(name));
    else found[name] = filter.get(name);
  }
  return found;
}

/** Names of filters that are no words. */
const LABELS: Record<string, string> = {
  shape: "error group",
  minRun: "ran at least",
  endedSince: "ended since",
  endedBefore: "ended before",
  createdSince: "submitted since",
  createdBefore: "submitted before",
  startedSince: "started since",
  startedBefore: "started before",
  updatedSince: "changed since",
  updatedBefore: "changed before",
};

/** Say a filter in words: `failed · type resize · ended since 1h`. */
export function inWords(filter: URLSearchParams): string {
  const parts: string[] = [];
  for (const name of new Set(filter.keys())) {
    const values = filter.getAll(name).join(" or ");
    parts.push(name === "status" ? values.toLowerCase() : `${LABELS[name] ?? name} ${values}`);
  }
  return parts.join(" · ") || "all tasks";
}

/** An id of a task, or its beginning of 6 characters or more. */
export const ID_START = /^[0-9A-HJKMNP-TV-Z]{6,26}(~.*)?$/i;

export interface Preset {
  name: string;
  query: string;
}

export const PRESETS: Preset[] = [
  { name: "All", query: "" },
  { name: "In flight", query: "status=WAITING&status=PROCESSING" },
  { name: "Failed 1 h", query: "status=FAILED&endedSince=1h&sort=-ended" },
  { name: "Held", query: "status=WAITING&hold=parents&hold=time&hold=limit" },
  { name: "Retrying", query: "hold=retry" },
  { name: "Slowest", query: "endedSince=1h&sort=-duration" },
];

/** True: the address is what a preset would make of it. */
export function isPreset(query: URLSearchParams, preset: Preset): boolean {
  const plain = (given: URLSearchParams) =>
    [...given]
      .filter(([name]) => isFilterName(name) || name === "sort")
      .map(([name, value]) => `${name}=${value}`)
      .sort()
      .join("&");
  return plain(query) === plain(new URLSearchParams(preset.query));
}
