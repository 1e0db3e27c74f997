/** One task type: its rules, its limits, its schema; a form that sends the type's own settings and pins no default. */
import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { ApiError, call, del, put } from "../api/client.ts";
import { useServers } from "../fleet/data.ts";
import {
  type TypeDraft,
  type TypeField,
  typeBody,
  typeDraft,
  typeNameProblem,
  typeProblems,
} from "../fleet/type_form.ts";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { CheckField, SelectField, TextArea, TextField } from "../parts/fields.tsx";
import { useKeys } from "../parts/keys.ts";
import { Menu } from "../parts/Menu.tsx";
import { PageHead } from "../parts/Page.tsx";
import { useResource } from "../parts/resource.ts";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, navigate } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin, readsAll } from "../session.ts";
import { duration } from "../text/format.ts";
import { PauseDialog, PauseState, type Pausing, type TaskType, TYPE_SAYS } from "./pools.tsx";

const DIALECTS = ["taskstream", "bare", "cog", "oip", "openai"];

export default function TypePage({ params }: PageProps) {
  const name = params.name ?? "";
  const isNew = !name;
  const type = useResource(`type ${name}`, (signal) =>
    isNew ? Promise.resolve(null) : call<TaskType>("GET", `/api/types/${encodeURIComponent(name)}`, { signal }),
  );
  const title = isNew ? "New type" : name;
  if (type.data === undefined)
    return (
      <>
        <PageHead title={title} />
        {type.error ? (
          <Problem error={type.error} onRetry={type.reload} />
        ) : (
          <Skeleton rows={6} label={`Loading: ${name}`} />
        )}
      </>
    );
  return (
    <TypeForm
      key={String(type.readAt)}
      type={type.data?.body ?? null}
      etag={type.data?.etag ?? null}
      onDone={type.reload}
    />
  );
}

