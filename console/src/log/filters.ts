/** The filter of the log, in the address and in the API. Pure. */
import type { FilterKey } from "../parts/Chips.tsx";

export const LOGS = ["tasks", "fleet", "schedules", "webhooks", "operations", "batch-jobs"];
export const NAMES = ["log", "event", "actor", "subject", "since", "until"];

export const KEYS: FilterKey[] = [
  {
    name: "log",
    label: "log",
    values: LOGS,
    many: true,
    hint: "tasks, fleet, schedules, webhooks, operations, batch-jobs",
  },
  { name: "event", label: "event", many: true, hint: "TaskFailed, ServerWentOffline" },
  { name: "actor", label: "by", hint: "user:alice, worker:, or an id" },
  { name: "subject", label: "about", hint: "server:gpu-3, type:render, task:<id>" },
  { name: "since", label: "since", hint: "1h, or 2026-11-29T02:00Z" },
  { name: "until", label: "until", hint: "10m, or an instant" },
];

/** Return the parameters of `GET /api/log` that the address names. */
export function logQuery(query: URLSearchParams): URLSearchParams {
  const found = new URLSearchParams();
  for (const name of NAMES) for (const value of query.getAll(name)) found.append(name, value);
  return found;
}

/** Return the route of what an entry is about; null: it has no page. */
export function subjectRoute(kind: string, id: string): string | null {
  const encoded = encodeURIComponent(id);
  switch (kind) {
    case "task":
      return `#/task/${encoded}`;
    case "server":
      return `#/fleet/${encoded}`;
    case "type":
      return `#/types/${encoded}`;
    case "pool":
      return "#/pools";
    case "owner":
      return "#/limits";
    case "schedule":
      return `#/schedules/${encoded}`;
    case "webhook":
      return `#/webhooks/${encoded}`;
    case "operation":
      return "#/operations";
    default:
      return null;
  }
}

/** Return the few fields of an event that a line has room for. */
export function inShort(data: Record<string, unknown>, limit = 160): string {
  const parts: string[] = [];
  for (const [name, value] of Object.entries(data)) {
    if (value === null || value === "" || value === false) continue;
    if (Array.isArray(value) && !value.length) continue;
    if (typeof value === "object" && !Object.keys(value).length) continue;
    parts.push(`${name} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`);
  }
  const text = parts.join(" · ");
  return text.length > limit ? `${text.slice(0, limit)}…` : text;
}

/** Return the place that a text names: a sequence in a log (`tasks:48812`) or an instant; null: neither. */
export function placeOf(text: string): string | null {
  const given = text.trim();
  if (/^(tasks|fleet|schedules|webhooks|operations|batch-jobs):\d+$/.test(given)) return given;
  if (/^\d+$/.test(given) && given.length < 13) return `tasks:${given}`;
  return Number.isFinite(Date.parse(given)) ? new Date(given).toISOString() : null;
}
