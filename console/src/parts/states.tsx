/** What stands in the place of data: nothing there, loading, refused. */
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ApiError } from "../api/client.ts";
import { CopyButton } from "./CopyButton.tsx";
import { Icon } from "./Icon.tsx";

export function EmptyState({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

/** Lines of the size of what comes; shown after 200 ms, so that a quick answer does not flicker. */
export function Skeleton({ rows = 3, label = "Loading" }: { rows?: number; label?: string }) {
  return (
    <div class="skeleton" aria-busy="true" role="status" aria-label={label}>
      {Array.from({ length: rows }, (_, index) => (
        <span key={index} class="skeleton-row" />
      ))}
    </div>
  );
}

const SENTENCES: Record<number, string> = {
  0: "The service does not answer. The page tries again.",
  403: "Your token does not allow this.",
  404: "Not there, or not yours.",
  409: "The state has changed.",
  412: "Somebody else changed it since you read it.",
  429: "Too many requests.",
  503: "The service cannot serve this now.",
};

/** A refusal, as the service words it. */
export function Problem({ error, onRetry }: { error: ApiError | Error; onRetry?: () => void }) {
  const api = "problem" in error ? (error as ApiError) : null;
  const title = api ? (SENTENCES[api.status] ?? api.problem.title) : "This page has a fault.";
  return (
    <div class="problem" role="alert">
      <Icon name="triangle-alert" />
      <div>
        <p class="problem-title">{title}</p>
        <p class="pre">{error.message}</p>
        {api?.problem.path && <p class="mono">{api.problem.path}</p>}
        {api?.requestId && (
          <p class="muted meta">
            request <code>{api.requestId}</code> <CopyButton text={api.requestId} label="Copy the request id" />
          </p>
        )}
        {api?.retryAfter != null && <Countdown seconds={api.retryAfter} onEnd={onRetry} />}
        {onRetry && (
          <button type="button" onClick={onRetry}>
            Try again
          </button>
        )}
      </div>
    </div>
  );
}

function Countdown({ seconds, onEnd }: { seconds: number; onEnd?: () => void }) {
  const [left, setLeft] = useState(Math.ceil(seconds));
  useEffect(() => {
    if (left <= 0) {
      onEnd?.();
      return;
    }
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  return <p class="muted meta">It may be tried again in {Math.max(0, left)} s.</p>;
}
