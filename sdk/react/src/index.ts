export { TaskstreamProvider, type TaskstreamProviderProps, useTaskstream } from "./provider.ts";
export { type QueuedTasks, useQueuedTasks } from "./use_queued_tasks.ts";
export { type Submitting, useSubmit } from "./use_submit.ts";
export { type FollowedTask, useTask } from "./use_task.ts";
export { type FollowedTasks, useConnection, useTasks } from "./use_tasks.ts";
