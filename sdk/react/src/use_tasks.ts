import type { Connection, TaskQuery, TasksView } from "@taskstream/client";
import { useMemo, useSyncExternalStore } from "react";
import { useTaskstream } from "./provider.ts";

export interface FollowedTasks extends TasksView {
  connection: Connection;
  refresh(): Promise<void>;
}

/** Follow a page of the tasks that match a filter of `GET /api/tasks`, such as `{ batch, status: ["PROCESSING"] }`. */
export function useTasks(query: TaskQuery = {}): FollowedTasks {
  const client = useTaskstream();
  // The filter is often a new object with the same content.
  const key = JSON.stringify(query);
  const store = useMemo(() => client.live.tasks(JSON.parse(key) as TaskQuery), [client, key]);
  const view = useSyncExternalStore(store.subscribe, store.get, store.get);
  const connection = useConnection();
  return useMemo(() => ({ ...view, connection, refresh: store.refresh }), [view, connection, store]);
}

/** Return how changes come: `live`, `polling` where streams are blocked, `connecting`, or `idle`. */
export function useConnection(): Connection {
  const { connection } = useTaskstream().live;
  return useSyncExternalStore(connection.subscribe, connection.get, () => "idle" as const);
}
