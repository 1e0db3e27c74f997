import { useState } from "preact/hooks";
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { ScheduleForm } from "../schedules/ScheduleForm.tsx";
import { lastRun, titleOf } from "../schedules/words.ts";
import { maySubmit, readsAll } from "../session.ts";
import { count, plural } from "../text/format.ts";

type Summary = Schema<"ScheduleSummary">;
const POLL_MS = 15_000;

const COLUMNS: Column<Summary>[] = [
  { id: "state", title: "State", render: (each) => <ScheduleMark schedule={each} /> },
  {
    id: "name",
    title: "Schedule",
    wide: true,
    render: (each) => <a href={href("/schedules/{id}", { id: each.id })}>{titleOf(each)}</a>,
  },
  { id: "owner", title: "Owner", minor: true, render: (each) => each.owner },
  { id: "cron", title: "When", render: (each) => <code>{each.cron}</code> },
  { id: "zone", title: "Zone", minor: true, render: (each) => each.timeZone },
  {
    id: "next",
    title: "Next",
    number: true,
    render: (each) => <When at={each.nextAt} none={each.paused ? "paused" : "never"} />,
  },
  { id: "last", title: "Last", number: true, render: (each) => <When at={lastRun(each)?.at} none="not yet" /> },
  {
    id: "missed",
    title: "Missed",
    minor: true,
    render: (each) => (each.missed === "skip" ? "skip" : `catch up ${each.catchUp}`),
  },
  { id: "fired", title: "Fired", number: true, render: (each) => count(each.counts.fired) },
  {
    id: "failed",
    title: "Failed",
    number: true,
    render: (each) => <span class={each.counts.failed ? "danger-text" : ""}>{count(each.counts.failed)}</span>,
  },
  { id: "skipped", title: "Skipped", number: true, minor: true, render: (each) => count(each.counts.skipped) },
];

export function ScheduleMark({ schedule }: { schedule: Summary }) {
  if (schedule.paused) return <StateMark mark="held" word="paused" />;
  if (lastRun(schedule)?.failed) return <StateMark mark="failed" />;
  if (schedule.nextAt === null) return <StateMark mark="cancelled" word="ended" />;
  return <StateMark mark="waiting" word="planned" />;
}

export default function Schedules({ query }: PageProps) {
  const cursor = query.get("cursor");
  const failing = query.get("failing");
  const [isNew, setNew] = useState(false);
  const asked = { limit: 100, cursor, failing };
  const page = usePoll(
    `schedules ${cursor} ${failing}`,
    (signal) => get<Schema<"SchedulePage">>("/api/schedules", { query: asked, signal }),
    POLL_MS,
  );
  useKeys("Schedules", maySubmit.value ? [{ key: "n", label: "New schedule", run: () => setNew(true) }] : []);
  const columns = COLUMNS.filter((column) => column.id !== "owner" || readsAll.value);
  return (
    <>
      <PageHead title="Schedules">
        {maySubmit.value && (
          <button type="button" onClick={() => setNew(true)}>
            New schedule
          </button>
        )}
      </PageHead>
      <div class="toolbar">
        <div class="choices" role="group" aria-label="View">
          {[
            ["", "all"],
            ["true", "failing"],
          ].map(([value, label]) => (
            <button
              key={value}
              type="button"
              aria-pressed={(failing ?? "") === value}
              onClick={() => setQuery({ failing: value || undefined, cursor: undefined })}
            >
              {label}
            </button>
          ))}
        </div>
      </div>
      {page.error && !page.data ? (
        <Problem error={page.error} onRetry={page.reload} />
      ) : (
        <DataTable
          label="Schedules"
          columns={columns}
          rows={page.data?.schedules}
          rowKey={(each) => each.id}
          stale={page.isStale}
          onOpen={(each) => navigate(href("/schedules/{id}", { id: each.id }))}
          empty={<Nothing isFiltered={Boolean(failing)} />}
        />
      )}
      {page.data && (
        <Pager
          shown={plural(page.data.schedules.length, "schedule")}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
      {isNew && (
        <ScheduleForm
          onClose={() => setNew(false)}
          onSaved={(saved) => navigate(href("/schedules/{id}", { id: saved.id }))}
        />
      )}
    </>
  );
}

function Nothing({ isFiltered }: { isFiltered: boolean }) {
  if (isFiltered) return <EmptyState title="The last run of every schedule was submitted" />;
  return (
    <EmptyState title="There are no schedules yet">
      <p>A schedule submits a task again and again, such as every day at 7 o'clock in Berlin:</p>
      <code class="pre">
        {`{"cron": "0 7 * * *", "timeZone": "Europe/Berlin", "task": {"type": "report", "payload": {}}}`}
      </code>
    </EmptyState>
  );
}
