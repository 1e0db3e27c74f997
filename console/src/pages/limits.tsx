/** Shares between owners: what is set, what is used, and whom it holds. */
import { useState } from "preact/hooks";
import { ApiError, del, get, put } from "../api/client.ts";
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
type Numbers = Schema<"NumbersOfValue">;

export default function LimitsPage({ query }: PageProps) {
  return readsAll.value ? <Everybody cursor={query.get("cursor")} /> : <Own />;
}

const HELD = ["parents", "time", "limit", "retry", "server-busy"].map((each) => `hold=${each}`).join("&");

interface Row {
  owner: string;
  /** In force; null: they are those of the service, which are not known yet. */
  limits: Limits | null;
  own: OwnLimits | null;
  numbers: Numbers | undefined;
  started: number | undefined;
}

function Everybody({ cursor }: { cursor: string | null }) {
  const [editing, setEditing] = useState<string | null>(null);
  const [removing, setRemoving] = useState<string | null>(null);
  const [at, setAt] = useState<Row | null>(null);
  const [adding, setAdding] = useState("");
  const owners = usePoll(`owners ${cursor}`, (signal) =>
    get<Schema<"OwnerPage">>("/api/owners", { signal, query: { limit: 200, cursor } }),
  );
  const stats = usePoll(
    "owners' numbers",
    (signal) => get<Schema<"StatsAnswer">>("/api/stats", { signal, query: { by: "owner", from: "1h", step: "1h" } }),
    10_000,
  );
  const numbers = new Map((stats.data?.totals.byOwner ?? []).map((each) => [each.value, each]));
  const started = new Map((stats.data?.groups ?? []).map((each) => [each.value, each.started]));
  const limited = new Map((owners.data?.owners ?? []).map((each) => [each.owner, each]));
  const others = cursor ? [] : [...numbers.keys()].filter((name) => !limited.has(name));
  const usual = usePoll(
    `usual ${others[0]}`,
    (signal) =>
      others[0]
        ? get<Limits>(`/api/owners/${encodeURIComponent(others[0])}/limits`, { signal })
        : Promise.resolve(null),
    60_000,
  );
  const row = (owner: string, limits: Limits | null): Row => ({
    owner,
    limits,
    own: (limits?.own as OwnLimits | null | undefined) ?? null,
    numbers: numbers.get(owner),
    started: started.get(owner),
  });
  const rows = [
    ...[...limited.values()].map((each) => row(each.owner, each)),
    ...others.map((name) => row(name, usual.data ? { ...usual.data, owner: name, own: null } : null)),
  ];
  const admin = isAdmin.value;
  useKeys(
    "Limits",
    admin ? [{ key: "e", label: "Edit the owner's limits", run: () => at && setEditing(at.owner) }] : [],
  );
  const columns: Column<Row>[] = [
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
          value={each.numbers?.processing ?? 0}
          of={each.limits?.concurrency ?? null}
          label={`running of ${each.owner}`}
        />
      ),
    },
    {
      id: "waiting",
      title: "Waiting",
      render: (each) => {
        const value = each.numbers?.waiting ?? 0;
        const of = each.limits?.waiting ?? null;
        const share = of ? value / of : 0;
        return (
          <Meter value={value} of={of} label={`waiting of ${each.owner}`} tone={share > 0.8 ? "warning" : undefined} />
        );
      },
    },
    {
      id: "held",
      title: "Held",
      number: true,
      render: (each) =>
        each.numbers?.held ? (
          <a href={`${href("/tasks", {}, { owner: each.owner })}&${HELD}`} title="By parents, a time, or a limit">
            {count(each.numbers.held)}
          </a>
        ) : (
          <span class="muted">0</span>
        ),
    },
    {
      id: "started",
      title: "Started 1 h",
      number: true,
      minor: true,
      render: (each) => (each.started === undefined ? <span class="muted">–</span> : count(each.started)),
    },
    { id: "rate", title: "Starts/s", number: true, render: (each) => limitText("perSecond", each.limits?.perSecond) },
    {
      id: "stored",
      title: "May store",
      number: true,
      minor: true,
      render: (each) => limitText("stored", each.limits?.stored),
    },
    {
      id: "own",
      title: "Own limits",
      wide: true,
      render: (each) => ownLimitsText(each.own) || <span class="muted">the service's</span>,
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
        rows={owners.data && rows}
        rowKey={(each) => each.owner}
        stale={owners.isStale}
        onCursor={setAt}
        empty={
          <EmptyState title="Nobody has limits of their own">
            All have those of the service. Owners appear here with their first task.
          </EmptyState>
        }
      />
      <Pager
        shown={`${count(rows.length)} owners`}
        asOf={
          stats.data?.totals.more.includes("owner")
            ? "of those without own limits, the 100 with the most tasks"
            : undefined
        }
        onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
        onNext={owners.data?.nextCursor ? () => setQuery({ cursor: owners.data?.nextCursor ?? undefined }) : null}
      />
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

function EditDialog({ owner, onClose, onDone }: { owner: string; onClose: () => void; onDone: () => void }) {
  const path = `/api/owners/${encodeURIComponent(owner)}/limits`;
  const read = usePoll(`limits ${owner}`, (signal) => get<Limits>(path, { signal }), 0);
  return read.data ? (
    <LimitsForm owner={owner} path={path} limits={read.data} onClose={onClose} onDone={onDone} />
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
  onClose,
  onDone,
}: {
  owner: string;
  path: string;
  limits: Limits;
  onClose: () => void;
  onDone: () => void;
}) {
  const [draft, setDraft] = useState(limitsDraft(limits.own as OwnLimits | null));
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const wrong = limitProblems(draft);
  const refusedAt = error instanceof ApiError ? (error.problem.path ?? "").replace("$.", "") : "";
  const save = async () => {
    if (busy || Object.keys(wrong).length) return;
    setBusy(true);
    setError(null);
    try {
      const body = limitsBody(draft);
      if (body) await put(path, body);
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
