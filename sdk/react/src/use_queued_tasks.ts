import type { Connection, QueuedTask } from "@taskstream/client";
import { useCallback, useMemo, useSyncExternalStore } from "react";
import { useTaskstream } from "./provider.ts";
import { useConnection } from "./use_tasks.ts";

export interface QueuedTasks {
  /** Oldest first: those that have not ended, and those that ended within the hour. */
  tasks: readonly QueuedTask[];
  loading: boolean;
  error: Error | null;
  connection: Connection;
  /** True while one is pending or processing. */
  hasActiveTasks: boolean;
  cancelTask(taskId: string): Promise<void>;
  /** Take an ended one out of every list. */
  deleteTask(taskId: string): Promise<void>;
  refresh(): Promise<void>;
}

/** Follow the chapters and outlines of the user's projects: what older apps polled, pushed. */
export function useQueuedTasks(): QueuedTasks {
  const client = useTaskstream();
  const store = useMemo(() => client.live.queued(), [client]);
  const view = useSyncExternalStore(store.subscribe, store.get, store.get);
  const connection = useConnection();
  const cancelTask = useCallback(
    async (taskId: string) => {
      await client.queue.cancel(taskId);
      await store.refresh();
    },
    [client, store],
  );
  const deleteTask = useCallback(
    async (taskId: string) => {
      await client.queue.delete(taskId);
      await store.refresh();
    },
    [client, store],
  );
  return useMemo(
    () => ({
      tasks: view.tasks,
      loading: view.isLoading,
      error: view.error,
      connection,
      hasActiveTasks: view.tasks.some((task) => task.status === "pending" || task.status === "processing"),
      cancelTask,
      deleteTask,
      refresh: store.refresh,
    }),
    [view, connection, cancelTask, deleteTask, store],
  );
}
