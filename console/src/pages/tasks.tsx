import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get } from "../api/client.ts";
import type { TaskPage, TaskSummary } from "../api/types.ts";
import { isLive, type LiveMessage, useLive } from "../live/feed.ts";
import { apply, MOST_FRESH, merge, type Still, still } from "../live/merge.ts";
import { Chips, FilterBar } from "../parts/Chips.tsx";
import { copyText } from "../parts/CopyButton.tsx";
import { DataTable, Pager } from "../parts/DataTable.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { EmptyState, Problem } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { preferences } from "../preferences.ts";
import { href, navigate, setQuery } from "../router.ts";
import { type PageProps, ROUTES } from "../routes.ts";
import { isAdmin, maySubmit, me } from "../session.ts";
import { asked, Bulk, type BulkAction } from "../tasks/bulk.tsx";
import { TASK_COLUMNS } from "../tasks/columns.tsx";
import { ErrorGroups } from "../tasks/ErrorGroups.tsx";
import { CountedBy, type FacetName, StandsOut } from "../tasks/Facets.tsx";
import { filterKeys, suggestValues } from "../tasks/filters.ts";
import { Peek } from "../tasks/Peek.tsx";
import { clock, plural } from "../text/format.ts";
import { filterOf, ID_START, isEmpty, isPreset, PRESETS } from "../text/taskFilter.ts";

const LIMIT = 100;
const POLL_MS = 3000;
/** With live rows: only the numbers come from it. */
const LIVE_POLL_MS = 10_000;
const VIEWS: [id: string, label: string][] = [
  ["list", "list"],
  ["error", "by error"],
  ["server", "by server"],
  ["type", "by type"],
  ["owner", "by owner"],
];

export default function Tasks({ query }: PageProps) {
  const filter = filterOf(query);
  const view = query.get("view") ?? "list";
  useKeys("Tasks", [
    ...PRESETS.map((preset, index) => ({
      key: String(index + 1),
      label: preset.name,
      run: () => navigate(`#/tasks${preset.query && `?${preset.query}`}`),
    })),
    {
      key: "e",
      label: "By error",
      run: () => setQuery({ view: view === "error" ? undefined : "error", cursor: undefined }),
    },
  ]);
  const canSubmit = maySubmit.value && ROUTES.some((route) => route.path === "/tasks/new");
  return (
    <>
      <PageHead title="Tasks">
        {canSubmit && (
          <a class="button" href="#/tasks/new">
            New task
          </a>
        )}
      </PageHead>
      <div class="toolbar">
        <nav class="choices" aria-label="Presets">
          {PRESETS.map((preset) => (
            <button
              key={preset.name}
              type="button"
              aria-pressed={isPreset(query, preset)}
              onClick={() => navigate(`#/tasks${preset.query && `?${preset.query}`}`)}
            >
              {preset.name}
            </button>
          ))}
        </nav>
        <div class="choices" role="group" aria-label="View">
          {VIEWS.filter(([id]) => id !== "owner" || isAdmin.value).map(([id, label]) => (
            <button
              key={id}
              type="button"
              aria-pressed={view === id}
              onClick={() => setQuery({ view: id === "list" ? undefined : id, cursor: undefined })}
            >
              {label}
            </button>
          ))}
        </div>
      </div>
      <FilterBar
        keys={[...filterKeys(query), { name: "label", label: "label", hint: "label.gpu:a100" }]}
        suggest={(name) => suggestValues(query, name)}
        onText={goToId}
        placeholder="Filter: status:FAILED type:resize, or an id"
      />
      <Chips keys={filterKeys(query)} />
      {view === "error" ? (
        <ErrorGroups filter={filter} />
      ) : view === "list" ? (
        <TaskList key={`${filter} ${query.get("sort")} ${query.get("cursor")}`} filter={filter} query={query} />
      ) : (
        <CountedBy filter={filter} by={view as FacetName} />
      )}
    </>
  );
}

/** An id goes straight to its task, its beginning to those that have it. */
function goToId(text: string): boolean {
  if (!ID_START.test(text)) return false;
  if (text.includes("~")) navigate(href("/task/{id}", { id: text }));
  else setQuery({ id: text.toUpperCase(), cursor: undefined });
  return true;
}

/** Selections are kept while the filter stays, also over pages. */
let kept: { filter: string; keys: ReadonlySet<string> } = { filter: "", keys: new Set() };

