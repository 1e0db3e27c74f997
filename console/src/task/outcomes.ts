import type { Outcome } from "../fold/task.ts";
import type { Mark } from "../parts/StateMark.tsx";

/** The state whose shape and colour an outcome of an attempt has. */
export const OUTCOME_MARKS: Record<Outcome, Mark> = {
  running: "processing",
  succeeded: "finished",
  failed: "failed",
  retried: "failed",
  returned: "retry",
  cancelled: "cancelled",
  unknown: "waiting",
};

export const OUTCOME_WORDS: Record<Outcome, string> = {
  running: "running",
  succeeded: "finished",
  failed: "failed",
  retried: "failed",
  returned: "returned",
  cancelled: "cancelled",
  unknown: "unknown",
};
