/** Bring a server in, or change one: what is typed is checked by the rules of the API as one types. */
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, call, get, newKey, patch, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import type { Server } from "../fleet/data.ts";
import { Evidence } from "../fleet/Evidence.tsx";
import {
  type Answers,
  bodyOf,
  type Draft,
  draftOf,
  EMPTY,
  type Field as FieldName,
  fieldOf,
  fromPreset,
  hasField,
  listsModels,
  PRESET,
  PROGRAMS,
  patchOf,
  suggestedId,
} from "../fleet/registration.ts";
import { adviceFor, type Problems, problemsOf } from "../fleet/registration_rules.ts";
import { TryDialog } from "../fleet/TryDialog.tsx";
import { curl } from "../frame/dialogs.tsx";
import { CopyButton } from "../parts/CopyButton.tsx";
import { CheckField, Field, SelectField, TextArea, TextField } from "../parts/fields.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { useResource } from "../parts/resource.ts";
import { ServerMark } from "../parts/ServerMark.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, navigate } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin } from "../session.ts";

type Check = Schema<"CheckAnswer">;
type Preset = Schema<"PresetInfo">;
const TYPING_MS = 400;

export default function Register({ params, query }: PageProps) {
  const editing = params.id;
  const like = query.get("like");
  const source = editing ?? like;
  const start = useResource(`form ${editing ? "edit" : "like"} ${source}`, async (signal) => {
    const presets = get<Schema<"PresetList">>("/api/presets", { signal });
    const types = get<Schema<"TypePage">>("/api/types", { signal });
    const server = source ? await readSource(source, !editing, signal) : null;
    return {
      presets: (await presets).presets,
      types: (await types).types.map((each) => each.name),
      server: server?.body ?? null,
      etag: server?.etag ?? null,
    };
  });
  const title = editing ? `Edit ${editing}` : "Register a server";
  if (!isAdmin.value && start.data) return <PageHead title={title} sub="Only admins register servers." />;
  if (!start.data)
    return (
      <>
        <PageHead title={title} />
        {start.error ? <Problem error={start.error} onRetry={start.reload} /> : <Skeleton rows={8} />}
      </>
    );
  return <Form title={title} editing={Boolean(editing)} {...start.data} />;
}

async function readSource(id: string, mayBeGone: boolean, signal: AbortSignal) {
  try {
    return await call<Server>("GET", `/api/servers/${encodeURIComponent(id)}`, { signal });
  } catch (error) {
    if (!mayBeGone || (error as ApiError).status !== 404) throw error;
    const page = await get<Schema<"ServerPage">>("/api/servers", { signal, query: { removed: true } });
    const body = page.servers.find((each) => each.id === id);
    if (!body) throw error;
    return { body, etag: null };
  }
}

