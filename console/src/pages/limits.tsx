/** Shares between owners: what is set, what is used, and whom it holds. */
import { useEffect, useState } from "preact/hooks";
import { ApiError, call, del, get, post, put } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import {
  type Choice,
  LIMIT_NAMES,
  LIMIT_WORDS,
  type LimitName,
  limitProblems,
  limitsBody,
  limitsDraft,
  limitText,
  type OwnLimits,
  ownLimitsText,
  previewText,
} from "../fleet/limits.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { ConfirmDialog, Dialog } from "../parts/Dialog.tsx";
import { TextField } from "../parts/fields.tsx";
import { useKeys } from "../parts/keys.ts";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin, me, readsAll } from "../session.ts";
import { bytes, count } from "../text/format.ts";

type Limits = Schema<"OwnerLimitsAnswer">;
type Preview = Schema<"LimitsPreview">;
const TYPING_MS = 400;

export default function LimitsPage({ query }: PageProps) {
  return readsAll.value ? <Everybody cursor={query.get("cursor")} /> : <Own />;
}

const PAGE = 100;

function Everybody({ cursor }: { cursor: string | null }) {
  const [editing, setEditing] = useState<string | null>(null);
  const [removing, setRemoving] = useState<string | null>(null);
  const [at, setAt] = useState<Limits | null>(null);
  const [adding, setAdding] = useState("");
  const owners = usePoll(`owners ${cursor}`, (signal) =>
    get<Schema<"OwnerPage">>("/api/owners", { signal, query: { all: true, limit: PAGE, cursor } }),
  );
  const admin = isAdmin.value;
  useKeys(
    "Limits",
    admin ? [{ key: "e", label: "Edit the owner's limits", run: () => at && setEditing(at.owner) }] : [],
  );
  const columns: Column<Limits>[] = [
    {
      id: "owner",
      title: "Owner",
      render: (each) => (
        <a href={href("/tasks", {}, { owner: each.owner })} title="Their tasks">
          {each.owner}
        </a>
      ),
    },
    {
      id: "running",
      title: "Running",
      render: (each) => (
        <Meter
          value={(each.concurrency && each.use?.counted) || each.use?.running || 0}
          of={each.concurrency}
          label={`running of ${each.owner}`}
        />
      ),
    },
    {
      id: "rate",
      title: "Starts/s",
      number: true,
      render: (each) => (
        <>
          {each.use ? trimmed(each.use.startsPerSecond) : "–"}
          {each.perSecond !== null && <span class="muted"> / {trimmed(each.perSecond)}</span>}
        </>
      ),
    },
    {
      id: "waiting",
      title: "Waiting",
      render: (each) => <Quota limits={each} policy="waiting" />,
    },
    {
      id: "held",
      title: "Held by limit",
      number: true,
      render: (each) => {
        const held = each.use?.heldByLimit;
        if (held == null)
          return (
            <span class="muted" title="No scheduler answers.">
              –
            </span>
          );
        if (!held) return <span class="muted">0</span>;
        return <a href={href("/tasks", {}, { owner: each.owner, hold: "limit" })}>{count(held)}</a>;
      },
    },
    {
      id: "stored",
      title: "Stored",
      minor: true,
      className: "roomy",
      render: (each) => <Quota limits={each} policy="stored" />,
    },
    {
      id: "own",
      title: "Own limits",
      wide: true,
      render: (each) => ownLimitsText(each.own as OwnLimits | null) || <span class="muted">the service's</span>,
    },
  ];
  if (admin)
    columns.push({
      id: "act",
      title: "Actions",
      className: "acts",
      render: (each) => (
        <>
          <button type="button" class="small" onClick={() => setEditing(each.owner)}>
            Edit…
          </button>
          {each.own && (
            <button type="button" class="small danger-text" onClick={() => setRemoving(each.owner)}>
              Remove…
            </button>
          )}
        </>
      ),
    });
  return (
    <>
      <PageHead
        title="Limits"
        sub="A task over a limit waits, visibly. Only the quotas refuse: waiting tasks and stored bytes."
      >
        {admin && (
          <form
            class="page-actions"
            onSubmit={(event) => {
              event.preventDefault();
              if (adding.trim()) setEditing(adding.trim());
            }}
          >
            <input
              type="text"
              aria-label="An owner"
              placeholder="sub of an owner"
              value={adding}
              onInput={(event) => setAdding(event.currentTarget.value)}
            />
            <button type="submit" disabled={!adding.trim()}>
              Set limits…
            </button>
          </form>
        )}
      </PageHead>
      {owners.error && !owners.data && <Problem error={owners.error} onRetry={owners.reload} />}
      <DataTable
        label="Owners"
        columns={columns}
        rows={owners.data?.owners}
        rowKey={(each) => each.owner}
        stale={owners.isStale}
        onCursor={setAt}
        empty={
          <EmptyState title="Nobody has tasks or limits of their own">
            All have the limits of the service. Owners appear here with their first task.
          </EmptyState>
        }
      />
      {owners.data && (
        <Pager
          shown={`${count(owners.data.owners.length)} owners, by name`}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={owners.data.nextCursor ? () => setQuery({ cursor: owners.data?.nextCursor ?? undefined }) : null}
        />
      )}
      {editing !== null && <EditDialog owner={editing} onClose={() => setEditing(null)} onDone={owners.reload} />}
      {removing !== null && (
        <ConfirmDialog
          title={`Remove the own limits of ${removing}`}
          action="Remove"
          danger
          onClose={() => setRemoving(null)}
          onConfirm={async () => {
            await del(`/api/owners/${encodeURIComponent(removing)}/limits`);
            toast(`${removing} has the limits of the service again.`);
            owners.reload();
          }}
        >
          <p>The limits of the service apply again, at once, also to waiting tasks.</p>
        </ConfirmDialog>
      )}
    </>
  );
}

