import { useEffect, useState } from "preact/hooks";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { isActive, type TaskFeed } from "./feed.ts";
import { LogView } from "./LogView.tsx";

/** Output and log lines of a task. They are read when this is first shown. */
export function Output({ feed }: { feed: TaskFeed }) {
  const [error, setError] = useState<Error | null>(null);
  const open = () => {
    setError(null);
    feed.openLog().catch((problem: Error) => setError(problem));
  };
  useEffect(open, [feed]);
  if (error) return <Problem error={error} onRetry={open} />;
  if (feed.logState.value !== "open") return <Skeleton rows={6} label="Loading: output" />;
  const version = feed.logVersion.value;
  const active = isActive(feed.outline.value?.status ?? "");
  if (!feed.log.rows.length) {
    return (
      <EmptyState title={active ? "No output yet" : "No output"}>
        {active
          ? "What its server sends appears here as it comes."
          : "Its server sent no output and no log lines. What it answered is under Result."}
      </EmptyState>
    );
  }
  const isLive = active && feed.stream.value === "open";
  return (
    <LogView
      log={feed.log}
      version={version}
      name={feed.id}
      isLive={isLive}
      onOlder={feed.olderOutput.value === null ? null : () => feed.readOlder()}
    />
  );
}
