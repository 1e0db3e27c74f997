/** What a schedule is called, and how its last run went. Pure. */
import type { Schema } from "../api/types.ts";

type Summary = Pick<Schema<"ScheduleSummary">, "id" | "name" | "lastFired" | "lastFailure">;

export const titleOf = (schedule: Pick<Summary, "id" | "name">): string => schedule.name || schedule.id;

export interface LastRun {
  at: number;
  failed: boolean;
  taskId: string | null;
}

/** Return the last run: a failure is recorded with, or after, the firing that it belongs to. Null: there was none. */
export function lastRun({ lastFired, lastFailure }: Pick<Summary, "lastFired" | "lastFailure">): LastRun | null {
  if (lastFailure && lastFailure.at >= (lastFired?.at ?? 0))
    return { at: lastFailure.at, failed: true, taskId: lastFailure.runs.at(-1)?.taskId ?? null };
  return lastFired ? { at: lastFired.at, failed: false, taskId: lastFired.runs.at(-1)?.taskId ?? null } : null;
}
