import { useState } from "preact/hooks";
import { type ApiError, call, get, post, serverNow } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { ConfirmDialog, Dialog } from "../parts/Dialog.tsx";
import { CheckField, errorAt, TextField } from "../parts/fields.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { SecretDialog } from "../parts/SecretDialog.tsx";
import { type Mark, StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { href, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin, maySubmit, me, readsAll } from "../session.ts";
import { plural } from "../text/format.ts";

type ApiKey = Schema<"KeySummary">;
const POLL_MS = 10_000;
const DAY_MS = 86_400_000;
const MARKS: Record<ApiKey["status"], Mark> = {
  active: "finished",
  expired: "cancelled",
  revoked: "failed",
  orphaned: "failed",
};

function rightsInWords({ roles, types, servers, rate }: ApiKey): string {
  return [
    roles.join(", "),
    types.length && `only ${types.join(", ")}`,
    servers && `for ${servers.join(", ") || "no server"}`,
    rate && `${rate} requests per second`,
  ]
    .filter(Boolean)
    .join(" · ");
}

const COLUMNS: Column<ApiKey>[] = [
  { id: "status", title: "Status", render: (each) => <StateMark mark={MARKS[each.status]} word={each.status} /> },
  {
    id: "name",
    title: "Key",
    wide: true,
    render: (each) => (
      <>
        <a href={href("/log", {}, { subject: `key:${each.id}` })}>{each.name}</a>
        {each.reason && <span class="muted"> · {each.reason}</span>}
      </>
    ),
  },
  { id: "owner", title: "Owner", minor: true, render: (each) => each.owner },
  { id: "rights", title: "Rights", minor: true, render: rightsInWords },
  { id: "used", title: "Last used", number: true, render: (each) => <When at={each.lastUsedAt} /> },
  { id: "expires", title: "Expires", number: true, minor: true, render: (each) => <When at={each.expiresAt} /> },
  { id: "created", title: "Created", number: true, minor: true, render: (each) => <When at={each.createdAt} /> },
];

function KeyForm({ onClose, onMade }: { onClose: () => void; onMade: (made: Schema<"NewKey">) => void }) {
  const choices = isAdmin.value ? ["user", "admin", "service", "auditor"] : (me.value?.roles ?? []);
  const [name, setName] = useState("");
  const [roles, setRoles] = useState(choices.slice(0, 1));
  const [types, setTypes] = useState("");
  const [days, setDays] = useState("365");
  const [owner, setOwner] = useState("");
  const [error, setError] = useState<ApiError | null>(null);
  const [isBusy, setBusy] = useState(false);
  const make = async () => {
    if (isBusy) return;
    setBusy(true);
    setError(null);
    const body = {
      name: name.trim(),
      roles,
      types: types.split(/[,\s]+/).filter(Boolean),
      ...(owner.trim() && { owner: owner.trim() }),
      ...(Number(days) > 0 && { expiresAt: Math.round(serverNow() + Number(days) * DAY_MS) }),
    };
    try {
      onMade(await post<Schema<"NewKey">>("/api/keys", body));
      onClose();
    } catch (refusal) {
      setError(refusal as ApiError);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title="New API key"
      onClose={onClose}
      onSubmit={make}
      actions={[
        <button key="no" type="button" onClick={onClose}>
          Close
        </button>,
        <button key="yes" type="submit" class="primary" disabled={!name.trim() || !roles.length || isBusy}>
          Make the key
        </button>,
      ]}
    >
      <TextField
        label="Name"
        required
        autofocus
        value={name}
        onChange={setName}
        error={errorAt(error, "$.name")}
        hint="The program that uses it. Events show it by its id."
      />
      {choices.map((role) => (
        <CheckField
          key={role}
          label={`Role ${role}`}
          value={roles.includes(role)}
          onChange={(has) => setRoles(has ? [...roles, role] : roles.filter((each) => each !== role))}
        />
      ))}
      <TextField
        label="Types"
        value={types}
        onChange={setTypes}
        error={errorAt(error, "$.types")}
        hint="It reaches only tasks of these types, separated by commas. Empty: all types."
      />
      <TextField
        label="Days"
        type="number"
        value={days}
        onChange={setDays}
        error={errorAt(error, "$.expiresAt")}
        hint="Until it expires. Empty: never."
      />
      {isAdmin.value && (
        <TextField label="Owner" value={owner} onChange={setOwner} hint="Whom it acts for. Empty: you." />
      )}
      {error && !["$.name", "$.types", "$.expiresAt"].includes(error.problem.path ?? "") && <Problem error={error} />}
    </Dialog>
  );
}

export default function Keys({ query }: PageProps) {
  const cursor = query.get("cursor");
  const [isNew, setNew] = useState(false);
  const [made, setMade] = useState<Schema<"NewKey"> | null>(null);
  const [ending, setEnding] = useState<ApiKey | null>(null);
  const page = usePoll(
    `keys ${cursor}`,
    (signal) => get<Schema<"KeyPage">>("/api/keys", { query: { limit: 100, cursor }, signal }),
    POLL_MS,
  );
  useKeys("API keys", maySubmit.value ? [{ key: "n", label: "New API key", run: () => setNew(true) }] : []);
  const columns: Column<ApiKey>[] = [
    ...COLUMNS.filter((column) => column.id !== "owner" || readsAll.value),
    {
      id: "actions",
      title: "",
      render: (each) =>
        each.status === "active" && maySubmit.value && (isAdmin.value || each.owner === me.value?.subject) ? (
          <button type="button" class="small" onClick={() => setEnding(each)}>
            Revoke
          </button>
        ) : null,
    },
  ];
  return (
    <>
      <PageHead title="API keys" sub="Long-lived tokens of programs. A revoked key works nowhere any more.">
        {maySubmit.value && (
          <button type="button" onClick={() => setNew(true)}>
            New API key
          </button>
        )}
      </PageHead>
      {page.error && !page.data ? (
        <Problem error={page.error} onRetry={page.reload} />
      ) : (
        <DataTable
          label="API keys"
          columns={columns}
          rows={page.data?.keys}
          rowKey={(each) => each.id}
          stale={page.isStale}
          empty={
            <EmptyState title="There are no API keys yet">
              <p>A program sends its key as a bearer token, in place of a JWT.</p>
            </EmptyState>
          }
        />
      )}
      {page.data && (
        <Pager
          shown={plural(page.data.keys.length, "key")}
          onFirst={cursor ? () => setQuery({ cursor: undefined }) : null}
          onNext={page.data.nextCursor ? () => setQuery({ cursor: page.data?.nextCursor ?? undefined }) : null}
        />
      )}
      {isNew && <KeyForm onClose={() => setNew(false)} onMade={setMade} />}
      {made && (
        <SecretDialog
          title="The key, shown once"
          secret={made.key}
          onClose={() => {
            setMade(null);
            page.reload();
          }}
        >
          <p>
            {made.details.name}: whoever has it acts as {made.details.owner}. The service never shows it again.
          </p>
        </SecretDialog>
      )}
      {ending && (
        <ConfirmDialog
          title={`Revoke “${ending.name}”?`}
          action="Revoke the key"
          danger
          reason
          onConfirm={(reason) => call("DELETE", `/api/keys/${encodeURIComponent(ending.id)}`, { body: { reason } })}
          onClose={() => {
            setEnding(null);
            page.reload();
          }}
        >
          <p>It works nowhere any more, nor do the keys that it made. What is open with them ends.</p>
        </ConfirmDialog>
      )}
    </>
  );
}
