import { useEffect, useMemo, useState } from "preact/hooks";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { isActive, type TaskFeed } from "./feed.ts";
import { LogView } from "./LogView.tsx";
import { OutputFeed } from "./output.ts";

/** Output and log lines of a task. They are read when this is first shown. */
export function OutputTab({ feed }: { feed: TaskFeed }) {
  const output = useMemo(() => new OutputFeed(feed), [feed]);
  const [error, setError] = useState<Error | null>(null);
  const open = () => {
    setError(null);
    output.open().catch((problem: Error) => setError(problem));
  };
  useEffect(() => {
    open();
    return () => output.close();
  }, [output]);
  if (error) return <Problem error={error} onRetry={open} />;
  if (!output.isOpen.value) return <Skeleton rows={6} label="Loading: output" />;
  const version = output.version.value;
  const active = isActive(feed.outline.value?.status ?? "");
  if (!output.log.rows.length) {
    return (
      <EmptyState title={active ? "No output yet" : "No output"}>
        {active
          ? "What its server sends appears here as it comes."
          : "Its server sent no output and no log lines. What it answered is under Result."}
      </EmptyState>
    );
  }
  return (
    <LogView
      log={output.log}
      version={version}
      name={feed.id}
      isLive={active && feed.stream.value === "open"}
      onOlder={output.older.value === null ? null : () => output.readOlder()}
    />
  );
}