const trimmed = (value: number): string => String(Number(value.toFixed(2)));
/** Above this share of a quota, submits may soon be refused. */
const NEARLY = 0.8;

function Quota({ limits, policy }: { limits: Limits; policy: "waiting" | "stored" }) {
  const found = limits.use?.quotas.find((each) => each.policy === policy);
  if (!found) return <span class="muted">–</span>;
  const { used, limit } = found;
  const tone = limit && used / limit > NEARLY ? "warning" : undefined;
  if (policy === "waiting") return <Meter value={used} of={limit} label={`waiting of ${limits.owner}`} tone={tone} />;
  return (
    <span class={tone ? "state-warning" : ""}>
      {bytes(used)}
      {limit !== null && <span class="muted"> / {bytes(limit)}</span>}
    </span>
  );
}

function EditDialog({ owner, onClose, onDone }: { owner: string; onClose: () => void; onDone: () => void }) {
  const path = `/api/owners/${encodeURIComponent(owner)}/limits`;
  const read = usePoll(`limits ${owner}`, (signal) => call<Limits>("GET", path, { signal }), 0);
  return read.data ? (
    <LimitsForm
      owner={owner}
      path={path}
      limits={read.data.body}
      etag={read.data.etag}
      onClose={onClose}
      onDone={onDone}
    />
  ) : (
    <Dialog
      title={`Limits of ${owner}`}
      onClose={onClose}
      actions={
        <button type="button" onClick={onClose}>
          Close
        </button>
      }
    >
      {read.error ? <Problem error={read.error} /> : <Skeleton rows={5} />}
    </Dialog>
  );
}

