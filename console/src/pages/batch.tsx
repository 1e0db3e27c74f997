/** One batch: how far it is, what failed, its results. */
import { useEffect, useMemo, useState } from "preact/hooks";
import { ApiError, del, get, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Cell, countStates, groupErrors, STATES, type State, stateOf, timeLeft } from "../batch/cells.ts";
import { BatchFeed } from "../batch/feed.ts";
import { Grid } from "../batch/Grid.tsx";
import { saveResults } from "../batch/results.ts";
import { StateBar, wordOf } from "../batch/StateBar.tsx";
import type { TaskGraph } from "../graph/graph.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { Icon } from "../parts/Icon.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useKeys } from "../parts/keys.ts";
import { lazy } from "../parts/lazy.tsx";
import { Menu } from "../parts/Menu.tsx";
import { useResource } from "../parts/resource.ts";
import { markOf, StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { panelId, Tabs } from "../parts/Tabs.tsx";
import { Duration, now, When } from "../parts/time.tsx";
import { toast } from "../parts/toasts.tsx";
import { address, href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { maySubmit, token } from "../session.ts";
import { Safe } from "../task/Safe.tsx";
import { count, duration, plural } from "../text/format.ts";

const GraphView = lazy(async () => (await import("../task/GraphView.tsx")).GraphView);
const LISTED = 50;
/** Above this, the number is typed before many tasks are changed. */
const MANY = 100;

export default function BatchPage({ params }: PageProps) {
  const id = params.id ?? "";
  // Another token may see other things.
  const feed = useMemo(() => new BatchFeed(id), [id, token.value]);
  useEffect(() => {
    void feed.open();
    return () => feed.close();
  }, [feed]);
  const error = feed.error.value;
  if (!feed.summary.value) {
    if (error instanceof ApiError && error.status === 404) {
      return (
        <EmptyState title="This batch is not there, or not yours">
          <p>A batch whose tasks are all deleted is not there any more.</p>
          <p>
            <a href="#/batches">All batches</a>
          </p>
        </EmptyState>
      );
    }
    return error ? (
      <Problem error={error} onRetry={() => void feed.open()} />
    ) : (
      <Skeleton rows={8} label="Loading: the batch" />
    );
  }
  return <Batch feed={feed} />;
}

function Batch({ feed }: { feed: BatchFeed }) {
  const cells = feed.cells.value;
  const counts = useMemo(() => countStates(cells), [cells]);
  const groups = useMemo(() => groupErrors(cells), [cells]);
  const summary = feed.summary.value;
  const ended = counts.finished + counts.failed + counts.cancelled;
  const active = cells.length - ended;
  const left = active ? timeLeft(cells, now.value) : null;
  const progress =
    cells.reduce((sum, cell) => sum + (cell.endedAt === null ? (cell.progress ?? 0) : 100), 0) / (cells.length || 1);
  const tabs = [
    { id: "tasks", label: "Tasks", count: count(cells.length) },
    { id: "errors", label: "Errors", count: groups.length },
    { id: "graph", label: "Graph" },
    { id: "results", label: "Results", count: count(counts.finished) },
  ];
  const wanted = address.value.query.get("tab") ?? "";
  const current = tabs.some((tab) => tab.id === wanted) ? wanted : "tasks";
  const choose = (tab: string) => setQuery({ tab }, { replace: true });
  useKeys(
    "Batch",
    tabs.map((tab, index) => ({ key: String(index + 1), label: tab.label, run: () => choose(tab.id) })),
  );
  if (!summary) return null;
  const lastEnd = Math.max(...cells.map((cell) => cell.endedAt ?? 0));
  return (
    <article class="task">
      <header class="page-head task-head">
        <div class="task-title">
          <h1>
            {active ? (
              <StateMark mark="processing" progress={progress} />
            ) : counts.failed ? (
              <StateMark mark="failed" word={`${count(counts.failed)} failed`} />
            ) : (
              <StateMark mark={counts.finished || !cells.length ? "finished" : "cancelled"} />
            )}{" "}
            <span class="task-type">batch of {count(summary.size)}</span>
          </h1>
          <p class="id">
            <code>{summary.id}</code> <CopyButton text={summary.id} label="Copy the id" />
          </p>
        </div>
        <div class="page-actions task-actions">
          <Actions feed={feed} counts={counts} size={cells.length} />
        </div>
      </header>
      {feed.error.value && <Problem error={feed.error.value} onRetry={() => void feed.open()} />}
      <section class="card batch-card" aria-label="Progress">
        <StateBar counts={counts} wide />
        <ul class="batch-counts">
          {STATES.map(
            (state) =>
              counts[state] > 0 && (
                <li key={state}>
                  <button type="button" class="quiet small" onClick={() => setQuery({ tab: "tasks", state })}>
                    <StateMark mark={state} word="" /> <b class="number">{count(counts[state])}</b> {wordOf(state)}
                  </button>
                </li>
              ),
          )}
          <li class="grow" />
          <li class="muted">
            submitted <When at={summary.createdAt} />
            {!active && lastEnd > 0 && (
              <>
                , took <Duration from={summary.createdAt} to={lastEnd} />
              </>
            )}
            {left && `, about ${rangeOf(left)} left`}
          </li>
        </ul>
        <Grid cells={cells} />
        {cells.length < summary.size && feed.stream.value === "open" && (
          <p class="muted meta">{plural(summary.size - cells.length, "task")} deleted, or not loaded yet.</p>
        )}
      </section>
      <Tabs tabs={tabs} current={current} onChange={choose} label="Parts of the batch" />
      <div id={panelId(current)} role="tabpanel" aria-label={current}>
        {current === "tasks" && <Tasks cells={cells} />}
        {current === "errors" && <Errors cells={cells} />}
        {current === "graph" && <BatchGraph id={summary.id} />}
        {current === "results" && <Results id={summary.id} counts={counts} />}
      </div>
    </article>
  );
}

function rangeOf([least, most]: [number, number]): string {
  const [one, other] = [duration(Math.max(1, Math.round(least))), duration(Math.max(1, Math.round(most)))];
  return one === other ? one : `${one} to ${other}`;
}

function Tasks({ cells }: { cells: Cell[] }) {
  const { query } = address.value;
  const wanted = query.get("state") as State | null;
  const from = Number(query.get("from")) || 0;
  const matching = wanted ? cells.filter((cell) => stateOf(cell) === wanted) : cells;
  const shown = matching.slice(from, from + LISTED);
  const columns: Column<Cell>[] = [
    { id: "index", title: "#", number: true, render: (cell) => cell.index },
    { id: "state", title: "state", render: (cell) => <StateMark mark={markOf(cell)} progress={cell.progress} /> },
    { id: "id", title: "id", render: (cell) => <IdLink id={cell.id} /> },
    { id: "type", title: "type", render: (cell) => <Safe text={cell.type} /> },
    {
      id: "run",
      title: "run",
      number: true,
      render: (cell) => <Duration from={cell.startedAt} to={cell.endedAt} />,
    },
    { id: "try", title: "try", number: true, minor: true, render: (cell) => `${cell.attempt}/${cell.attempts}` },
    { id: "server", title: "server", minor: true, render: (cell) => <Safe text={cell.server} /> },
    {
      id: "error",
      title: "error",
      wide: true,
      render: (cell) => <Safe text={cell.kind ? `${cell.kind}: ${cell.error}` : cell.error} />,
    },
    { id: "ended", title: "ended", minor: true, render: (cell) => <When at={cell.endedAt} /> },
  ];
  return (
    <>
      <div class="viewer-bar">
        <span class="choices">
          {[null, ...STATES].map((state) => (
            <button
              key={state ?? "all"}
              type="button"
              class="small"
              aria-pressed={wanted === state}
              onClick={() => setQuery({ tab: "tasks", state: state ?? undefined, from: undefined }, { replace: true })}
            >
              {state ? wordOf(state) : "all"}
            </button>
          ))}
        </span>
      </div>
      <DataTable
        label="Tasks of the batch"
        columns={columns}
        rows={shown}
        rowKey={(cell) => cell.id}
        total={matching.length}
        onOpen={(cell) => navigate(href("/task/{id}", { id: cell.id }))}
        empty={<EmptyState title={wanted ? `None is ${wordOf(wanted)}` : "No tasks"} />}
      />
      {matching.length > 0 && (
        <Pager
          shown={`${count(from + 1)}–${count(from + shown.length)} of ${count(matching.length)}`}
          onFirst={from ? () => setQuery({ from: undefined }) : null}
          onNext={from + LISTED < matching.length ? () => setQuery({ from: String(from + LISTED) }) : null}
        />
      )}
    </>
  );
}

function Errors({ cells }: { cells: Cell[] }) {
  const groups = groupErrors(cells);
  if (!groups.length) return <EmptyState title="Nothing failed" />;
  return (
    <ul class="batch-errors">
      {groups.map((group) => (
        <li key={group.sample + group.kind}>
          <details>
            <summary>
              <span class="batch-error-count number">{count(group.cells.length)}</span>
              <StateMark mark="failed" word={group.kind} />
              <span class="batch-error-text">
                <Safe text={group.sample} />
              </span>
            </summary>
            <ul class="why-parents">
              {group.cells.slice(0, LISTED).map((cell) => (
                <li key={cell.id}>
                  <span class="muted number">#{cell.index}</span> <IdLink id={cell.id} />
                </li>
              ))}
              {group.cells.length > LISTED && <li class="muted">and {count(group.cells.length - LISTED)} more</li>}
            </ul>
          </details>
        </li>
      ))}
    </ul>
  );
}

function BatchGraph({ id }: { id: string }) {
  const path = `/api/batches/${encodeURIComponent(id)}/graph`;
  const graph = useResource(path, (signal) => get<TaskGraph>(path, { signal }), { every: 5000 });
  if (graph.error && !graph.data) return <Problem error={graph.error} onRetry={graph.reload} />;
  if (!graph.data) return <Skeleton rows={5} label="Loading: graph" />;
  if (!graph.data.edges.length) {
    return <EmptyState title="No dependencies">Its tasks do not depend on each other.</EmptyState>;
  }
  return <GraphView graph={graph.data} label="The tasks of the batch" />;
}

function Results({ id, counts }: { id: string; counts: Record<State, number> }) {
  const [reading, setReading] = useState<number | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [aborting, setAborting] = useState<AbortController | null>(null);
  useEffect(() => () => aborting?.abort(), [aborting]);
  const ended = counts.finished + counts.failed + counts.cancelled;
  const start = async (statuses: string) => {
    const controller = new AbortController();
    setAborting(controller);
    setReading(0);
    setError(null);
    try {
      const number = await saveResults(id, statuses, setReading, controller.signal);
      toast(`${plural(number, "result")} saved`);
    } catch (problem) {
      if (!controller.signal.aborted) setError(problem as Error);
    }
    setReading(null);
  };
  if (!ended) return <EmptyState title="No results yet">None of its tasks has ended.</EmptyState>;
  return (
    <div class="batch-results">
      <p>
        One line of JSON for each task, in the order of the batch, with its result as it is stored: numbers and the
        order of keys stay.
      </p>
      <div class="page-actions">
        <button
          type="button"
          class="primary"
          disabled={reading !== null || !counts.finished}
          onClick={() => void start("FINISHED")}
        >
          <Icon name="download" /> Save {plural(counts.finished, "result")}
        </button>
        {ended > counts.finished && (
          <button type="button" disabled={reading !== null} onClick={() => void start("FINISHED,FAILED,CANCELLED")}>
            With the {count(ended - counts.finished)} that did not finish
          </button>
        )}
        {reading !== null && (
          <>
            <span role="status" class="number">
              {count(reading)} read
            </span>
            <button type="button" class="quiet" onClick={() => aborting?.abort()}>
              Stop
            </button>
          </>
        )}
      </div>
      {error && <Problem error={error} />}
    </div>
  );
}

type Action = "retry" | "cancel" | "delete";

function Actions({ feed, counts, size }: { feed: BatchFeed; counts: Record<State, number>; size: number }) {
  const [asking, setAsking] = useState<Action | null>(null);
  const failed = counts.failed + counts.cancelled;
  const active = counts.processing + counts.waiting + counts.held;
  useKeys("Batch's actions", [
    ...(maySubmit.value && failed
      ? [{ key: "r", label: "Retry what failed (asks)", run: () => setAsking("retry" as Action) }]
      : []),
    ...(maySubmit.value && active
      ? [{ key: "c", label: "Cancel (asks)", run: () => setAsking("cancel" as Action) }]
      : []),
    { key: "Shift+d", label: "Results", run: () => setQuery({ tab: "results" }) },
  ]);
  if (!maySubmit.value) return null;
  const numbers: Record<Action, number> = { retry: failed, cancel: active, delete: size };
  const run = async (reason: string) => {
    if (!asking) return;
    const path = `/api/batches/${encodeURIComponent(feed.id)}`;
    const answer =
      asking === "delete"
        ? await del<Schema<"BulkAnswer">>(path)
        : await post<Schema<"BulkAnswer">>(`${path}/${asking}`, reason ? { reason } : {});
    toast(<Outcome answer={answer} />, answer.refused.length ? "note" : "done");
    if (asking === "delete") navigate("#/batches");
    else feed.restart();
  };
  return (
    <>
      {failed > 0 && (
        <button type="button" class={active ? "" : "primary"} onClick={() => setAsking("retry")}>
          <Icon name="rotate-ccw" /> Retry {count(failed)}
        </button>
      )}
      {active > 0 && (
        <button type="button" onClick={() => setAsking("cancel")}>
          <Icon name="ban" /> Cancel {count(active)}
        </button>
      )}
      <Menu label="More" icon items={[{ label: "Delete…", danger: true, onSelect: () => setAsking("delete") }]} />
      {asking && (
        <ConfirmDialog
          title={TITLES[asking](numbers[asking])}
          action={`${VERBS[asking]} ${plural(numbers[asking], "task")}`}
          danger={asking !== "retry"}
          typed={numbers[asking] > MANY ? numbers[asking] : null}
          reason={asking !== "delete"}
          onConfirm={run}
          onClose={() => setAsking(null)}
        >
          <p>
            <code>{feed.id}</code>
          </p>
          <p>{MEANINGS[asking]}</p>
        </ConfirmDialog>
      )}
    </>
  );
}

const VERBS: Record<Action, string> = { retry: "Retry", cancel: "Cancel", delete: "Delete" };
const TITLES: Record<Action, (number: number) => string> = {
  retry: (number) => `Retry ${plural(number, "task")} that failed or were cancelled?`,
  cancel: (number) => `Cancel ${plural(number, "task")} that have not ended?`,
  delete: (number) => `Delete this batch of ${plural(number, "task")}?`,
};
const MEANINGS: Record<Action, string> = {
  retry: "Each is queued again with its full number of attempts. Parents go before their children.",
  cancel: "They end at once. Servers are told to stop.",
  delete: "Its tasks disappear from every list, and those that have not ended are cancelled. Their histories stay.",
};

function Outcome({ answer }: { answer: Schema<"BulkAnswer"> }) {
  return (
    <>
      {plural(answer.done, "task")} done
      {answer.unchanged > 0 && `, ${count(answer.unchanged)} unchanged`}
      {answer.refused.map((each) => (
        <span key={each.reason} class="fact-line">
          {count(each.count)} refused: <Safe text={each.reason} />
        </span>
      ))}
    </>
  );
}