function TypeForm({ type, etag, onDone }: { type: TaskType | null; etag: string | null; onDone: () => void }) {
  const before = useRef(
    typeDraft({ own: (type?.own ?? null) as Record<string, unknown> | null, schema: type?.schema ?? null }),
  );
  const [draft, setDraft] = useState<TypeDraft>(before.current);
  const [name, setName] = useState(type?.name ?? "");
  const [all, setAll] = useState(false);
  const [error, setError] = useState<ApiError | Error | null>(null);
  const [sending, setSending] = useState(false);
  const [pausing, setPausing] = useState<Pausing | null>(null);
  const [deleting, setDeleting] = useState(false);
  const admin = isAdmin.value;
  const wrong = typeProblems(draft);
  const wrongName = typeNameProblem(name);
  const refusedAt = error instanceof ApiError ? (error.problem.path ?? "").replace(/^\$\.?/, "") : "";
  const changed = !type || typeBody(draft) !== typeBody(before.current);
  const save = async () => {
    setAll(true);
    if (Object.keys(wrong).length || wrongName || sending || !changed) return;
    setSending(true);
    setError(null);
    try {
      await put(`/api/types/${encodeURIComponent(name)}`, typeBody(draft), { ifMatch: etag ?? undefined });
      toast(`The type ${name} is saved. Tasks already submitted keep their settings.`);
      if (type) onDone();
      else navigate(href("/types/{name}", { name }));
    } catch (refusal) {
      setError(refusal as Error);
    }
    setSending(false);
  };
  useKeys("Type", admin ? [{ key: "Mod+Enter", label: "Save", run: () => void save() }] : []);
  const set = (change: Partial<TypeDraft>) => setDraft((had) => ({ ...had, ...change }));
  const of = (field: TypeField) => ({
    value: draft[field] as string,
    onChange: (value: string) => set({ [field]: value }),
    error: wrong[field] ?? (refusedAt === field && error ? error.message : null),
    disabled: !admin,
  });
  const service = (value: string | number | undefined) =>
    value === undefined ? "as the service says" : `${value} (the service's)`;
  const own = type?.own as Record<string, unknown> | null | undefined;
  const fallback = (field: keyof TaskType, unit = "") =>
    own?.[field] === undefined && type ? service(`${type[field]}${unit}`) : service(undefined);
  return (
    <>
      <PageHead
        title={
          <>
            <a class="up" href="#/pools">
              Pools and types
            </a>{" "}
            {type?.name ?? "New type"}
          </>
        }
        sub={type && <PauseState pause={type.pause} />}
      >
        {type && (
          <a class="button" href={href("/tasks", {}, { type: type.name })}>
            Its tasks
          </a>
        )}
        {admin && type && (
          <>
            <button
              type="button"
              onClick={() =>
                setPausing({ what: "type", name, resume: type.pause !== null, says: TYPE_SAYS[type.pause ? 1 : 0] })
              }
            >
              {type.pause ? "Resume…" : "Pause…"}
            </button>
            {type.defined && (
              <Menu
                icon
                label="More actions"
                items={[{ label: "Delete the type…", danger: true, onSelect: () => setDeleting(true) }]}
              />
            )}
          </>
        )}
        {admin && (
          <button type="button" class="primary" disabled={sending || !changed} onClick={save}>
            {type ? "Save" : "Create"}
          </button>
        )}
      </PageHead>
      {error && <Problem error={error} />}
      <form
        class="form wide-form"
        onSubmit={(event) => {
          event.preventDefault();
          void save();
        }}
      >
        <Part title="About">
          {!type && (
            <TextField
              label="Name"
              required
              value={name}
              onChange={setName}
              error={all || name ? wrongName : null}
              autofocus
            />
          )}
          <TextField label="Description" {...of("description")} />
          <div class="field-row">
            <TextField
              label="Pool"
              placeholder={type?.pool ?? "one of its own"}
              hint="Its queue. Types of a pool share servers."
              {...of("pool")}
            />
            <SelectField
              label="Priority"
              value={draft.priority}
              disabled={!admin}
              onChange={(priority) => set({ priority: priority as TypeDraft["priority"] })}
              options={[
                ["high", "high"],
                ["normal", "normal"],
                ["low", "low"],
              ]}
            />
          </div>
        </Part>
        <Part title="Attempts">
          <div class="field-row">
            <TextField label="Attempts" placeholder={fallback("attempts")} {...of("attempts")} />
            <TextField label="Timeout, seconds" placeholder={fallback("timeout")} {...of("timeout")} />
          </div>
          <div class="field-row">
            <TextField label="Backoff from, seconds" placeholder={fallback("backoffBase")} {...of("backoffBase")} />
            <TextField label="up to, seconds" placeholder={fallback("backoffCap")} {...of("backoffCap")} />
            <TextField
              label="Waits for busy servers, seconds"
              placeholder={fallback("busyFor")}
              hint={type ? `${duration(type.busyFor)} now` : undefined}
              {...of("busyFor")}
            />
          </div>
          <SelectField
            label="Answers that count"
            value={draft.accepts}
            disabled={!admin}
            onChange={(accepts) => set({ accepts: accepts as TypeDraft["accepts"] })}
            options={[
              ["any", "JSON, text, files, or nothing"],
              ["json", "JSON alone: others are failed attempts"],
            ]}
          />
        </Part>
        <Part title="Limits of all its tasks">
          <div class="field-row">
            <TextField label="Running at once" placeholder="no limit" {...of("concurrency")} />
            <TextField label="Starts per second" placeholder="no limit" {...of("perSecond")} />
            <TextField label="Burst" placeholder="as many as a second has" {...of("burst")} />
          </div>
          <div class="field-row">
            <TextField label="Running with the same key" {...of("keyConcurrency")} />
            <SelectField
              label="A task whose key is in use"
              value={draft.onConflict}
              disabled={!admin}
              onChange={(onConflict) => set({ onConflict: onConflict as TypeDraft["onConflict"] })}
              options={[
                ["wait", "waits"],
                ["replace", "replaces those that wait"],
                ["refuse", "is cancelled"],
              ]}
            />
          </div>
        </Part>
        <Part title="Servers">
          <SelectField
            label="Dialect of servers that name none"
            value={draft.dialect}
            disabled={!admin}
            onChange={(dialect) => set({ dialect })}
            options={[["", "taskstream"], ...DIALECTS.slice(1).map((each): [string, string] => [each, each])]}
          />
          <CheckField
            label="Tasks of a session go to the same server"
            hint="A session is named by `user` in the payload, or is a conversation whose messages begin alike."
            value={draft.sessionAffinity}
            disabled={!admin}
            onChange={(sessionAffinity) => set({ sessionAffinity })}
          />
        </Part>
        <Part title="Other services' APIs">
          <TextField
            label="Model"
            placeholder="the type's name"
            hint="Clients of Replicate's and OpenAI's APIs find the type under this name, such as acme/flux."
            {...of("model")}
          />
        </Part>
        <Part title="Payload">
          <TextArea
            label="Searchable fields"
            rows={2}
            mono
            hint="One a line, such as $.order.customer. At most 8. They count for tasks submitted from now on."
            {...of("indexed")}
          />
          <Schema draft={draft} type={type} set={set} of={of} />
        </Part>
      </form>
      {pausing && <PauseDialog {...pausing} onClose={() => setPausing(null)} onDone={onDone} />}
      {deleting && (
        <ConfirmDialog
          title={`Delete the type ${name}`}
          action="Delete"
          danger
          onClose={() => setDeleting(false)}
          onConfirm={async () => {
            await del(`/api/types/${encodeURIComponent(name)}`);
            toast(`The type ${name} is deleted.`);
            navigate("#/pools");
          }}
        >
          <p>Its tasks go on. New tasks of this type are treated like `default`. A pause of it ends.</p>
        </ConfirmDialog>
      )}
    </>
  );
}

