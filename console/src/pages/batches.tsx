/** Batches, newest first. */
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { STATES, type State } from "../batch/cells.ts";
import { StateBar } from "../batch/StateBar.tsx";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { readsAll } from "../session.ts";
import { Safe } from "../task/Safe.tsx";
import { count, plural, shortId } from "../text/format.ts";

type Batch = Schema<"ListedBatch">;
const PAGE = 50;

export default function Batches({ query }: PageProps) {
  const cursor = query.get("cursor") ?? "";
  const owner = query.get("owner") ?? "";
  const page = usePoll(`batches ${cursor} ${owner}`, (signal) =>
    get<Schema<"BatchPage">>("/api/batches", { query: { counts: true, limit: PAGE, cursor, owner }, signal }),
  );
  const columns: Column<Batch>[] = [
    {
      id: "state",
      title: "state",
      render: (batch) => {
        const counts = statesOf(batch);
        const active = counts.waiting + counts.processing + counts.held;
        if (active) return <StateMark mark="processing" progress={doneOf(counts)} />;
        return counts.failed ? (
          <StateMark mark="failed" word={`${count(counts.failed)} failed`} />
        ) : (
          <StateMark mark="finished" />
        );
      },
    },
    {
      id: "id",
      title: "batch",
      render: (batch) => (
        <a class="mono" href={href("/batch/{id}", { id: batch.id })} title={batch.id}>
          {shortId(batch.id)}
        </a>
      ),
    },
    ...(readsAll.value ? [{ id: "owner", title: "owner", render: (batch: Batch) => <Safe text={batch.owner} /> }] : []),
    { id: "size", title: "tasks", number: true, render: (batch) => count(batch.size) },
    { id: "bar", title: "progress", render: (batch) => <StateBar counts={statesOf(batch)} /> },
    { id: "counts", title: "by state", wide: true, minor: true, render: (batch) => wordsOf(statesOf(batch)) },
    { id: "created", title: "submitted", render: (batch) => <When at={batch.createdAt} /> },
  ];
  const batches = page.data?.batches;
  return (
    <>
      <PageHead title="Batches" sub={owner && <>of {owner}</>} />
      {page.error && <Problem error={page.error} onRetry={page.reload} />}
      <DataTable
        label="Batches"
        columns={columns}
        rows={batches ?? (page.error ? [] : undefined)}
        rowKey={(batch) => batch.id}
        stale={page.isStale}
        onOpen={(batch) => navigate(href("/batch/{id}", { id: batch.id }))}
        empty={
          !page.error &&
          (cursor ? (
            <EmptyState title="No more batches" />
          ) : (
            <EmptyState title="No batches yet">
              <p>
                A batch is up to 1,000 tasks that are submitted, followed and commanded together:{" "}
                <code>POST /api/tasks/batch</code>
              </p>
            </EmptyState>
          ))
        }
      />
      {batches && batches.length > 0 && (
        <Pager
          shown={plural(batches.length, "batch", "batches")}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data?.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
    </>
  );
}

function statesOf(batch: Batch): Record<State, number> {
  const counts = batch.counts;
  return {
    finished: counts?.FINISHED ?? 0,
    failed: counts?.FAILED ?? 0,
    cancelled: counts?.CANCELLED ?? 0,
    processing: counts?.PROCESSING ?? 0,
    waiting: counts?.WAITING ?? 0,
    held: 0,
  };
}

function doneOf(counts: Record<State, number>): number {
  const all = STATES.reduce((sum, state) => sum + counts[state], 0);
  return all ? Math.floor(((counts.finished + counts.failed + counts.cancelled) / all) * 100) : 0;
}

function wordsOf(counts: Record<State, number>): string {
  const words = STATES.filter((state) => counts[state]).map(
    (state) => `${count(counts[state])} ${state === "processing" ? "running" : state}`,
  );
  return words.join(", ");
}
