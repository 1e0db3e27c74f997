import { useState } from "preact/hooks";
import { del, get, newKey, post, request } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable } from "../parts/DataTable.tsx";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { Fact, Facts } from "../parts/Facts.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { type Mark, markOf, StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { Exact, When } from "../parts/time.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, navigate } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { Runs } from "../schedules/Runs.tsx";
import { ScheduleForm } from "../schedules/ScheduleForm.tsx";
import { titleOf } from "../schedules/words.ts";
import { isAdmin, maySubmit, me } from "../session.ts";
import { count } from "../text/format.ts";
import { readJson, textAt } from "../text/json.ts";
import { ScheduleMark } from "./schedules.tsx";

type Detail = Schema<"ScheduleDetail">;
type Run = Schema<"PastScheduleRun">;
type Asked = "run" | "pause" | "resume" | "delete" | "change" | null;
const POLL_MS = 10_000;

const OUTCOMES: Record<Run["outcome"], [Mark, string]> = {
  fired: ["waiting", "submitted"],
  triggered: ["waiting", "submitted by hand"],
  refused: ["failed", "refused"],
  missed: ["cancelled", "missed"],
  skipped: ["cancelled", "skipped"],
};

function RunMark({ run }: { run: Run }) {
  if (run.status) return <StateMark mark={markOf({ status: run.status })} />;
  const [mark, word] = OUTCOMES[run.outcome];
  return <StateMark mark={mark} word={run.count > 1 ? `${count(run.count)} ${word}` : word} />;
}

const COLUMNS: Column<Run>[] = [
  { id: "outcome", title: "Outcome", render: (run) => <RunMark run={run} /> },
  {
    id: "due",
    title: "Due",
    number: true,
    render: (run) => (run.dueAt === null ? <span class="muted">by hand</span> : <Exact at={run.dueAt} />),
  },
  {
    id: "task",
    title: "Task",
    render: (run) => (run.taskId ? <IdLink id={run.taskId} /> : <span class="muted">–</span>),
  },
  {
    id: "error",
    title: "Why it failed",
    wide: true,
    render: (run) => (
      <>
        {run.error}
        {run.path && <code> {run.path}</code>}
      </>
    ),
  },
  { id: "at", title: "Recorded", number: true, minor: true, render: (run) => <When at={run.at} /> },
];

interface Read {
  schedule: Detail;
  /** As it was created: numbers of 64 bits and the order of fields stay. */
  taskText: string;
}

async function readSchedule(path: string, signal: AbortSignal): Promise<Read> {
  const text = await (await request("GET", path, { signal })).text();
  return { schedule: JSON.parse(text) as Detail, taskText: textAt(readJson(text), ["task"]) ?? "" };
}

