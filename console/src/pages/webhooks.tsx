import { useState } from "preact/hooks";
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { Duration, When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { maySubmit, readsAll } from "../session.ts";
import { count, plural } from "../text/format.ts";
import { WebhookForm } from "../webhooks/WebhookForm.tsx";
import { WebhookSecretDialog } from "../webhooks/WebhookSecretDialog.tsx";

type Summary = Schema<"WebhookSummary">;
const POLL_MS = 10_000;

export function WebhookMark({ webhook }: { webhook: Summary }) {
  if (!webhook.active) return <StateMark mark="cancelled" word="off" />;
  if (webhook.pausedUntil) return <StateMark mark="warning" word="paused" />;
  if (webhook.counts?.failed) return <StateMark mark="failed" word="failures" />;
  return <StateMark mark="finished" word="active" />;
}

const number = (webhook: Summary, name: "waiting" | "delivered" | "failed") =>
  webhook.counts ? (
    <a
      class={name === "failed" && webhook.counts.failed ? "danger-text" : ""}
      href={href("/webhooks/{id}", { id: webhook.id }, { status: name })}
    >
      {count(webhook.counts[name])}
      {webhook.counts.capped && name === "waiting" ? "+" : ""}
    </a>
  ) : (
    "–"
  );

const COLUMNS: Column<Summary>[] = [
  { id: "state", title: "State", render: (each) => <WebhookMark webhook={each} /> },
  {
    id: "url",
    title: "Receiver",
    wide: true,
    render: (each) => <a href={href("/webhooks/{id}", { id: each.id })}>{receiverText(each)}</a>,
  },
  { id: "owner", title: "Owner", minor: true, render: (each) => each.owner },
  { id: "events", title: "Events", minor: true, render: (each) => eventsInWords(each) },
  { id: "waiting", title: "Waiting", number: true, render: (each) => number(each, "waiting") },
  { id: "delivered", title: "Delivered", number: true, render: (each) => number(each, "delivered") },
  { id: "failed", title: "Failed", number: true, render: (each) => number(each, "failed") },
  { id: "lag", title: "Lag", number: true, render: (each) => <Duration seconds={each.lagSeconds} /> },
  { id: "created", title: "Created", number: true, minor: true, render: (each) => <When at={each.createdAt} /> },
];

/** The URL that receives, or whose URLs do. */
export function receiverText({ url, facade }: Pick<Summary, "url" | "facade">): string {
  return facade ? `the URL of each prediction (${facade})` : url;
}

/** `ended`, or the events, and the types. */
export function eventsInWords({ events, types, taskId }: Pick<Summary, "events" | "types" | "taskId">): string {
  const ended = ["task.succeeded", "task.failed", "task.cancelled"];
  const isEnded = events.length === ended.length && ended.every((each) => events.includes(each));
  const what = isEnded
    ? "ended"
    : events.length > 3
      ? plural(events.length, "event")
      : events.join(", ").replaceAll("task.", "");
  if (taskId) return `${what} of one task`;
  return types.length ? `${what} of ${types.length > 2 ? plural(types.length, "type") : types.join(", ")}` : what;
}

export default function Webhooks({ query }: PageProps) {
  const cursor = query.get("cursor");
  const [isNew, setNew] = useState(false);
  const [made, setMade] = useState<Schema<"WebhookSecret"> | null>(null);
  const page = usePoll(
    `webhooks ${cursor}`,
    (signal) => get<Schema<"WebhookPage">>("/api/webhooks", { query: { limit: 100, counts: true, cursor }, signal }),
    POLL_MS,
  );
  useKeys("Webhooks", maySubmit.value ? [{ key: "n", label: "New webhook", run: () => setNew(true) }] : []);
  return (
    <>
      <PageHead title="Webhooks">
        {maySubmit.value && (
          <button type="button" onClick={() => setNew(true)}>
            New webhook
          </button>
        )}
      </PageHead>
      {page.error && !page.data ? (
        <Problem error={page.error} onRetry={page.reload} />
      ) : (
        <DataTable
          label="Webhooks"
          columns={COLUMNS.filter((column) => column.id !== "owner" || readsAll.value)}
          rows={page.data?.webhooks}
          rowKey={(each) => each.id}
          stale={page.isStale}
          onOpen={(each) => navigate(href("/webhooks/{id}", { id: each.id }))}
          empty={
            <EmptyState title="There are no webhooks yet">
              <p>A webhook sends each event of your tasks to an address of yours. The receiver checks who sent it:</p>
              <code class="pre">{"event = Webhook(secret).verify(body, headers)  # package standardwebhooks"}</code>
            </EmptyState>
          }
        />
      )}
      {page.data && (
        <Pager
          shown={plural(page.data.webhooks.length, "webhook")}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
      {isNew && <WebhookForm onClose={() => setNew(false)} onMade={setMade} />}
      {made && (
        <WebhookSecretDialog
          made={made}
          onClose={() => {
            setMade(null);
            navigate(href("/webhooks/{id}", { id: made.webhook.id }));
          }}
        />
      )}
    </>
  );
}