function Form({
  title,
  editing,
  presets,
  types,
  server,
  etag,
}: {
  title: string;
  editing: boolean;
  presets: Preset[];
  types: string[];
  server: Server | null;
  etag: string | null;
}) {
  const before = useRef<Draft>(server ? draftOf(server) : EMPTY);
  const [draft, setDraft] = useState<Draft>(before.current);
  const [touched, setTouched] = useState<ReadonlySet<FieldName>>(new Set());
  const [all, setAll] = useState(editing);
  const [refused, setRefused] = useState<Problems>({});
  const [error, setError] = useState<ApiError | Error | null>(null);
  const [check, setCheck] = useState<Check | null>(null);
  const [checking, setChecking] = useState(false);
  const [known, setKnown] = useState(false);
  const [sending, setSending] = useState(false);
  const [trying, setTrying] = useState(false);
  const key = useRef(newKey());
  const checked = useRef("");
  const wrong = problemsOf(draft);
  const advice = adviceFor(draft);
  const body = bodyOf(draft);
  const text = JSON.stringify(body);
  const isWrong = Object.keys(wrong).length > 0;

  // The API's own rules, while one types: nothing is asked of the server.
  useEffect(() => {
    setRefused({});
    setKnown(false);
    if (isWrong) return;
    const mine = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const options = { signal: mine.signal, noted: false };
        const answer = await post<Check>("/api/servers/check", { server: body, reach: false }, options);
        setKnown(answer.registered);
      } catch (refusal) {
        if (refusal instanceof ApiError && refusal.status === 400) setRefused(placed(refusal));
      }
    }, TYPING_MS);
    return () => {
      clearTimeout(timer);
      mine.abort();
    };
  }, [text]);

  /** Ask the server: only GET requests that call no model. */
  const reach = async () => {
    if (isWrong && (wrong.predict || wrong.health)) return setAll(true);
    if (checking) return;
    checked.current = address(draft);
    setChecking(true);
    setCheck(null);
    setError(null);
    try {
      const asked = bodyOf({ ...draft, id: draft.id.trim() || suggestedId(draft.predict) || "new" });
      setCheck(await post<Check>("/api/servers/check", { server: asked }));
    } catch (refusal) {
      if (refusal instanceof ApiError && refusal.status === 400) setRefused(placed(refusal));
      else setError(refusal as Error);
    }
    setChecking(false);
  };
  const send = async () => {
    setAll(true);
    if (isWrong || sending) return;
    setSending(true);
    setError(null);
    try {
      if (editing) {
        const changes = patchOf(before.current, draft);
        if (Object.keys(changes).length) {
          const ifMatch = etag ?? undefined;
          await patch(`/api/servers/${encodeURIComponent(draft.id)}`, changes, { ifMatch });
          toast(`${draft.id} is changed and checked now.`);
        }
      } else {
        await post("/api/servers", body, { idempotencyKey: key.current });
        toast(`${body.id} is registered. Its first check has started.`);
      }
      navigate(href("/fleet/{id}", { id: String(body.id) }));
    } catch (refusal) {
      if (refusal instanceof ApiError && refusal.status === 400) setRefused(placed(refusal));
      setError(refusal as Error);
      setSending(false);
    }
  };
  useKeys("Form", [{ key: "Mod+Enter", label: editing ? "Save" : "Register", run: () => void send() }]);

  const set = (change: Partial<Draft>) => {
    setDraft((had) => ({ ...had, ...change }));
    key.current = newKey();
  };
  const errorOf = (field: FieldName) =>
    (touched.has(field) || all ? wrong[field] : undefined) ?? refused[field] ?? null;
  /** What every field of text has. */
  const of = (field: FieldName) => ({
    value: draft[field] as string,
    onChange: (value: string) => {
      set({ [field]: value });
      setTouched((had) => new Set([...had, field]));
    },
    error: errorOf(field),
  });
  const shows = (field: FieldName) => hasField(draft, field);
  const preset = presets.find((each) => PRESET + each.name === draft.program);
  const about = preset ? preset.description : PROGRAMS.find(([value]) => value === draft.program)?.[2];
  const changes = editing ? patchOf(before.current, draft) : null;
  /** The stored key is never sent to what is only tried. */
  const lacksKey = editing && (server?.hasApiKey ?? false) && !draft.apiKey && !draft.removesKey;

  return (
    <>
      <PageHead
        title={
          <>
            <a class="up" href="#/fleet">
              Fleet
            </a>{" "}
            {title}
          </>
        }
      >
        {shows("predict") && !lacksKey && (
          <button type="button" disabled={isWrong} onClick={() => setTrying(true)}>
            Try with a payload…
          </button>
        )}
        <button
          type="button"
          class="primary"
          disabled={sending || (changes !== null && !Object.keys(changes).length)}
          onClick={send}
        >
          {editing ? "Save" : "Register"}
        </button>
      </PageHead>
      {error && <Problem error={error} />}
      <div class="form-columns">
        <form
          class="form"
          onSubmit={(event) => {
            event.preventDefault();
            void send();
          }}
        >
          <Part title="What it is">
            <Field label="Program" hint={about} error={errorOf("program")}>
              {(attributes) => (
                <select
                  {...attributes}
                  value={draft.program}
                  onChange={(event) => {
                    const program = event.currentTarget.value;
                    const found = presets.find((each) => PRESET + each.name === program);
                    setCheck(null);
                    if (found) setDraft(fromPreset(draft, found.name, found.registration as Record<string, unknown>));
                    else set({ program });
                  }}
                >
                  <optgroup label="Wire formats">
                    {PROGRAMS.map(([value, name]) => (
                      <option key={value} value={value}>
                        {name}
                      </option>
                    ))}
                  </optgroup>
                  <optgroup label="Programs with a preset">
                    {presets.map((each) => (
                      <option key={each.name} value={PRESET + each.name}>
                        {each.title}
                      </option>
                    ))}
                  </optgroup>
                </select>
              )}
            </Field>
            {preset && preset.unsupported.length > 0 && (
              <details class="hint">
                <summary>What this preset does not use</summary>
                <ul>
                  {preset.unsupported.map((each) => (
                    <li key={each}>{each}</li>
                  ))}
                </ul>
              </details>
            )}
            {shows("predict") && (
              <div
                onBlurCapture={() => {
                  if (!draft.id && !touched.has("id")) set({ id: suggestedId(draft.predict) });
                  if (draft.predict && !wrong.predict && !wrong.health && checked.current !== address(draft))
                    void reach();
                }}
              >
                <TextField
                  label="Address for tasks"
                  type="url"
                  required
                  placeholder="http://gpu-1:8000/v1"
                  autofocus={!editing}
                  {...of("predict")}
                />
                <TextField
                  label="Address of its health check"
                  type="url"
                  placeholder="http://gpu-1:8000/health"
                  hint={advice.health ?? "Empty: as its dialect does it."}
                  {...of("health")}
                />
              </div>
            )}
            {shows("model") && (
              <TextField label="Model there" hint="Only if the address does not name it." {...of("model")} />
            )}
            {shows("predict") && (
              <CheckResult
                check={check}
                checking={checking}
                lacksKey={lacksKey}
                onCheck={reach}
                onChoose={(program) => {
                  set({ program });
                  setCheck(null);
                }}
              />
            )}
          </Part>
          <Part title="Its name">
            <div class="field-row">
              <TextField
                label="Id"
                required
                disabled={editing}
                hint={
                  known && !editing
                    ? "A server has this id. It would be replaced: what is left out here gets its default, and its API key is destroyed."
                    : "Its name in paths. It stays."
                }
                {...of("id")}
              />
              <TextField label="Name" placeholder={draft.id} {...of("name")} />
              <TextField label="Provider" placeholder="local" hint="To filter by." {...of("provider")} />
            </div>
          </Part>
          <Part title="Which work it gets">
            <Types
              types={types}
              chosen={draft.types}
              onChange={(chosen) => set({ types: chosen })}
              error={errorOf("types")}
            />
            <div class="field-row">
              <TextField label="Tasks at once" {...of("maxConcurrent")} />
              <TextField label="Weight" hint="Its share among others." {...of("weight")} />
            </div>
            <TextArea
              label="Labels"
              rows={2}
              hint="name=value, one a line, such as gpu=a100. Tasks choose servers by them."
              {...of("labels")}
            />
          </Part>
          {shows("answers") && (
            <Part title="How it answers">
              <SelectField
                label="The result comes"
                hint={advice.answers}
                value={draft.answers}
                onChange={(answers) => set({ answers: answers as Answers })}
                options={[
                  ["now", "in the answer, or as a stream"],
                  ["maybe", "in the answer, or after a 202 by a report"],
                  ["later", "after a 202, by a report to the callback URL"],
                ]}
              />
            </Part>
          )}
          {shows("apiKey") && (
            <Part title="Its key">
              <div class="field-row">
                <TextField
                  label="API key"
                  type="password"
                  disabled={draft.removesKey}
                  hint={
                    server?.hasApiKey && editing
                      ? "Stored. It stays unless you type another one."
                      : "Encrypted, and never shown again."
                  }
                  {...of("apiKey")}
                />
                <TextField
                  label="Header"
                  placeholder="Authorization"
                  hint="Empty: as a bearer token."
                  {...of("authHeader")}
                />
              </div>
              {editing && server?.hasApiKey && (
                <CheckField
                  label="Destroy the stored key"
                  value={draft.removesKey}
                  onChange={(removesKey) => set({ removesKey })}
                />
              )}
              <CheckField
                label="The health check carries the key, too"
                value={draft.healthAuth}
                onChange={(healthAuth) => set({ healthAuth })}
              />
            </Part>
          )}
          <details class="card part" open={editing}>
            <summary>
              <h2>More</h2>
            </summary>
            <SelectField
              label="Chosen by the model that a task names"
              value={draft.models}
              onChange={(models) => set({ models: models as Draft["models"] })}
              options={[
                ["none", "no"],
                ...(listsModels(draft) || draft.models === "discover"
                  ? ([["discover", "yes, by the models that it lists"]] as [string, string][])
                  : []),
                ["list", "yes, by these models"],
              ]}
              error={errorOf("models")}
            />
            {draft.models === "list" && <TextArea label="Models" rows={2} hint="One a line." {...of("modelNames")} />}
            <div class="field-row">
              <TextField label="Only if more than … tasks wait" placeholder="always" {...of("overflowWaiting")} />
              <TextField label="Or one has waited … seconds" placeholder="always" {...of("overflowOldest")} />
            </div>
            <div class="field-row">
              <SelectField
                label="Removed when offline"
                value={draft.removal}
                onChange={(removal) => set({ removal: removal as Draft["removal"] })}
                options={[
                  ["default", "as the service says"],
                  ["never", "never"],
                  ["after", "after seconds:"],
                ]}
              />
              {draft.removal === "after" && <TextField label="Seconds" {...of("removeAfter")} />}
            </div>
            {shows("busyStatus") && (
              <>
                <div class="field-row">
                  <TextField
                    label="Statuses that mean busy"
                    placeholder="429, 503"
                    hint="none: no status does."
                    {...of("busyStatus")}
                  />
                  <TextField label="Statuses of a healthy answer" placeholder="any 2xx" {...of("healthStatus")} />
                </div>
                <TextField
                  label="Values of a healthy answer"
                  placeholder={'{"$.model.loaded": true}'}
                  {...of("healthJson")}
                />
              </>
            )}
            {shows("exchange") && (
              <TextArea
                label="Exchange"
                rows={draft.exchange ? 12 : 4}
                mono
                hint={
                  preset
                    ? "Empty: the preset's. What is here wins, field by field."
                    : "JSON. Empty: the payload is the body, the answer the result."
                }
                {...of("exchange")}
              />
            )}
          </details>
          <button type="submit" class="visually-hidden" tabIndex={-1} aria-hidden="true">
            {editing ? "Save" : "Register"}
          </button>
        </form>
        <aside class="preview" aria-label="The request">
          <Preview
            method={editing ? "PATCH" : "POST"}
            path={editing ? `/api/servers/${encodeURIComponent(draft.id)}` : "/api/servers"}
            body={changes ?? body}
          />
        </aside>
      </div>
      {trying && (
        <TryDialog
          title="Try this registration"
          path="/api/servers/try"
          before={`"server":${text},`}
          types={draft.types}
          onClose={() => setTrying(false)}
        />
      )}
    </>
  );
}

