/** What the tasks of a list have in common: counted by one thing, each value a link to its list. */
import { get } from "../api/client.ts";
import type { TaskCounts } from "../api/types.ts";
import { usePoll } from "../parts/resource.ts";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { href } from "../router.ts";
import { count } from "../text/format.ts";

export type FacetName = "status" | "type" | "pool" | "server" | "owner" | "kind" | "hold";

function useCounts(filter: URLSearchParams, by: string) {
  const query = new URLSearchParams(filter);
  query.set("by", by);
  return usePoll(`count ${query}`, (signal) => get<TaskCounts>("/api/tasks/count", { query, signal }), 10_000);
}

/** The whole list, counted by one thing. */
export function CountedBy({ filter, by }: { filter: URLSearchParams; by: FacetName }) {
  const found = useCounts(filter, by);
  if (found.error && !found.data) return <Problem error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Skeleton rows={6} />;
  const groups = found.data.by ?? [];
  const most = Math.max(1, ...groups.map((group) => group.count));
  if (!groups.length) return <EmptyState title="No task matches" />;
  return (
    <table class="data bars" aria-label={`Tasks by ${by}`}>
      <tbody>
        {groups.map((group) => {
          const to = new URLSearchParams(filter);
          to.delete(by);
          to.append(by, group.value);
          return (
            <tr key={group.value}>
              <th scope="row">
                {group.value ? <a href={href("/tasks", {}, to)}>{group.value}</a> : <span class="muted">none</span>}
              </th>
              <td class="number">
                {count(group.count)}
                {group.capped && "+"}
              </td>
              <td class="bar-cell">
                <svg width="100%" height="10" aria-hidden="true">
                  <rect class="meter-value" width={`${(100 * group.count) / most}%`} height="10" rx="2" />
                </svg>
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

const LEAST = 5;
const SHARE = 0.6;

/** A sentence if one server, type or owner has most of these failures. */
export function StandsOut({ filter }: { filter: URLSearchParams }) {
  const servers = useCounts(filter, "server");
  const types = useCounts(filter, "type");
  const found = [
    ["server", servers.data],
    ["type", types.data],
  ] as const;
  const parts = found.flatMap(([by, counts]) => {
    const [first] = counts?.by ?? [];
    if (!counts || !first || counts.count < LEAST || first.count / counts.count < SHARE || filter.has(by)) return [];
    const to = new URLSearchParams(filter);
    to.append(by, first.value);
    const percent = Math.round((100 * first.count) / counts.count);
    return [
      <li key={by}>
        <a href={href("/tasks", {}, to)}>
          {by} {first.value || "none"}
        </a>{" "}
        has {percent} % of them
      </li>,
    ];
  });
  if (!parts.length) return null;
  return (
    <div class="stands-out" role="note">
      <b>Stands out</b>
      <ul>{parts}</ul>
    </div>
  );
}
