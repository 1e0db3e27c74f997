/** The state of a task: a shape and a word, never colour alone. */
import type { TaskStatus } from "../api/types.ts";

export type Mark = "held" | "waiting" | "retry" | "processing" | "finished" | "failed" | "cancelled" | "warning";

export interface Standing {
  status: TaskStatus;
  held?: boolean;
  nextAttemptAt?: number | null;
}

export function markOf({ status, held, nextAttemptAt }: Standing): Mark {
  if (status === "WAITING") return held ? (nextAttemptAt ? "retry" : "held") : "waiting";
  return status.toLowerCase() as Mark;
}

const WORDS: Record<Mark, string> = {
  held: "held",
  waiting: "waiting",
  retry: "retry",
  processing: "running",
  finished: "finished",
  failed: "failed",
  cancelled: "cancelled",
  warning: "warning",
};

/** `progress`: percent, fills the ring of a running task. `word`: shown instead of the state's; "" shows none. */
export function StateMark({ mark, progress, word }: { mark: Mark; progress?: number | null; word?: string }) {
  const shown = word ?? (mark === "processing" && progress != null ? `${Math.round(progress)} %` : WORDS[mark]);
  const label = mark === "processing" && progress != null ? `running, ${Math.round(progress)} %` : WORDS[mark];
  return (
    <span class={`state state-${mark}`}>
      <Shape mark={mark} progress={progress} label={shown === label ? undefined : label} />
      {shown && <span aria-hidden={shown === label ? undefined : "true"}>{shown}</span>}
    </span>
  );
}

export function Shape({ mark, progress, label }: { mark: Mark; progress?: number | null; label?: string }) {
  return (
    <svg
      class="shape"
      width="16"
      height="16"
      viewBox="0 0 16 16"
      role={label ? "img" : undefined}
      aria-label={label}
      aria-hidden={label ? undefined : "true"}
      fill="none"
      stroke="currentColor"
      stroke-width="1.6"
      stroke-linecap="round"
    >
      {drawn(mark, progress)}
    </svg>
  );
}

function drawn(mark: Mark, progress?: number | null) {
  switch (mark) {
    case "held":
      return [
        <circle key="r" cx="8" cy="8" r="6.2" stroke-dasharray="2.4 2.5" />,
        <path key="p" d="M6.4 5.8v4.4M9.6 5.8v4.4" />,
      ];
    case "waiting":
      return <circle cx="8" cy="8" r="5.4" />;
    case "retry":
      return <path d="M13.2 8a5.2 5.2 0 1 1-1.6-3.7M13.4 2.2v2.9h-2.9" />;
    case "processing": {
      const around = 2 * Math.PI * 5.4;
      const part = Math.min(100, Math.max(progress ?? 25, 2)) / 100;
      return [
        <circle key="r" cx="8" cy="8" r="5.4" opacity="0.35" />,
        <circle
          key="p"
          cx="8"
          cy="8"
          r="5.4"
          stroke-width="2.6"
          stroke-linecap="butt"
          stroke-dasharray={`${around * part} ${around}`}
          transform="rotate(-90 8 8)"
        />,
      ];
    }
    case "finished":
      return [
        <circle key="d" cx="8" cy="8" r="6.4" fill="currentColor" stroke="none" />,
        <path key="t" class="on" d="M5.2 8.3l2 2 3.8-4.4" />,
      ];
    case "failed":
      return [
        <rect key="s" x="2" y="2" width="12" height="12" rx="2" fill="currentColor" stroke="none" />,
        <path key="x" class="on" d="M5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8" />,
      ];
    case "cancelled":
      return [<circle key="r" cx="8" cy="8" r="5.6" />, <path key="s" d="M4.2 11.8l7.6-7.6" />];
    case "warning":
      return <path stroke-linejoin="round" d="M8 2.4l6 11H2zM8 6.6v3M8 11.6v.1" />;
  }
}
