/** Names for the types of the API. They follow the API's description: `api.ts` is made from it. */
import type { components, operations } from "./api.ts";

type Schemas = components["schemas"];

export type Problem = Schemas["Problem"];
export type TaskStatus = Schemas["TaskDetails"]["status"];
export type TaskSummary = Schemas["TaskSummary"];
export type TaskDetails = Schemas["TaskDetails"];
/** A task without its bodies, and with their sizes. */
export type TaskOutline = Schemas["TaskOutline"];
export type TaskResult = Schemas["TaskResult"];
export type TaskEvent = Schemas["TaskEvent"];
export type TaskPage = Schemas["TaskPage"];
export type TaskCount = Schemas["TaskCount"];
export type TaskQuery = NonNullable<operations["listTasks"]["parameters"]["query"]>;
export type WhyAnswer = Schemas["WhyAnswer"];
export type Submission = Schemas["Submission"];
/** Options of a submission, besides its type and payload. */
export type SubmitOptions = Omit<Submission, "payload" | "type">;
export type BatchItem = Schemas["BatchItem"];
export type BatchSummary = Schemas["BatchSummary"];
export type ListedBatch = Schemas["ListedBatch"];
export type BatchTask = Schemas["BatchTask"];
export type BulkAnswer = Schemas["BulkAnswer"];
export type BulkFilter = Schemas["BulkFilter"];
export type RecordedEvent = Schemas["RecordedEvent"];
export type PushedState = Schemas["PushedState"];
export type PushedEvent = Schemas["PushedEvent"];
export type StreamToken = Schemas["StreamToken"];
export type Me = Schemas["Me"];
export type ScheduleBody = Schemas["ScheduleBody"];
export type ScheduleChange = Schemas["ScheduleChange"];
export type ScheduleSummary = Schemas["ScheduleSummary"];
export type ScheduleDetail = Schemas["ScheduleDetail"];
export type ScheduleRun = Schemas["ScheduleRun"];
export type PastScheduleRun = Schemas["PastScheduleRun"];
export type SchedulePreview = Schemas["SchedulePreview"];
export type WebhookBody = Schemas["WebhookBody"];
export type WebhookChange = Schemas["WebhookChange"];
export type WebhookSummary = Schemas["WebhookSummary"];
export type WebhookSecret = Schemas["WebhookSecret"];
export type WebhookMessage = Schemas["WebhookMessage"];
export type DeliverySummary = Schemas["DeliverySummary"];
export type RegisterBody = Schemas["RegisterBody"];
export type RegisterAnswer = Schemas["RegisterAnswer"];
export type ServerPatch = Schemas["ServerPatch"];
export type ServerSummary = Schemas["ServerSummary"];
export type TypeBody = Schemas["TypeBody"];
export type TypeSummary = Schemas["TypeSummary"];
export type QueuedTask = Schemas["QueuedTask"];

/** What a stream sends beside the state and events. `gap`: events are past their retention; `reset`: the log was replaced. */
export interface StreamNotice {
  type: "gap" | "reset";
  from?: number;
  to?: number;
}

/** What `stream` yields. `id`: pass it as `after` to go on behind this item. */
export type StreamItem = (PushedState | PushedEvent | StreamNotice) & { id: string };

export const ENDED: ReadonlySet<string> = new Set(["FINISHED", "FAILED", "CANCELLED"] satisfies TaskStatus[]);

/** Return true for a task that has ended: finished, failed or cancelled. */
export const hasEnded = (task: { status: string }): boolean => ENDED.has(task.status);