function Part({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <fieldset class="card part">
      <legend>
        <h2>{title}</h2>
      </legend>
      {children}
    </fieldset>
  );
}

function Schema({
  draft,
  type,
  set,
  of,
}: {
  draft: TypeDraft;
  type: TaskType | null;
  set: (change: Partial<TypeDraft>) => void;
  of: (field: TypeField) => {
    value: string;
    onChange: (value: string) => void;
    error: string | null;
    disabled: boolean;
  };
}) {
  return (
    <>
      <SelectField
        label="Payloads are checked"
        value={draft.schema}
        disabled={!isAdmin.value}
        onChange={(schema) => set({ schema: schema as TypeDraft["schema"] })}
        hint={
          type?.schemaFrom && draft.schema === "own"
            ? `It was taken from the server ${type.schemaFrom.server}.`
            : undefined
        }
        options={[
          ["any", "not at all: any payload"],
          ["own", "against this JSON Schema"],
          ["server", "against the schema of a server's model, asked for when this is saved"],
        ]}
      />
      {draft.schema === "own" && (
        <TextArea
          label="JSON Schema"
          rows={Math.min(24, Math.max(6, draft.schemaText.split("\n").length))}
          mono
          hint="Payloads that break it are refused when they are submitted, with the place and the rule."
          {...of("schemaText")}
        />
      )}
      {draft.schema === "server" && readsAll.value && <FromServer of={of} />}
    </>
  );
}

function FromServer({
  of,
}: {
  of: (field: TypeField) => {
    value: string;
    onChange: (value: string) => void;
    error: string | null;
    disabled: boolean;
  };
}) {
  const servers = useServers();
  const names = (servers.data ?? []).filter((each) => each.mode === "push").map((each) => each.id);
  return (
    <SelectField
      label="Server"
      hint="Of the dialects cog, oip and bare. It is asked once; later changes there are not followed."
      options={[["", "choose one"], ...names.map((each): [string, string] => [each, each])]}
      {...of("schemaServer")}
    />
  );
}
