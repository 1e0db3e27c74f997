import type { RunOptions } from "@taskstream/client";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useTaskstream } from "./provider.ts";
import { type FollowedTask, useTask } from "./use_task.ts";

type SubmitOptions = Omit<RunOptions, "timeoutMs" | "onProgress" | "cancelOnAbort">;

export interface Submitting {
  /** Submit a task and follow it; the one before is followed no more, and goes on. */
  submit(payload: unknown, options?: SubmitOptions): Promise<string>;
  /** The task that was submitted last. */
  task: FollowedTask;
  isSubmitting: boolean;
  /** Why it was not accepted. `task.error` says why it failed. */
  error: Error | null;
  /** Forget the task; it goes on. */
  reset(): void;
}

/** Submit tasks of a type, and follow the last one. */
export function useSubmit(type: string): Submitting {
  const client = useTaskstream();
  const [taskId, setTaskId] = useState<string | null>(null);
  const [isSubmitting, setSubmitting] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const task = useTask(taskId);
  const isMounted = useRef(false);
  const last = useRef(0);
  useEffect(() => {
    isMounted.current = true;
    return () => {
      isMounted.current = false;
    };
  }, []);
  const submit = useCallback(
    async (payload: unknown, options: SubmitOptions = {}) => {
      const mine = ++last.current;
      const isShown = () => isMounted.current && mine === last.current;
      setSubmitting(true);
      setError(null);
      try {
        const id = await client.submit(type, payload, options);
        if (isShown()) setTaskId(id);
        return id;
      } catch (caught) {
        if (isShown()) setError(caught as Error);
        throw caught;
      } finally {
        if (isShown()) setSubmitting(false);
      }
    },
    [client, type],
  );
  const reset = useCallback(() => {
    last.current++;
    setTaskId(null);
    setError(null);
    setSubmitting(false);
  }, []);
  return useMemo(() => ({ submit, task, isSubmitting, error, reset }), [submit, task, isSubmitting, error, reset]);
}