function TaskList({ filter, query }: { filter: URLSearchParams; query: URLSearchParams }) {
  const sort = query.get("sort") ?? "-created";
  const cursor = query.get("cursor");
  const asking = new URLSearchParams(filter);
  asking.set("limit", String(LIMIT));
  asking.set("count", "true");
  if (sort !== "-created") asking.set("sort", sort);
  if (cursor) asking.set("cursor", cursor);
  const page = usePoll(
    `tasks ${asking}`,
    (signal) => get<TaskPage>("/api/tasks", { query: asking, signal }),
    isLive.value ? LIVE_POLL_MS : POLL_MS,
  );
  const [list, setList] = useState<Still<TaskSummary> | null>(null);
  const [peeked, setPeeked] = useState<string | null>(null);
  const [current, setCurrent] = useState<TaskSummary | null>(null);
  const [selected, setSelected] = useState<ReadonlySet<string>>(kept.filter === String(filter) ? kept.keys : new Set());
  const [isWhole, setWhole] = useState(false);
  const isRenewed = useRef(false);
  const isBefore = useMemo(() => order(sort), [sort]);
  const data = page.data;
  useEffect(() => {
    if (!data) return;
    const anew = isRenewed.current;
    isRenewed.current = false;
    setList((had) => (had && !anew ? merge(had, data.tasks, (task) => task.id, LIMIT, isBefore) : still(data.tasks)));
    // Each answer, also one that is as the last: the list that is asked for anew may be that one.
  }, [page.readAt]);
  const isFirst = !cursor && sort === "-created";
  useLive(`tasks:${filter}`, (message: LiveMessage) => {
    if (message.type === "tasks") {
      const { rows: changed, left, more } = message as unknown as { rows: TaskSummary[]; left: string[]; more: number };
      setList((had) => had && apply(had, changed, left, (task) => task.id, isFirst));
      if (more) page.reload();
    } else page.reload(); // `open` too: what happened between the last answer and the stream is in neither
  });
  const select = (keys: ReadonlySet<string>) => {
    kept = { filter: String(filter), keys };
    setWhole(false);
    setSelected(keys);
  };
  const renew = () => {
    if (cursor) return setQuery({ cursor: undefined });
    isRenewed.current = true;
    page.reload();
  };
  const ask = (action: BulkAction) => {
    const ids = selected.size ? [...selected] : current ? [current.id] : [];
    if (isWhole) asked.value = { action, target: { filter } };
    else if (ids.length) asked.value = { action, target: { ids } };
  };
  const mayAct = isAdmin.value || maySubmit.value;
  const total = data?.total;
  const rows = list?.rows;
  const fresh = list?.fresh.size ?? 0;
  const peekedTask = rows?.find((task) => task.id === peeked);
  useKeys("Tasks of the list", [
    { key: "n", label: "Show new rows", run: renew },
    ...(mayAct
      ? [
          { key: "r", label: "Retry the row or the selection", run: () => ask("retry") },
          { key: "c", label: "Cancel the row or the selection", run: () => ask("cancel") },
          {
            key: "Mod+a",
            label: "Select all that match",
            run: () => {
              if (!rows || isEmpty(filter)) return;
              setSelected(new Set(rows.map((task) => task.id)));
              setWhole(true);
            },
          },
        ]
      : []),
    { key: "y", label: "Copy the id", run: () => current && copy(current.id) },
    { key: "Shift+y", label: "Copy the link of the list", run: () => copy(location.href) },
    {
      key: "Escape",
      label: "Close the panel, or clear the selection",
      run: () => (peeked ? setPeeked(null) : select(new Set())),
    },
  ]);
  if (page.error && !data) return <Problem error={page.error} onRetry={page.reload} />;
  const isFailures = filter.getAll("status").join() === "FAILED";
  return (
    <>
      {isFailures && <StandsOut filter={filter} />}
      {mayAct && (selected.size > 0 || isWhole) ? (
        <div class="selection" role="toolbar" aria-label="Selected tasks">
          <b>
            {isWhole && total
              ? `all ${plural(total.count, "task", "tasks", total.capped)} that match`
              : `${selected.size} selected`}
          </b>
          <button type="button" onClick={() => ask("retry")}>
            Retry…
          </button>
          <button type="button" onClick={() => ask("cancel")}>
            Cancel…
          </button>
          <button type="button" onClick={() => ask("delete")}>
            Delete…
          </button>
          {!isWhole && (
            <button type="button" onClick={() => copy([...selected].join("\n"), `${selected.size} ids copied`)}>
              Copy ids
            </button>
          )}
          {!isWhole && !isEmpty(filter) && total && total.count > selected.size && (
            <button type="button" class="quiet" onClick={() => setWhole(true)}>
              Select all {plural(total.count, "task", "tasks", total.capped)} that match
            </button>
          )}
          <button type="button" class="quiet" onClick={() => select(new Set())}>
            Clear
          </button>
        </div>
      ) : (
        mayAct &&
        isFailures &&
        total &&
        total.count > 0 && (
          <div class="selection" role="toolbar" aria-label="All that match">
            <button
              type="button"
              onClick={() => {
                asked.value = { action: "retry", target: { filter } };
              }}
            >
              Retry all {plural(total.count, "task", "tasks", total.capped)}…
            </button>
          </div>
        )
      )}
      {fresh > 0 && (
        <button type="button" class="pill" onClick={renew}>
          {fresh >= MOST_FRESH ? `${MOST_FRESH}+` : fresh} new <kbd>n</kbd>
        </button>
      )}
      <div class={peekedTask ? "with-peek" : ""}>
        <DataTable
          label="Tasks"
          columns={TASK_COLUMNS}
          rows={rows}
          rowKey={(task) => task.id}
          total={total && !total.capped ? total.count : undefined}
          sort={sort}
          onSort={(wanted) => setQuery({ sort: wanted === "-created" ? undefined : wanted, cursor: undefined })}
          onOpen={(task) => navigate(href("/task/{id}", { id: task.id }))}
          onPeek={(task) => setPeeked(peeked === task.id ? null : task.id)}
          selection={mayAct ? selected : undefined}
          onSelection={mayAct ? select : undefined}
          dimmed={(task) => list?.gone.has(task.id) ?? false}
          stale={page.isStale}
          onCursor={setCurrent}
          empty={<Nothing query={query} filter={filter} hasMore={Boolean(data?.nextCursor)} />}
        />
        {peekedTask && <Peek task={peekedTask} onClose={() => setPeeked(null)} />}
      </div>
      {data && (
        <Pager
          shown={
            total
              ? `${rows?.length ?? 0} of ${plural(total.count, "task", "tasks", total.capped)}`
              : plural(rows?.length ?? 0, "task")
          }
          asOf={`as of ${clock(page.readAt, preferences.value.zone)}`}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={data.nextCursor ? () => setQuery({ cursor: data.nextCursor ?? undefined }) : null}
        />
      )}
      <Bulk
        onDone={() => {
          select(new Set());
          page.reload();
        }}
      />
    </>
  );
}