const address = (draft: Draft) => `${draft.program} ${draft.predict} ${draft.health} ${draft.model}`;

/** A refusal at its field. */
function placed(refusal: ApiError): Problems {
  const field = fieldOf(refusal.problem.path);
  return field ? { [field]: refusal.problem.detail.replace(/^\$[^:]*: /, "") } : {};
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

function CheckResult({
  check,
  checking,
  lacksKey,
  onCheck,
  onChoose,
}: {
  check: Check | null;
  checking: boolean;
  lacksKey: boolean;
  onCheck: () => void;
  onChoose: (program: string) => void;
}) {
  const detected = check?.detected;
  return (
    <div class="check-result" aria-live="polite">
      <button type="button" class="small" disabled={checking} onClick={onCheck}>
        <Icon name="refresh-cw" size={14} /> {checking ? "Asking…" : "Check now"}
      </button>
      {check && lacksKey && <p class="muted">It was asked without the stored key.</p>}
      {check?.health && (
        <p>
          <ServerMark
            state={check.health.well ? "online" : "offline"}
            word={check.health.well ? "answers" : "does not answer well"}
          />{" "}
          <span>
            {check.health.reason}
            {check.health.latencyMs != null && `, ${Math.round(check.health.latencyMs)} ms`}
          </span>
        </p>
      )}
      {check && !check.healthChecked && !(detected && !detected.dialect) && (
        <p>
          <ServerMark state="standby" word="not asked" /> nothing says whether it is well: name a health address, or
          have it send heartbeats
        </p>
      )}
      {detected?.dialect && (
        <p>
          <ServerMark state="online" word={`speaks ${detected.preset ?? detected.dialect}`} />{" "}
          {detected.program && <span class="muted">{detected.program}</span>}
        </p>
      )}
      {detected && !detected.dialect && (
        <>
          <p>
            <ServerMark state="offline" word="not recognised" /> {detected.reason}
          </p>
          {detected.evidence.some((each) => each.status) && (
            <p class="page-actions">
              It answers. What is it?
              <button type="button" class="small" onClick={() => onChoose("bare")}>
                Any HTTP server
              </button>
              <button type="button" class="small" onClick={() => onChoose("taskstream")}>
                Written for Taskstream
              </button>
            </p>
          )}
        </>
      )}
      {detected && detected.evidence.length > 0 && (
        <details>
          <summary>What it was asked</summary>
          <Evidence evidence={detected.evidence} />
        </details>
      )}
    </div>
  );
}

function Types({
  types,
  chosen,
  onChange,
  error,
}: {
  types: string[];
  chosen: string[];
  onChange: (types: string[]) => void;
  error: string | null;
}) {
  const names = [...new Set([...types, ...chosen])].sort();
  return (
    <fieldset class="field types">
      <legend>Task types</legend>
      <div class="type-list">
        {names.map((name) => (
          <label key={name}>
            <input
              type="checkbox"
              checked={chosen.includes(name)}
              onChange={(event) =>
                onChange(event.currentTarget.checked ? [...chosen, name] : chosen.filter((each) => each !== name))
              }
            />
            {name}
          </label>
        ))}
      </div>
      <p class="hint">
        {chosen.length ? `${chosen.length} of ${names.length}` : "None chosen: all types, also later ones."}
      </p>
      {error && <p class="field-error">{error}</p>}
    </fieldset>
  );
}

function Preview({ method, path, body }: { method: string; path: string; body: Record<string, unknown> }) {
  const shown = "apiKey" in body && body.apiKey !== null ? { ...body, apiKey: "…" } : body;
  const text = curl(method, path, JSON.stringify(shown));
  return (
    <div class="card">
      <header class="card-head">
        <h2>The request</h2>
        <CopyButton text={text} word="curl" label="Copy as curl" />
      </header>
      <p class="mono meta">
        {method} {path}
      </p>
      <pre class="code" tabIndex={0}>
        {JSON.stringify(shown, null, 2)}
      </pre>
      {"apiKey" in body && body.apiKey !== null && <p class="muted meta">The key is not shown.</p>}
    </div>
  );
}
