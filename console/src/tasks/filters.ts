/** The filters of lists of tasks, as the field completes them. */
import { get } from "../api/client.ts";
import type { TaskCounts } from "../api/types.ts";
import type { FilterKey, Suggestion } from "../parts/Chips.tsx";
import { readsAll } from "../session.ts";
import { filterOf, HOLDS, KINDS, STATUSES } from "../text/taskFilter.ts";

const AGO = "1h, 30m, 2d, or 2026-01-31T12:00Z";
const instant = (name: string, label: string): FilterKey => ({
  name,
  label,
  hint: AGO,
  check: (value) =>
    /^\d+(\.\d+)?(ms|s|m|h|d|w)$/.test(value) || /^\d{10,}$/.test(value) || !Number.isNaN(Date.parse(value))
      ? null
      : `a time ago or an instant: ${AGO}`,
});

const KEYS: FilterKey[] = [
  { name: "status", label: "status", values: STATUSES, many: true },
  { name: "type", label: "type", many: true },
  { name: "pool", label: "pool", many: true },
  { name: "server", label: "server", many: true, hint: "runs it, or ran it last" },
  { name: "owner", label: "owner" },
  { name: "kind", label: "kind of failure", values: KINDS, many: true },
  { name: "error", label: "text in the error" },
  { name: "shape", label: "error group", hint: "a fingerprint: view by error" },
  { name: "hold", label: "waits for", values: HOLDS, many: true },
  { name: "priority", label: "priority", values: ["high", "normal", "low"], many: true },
  {
    name: "attempts",
    label: "attempts from",
    hint: "a number",
    check: (value) => (/^\d+$/.test(value) ? null : "a number"),
  },
  { name: "key", label: "concurrency key" },
  { name: "batch", label: "batch" },
  { name: "schedule", label: "schedule" },
  { name: "project", label: "project" },
  { name: "id", label: "id begins with" },
  { name: "minRun", label: "ran at least", hint: "90s, 5m, 1h" },
  instant("endedSince", "ended since"),
  instant("endedBefore", "ended before"),
  instant("createdSince", "submitted since"),
  instant("createdBefore", "submitted before"),
  instant("startedSince", "started since"),
  instant("startedBefore", "started before"),
  instant("updatedSince", "changed since"),
  instant("updatedBefore", "changed before"),
];

/** The keys, and those of labels and searchable fields that the address has already. */
export function filterKeys(query: URLSearchParams): FilterKey[] {
  const named = [...new Set(query.keys())].filter((name) => /^(label|payload)\../.test(name));
  const shown = readsAll.value ? KEYS : KEYS.filter((key) => key.name !== "owner");
  return [...shown, ...named.map((name) => ({ name, label: name }))];
}

const COUNTED = ["type", "pool", "server", "owner"];

/** Values of a key with how many tasks of the present filter have them. */
export async function suggestValues(query: URLSearchParams, name: string): Promise<Suggestion[]> {
  if (!COUNTED.includes(name)) return [];
  const filter = filterOf(query);
  filter.delete(name);
  filter.set("by", name);
  const counts = await get<TaskCounts>("/api/tasks/count", { query: filter, noted: false });
  return (counts.by ?? []).filter(({ value }) => value !== "").map(({ value, count }) => ({ value, count }));
}
