/** The columns of lists of tasks. */
import type { TaskSummary } from "../api/types.ts";
import type { Column } from "../parts/DataTable.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { markOf, StateMark } from "../parts/StateMark.tsx";
import { Duration, When } from "../parts/time.tsx";
import { href } from "../router.ts";

export const TASK_COLUMNS: Column<TaskSummary>[] = [
  { id: "state", title: "State", render: (task) => <StateMark mark={markOf(task)} progress={task.progress} /> },
  { id: "id", title: "Id", render: (task) => <IdLink id={task.id} /> },
  {
    id: "type",
    title: "Type",
    className: "cut",
    render: (task) => (
      <a href={href("/tasks", {}, { type: task.type })} title={task.type}>
        {task.type}
      </a>
    ),
  },
  {
    id: "owner",
    title: "Owner",
    minor: true,
    className: "cut",
    render: (task) => <span title={task.owner}>{task.owner}</span>,
  },
  {
    id: "wait",
    title: "Wait",
    number: true,
    minor: true,
    // An ended task that never started waited until its end.
    render: (task) => <Duration from={task.createdAt} to={task.startedAt ?? task.endedAt} />,
  },
  {
    id: "run",
    title: "Run",
    number: true,
    sort: "duration",
    render: (task) =>
      task.startedAt ? <Duration from={task.startedAt} to={task.endedAt} /> : <span class="muted">–</span>,
  },
  {
    id: "try",
    title: "Try",
    number: true,
    minor: true,
    render: (task) => (
      <>
        {task.attempt}/{task.attempts}
      </>
    ),
  },
  {
    id: "server",
    title: "Server",
    minor: true,
    className: "cut",
    render: (task) =>
      task.serverId ? (
        <a href={href("/tasks", {}, { server: task.serverId })} title={task.serverId}>
          {task.serverId}
        </a>
      ) : (
        <span class="muted">–</span>
      ),
  },
  {
    id: "says",
    title: "Error or progress",
    wide: true,
    render: (task) => {
      if (task.error && task.status !== "FINISHED")
        return (
          <span title={task.error}>
            {task.failureKind && <b>{task.failureKind}</b>} {task.error}
          </span>
        );
      return <span title={task.message ?? undefined}>{task.message ?? ""}</span>;
    },
  },
  { id: "created", title: "Submitted", number: true, sort: "created", render: (task) => <When at={task.createdAt} /> },
  {
    id: "ended",
    title: "Ended",
    number: true,
    minor: true,
    sort: "ended",
    render: (task) => <When at={task.endedAt} />,
  },
];
