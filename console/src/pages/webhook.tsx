import { useEffect, useState } from "preact/hooks";
import { del, get, patch, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useKeys } from "../parts/keys.ts";
import { Menu } from "../parts/Menu.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { Duration, When } from "../parts/time.tsx";
import { toast } from "../parts/toasts.tsx";
import { navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin, maySubmit, me } from "../session.ts";
import { count, plural } from "../text/format.ts";
import { Delivery, DeliveryMark, type DeliverySummary } from "../webhooks/Delivery.tsx";
import { WebhookForm } from "../webhooks/WebhookForm.tsx";
import { WebhookSecretDialog } from "../webhooks/WebhookSecretDialog.tsx";
import { eventsInWords, receiverText, WebhookMark } from "./webhooks.tsx";

type Webhook = Schema<"WebhookSummary">;
type Asked = "secret" | "delete" | "resend" | "change" | null;
const POLL_MS = 5_000;
/** While something waits to be sent. */
const BUSY_MS = 1_000;
const STATUSES = ["", "waiting", "delivered", "failed"] as const;

const COLUMNS: Column<DeliverySummary>[] = [
  { id: "state", title: "State", render: (each) => <DeliveryMark delivery={each} /> },
  { id: "type", title: "Message", render: (each) => each.type },
  {
    id: "task",
    title: "Task",
    render: (each) => (each.taskId ? <IdLink id={each.taskId} /> : <span class="muted">test</span>),
  },
  {
    id: "answer",
    title: "Last answer",
    wide: true,
    render: ({ lastAttempt }) =>
      lastAttempt ? (
        <span>
          <b class={lastAttempt.error ? "danger-text" : ""}>{lastAttempt.status ?? "none"}</b> {lastAttempt.error}
        </span>
      ) : (
        <span class="muted">–</span>
      ),
  },
  { id: "tries", title: "Tries", number: true, render: (each) => count(each.attempts) },
  { id: "next", title: "Next", number: true, minor: true, render: (each) => <When at={each.nextAttemptAt} /> },
  { id: "created", title: "Created", number: true, render: (each) => <When at={each.createdAt} /> },
];

