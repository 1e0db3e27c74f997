/** What a page shows of a task: folded from its state, its events and its reports. Pure. */
import { hasEnded, type StreamItem, type TaskDetails, type TaskStatus, type TaskSummary } from "./types.ts";

export interface TaskView {
  id: string;
  /** Null: not known yet. */
  status: TaskStatus | null;
  /** True until the task was read for the first time. */
  isLoading: boolean;
  isEnded: boolean;
  /** Percent; null: not said. */
  progress: number | null;
  message: string | null;
  /** Text that the present attempt has produced: its last million characters. */
  output: string;
  /** Lines of its log: the last thousand. */
  logs: readonly string[];
  /** `data` of the result, or what a running task has reported of it. */
  result: unknown;
  /** Why the task failed or was cancelled, or cannot be read. */
  error: Error | null;
  task: TaskDetails | null;
}

export const MOST_OUTPUT = 1_000_000;
export const MOST_LOGS = 1_000;

export function initialView(id: string): TaskView {
  return {
    id,
    status: null,
    isLoading: true,
    isEnded: false,
    progress: null,
    message: null,
    output: "",
    logs: [],
    result: null,
    error: null,
    task: null,
  };
}

/** Take what a list or the task itself says. */
export function withTask(view: TaskView, task: TaskSummary | TaskDetails): TaskView {
  const details = "request" in task ? (task as TaskDetails) : view.task && { ...view.task, ...task };
  return {
    ...view,
    status: task.status,
    isLoading: false,
    isEnded: hasEnded(task),
    progress: task.progress,
    message: task.message,
    result: details?.result?.data ?? null,
    error: null,
    task: details,
  };
}

type Fields = Record<string, unknown>;

/** Take an event. Those that end the task change nothing: its result is read then. */
export function withEvent(view: TaskView, item: StreamItem): TaskView {
  if (!("event" in item)) return view;
  const event = item.event as Fields;
  switch (item.type) {
    case "AttemptStarted":
      return standing(withOutput(view, "AttemptStarted", event), "PROCESSING", {
        attempt: event.attempt,
        serverId: event.server_id,
        error: null,
      });
    case "ProgressReported": {
      const progress = (event.progress as number | null | undefined) ?? view.progress;
      const message = (event.message as string | null | undefined) ?? view.message;
      const status = view.isEnded ? view.status : "PROCESSING";
      return { ...withOutput(view, "ProgressReported", event), status, progress, message };
    }
    case "AttemptFailed":
      return standing(view, "WAITING", { error: event.error });
    case "TaskQueued":
      return event.renewed || view.isEnded ? renewed(view) : standing(view, "WAITING", { held: false });
    case "TaskHeld":
      return event.renewed || view.isEnded ? renewed(view) : standing(view, "WAITING", { held: true });
    case "AttemptReturned":
      return standing(view, "WAITING", {});
    default:
      return view;
  }
}

/** Take text and lines only: of events from before the task was read. */
export function withOutput(view: TaskView, type: string, event: Fields): TaskView {
  if (type === "AttemptStarted") return { ...view, output: "", progress: null, message: null };
  if (type !== "ProgressReported") return view;
  const text = (event.output as string | undefined) ?? "";
  const lines = (event.lines as string[] | undefined) ?? [];
  if (!text && !lines.length) return view;
  return {
    ...view,
    output: text ? (view.output + text).slice(-MOST_OUTPUT) : view.output,
    logs: lines.length ? [...view.logs, ...lines].slice(-MOST_LOGS) : view.logs,
  };
}

function renewed(view: TaskView): TaskView {
  return {
    ...standing(view, "WAITING", { error: null, result: null }),
    output: "",
    progress: null,
    message: null,
    error: null,
    result: null,
  };
}

function standing(view: TaskView, status: TaskStatus, changed: Fields): TaskView {
  const task = view.task && ({ ...view.task, ...changed, status } as TaskDetails);
  return { ...view, status, isLoading: false, isEnded: false, task };
}