export default function SchedulePage({ params }: PageProps) {
  const path = `/api/schedules/${encodeURIComponent(params.id ?? "")}`;
  const found = usePoll(`schedule ${params.id}`, (signal) => readSchedule(path, signal), POLL_MS);
  const runs = usePoll(
    `runs of ${params.id}`,
    (signal) => get<Schema<"ScheduleRunPage">>(`${path}/runs`, { query: { limit: 50 }, signal }),
    POLL_MS,
  );
  const [asked, setAsked] = useState<Asked>(null);
  const [key, setKey] = useState(newKey);
  const schedule = found.data?.schedule;
  const taskText = found.data?.taskText ?? "";
  const mayAct = maySubmit.value && (isAdmin.value || schedule?.owner === me.value?.subject);
  useKeys(
    "Schedule",
    mayAct
      ? [
          { key: "p", label: "Pause or resume", run: () => setAsked(schedule?.paused ? "resume" : "pause") },
          { key: "Shift+r", label: "Run now", run: () => setAsked("run") },
          { key: "e", label: "Change", run: () => setAsked("change") },
        ]
      : [],
  );
  if (found.error && !schedule) return <Problem error={found.error} onRetry={found.reload} />;
  if (!schedule) return <Skeleton rows={6} label="Schedule" />;
  const act = async (verb: "pause" | "resume", reason: string) => {
    await post(`${path}/${verb}`, { reason });
    toast(verb === "pause" ? "Paused" : "Resumed");
    found.reload();
  };
  const close = () => setAsked(null);
  return (
    <>
      <PageHead
        title={
          <>
            <ScheduleMark schedule={schedule} /> {titleOf(schedule)}
          </>
        }
        sub={
          <>
            <code>{schedule.cron}</code> · {schedule.timeZone} · of {schedule.owner}
            {schedule.description && <> · {schedule.description}</>}
          </>
        }
      >
        {mayAct && (
          <>
            <button type="button" class="primary" onClick={() => setAsked("run")}>
              Run now
            </button>
            <button type="button" onClick={() => setAsked(schedule.paused ? "resume" : "pause")}>
              {schedule.paused ? "Resume" : "Pause"}
            </button>
            <button type="button" onClick={() => setAsked("change")}>
              Change
            </button>
            <button type="button" class="danger-text" onClick={() => setAsked("delete")}>
              Delete
            </button>
          </>
        )}
      </PageHead>
      {schedule.paused && (
        <p class="card">
          <b>Paused{schedule.pauseReason && `: ${schedule.pauseReason}`}.</b> Runs that are due meanwhile are missed (
          {schedule.missed === "skip" ? "skipped" : `the latest ${schedule.catchUp} are caught up`}).
        </p>
      )}
      {schedule.heldReason && <p class="card warning-text">A run is due and waits: {schedule.heldReason}</p>}
      {schedule.lastFailure && (
        <p class="card">
          <b class="danger-text">A run was refused</b> <When at={schedule.lastFailure.at} />:{" "}
          <span class="pre">{schedule.lastFailure.error}</span>
          {schedule.lastFailure.path && <code> {schedule.lastFailure.path}</code>}
        </p>
      )}
      <div class="two-columns">
        <section aria-labelledby="next">
          <h2 id="next">Next runs</h2>
          {schedule.paused ? (
            <p class="muted">None while it is paused.</p>
          ) : (
            <Runs runs={schedule.nextRuns} zone={schedule.timeZone} />
          )}
        </section>
        <section aria-labelledby="numbers">
          <h2 id="numbers">Counts</h2>
          <Facts>
            <Fact name="fired">{count(schedule.counts.fired)}</Fact>
            <Fact name="refused">{count(schedule.counts.failed)}</Fact>
            <Fact name="skipped">{count(schedule.counts.skipped)}</Fact>
            <Fact name="by hand">{count(schedule.counts.triggered)}</Fact>
            <Fact name="missed runs">
              {schedule.missed === "skip" ? "are skipped" : `the latest ${schedule.catchUp} are caught up`}
            </Fact>
            <Fact name="tasks">
              <a href={href("/tasks", {}, { schedule: schedule.id })}>all of this schedule</a>
            </Fact>
            <Fact name="created">
              <When at={schedule.createdAt} />
            </Fact>
          </Facts>
        </section>
      </div>
      <h2>Runs</h2>
      {runs.error && !runs.data ? (
        <Problem error={runs.error} onRetry={runs.reload} />
      ) : (
        <DataTable
          label="Runs"
          columns={COLUMNS}
          rows={runs.data?.runs}
          rowKey={(run) => `${run.at} ${run.outcome} ${run.taskId ?? run.dueAt}`}
          stale={runs.isStale}
          onOpen={(run) => run.taskId && navigate(href("/task/{id}", { id: run.taskId }))}
          empty={<EmptyState title="It has not run yet" />}
        />
      )}
      <details>
        <summary>Task that it submits</summary>
        {schedule.withheld && <p class="muted">{schedule.withheld}</p>}
        <pre class="pre mono answer">{taskText}</pre>
      </details>
      {asked === "change" && (
        <ScheduleForm schedule={schedule} taskText={taskText} onClose={close} onSaved={() => found.reload()} />
      )}
      {asked === "run" && (
        <ConfirmDialog
          title={`Run ${titleOf(schedule)} now`}
          action="Run now"
          onClose={close}
          onConfirm={async () => {
            const { taskId } = await post<{ taskId: string }>(`${path}/run`, undefined, { idempotencyKey: key });
            setKey(newKey());
            toast(<IdLink id={taskId} />);
            found.reload();
            runs.reload();
          }}
        >
          <p>Its task is submitted once. The planned runs stay as they are.</p>
        </ConfirmDialog>
      )}
      {(asked === "pause" || asked === "resume") && (
        <ConfirmDialog
          title={`${asked === "pause" ? "Pause" : "Resume"} ${titleOf(schedule)}`}
          action={asked === "pause" ? "Pause" : "Resume"}
          reason
          onClose={close}
          onConfirm={(reason) => act(asked, reason)}
        >
          <p>
            {asked === "pause"
              ? "Nothing is submitted until it is resumed. Tasks that it has submitted go on."
              : "Its next run is the next one that is due from now on."}
          </p>
        </ConfirmDialog>
      )}
      {asked === "delete" && (
        <ConfirmDialog
          title={`Delete ${titleOf(schedule)}`}
          action="Delete the schedule"
          danger
          onClose={close}
          onConfirm={async () => {
            await del(path);
            toast("The schedule is deleted");
            navigate("#/schedules");
          }}
        >
          <p>It runs no more. The tasks that it has submitted stay.</p>
        </ConfirmDialog>
      )}
    </>
  );
}
