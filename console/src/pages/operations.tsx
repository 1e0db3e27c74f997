import { useState } from "preact/hooks";
import { get, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { type Mark, StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { toast } from "../parts/toasts.tsx";
import { setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin, maySubmit, me } from "../session.ts";
import { count, plural } from "../text/format.ts";

type Operation = Schema<"OperationSummary">;
const POLL_MS = 5_000;
/** While one runs. */
const BUSY_MS = 1_000;

const MARKS: Record<Operation["state"], Mark> = {
  running: "processing",
  pausing: "processing",
  stopping: "processing",
  paused: "held",
  done: "finished",
  stopped: "cancelled",
  failed: "failed",
};

/** `retry of dead letters`, `cancel`; what it was for is in its filter. */
export function nameOf(operation: Pick<Operation, "action" | "deadLetters" | "dryRun">): string {
  return `${operation.dryRun ? "dry run: " : ""}${operation.action}${operation.deadLetters ? " dead letters" : " tasks"}`;
}

function filterInWords({ filter, ids }: Operation): string {
  if (ids !== null) return plural(ids, "id");
  const parts = Object.entries(filter ?? {}).map(
    ([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : String(value)}`,
  );
  return parts.join(" · ") || "all";
}

export default function Operations({ query }: PageProps) {
  const cursor = query.get("cursor");
  const [isBusy, setBusy] = useState(false);
  const page = usePoll(
    `operations ${cursor}`,
    async (signal) => {
      const found = await get<Schema<"OperationPage">>("/api/operations", { query: { limit: 50, cursor }, signal });
      setBusy(found.operations.some((each) => ["running", "pausing", "stopping"].includes(each.state)));
      return found;
    },
    isBusy ? BUSY_MS : POLL_MS,
  );
  const command = async (operation: Operation, verb: "pause" | "resume" | "stop") => {
    try {
      await post(`/api/operations/${encodeURIComponent(operation.id)}/${verb}`);
    } catch (refusal) {
      toast((refusal as Error).message, "failed");
    }
    page.reload();
  };
  const columns: Column<Operation>[] = [
    {
      id: "state",
      title: "State",
      render: (each) => <StateMark mark={MARKS[each.state]} word={each.state} progress={percent(each)} />,
    },
    { id: "what", title: "Operation", render: (each) => <b>{nameOf(each)}</b> },
    {
      id: "filter",
      title: "Of",
      wide: true,
      render: (each) => (
        <>
          {filterInWords(each)}
          {(each.stateReason || each.reason) && <span class="muted"> · {each.stateReason ?? each.reason}</span>}
        </>
      ),
    },
    { id: "done", title: "Done", number: true, render: (each) => <Counted operation={each} /> },
    {
      id: "refused",
      title: "Refused",
      number: true,
      render: ({ counts }) => {
        const refused = counts.refused.reduce((sum, each) => sum + each.count, 0);
        const why = counts.refused.map((each) => `${each.count}: ${each.reason}`).join("\n");
        return (
          <span class={refused ? "danger-text" : ""} title={why}>
            {count(refused)}
          </span>
        );
      },
    },
    { id: "by", title: "By", minor: true, render: (each) => each.by },
    { id: "started", title: "Started", number: true, render: (each) => <When at={each.startedAt} /> },
    { id: "ended", title: "Ended", number: true, minor: true, render: (each) => <When at={each.endedAt} /> },
    {
      id: "actions",
      title: "",
      render: (each) =>
        maySubmit.value && (isAdmin.value || each.by === me.value?.subject) ? (
          <span class="row-actions">
            {each.state === "running" && (
              <button type="button" class="small" onClick={() => void command(each, "pause")}>
                Pause
              </button>
            )}
            {each.state === "paused" && (
              <button type="button" class="small" onClick={() => void command(each, "resume")}>
                Resume
              </button>
            )}
            {(each.state === "running" || each.state === "paused") && (
              <button type="button" class="small" onClick={() => void command(each, "stop")}>
                Stop
              </button>
            )}
          </span>
        ) : null,
    },
  ];
  return (
    <>
      <PageHead
        title="Operations"
        sub="Commands for many tasks: the service carries them out, whether this page is open or not."
      />
      {page.error && !page.data ? (
        <Problem error={page.error} onRetry={page.reload} />
      ) : (
        <DataTable
          label="Operations"
          columns={columns}
          rows={page.data?.operations}
          rowKey={(each) => each.id}
          stale={page.isStale}
          empty={
            <EmptyState title="No operation was started lately">
              <p>Select tasks in a list, or all that match, and retry, cancel or delete them.</p>
            </EmptyState>
          }
        />
      )}
      {page.data && (
        <Pager
          shown={plural(page.data.operations.length, "operation")}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
    </>
  );
}

const percent = (operation: Operation): number | null =>
  operation.progress === null ? null : Math.floor(operation.progress * 100);

function Counted({ operation }: { operation: Operation }) {
  const { counts, total } = operation;
  if (operation.endedAt || total.capped) return <span>{count(counts.done)}</span>;
  return <Meter label="Done" value={counts.matched} of={Math.max(total.count, counts.matched)} />;
}
