/** Instants and durations: by the server's clock, in one zone, exact on hover. */
import { effect, signal } from "@preact/signals";
import { clockOffset, serverNow } from "../api/client.ts";
import { preferences } from "../preferences.ts";
import { duration, exact, instant, relative } from "../text/format.ts";

/** The server's clock, once a second while the tab is visible. Milliseconds. */
export const now = signal(serverNow());

let timer: ReturnType<typeof setInterval> | undefined;
function watch(): void {
  clearInterval(timer);
  if (document.visibilityState === "hidden") return;
  now.value = serverNow();
  timer = setInterval(() => {
    now.value = serverNow();
  }, 1000);
}
if (typeof document !== "undefined") {
  document.addEventListener("visibilitychange", watch);
  effect(() => {
    clockOffset.value;
    watch();
  });
}

type At = number | string | null | undefined;

/** How long ago, or until. */
export function When({ at, none = "–" }: { at: At; none?: string }) {
  const value = instant(at);
  if (!Number.isFinite(value)) return <span class="muted">{none}</span>;
  return (
    <time dateTime={new Date(value).toISOString()} title={exact(value, preferences.value.zone)}>
      {relative(value, now.value)}
    </time>
  );
}

/** An instant in full. */
export function Exact({ at, none = "–" }: { at: At; none?: string }) {
  const value = instant(at);
  if (!Number.isFinite(value)) return <span class="muted">{none}</span>;
  return <time dateTime={new Date(value).toISOString()}>{exact(value, preferences.value.zone)}</time>;
}

/** A duration of seconds, or the time between two instants; without `to` it grows. */
export function Duration({ seconds, from, to }: { seconds?: number | null; from?: At; to?: At }) {
  if (seconds != null) return <span class="number">{duration(seconds)}</span>;
  const start = instant(from);
  if (!Number.isFinite(start)) return <span class="muted">–</span>;
  const end = instant(to);
  return <span class="number">{duration(((Number.isFinite(end) ? end : now.value) - start) / 1000)}</span>;
}
