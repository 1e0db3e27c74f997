/** A look into a task without leaving the list: what it waits for or why it failed, and what can be done. */
import { get } from "../api/client.ts";
import type { Schema, TaskSummary } from "../api/types.ts";
import { Icon } from "../parts/Icon.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { usePoll } from "../parts/resource.ts";
import { markOf, StateMark } from "../parts/StateMark.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { Duration, When } from "../parts/time.tsx";
import { href } from "../router.ts";
import { isAdmin, maySubmit, me } from "../session.ts";
import { asked, type BulkAction } from "./bulk.tsx";

export function mayChange(task: TaskSummary): boolean {
  return isAdmin.value || (maySubmit.value && me.value?.subject === task.owner);
}

export function hasEnded({ status }: TaskSummary): boolean {
  return status === "FINISHED" || status === "FAILED" || status === "CANCELLED";
}

export function Peek({ task, onClose }: { task: TaskSummary; onClose: () => void }) {
  const why = usePoll(`why ${task.id} ${task.updatedAt}`, (signal) =>
    get<Schema<"WhyAnswer">>(`/api/task/${encodeURIComponent(task.id)}/why`, { signal }),
  );
  const ask = (action: BulkAction) => {
    asked.value = { action, target: { ids: [task.id] } };
  };
  const rows: [string, preact.ComponentChildren][] = [
    [
      "type",
      <a key="t" href={href("/tasks", {}, { type: task.type })}>
        {task.type}
      </a>,
    ],
    ["owner", task.owner],
    ["submitted", <When key="c" at={task.createdAt} />],
    ["waited", <Duration key="w" from={task.createdAt} to={task.startedAt ?? task.endedAt} />],
    ["ran", task.startedAt ? <Duration key="r" from={task.startedAt} to={task.endedAt} /> : "–"],
    ["attempts", `${task.attempt} of ${task.attempts}`],
    ["server", task.serverId ?? "–"],
  ];
  if (task.message) rows.push(["message", task.message]);
  if (task.batchId)
    rows.push([
      "batch",
      <a key="b" href={href("/tasks", {}, { batch: task.batchId })}>
        {task.batchId}
      </a>,
    ]);
  return (
    <aside class="peek card" aria-label={`Task ${task.id}`}>
      <header class="peek-head">
        <StateMark mark={markOf(task)} progress={task.progress} />
        <button type="button" class="quiet small" aria-label="Close" onClick={onClose}>
          <Icon name="x" />
        </button>
      </header>
      <IdLink id={task.id} full />
      <div class={`peek-why ${task.status === "FAILED" ? "peek-failed" : ""}`}>
        {why.error && !why.data ? (
          <Problem error={why.error} />
        ) : why.data ? (
          <p class="pre">{why.data.summary}</p>
        ) : (
          <Skeleton rows={2} />
        )}
      </div>
      {task.error && <p class="pre peek-error mono">{task.error}</p>}
      <dl class="facts">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <div class="page-actions">
        <a class="button" href={href("/task/{id}", { id: task.id })}>
          Open
        </a>
        {mayChange(task) && (task.status === "FAILED" || task.status === "CANCELLED") && (
          <button type="button" onClick={() => ask("retry")}>
            Retry…
          </button>
        )}
        {mayChange(task) && !hasEnded(task) && (
          <button type="button" onClick={() => ask("cancel")}>
            Cancel…
          </button>
        )}
      </div>
    </aside>
  );
}
