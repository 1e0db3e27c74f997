/** Waiting that can be aborted. */

/** Return what an aborted call rejects with. */
export function reasonOf(signal: AbortSignal): unknown {
  // React Native's signals have no reason.
  if (signal.reason !== undefined) return signal.reason;
  const error = new Error("The operation was aborted.");
  error.name = "AbortError";
  return error;
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw reasonOf(signal);
}

/** Wait; reject with the signal's reason when it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(reasonOf(signal));
    const onAbort = () => {
      clearTimeout(timer);
      reject(reasonOf(signal as AbortSignal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** A controller that follows a caller's signal. `AbortSignal.any` is too new for Node 18 and React Native. */
export class LinkedAbort {
  private readonly controller = new AbortController();
  private readonly outer: AbortSignal | undefined;
  private readonly onAbort: () => void;

  constructor(outer: AbortSignal | undefined) {
    this.outer = outer;
    this.onAbort = () => this.controller.abort(outer?.reason);
    if (outer?.aborted) this.onAbort();
    else outer?.addEventListener("abort", this.onAbort, { once: true });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Abort; a no-op if it happened before. */
  abort(reason?: unknown): void {
    this.release();
    this.controller.abort(reason);
  }

  /** Let go of the caller's signal. */
  release(): void {
    this.outer?.removeEventListener("abort", this.onAbort);
  }
}

/** Return the wait before a repetition, from 0: 0.5, 1, 2, 4, 8 s, each shortened at random to no less than half. */
export function backoffMs(repetition: number, mostMs = 8_000): number {
  return Math.min(mostMs, 500 * 2 ** repetition) * (0.5 + Math.random() / 2);
}
