/** Failures of a list in groups of the same kind and shape. */
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { usePoll } from "../parts/resource.ts";
import { Sparkline } from "../parts/Sparkline.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import { count, plural } from "../text/format.ts";

type Group = Schema<"ErrorSummary">;

/** What the groups can be filtered by, and its name there. */
const TAKEN: Record<string, string> = {
  type: "type",
  server: "server",
  kind: "kind",
  owner: "owner",
  endedSince: "since",
  endedBefore: "before",
};

/** Return the list of the tasks of a group, with the filter of the page. */
export function groupHref(group: Group, query: URLSearchParams): string {
  const to = new URLSearchParams();
  for (const [name, value] of query) if (name in TAKEN) to.append(name, value);
  to.set("status", "FAILED");
  to.set("shape", group.fingerprint);
  return href("/tasks", {}, to);
}

const most = (values: Record<string, number>) => {
  const all = Object.entries(values).sort(([, a], [, b]) => b - a);
  const shown = all.slice(0, 2).map(([name, number]) => `${name || "no server"} ${count(number)}`);
  return shown.join(", ") + (all.length > 2 ? ` and ${all.length - 2} more` : "");
};

export function ErrorGroups({ filter }: { filter: URLSearchParams }) {
  const asked = new URLSearchParams();
  const ignored = new Set<string>();
  for (const [name, value] of filter) {
    if (name in TAKEN) asked.append(TAKEN[name]!, value);
    else if (!(name === "status" && value === "FAILED")) ignored.add(name);
  }
  const cursor = new URLSearchParams(location.hash.split("?")[1] ?? "").get("cursor");
  if (cursor) asked.set("cursor", cursor);
  asked.set("limit", "50");
  const found = usePoll(
    `errors ${asked}`,
    (signal) => get<Schema<"ErrorPage">>("/api/errors", { query: asked, signal }),
    10_000,
  );
  const columns: Column<Group>[] = [
    { id: "count", title: "Failures", number: true, render: (group) => count(group.count) },
    { id: "kind", title: "Kind", render: (group) => <b>{group.kind ?? "others"}</b> },
    {
      id: "shape",
      title: "Error",
      wide: true,
      render: (group) => (
        <a href={groupHref(group, filter)} title={group.example?.error ?? group.shape}>
          {group.shape}
        </a>
      ),
    },
    {
      id: "trend",
      title: "Trend",
      render: (group) => <Sparkline values={group.trend} label={`${group.count} failures over time`} />,
    },
    { id: "types", title: "Types", minor: true, render: (group) => most(group.types) },
    { id: "servers", title: "Servers", minor: true, render: (group) => most(group.servers) },
    { id: "last", title: "Last", number: true, render: (group) => <When at={group.last} /> },
  ];
  if (found.error && !found.data) return <Problem error={found.error} onRetry={found.reload} />;
  return (
    <>
      {ignored.size > 0 && (
        <p class="muted">
          Groups are counted by type, server, kind, owner and time of failure: {[...ignored].join(", ")} does not narrow
          them.
        </p>
      )}
      <DataTable
        label="Errors"
        columns={columns}
        rows={found.data?.errors}
        rowKey={(group) => group.fingerprint}
        total={found.data?.groups}
        stale={found.isStale}
        onOpen={(group) => navigate(groupHref(group, filter))}
        empty={<EmptyState title="No attempt failed in this time" />}
      />
      {found.data && (
        <Pager
          shown={`${plural(found.data.groups, "group")} of ${plural(found.data.count, "failed attempt")}`}
          asOf={
            <>
              since <When at={found.data.since} />
            </>
          }
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={found.data.nextCursor ? () => setQuery({ cursor: found.data?.nextCursor ?? undefined }) : null}
        />
      )}
    </>
  );
}