export default function WebhookPage({ params, query }: PageProps) {
  const id = params.id ?? "";
  const path = `/api/webhooks/${encodeURIComponent(id)}`;
  const status = query.get("status") ?? "";
  const cursor = query.get("cursor");
  const [isBusy, setBusy] = useState(false);
  const every = isBusy ? BUSY_MS : POLL_MS;
  const found = usePoll(`webhook ${id}`, (signal) => get<Webhook>(path, { signal }), every);
  const page = usePoll(
    `deliveries of ${id} ${status} ${cursor}`,
    (signal) => get<Schema<"DeliveryPage">>(`${path}/deliveries`, { query: { limit: 100, status, cursor }, signal }),
    every,
  );
  const waits = page.data?.deliveries.some((each) => each.status === "waiting" && !each.pausedUntil) ?? false;
  useEffect(() => setBusy(waits), [waits]);
  const [peeked, setPeeked] = useState<string | null>(null);
  const [current, setCurrent] = useState<DeliverySummary | null>(null);
  const [asked, setAsked] = useState<Asked>(null);
  const [made, setMade] = useState<Schema<"WebhookSecret"> | null>(null);
  const webhook = found.data;
  const mayAct = maySubmit.value && (isAdmin.value || webhook?.owner === me.value?.subject);
  const reload = () => {
    found.reload();
    page.reload();
  };
  const resend = async (delivery: DeliverySummary | null) => {
    if (!delivery) return;
    try {
      await post(`${path}/deliveries/${encodeURIComponent(delivery.id)}/retry`);
      toast("It is sent again");
    } catch (refusal) {
      toast((refusal as Error).message, "failed");
    }
    reload();
  };
  const test = async () => {
    try {
      const delivery = await post<DeliverySummary>(`${path}/test`);
      toast("A test is sent");
      setQuery({ status: undefined, cursor: undefined });
      setPeeked(delivery.id);
    } catch (refusal) {
      toast((refusal as Error).message, "failed");
    }
    reload();
  };
  useKeys("Deliveries", [
    ...["1", "2", "3"].map((key) => ({
      key,
      label: `Only ${STATUSES[Number(key)]}`,
      run: () => setQuery({ status: STATUSES[Number(key)], cursor: undefined }),
    })),
    ...(mayAct
      ? [
          { key: "Shift+t", label: "Send a test", run: () => void test() },
          { key: "r", label: "Send the delivery again", run: () => void resend(current) },
        ]
      : []),
    { key: "Escape", label: "Close the panel", run: () => setPeeked(null) },
  ]);
  if (found.error && !webhook) return <Problem error={found.error} onRetry={found.reload} />;
  if (!webhook) return <Skeleton rows={6} label="Webhook" />;
  const shown = page.data?.deliveries.find((each) => each.id === peeked);
  const close = () => setAsked(null);
  return (
    <>
      <PageHead
        title={
          <>
            <WebhookMark webhook={webhook} /> <span class="wrap">{receiverText(webhook)}</span>
          </>
        }
        sub={
          <>
            {eventsInWords(webhook)} · of {webhook.owner}
            {webhook.description && <> · {webhook.description}</>} · lag <Duration seconds={webhook.lagSeconds} />
          </>
        }
      >
        {mayAct && (
          <>
            {!webhook.facade && (
              <>
                <button type="button" class="primary" onClick={() => void test()}>
                  Send a test
                </button>
                <button type="button" onClick={() => setAsked("change")}>
                  Change
                </button>
              </>
            )}
            <Menu
              label="More"
              items={[
                {
                  label: webhook.active ? "Switch off" : "Switch on",
                  onSelect: async () => {
                    await patch(path, { active: !webhook.active }).catch((refusal) => toast(refusal.message, "failed"));
                    reload();
                  },
                },
                { label: "New secret…", onSelect: () => setAsked("secret") },
                ...(webhook.facade ? [] : [{ label: "Delete…", danger: true, onSelect: () => setAsked("delete") }]),
              ]}
            />
          </>
        )}
      </PageHead>
      {!webhook.active && (
        <p class="card">
          <b>Off.</b> {webhook.disabledReason} Events of this time are never sent.
        </p>
      )}
      {webhook.pausedUntil && (
        <p class="card warning-text">
          The receiver asked for a pause: nothing is sent until <When at={webhook.pausedUntil} />.
        </p>
      )}
      <div class="toolbar">
        <div class="choices" role="group" aria-label="Deliveries">
          {STATUSES.map((each) => (
            <button
              key={each}
              type="button"
              aria-pressed={status === each}
              onClick={() => setQuery({ status: each || undefined, cursor: undefined })}
            >
              {each || "all"}
              {each && webhook.counts ? <span class="badge">{count(webhook.counts[each])}</span> : null}
            </button>
          ))}
        </div>
        {mayAct && (webhook.counts?.failed ?? 0) > 0 && (
          <button type="button" onClick={() => setAsked("resend")}>
            Send {plural(webhook.counts?.failed ?? 0, "failed delivery", "failed deliveries")} again…
          </button>
        )}
      </div>
      {page.error && !page.data ? (
        <Problem error={page.error} onRetry={page.reload} />
      ) : (
        <div class={shown ? "with-peek" : ""}>
          <DataTable
            label="Deliveries"
            columns={COLUMNS}
            rows={page.data?.deliveries}
            rowKey={(each) => each.id}
            stale={page.isStale}
            onOpen={(each) => setPeeked(each.id)}
            onPeek={(each) => setPeeked(peeked === each.id ? null : each.id)}
            onCursor={setCurrent}
            empty={
              <EmptyState title={status ? `None is ${status}` : "Nothing was sent yet"}>
                {mayAct && !status && <p>Send a test to see what the receiver answers.</p>}
              </EmptyState>
            }
          />
          {shown && (
            <Delivery
              webhookId={id}
              delivery={shown}
              onClose={() => setPeeked(null)}
              onResend={mayAct && shown.status !== "waiting" ? () => void resend(shown) : undefined}
            />
          )}
        </div>
      )}
      {page.data && (
        <Pager
          shown={plural(page.data.deliveries.length, "delivery", "deliveries")}
          asOf="kept for a week"
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
      {asked === "change" && <WebhookForm webhook={webhook} onClose={close} onSaved={reload} />}
      {asked === "resend" && <Resend path={path} onClose={close} onDone={reload} />}
      {asked === "secret" && (
        <ConfirmDialog
          title="Make a new secret"
          action="Make it"
          onClose={close}
          onConfirm={async () => setMade(await post<Schema<"WebhookSecret">>(`${path}/secret`))}
        >
          <p>For a day deliveries are signed with both secrets, so the receiver can change over.</p>
        </ConfirmDialog>
      )}
      {made && <WebhookSecretDialog made={made} onClose={() => setMade(null)} />}
      {asked === "delete" && (
        <ConfirmDialog
          title={`Delete the webhook for ${webhook.url}`}
          action="Delete the webhook"
          danger
          onClose={close}
          onConfirm={async () => {
            await del(path);
            toast("The webhook is deleted");
            navigate("#/webhooks");
          }}
        >
          <p>
            Its secret and {plural(webhook.counts?.waiting ?? 0, "waiting delivery", "waiting deliveries")} go with it.
          </p>
        </ConfirmDialog>
      )}
    </>
  );
}

/** Send all failed deliveries again: the dry run first, then page by page. */
function Resend({ path, onClose, onDone }: { path: string; onClose: () => void; onDone: () => void }) {
  type Answer = Schema<"ResendAnswer">;
  const dry = usePoll(
    `dry ${path}`,
    () => post<Answer>(`${path}/deliveries/retry`, { status: "failed", dryRun: true }, { noted: false }),
    0,
  );
  const matched = dry.data?.matched ?? 0;
  const more = dry.data?.nextCursor ? "+" : "";
  return (
    <ConfirmDialog
      title="Send failed deliveries again"
      action={dry.data ? `Send ${count(matched)}${more}` : "Send"}
      disabled={!matched}
      onClose={onClose}
      onConfirm={async () => {
        let cursor: string | undefined;
        let sent = 0;
        do {
          const answer: Answer = await post(`${path}/deliveries/retry`, { status: "failed", cursor });
          sent += answer.matched;
          cursor = answer.nextCursor ?? undefined;
        } while (cursor);
        toast(`${plural(sent, "delivery", "deliveries")} sent again`);
        onDone();
      }}
    >
      {dry.error && <Problem error={dry.error} onRetry={dry.reload} />}
      {!dry.data && !dry.error && <Skeleton rows={1} />}
      {dry.data && (
        <p>
          {plural(matched, "delivery", "deliveries", Boolean(more))} would be sent again, with the ids that they had.
          The receiver tells duplicates by them.
        </p>
      )}
    </ConfirmDialog>
  );
}