function LimitsForm({
  owner,
  path,
  limits,
  etag,
  onClose,
  onDone,
}: {
  owner: string;
  path: string;
  limits: Limits;
  /** Of what was read: somebody else's change since then is not overwritten. */
  etag: string | null;
  onClose: () => void;
  onDone: () => void;
}) {
  const [draft, setDraft] = useState(limitsDraft(limits.own as OwnLimits | null));
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const [preview, setPreview] = useState<Preview | null>(null);
  const wrong = limitProblems(draft);
  const refusedAt = error instanceof ApiError ? (error.problem.path ?? "").replace("$.", "") : "";
  const save = async () => {
    if (busy || Object.keys(wrong).length) return;
    setBusy(true);
    setError(null);
    try {
      const body = limitsBody(draft);
      if (body) await put(path, body, { ifMatch: etag ?? undefined });
      else await del(path);
      toast(body ? `The limits of ${owner} apply now.` : `${owner} has the limits of the service.`);
      onDone();
      onClose();
    } catch (refusal) {
      setError(refusal as Error);
      setBusy(false);
    }
  };
  const own = limits.own as OwnLimits | null;
  const body = Object.keys(wrong).length ? null : limitsBody(draft);
  const text = body && JSON.stringify(body);
  const isChanged = text !== JSON.stringify(limitsBody(limitsDraft(own)));
  useEffect(() => {
    setPreview(null);
    if (!text || !isChanged) return;
    const mine = new AbortController();
    const timer = setTimeout(() => {
      const options = { signal: mine.signal, noted: false };
      post<Preview>(`${path}/preview`, text, options).then(setPreview, () => {});
    }, TYPING_MS);
    return () => {
      clearTimeout(timer);
      mine.abort();
    };
  }, [text]);
  return (
    <Dialog
      title={`Limits of ${owner}`}
      onClose={onClose}
      onSubmit={save}
      actions={[
        <button key="no" type="button" onClick={onClose}>
          Keep as they are
        </button>,
        <button key="yes" type="submit" class="primary" disabled={busy || Object.keys(wrong).length > 0}>
          Save
        </button>,
      ]}
    >
      <p class="muted">They apply at once, also to waiting tasks. Running tasks go on.</p>
      {LIMIT_NAMES.map((name) => {
        const { choice, text } = draft[name];
        const { label, help } = LIMIT_WORDS[name];
        const set = (change: Partial<{ choice: Choice; text: string }>) =>
          setDraft({ ...draft, [name]: { ...draft[name], ...change } });
        const usual = own?.[name] == null ? ` (${limitText(name, limits[name as LimitName])})` : "";
        return (
          <div key={name} class="limit-field">
            <label class="field">
              <span>{label}</span>
              <select value={choice} onChange={(event) => set({ choice: event.currentTarget.value as Choice })}>
                <option value="service">the service's{usual}</option>
                {name !== "burst" && <option value="none">no limit</option>}
                <option value="own">their own:</option>
              </select>
            </label>
            {choice === "own" ? (
              <TextField
                label={`${label}, number`}
                value={text}
                onChange={(value) => set({ text: value })}
                error={wrong[name] ?? (refusedAt === name && error ? error.message : null)}
              />
            ) : (
              <p class="hint">{help}</p>
            )}
          </div>
        );
      })}
      <p class="hint" aria-live="polite">
        {preview && previewText(preview)}
      </p>
      {error && !refusedAt && <Problem error={error} />}
    </Dialog>
  );
}

/** What a user sees: their own limits and quotas. */
function Own() {
  const subject = me.value?.subject ?? "";
  const read = usePoll(`own limits ${subject}`, async (signal) => {
    const limits = get<Limits>(`/api/owners/${encodeURIComponent(subject)}/limits`, { signal });
    const quotas = get<Schema<"QuotasAnswer">>("/api/quotas", { signal });
    return { limits: await limits, quotas: (await quotas).quotas };
  });
  if (!read.data)
    return (
      <>
        <PageHead title="Limits" />
        {read.error ? <Problem error={read.error} onRetry={read.reload} /> : <Skeleton rows={5} />}
      </>
    );
  const { limits, quotas } = read.data;
  return (
    <>
      <PageHead title="Limits" sub="What you may use. A task over a limit waits; a submit over a quota is refused." />
      <div class="columns">
        <section class="card">
          <h2>Limits</h2>
          <dl class="fact-list">
            {LIMIT_NAMES.slice(0, 3).map((name) => (
              <div key={name}>
                <dt>{LIMIT_WORDS[name].label.toLowerCase()}</dt>
                <dd>{limitText(name, limits[name])}</dd>
              </div>
            ))}
          </dl>
        </section>
        <section class="card">
          <h2>Quotas</h2>
          <dl class="fact-list">
            {quotas.map((each) => (
              <div key={each.policy}>
                <dt>{each.policy}</dt>
                <dd>
                  {each.unit === "bytes" ? (
                    `${bytes(each.used)} of ${each.limit ? bytes(each.limit) : "any"}`
                  ) : (
                    <Meter value={each.used} of={each.limit} label={each.policy} />
                  )}
                </dd>
              </div>
            ))}
          </dl>
        </section>
      </div>
    </>
  );
}
