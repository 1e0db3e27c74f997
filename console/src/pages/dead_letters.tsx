/** What failed for good, by its cause: what is worth another try, and what is lost unless somebody acts. */
import { useState } from "preact/hooks";
import { get } from "../api/client.ts";
import type { Schema, TaskSummary } from "../api/types.ts";
import { BulkDialog } from "../fleet/BulkDialog.tsx";
import type { Command, Target } from "../fleet/bulk.ts";
import { topText } from "../fleet/dead.ts";
import { Marked } from "../fleet/Marked.tsx";
import { Chips, FilterBar, type FilterKey } from "../parts/Chips.tsx";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { EmptyState, Problem } from "../parts/states.tsx";
import { Tabs } from "../parts/Tabs.tsx";
import { Trend } from "../parts/Trend.tsx";
import { When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { maySubmit, me, readsAll } from "../session.ts";
import { count, plural } from "../text/format.ts";

type Groups = Schema<"DeadLetterGroupsAnswer">;
type Group = Schema<"DeadLetterGroupInfo">;
type By = "error" | "type" | "server";

const FILTERS = ["type", "kind", "server", "owner", "shape", "error", "since", "before"] as const;
/** The filter that selects a group. */
const SELECTS: Record<By, string> = { error: "shape", type: "type", server: "server" };
const MANY = new Set(["type", "kind", "server"]);
const KINDS = ["rejected", "failed", "busy", "error", "unreachable", "timeout", "bad_answer", "worker_lost"];
const PAGE = 100;

interface Acting {
  command: Command;
  target: Target;
  what: string;
  about?: string;
}

export default function DeadLetters({ query }: PageProps) {
  const by = (query.get("by") ?? "error") as By | "list";
  const [acting, setActing] = useState<Acting | null>(null);
  const [reloads, setReloads] = useState(0);
  const filter: Record<string, string[]> = {};
  for (const name of FILTERS) if (query.has(name)) filter[name] = query.getAll(name);
  const filterKey = JSON.stringify(filter);
  const groups = usePoll(
    `dead ${by} ${filterKey} ${reloads}`,
    (signal) =>
      get<Groups>("/api/dead-letters/groups", { signal, query: { ...filter, by: by === "list" ? "error" : by } }),
    10_000,
  );
  const mayAct = me.value ? maySubmit.value || me.value.may.administer : false;
  const found = groups.data;
  /** The filter of a command: admins must name whose. */
  const target = (more: Record<string, string> = {}): Target => {
    const whole: Record<string, string | string[]> = readsAll.value && !filter.owner ? { owner: "*" } : {};
    for (const [name, values] of Object.entries({ ...filter, ...wrapped(more) }))
      whole[name] = MANY.has(name) ? values : (values[0] ?? "");
    return { filter: whole };
  };
  const act = (command: Command, group?: Group) => {
    if (!mayAct) return;
    const of = group && by !== "list" ? { [SELECTS[by]]: group.value } : {};
    const what = group ? plural(group.count, "dead letter") : "all that match";
    setActing({ command, target: target(of), what, about: group && labelOf(group, by as By) });
  };
  const keys: FilterKey[] = [
    { name: "type", label: "type", many: true },
    { name: "kind", label: "kind", values: KINDS, many: true, hint: "how the last attempt failed" },
    { name: "server", label: "server", many: true },
    ...(readsAll.value ? [{ name: "owner", label: "owner" }] : []),
    { name: "error", label: "error", hint: "a part of its text" },
    { name: "shape", label: "shape", hint: "a fingerprint" },
    { name: "since", label: "since", hint: "failed at or after: 1h, 2d, an instant" },
    { name: "before", label: "before", hint: "failed before" },
  ];
  const oldest = found?.groups.map((each) => each.first).sort()[0];
  return (
    <>
      <PageHead
        title="Dead letters"
        sub={
          found &&
          (found.count ? (
            <>
              {plural(found.count, "task", "tasks", found.capped)} failed for good · the first <When at={oldest} />
            </>
          ) : (
            "Nothing has failed for good."
          ))
        }
      >
        {mayAct && found && found.count > 0 && (
          <>
            <button type="button" onClick={() => act("retry")}>
              Retry all {count(found.count)}
              {found.capped && "+"}…
            </button>
            <button type="button" class="danger-text" onClick={() => act("discard")}>
              Discard…
            </button>
          </>
        )}
      </PageHead>
      <Tabs
        label="Grouping"
        current={by}
        onChange={(to) => setQuery({ by: to === "error" ? undefined : to, cursor: undefined })}
        tabs={[
          { id: "error", label: "By error" },
          { id: "type", label: "By type" },
          { id: "server", label: "By server" },
          { id: "list", label: "List" },
        ]}
      />
      <FilterBar
        keys={keys}
        suggest={async (name) => {
          if (name !== "type" && name !== "server") return [];
          const answer = await get<Groups>("/api/dead-letters/groups", { query: { by: name } });
          return answer.groups.filter((each) => each.value).map((each) => ({ value: each.value, count: each.count }));
        }}
      />
      <Chips keys={keys} />
      {groups.error && !found && <Problem error={groups.error} onRetry={groups.reload} />}
      <div role="tabpanel" id={`panel-${by}`}>
        {by === "list" ? (
          <Letters
            key={`${filterKey} ${reloads}`}
            filter={filter}
            cursor={query.get("cursor")}
            mayAct={mayAct}
            onAct={(command, ids) =>
              setActing({ command, target: { ids }, what: plural(ids.length, "selected dead letter") })
            }
          />
        ) : (
          <GroupTable by={by} found={found} stale={groups.isStale} mayAct={mayAct} onAct={act} />
        )}
      </div>
      {acting && <BulkDialog {...acting} onClose={() => setActing(null)} onDone={() => setReloads(reloads + 1)} />}
    </>
  );
}

const wrapped = (values: Record<string, string>): Record<string, string[]> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, [value]]));

