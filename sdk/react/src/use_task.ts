import { type Connection, NotFoundError, type TaskView } from "@taskstream/client";
import { useCallback, useMemo, useSyncExternalStore } from "react";
import { useTaskstream } from "./provider.ts";
import { useConnection } from "./use_tasks.ts";

export interface FollowedTask extends Omit<TaskView, "id"> {
  /** Null while there is none. */
  id: string | null;
  connection: Connection;
  /** True: the task does not exist, or belongs to somebody else. */
  isMissing: boolean;
  cancel(reason?: string): Promise<void>;
  /** Run it again: of a failed or cancelled task. */
  retry(reason?: string): Promise<void>;
  refresh(): Promise<void>;
}

const NONE: TaskView = {
  id: "",
  status: null,
  isLoading: false,
  isEnded: false,
  progress: null,
  message: null,
  output: "",
  logs: [],
  result: null,
  error: null,
  task: null,
};
const never = () => () => {};
const none = () => NONE;

/** Follow a task: its status, progress, output as it comes, and result. Null follows none. */
export function useTask(id: string | null | undefined): FollowedTask {
  const client = useTaskstream();
  const store = useMemo(() => (id ? client.live.task(id) : null), [client, id]);
  const view = useSyncExternalStore(store?.subscribe ?? never, store?.get ?? none, store?.get ?? none);
  const connection = useConnection();
  const cancel = useCallback(
    async (reason?: string) => {
      if (id) await client.cancel(id, reason);
      await store?.refresh();
    },
    [client, id, store],
  );
  const retry = useCallback(
    async (reason?: string) => {
      if (id) await client.retry(id, reason);
      store?.revive();
      await store?.refresh();
    },
    [client, id, store],
  );
  const refresh = useCallback(async () => store?.refresh(), [store]);
  return useMemo(
    () => ({
      ...view,
      id: id ?? null,
      connection,
      isMissing: view.error instanceof NotFoundError,
      cancel,
      retry,
      refresh,
    }),
    [view, id, connection, cancel, retry, refresh],
  );
}
