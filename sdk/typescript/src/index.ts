export {
  BATCH_SIZE,
  Batches,
  type BulkSelection,
  type ClientOptions,
  type Progress,
  progressOf,
  type RunOptions,
  type StreamOptions,
  type SubmittedBatch,
  Tasks,
  Taskstream,
  type WaitOptions,
} from "./client.ts";
export * from "./errors.ts";
export { type FileContent, type FileLink, type FileSummary, Files, type UploadOptions } from "./files.ts";
export { type FollowOptions, StreamsBlockedError, type StreamTiming } from "./follow.ts";
export type { ConnectionOptions, Fetch, Query, RequestOptions } from "./http.ts";
export { parse as parseJson, stringify as stringifyJson } from "./json.ts";
export { type Connection, Live, type PartStore, type Store } from "./live.ts";
export { List, type Page } from "./pages.ts";
export type { QueuedView, TasksView } from "./parts.ts";
export {
  type CallOptions,
  type CreateOptions,
  Keys,
  type ListOptions,
  Queue,
  Schedules,
  Servers,
  Types,
  Webhooks,
} from "./resources.ts";
export type { TaskView } from "./task_view.ts";
export type { GetToken } from "./token.ts";
export * from "./types.ts";
export { type VerifyOptions, verifyWebhook } from "./webhooks.ts";