const labelOf = (group: Group, by: By): string =>
  by === "error"
    ? `${group.kind ?? "several kinds"}, ${group.shape || "without a text"}`
    : `${by} ${group.value || "none"}`;

function GroupTable({
  by,
  found,
  stale,
  mayAct,
  onAct,
}: {
  by: By;
  found: Groups | undefined;
  stale: boolean;
  mayAct: boolean;
  onAct: (command: Command, group: Group) => void;
}) {
  const [cursor, setCursor] = useState<Group | null>(null);
  useKeys(
    "Dead letters",
    mayAct
      ? [
          { key: "r", label: "Retry the group", run: () => cursor && onAct("retry", cursor) },
          { key: "Shift+d", label: "Discard the group", run: () => cursor && onAct("discard", cursor) },
        ]
      : [],
  );
  const list = (group: Group) => href("/dead-letters", {}, { by: "list", [SELECTS[by]]: group.value });
  const columns: Column<Group>[] = [
    { id: "count", title: "Tasks", number: true, render: (each) => <a href={list(each)}>{count(each.count)}</a> },
    {
      id: "kind",
      title: by === "error" ? "Kind" : "Kinds",
      render: (each) => <Marked mark="failed" word={each.kind ?? topText(each.kinds as Record<string, number>)} />,
    },
    by === "error"
      ? {
          id: "error",
          title: "Error",
          wide: true,
          render: (each) => (
            <a href={href("/task/{id}", { id: each.example.taskId })} title={`The last one: ${each.example.error}`}>
              {each.shape || "–"}
            </a>
          ),
        }
      : {
          id: "value",
          title: by === "type" ? "Type" : "Server",
          wide: true,
          render: (each) => <a href={list(each)}>{each.value || "on none"}</a>,
        },
  ];
  if (by !== "type") columns.push({ id: "types", title: "Types", minor: true, render: (each) => topText(each.types) });
  if (by !== "server")
    columns.push({ id: "servers", title: "Servers", minor: true, render: (each) => topText(each.servers) });
  columns.push(
    { id: "first", title: "First", number: true, minor: true, render: (each) => <When at={each.first} /> },
    { id: "last", title: "Last", number: true, render: (each) => <When at={each.last} /> },
    { id: "trend", title: "Trend", minor: true, render: (each) => <Trend values={each.trend} label="Failures" /> },
  );
  if (mayAct)
    columns.push({
      id: "act",
      title: "Actions",
      className: "acts",
      render: (each) => (
        <>
          <button type="button" class="small" onClick={() => onAct("retry", each)}>
            Retry {count(each.count)}…
          </button>
          <button type="button" class="small danger-text" onClick={() => onAct("discard", each)}>
            Discard…
          </button>
        </>
      ),
    });
  return (
    <>
      <DataTable
        label={`Dead letters by ${by}`}
        columns={columns}
        rows={found?.groups}
        rowKey={(each) => each.value || "none"}
        stale={stale}
        onCursor={setCursor}
        onOpen={(each) => navigate(list(each))}
        empty={
          <EmptyState title="No dead letter">
            Everything that failed was retried or discarded. Tasks that expired, or failed with a parent, are none.
          </EmptyState>
        }
      />
      {found && found.groups.length > 0 && (
        <Pager
          shown={`${plural(found.groups.length, "group")}${found.more ? ", the largest" : ""}`}
          asOf={found.capped ? `the last ${count(found.count)} are counted` : undefined}
        />
      )}
    </>
  );
}

