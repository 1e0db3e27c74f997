import { get } from "../api/client.ts";
import type { TaskGraph } from "../graph/graph.ts";
import { useResource } from "../parts/resource.ts";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { href } from "../router.ts";
import { GraphView } from "./GraphView.tsx";

/** Parents and children of a task, in however many steps. `version`: changes when one may have changed. */
export function Related({ id, batch, version }: { id: string; batch: string | null; version: number }) {
  const path = `/api/task/${encodeURIComponent(id)}/graph`;
  const graph = useResource(`${path} ${version}`, (signal) => get<TaskGraph>(path, { signal }), { every: 5000 });
  if (graph.error && !graph.data) return <Problem error={graph.error} onRetry={graph.reload} />;
  if (!graph.data) return <Skeleton rows={5} label="Loading: graph" />;
  return (
    <>
      {graph.data.nodes.length === 1 ? (
        <EmptyState title="No parents and no children">Tasks that name each other in dependsOn appear here.</EmptyState>
      ) : (
        <GraphView graph={graph.data} current={id} label="The tasks around this one" />
      )}
      {batch && (
        <p class="meta">
          It is part of a batch: <a href={href("/batch/{id}", { id: batch })}>all its tasks</a>
        </p>
      )}
    </>
  );
}