async function copy(text: string, said = "Copied"): Promise<void> {
  if (await copyText(text)) toast(said);
  else toast("The browser does not allow to copy", "failed");
}

/** True if a row comes before another in an order. */
function order(sort: string): (a: TaskSummary, b: TaskSummary) => boolean {
  const down = sort.startsWith("-");
  const of = (task: TaskSummary): number => {
    if (sort.endsWith("created")) return task.createdAt;
    if (sort.endsWith("ended")) return task.endedAt ?? (down ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY);
    return (task.endedAt ?? 0) - (task.startedAt ?? task.endedAt ?? 0);
  };
  return (a, b) => (down ? of(a) > of(b) : of(a) < of(b));
}

/** Why there is nothing, and what removing each filter would give. */
function Nothing({ query, filter, hasMore }: { query: URLSearchParams; filter: URLSearchParams; hasMore: boolean }) {
  const names = [...new Set(filter.keys())];
  const [without, setWithout] = useState<Record<string, string>>({});
  useEffect(() => {
    const stop = new AbortController();
    for (const name of names.slice(0, 4)) {
      const wider = new URLSearchParams(filter);
      wider.delete(name);
      get<{ count: number; capped: boolean }>("/api/tasks/count", { query: wider, signal: stop.signal, noted: false })
        .then(({ count, capped }) => setWithout((had) => ({ ...had, [name]: plural(count, "task", "tasks", capped) })))
        .catch(() => {});
    }
    return () => stop.abort();
  }, [String(filter)]);
  if (!names.length && !query.has("cursor"))
    return (
      <EmptyState title="There are no tasks yet">
        {me.value?.may.submit && (
          <p>
            <code class="pre">
              {'curl -sS -H "Authorization: Bearer $TOKEN" --json \'{"payload": {}}\' .../api/task'}
            </code>
          </p>
        )}
      </EmptyState>
    );
  return (
    <EmptyState title={hasMore ? "None on this page; older ones may match" : "No task matches"}>
      <ul class="plain">
        {names.map((name) => (
          <li key={name}>
            <button type="button" class="small" onClick={() => setQuery({ [name]: undefined, cursor: undefined })}>
              Without {name} {filter.getAll(name).join(", ")}
            </button>{" "}
            {without[name] && <span>{without[name]}</span>}
          </li>
        ))}
      </ul>
    </EmptyState>
  );
}