function Letters({
  filter,
  cursor,
  mayAct,
  onAct,
}: {
  filter: Record<string, string[]>;
  cursor: string | null;
  mayAct: boolean;
  onAct: (command: Command, ids: string[]) => void;
}) {
  const [selection, setSelection] = useState<ReadonlySet<string>>(new Set());
  const page = usePoll(
    `letters ${JSON.stringify(filter)} ${cursor}`,
    (signal) =>
      get<Schema<"DeadLetterPage">>("/api/dead-letters", {
        signal,
        query: { ...filter, limit: [String(PAGE)], ...(cursor ? { cursor: [cursor] } : {}) },
      }),
    10_000,
  );
  const ids = [...selection];
  const columns: Column<TaskSummary>[] = [
    { id: "kind", title: "Kind", render: (each) => <Marked mark="failed" word={each.failureKind ?? "failed"} /> },
    { id: "id", title: "Task", render: (each) => <IdLink id={each.id} /> },
    { id: "type", title: "Type", render: (each) => each.type },
    { id: "owner", title: "Owner", minor: true, render: (each) => each.owner },
    {
      id: "server",
      title: "Server",
      minor: true,
      render: (each) =>
        each.serverId ? (
          <a href={href("/fleet/{id}", { id: each.serverId })}>{each.serverId}</a>
        ) : (
          <span class="muted">–</span>
        ),
    },
    { id: "tries", title: "Tries", number: true, minor: true, render: (each) => `${each.attempt}/${each.attempts}` },
    { id: "error", title: "Error", wide: true, render: (each) => <span title={each.error ?? ""}>{each.error}</span> },
    { id: "ended", title: "Failed", number: true, render: (each) => <When at={each.endedAt} /> },
  ];
  return (
    <>
      {page.error && !page.data && <Problem error={page.error} onRetry={page.reload} />}
      <DataTable
        label="Dead letters"
        columns={columns}
        rows={page.data?.deadLetters}
        rowKey={(each) => each.id}
        stale={page.isStale}
        onOpen={(each) => navigate(href("/task/{id}", { id: each.id }))}
        {...(mayAct ? { selection, onSelection: setSelection } : {})}
        empty={<EmptyState title="No dead letter matches" />}
      />
      {ids.length > 0 && (
        <div class="acting" role="toolbar" aria-label="Selected dead letters">
          <b>{count(ids.length)} selected</b>
          <button type="button" onClick={() => onAct("retry", ids)}>
            Retry…
          </button>
          <button type="button" class="danger-text" onClick={() => onAct("discard", ids)}>
            Discard…
          </button>
          <button type="button" class="quiet" onClick={() => setSelection(new Set())}>
            Clear
          </button>
        </div>
      )}
      {page.data && (
        <Pager
          shown={`${count(page.data.deadLetters.length)} on this page, the earliest failure first`}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
    </>
  );
}
