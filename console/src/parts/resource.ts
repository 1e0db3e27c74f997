/** Data of a page: read once, polled while the tab is visible, kept with its age when the service is away. */
import { type Signal, signal, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { ApiError } from "../api/client.ts";
import { preferences } from "../preferences.ts";
import { token } from "../session.ts";

export interface Resource<T> {
  /** The last answer; undefined until there is one. Loading is never shown as empty. */
  data: T | undefined;
  error: ApiError | Error | null;
  /** True: the data is of before the error, so it is shown greyed with its age. */
  isStale: boolean;
  isLoading: boolean;
  /** When it was read, our clock, milliseconds. */
  readAt: number;
  reload: () => void;
}

/** Pausing stops all polling (`.`). */
export const isPaused = signal(!preferences.peek().live);

interface State<T> {
  key: string;
  data: T | undefined;
  error: ApiError | Error | null;
  readAt: number;
  loading: boolean;
}

/**
 * Read with `load` whenever `key` changes, and every `every` milliseconds while the tab is visible and not paused.
 * Data of another key is never shown. `load` gets a signal that aborts it.
 */
export function useResource<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  { every = 0 } = {},
): Resource<T> {
  const state: Signal<State<T>> = useSignal<State<T>>({ key, data: undefined, error: null, readAt: 0, loading: true });
  const loader = useRef(load);
  loader.current = load;
  const again = useRef<() => void>(() => {});
  const pace = useRef(every);
  const replan = useRef<() => void>(() => {});
  pace.current = every;
  // A new token reads everything again.
  const whole = `${token.value.slice(-16)} ${key}`;
  useEffect(() => {
    let ended = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let running: AbortController | null = null;
    let failures = 0;
    const fresh = state.peek().key === whole ? state.peek() : { key: whole, data: undefined, error: null, readAt: 0 };
    state.value = { ...fresh, loading: true };
    const visible = () => document.visibilityState !== "hidden";
    const plan = () => {
      clearTimeout(timer);
      if (ended || !(pace.current || failures) || !visible()) return;
      // Nobody answers: 1, 2, 4 … 30 s, with jitter.
      const wait = failures ? Math.min(30_000, 1000 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2) : pace.current;
      timer = setTimeout(() => (isPaused.peek() && !failures ? plan() : run()), wait);
    };
    const run = async () => {
      clearTimeout(timer);
      running?.abort();
      const mine = new AbortController();
      running = mine;
      state.value = { ...state.peek(), loading: true };
      try {
        const data = await loader.current(mine.signal);
        if (ended || running !== mine) return;
        failures = 0;
        const error = null;
        state.value = { key: whole, data, error, readAt: Date.now(), loading: false };
      } catch (problem) {
        if (ended || running !== mine || mine.signal.aborted) return;
        const error = problem as ApiError | Error;
        failures = "isOutage" in error && error.isOutage ? failures + 1 : 0;
        state.value = { ...state.peek(), error, loading: false };
        if (!failures && "status" in error) return;
      }
      plan();
    };
    const onVisibility = () => (visible() ? (pace.current || failures) && run() : clearTimeout(timer));
    document.addEventListener("visibilitychange", onVisibility);
    again.current = () => void run();
    replan.current = () => state.peek().readAt && plan();
    void run();
    return () => {
      ended = true;
      clearTimeout(timer);
      running?.abort();
      document.removeEventListener("visibilitychange", onVisibility);
    };
  }, [whole]);
  // Another pace asks for nothing by itself.
  useEffect(() => replan.current(), [every]);
  const reload = useMemo(() => () => again.current(), []);
  const { data, error, readAt, loading, key: had } = state.value;
  const own = had === whole;
  return {
    data: own ? data : undefined,
    error: own ? error : null,
    isStale: own && error !== null && data !== undefined,
    isLoading: !own || loading,
    readAt: own ? readAt : 0,
    reload,
  };
}

/** `useResource`, every 5 s. */
export function usePoll<T>(key: string, load: (signal: AbortSignal) => Promise<T>, every = 5000): Resource<T> {
  return useResource(key, load, { every });
}
