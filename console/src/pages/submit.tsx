/** A new task, perhaps like another one: its type, its payload, its options, and the request that comes of them. */
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, apiUrl, get, newKey, post, request } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { seconds } from "../fold/task.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Field, SelectField, TextArea, TextField } from "../parts/fields.tsx";
import { PageHead } from "../parts/Page.tsx";
import { useResource } from "../parts/resource.ts";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, navigate } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { maySubmit, me } from "../session.ts";
import { asCurl, type Draft, EMPTY, exampleOf, lineAt, placeOf, requestOf } from "../submit/draft.ts";
import { Safe } from "../task/Safe.tsx";
import { bytes, shortId } from "../text/format.ts";
import { beginning } from "../text/visible.ts";

type TaskType = Schema<"TypeSummary">;
type Outline = Schema<"TaskOutline">;

/** Characters of a payload that is edited in the page without asking. */
const LONGEST_EDITED = 200_000;
const SHOWN_AS_CURL = 4_000;

export default function Submit({ query }: PageProps) {
  const like = query.get("like");
  const start = useResource(`draft ${like} ${query.get("type")}`, () =>
    like ? draftLike(like) : Promise.resolve({ ...EMPTY, type: query.get("type") ?? EMPTY.type }),
  );
  return (
    <>
      <PageHead
        title="New task"
        sub={
          like && (
            <>
              like <a href={href("/task/{id}", { id: like })}>{shortId(like)}</a>: a task of its own, which is{" "}
              {me.value?.subject ? <Safe text={`${me.value.subject}'s`} /> : "yours"}
            </>
          )
        }
      />
      {start.error && <Problem error={start.error} onRetry={start.reload} />}
      {!maySubmit.value && me.value && <p class="muted">Your token does not allow you to submit tasks.</p>}
      {start.data ? <Form key={like ?? ""} start={start.data} /> : !start.error && <Skeleton rows={8} />}
    </>
  );
}

/** The draft of a task that is submitted again: its payload as it is stored, its options but instants. */
async function draftLike(id: string): Promise<Draft> {
  const path = `/api/task/${encodeURIComponent(id)}`;
  const submitted = { event: "TaskSubmitted", bodies: false, limit: 1 };
  const [{ taskDetails: task }, payload, events] = await Promise.all([
    get<{ taskDetails: Outline }>(path, { query: { bodies: false } }),
    request("GET", `${path}/payload`).then((response) => response.text()),
    get<{ events: { event: { policy?: { attempts?: number; timeout?: string } } }[] }>(`${path}/events`, {
      query: submitted,
    }),
  ]);
  const { types } = await get<{ types: TaskType[] }>("/api/types");
  // A type that nobody defined has the settings of `default`.
  const type = types.find((each) => each.name === task.type) ?? types.find((each) => each.name === "default");
  const policy = events.events[0]?.event.policy;
  const timeout = seconds(policy?.timeout ?? "");
  const lines = (labels: Record<string, string>) =>
    Object.entries(labels)
      .map(([name, value]) => `${name}=${value}`)
      .join("\n");
  return {
    ...EMPTY,
    type: task.type,
    payload,
    priority: type?.priority === task.priority ? "" : task.priority,
    attempts: policy?.attempts === undefined || policy.attempts === type?.attempts ? "" : String(policy.attempts),
    timeout: timeout === null || timeout === type?.timeout ? "" : String(timeout),
    concurrencyKey: task.concurrencyKey ?? "",
    require: lines(task.require),
    prefer: lines(task.prefer),
    dependsOn: task.dependsOn.join("\n"),
    onParentFailure: task.onParentFailure,
  };
}

function Form({ start }: { start: Draft }) {
  const [draft, setDraft] = useState(start);
  const [isEdited, setEdited] = useState(start.payload.length <= LONGEST_EDITED);
  const [isTried, setTried] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const [isSending, setSending] = useState(false);
  const sent = useRef({ text: "", key: "" });
  const editor = useRef<HTMLDivElement>(null);
  const types = useResource("types", (signal) => get<{ types: TaskType[] }>("/api/types", { signal }));
  const type = types.data?.types.find((each) => each.name === draft.type.trim());
  const { text, problems } = requestOf(draft);
  const refusal = error instanceof ApiError ? error.problem : null;
  const change = (part: Partial<Draft>) => {
    setDraft({ ...draft, ...part });
    setError(null);
  };
  /** What is wrong at a path: known here, or told by the service. */
  const wrong = (path: string): string | null => {
    if (isTried && problems[path]) return problems[path] ?? null;
    return refusal?.path === path ? refusal.detail : null;
  };
  const payloadPath = refusal?.path?.startsWith("$.payload") ? refusal.path : null;
  const place = payloadPath ? placeOf(draft.payload, payloadPath) : null;
  const payloadWrong =
    (isTried ? problems["$.payload"] : null) ??
    (payloadPath ? `${place === null ? "" : `line ${lineAt(draft.payload, place)}: `}${refusal?.detail}` : null);
  useEffect(() => {
    const area = editor.current?.querySelector("textarea");
    if (place === null || !area) return;
    area.focus();
    area.setSelectionRange(place, place + 1);
  }, [place, error]);

  const submit = async () => {
    setTried(true);
    if (Object.keys(problems).length || isSending) return;
    setSending(true);
    setError(null);
    // The same request again does nothing twice; another one is another task.
    if (sent.current.text !== text) sent.current = { text, key: newKey() };
    try {
      const answer = await post<{ taskId: string }>("/api/task", text, { idempotencyKey: sent.current.key });
      toast("Submitted");
      navigate(href("/task/{id}", { id: answer.taskId }));
    } catch (problem) {
      setError(problem as Error);
      setSending(false);
    }
  };
  const isElsewhere = error !== null && !(refusal?.path && (payloadPath || FIELDS.has(refusal.path)));
  return (
    <form
      class="submit"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
      onKeyDown={(event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
          event.preventDefault();
          void submit();
        }
      }}
    >
      <div class="submit-main">
        <TextField
          label="Type"
          value={draft.type}
          onChange={(value) => change({ type: value })}
          list="task-types"
          error={wrong("$.type")}
          hint={
            type ? aboutType(type) : types.data && draft.type.trim() ? "No type of this name is defined." : undefined
          }
          required
        />
        <datalist id="task-types">
          {types.data?.types.map((each) => (
            <option key={each.name} value={each.name} />
          ))}
        </datalist>
        {type?.schema != null && (
          <details class="submit-schema">
            <summary>Schema of its payloads</summary>
            <pre class="mono long-text" tabIndex={0}>
              {beginning(JSON.stringify(type.schema, null, 2), 20_000)}
            </pre>
            <button
              type="button"
              class="small"
              onClick={() => change({ payload: JSON.stringify(exampleOf(type.schema), null, 2) })}
            >
              Begin with its form
            </button>
          </details>
        )}
        <div ref={editor}>
          {isEdited ? (
            <TextArea
              label="Payload"
              mono
              rows={Math.min(28, Math.max(10, draft.payload.split("\n").length + 1))}
              value={draft.payload}
              onChange={(value) => change({ payload: value })}
              error={payloadWrong}
              hint="JSON. It is stored as it is written here: numbers and the order of keys stay."
            />
          ) : (
            <Field label="Payload" error={payloadWrong}>
              {(attributes) => (
                <div>
                  <output {...attributes} class="muted">
                    {bytes(draft.payload.length)}, sent as they are.{" "}
                  </output>
                  <button type="button" class="small" onClick={() => setEdited(true)}>
                    Edit all the same
                  </button>
                </div>
              )}
            </Field>
          )}
        </div>
        <Options draft={draft} type={type} onChange={change} wrong={wrong} />
        {isElsewhere && error && <Problem error={error} />}
        <div class="submit-end">
          <button type="submit" class="primary" disabled={isSending || !maySubmit.value}>
            Submit
          </button>
          <span class="muted meta">
            <kbd>Ctrl</kbd> <kbd>Enter</kbd>
          </span>
          {isTried && Object.keys(problems).length > 0 && (
            <span class="danger-text" role="alert">
              {Object.keys(problems).length === 1 ? "One field needs a change." : "Some fields need a change."}
            </span>
          )}
        </div>
      </div>
      <Preview text={text} />
    </form>
  );
}

const FIELDS = new Set(
  "type priority attempts timeout delay runAt expiresAt deadline dependsOn onParentFailure concurrencyKey require prefer"
    .split(" ")
    .map((name) => `$.${name}`),
);

function aboutType(type: TaskType) {
  const facts = [`${type.attempts} attempts of ${type.timeout} s`, `priority ${type.priority}`, `pool ${type.pool}`];
  return (
    <>
      {type.description && (
        <>
          <Safe text={type.description} />{" "}
        </>
      )}
      {facts.join(", ")}
      {type.pause && <b> (paused)</b>}
    </>
  );
}

interface OptionsProps {
  draft: Draft;
  type: TaskType | undefined;
  onChange: (part: Partial<Draft>) => void;
  wrong: (path: string) => string | null;
}

function Options({ draft, type, onChange, wrong }: OptionsProps) {
  const given = Object.entries(draft).some(
    ([name, value]) => !["type", "payload"].includes(name) && value !== EMPTY[name as keyof Draft],
  );
  const text = (name: keyof Draft, label: string, hint?: string, placeholder?: string) => (
    <TextField
      label={label}
      value={draft[name]}
      onChange={(value) => onChange({ [name]: value })}
      error={wrong(`$.${name}`)}
      hint={hint}
      placeholder={placeholder}
    />
  );
  const instant = (name: "runAt" | "expiresAt" | "deadline", label: string, hint: string) => (
    <Field label={label} error={wrong(`$.${name}`)} hint={hint}>
      {(attributes) => (
        <input
          {...attributes}
          type="datetime-local"
          step="1"
          value={draft[name]}
          onInput={(event) => onChange({ [name]: event.currentTarget.value })}
        />
      )}
    </Field>
  );
  return (
    <details class="submit-options" open={given}>
      <summary>Options</summary>
      <div class="submit-grid">
        <SelectField
          label="Priority"
          value={draft.priority}
          onChange={(value) => onChange({ priority: value })}
          error={wrong("$.priority")}
          options={[
            ["", `as the type says${type ? ` (${type.priority})` : ""}`],
            ["high", "high"],
            ["normal", "normal"],
            ["low", "low"],
          ]}
        />
        {text("attempts", "Attempts", undefined, type ? String(type.attempts) : "")}
        {text("timeout", "Timeout", "Seconds an attempt may take", type ? String(type.timeout) : "")}
        <SelectField
          label="Start"
          value={draft.start}
          onChange={(value) => onChange({ start: value as Draft["start"] })}
          options={[
            ["now", "as soon as possible"],
            ["delay", "after a delay"],
            ["at", "at an instant"],
          ]}
        />
        {draft.start === "delay" && text("delay", "Delay", "Seconds from now")}
        {draft.start === "at" && instant("runAt", "Not before", "In the zone of this browser")}
        {instant("expiresAt", "Starts by", "It fails if it still waits then")}
        {instant("deadline", "Ends by", "It fails if it has not ended then")}
        {text("concurrencyKey", "Concurrency key", "Tasks with the same key share a limit")}
        <TextArea
          label="Requires"
          rows={2}
          mono
          value={draft.require}
          onChange={(value) => onChange({ require: value })}
          error={wrong("$.require")}
          hint="Labels a server must have: gpu=a100"
        />
        <TextArea
          label="Prefers"
          rows={2}
          mono
          value={draft.prefer}
          onChange={(value) => onChange({ prefer: value })}
          error={wrong("$.prefer")}
          hint="Labels of preferred servers"
        />
        <TextArea
          label="Depends on"
          rows={2}
          mono
          value={draft.dependsOn}
          onChange={(value) => onChange({ dependsOn: value })}
          error={wrong("$.dependsOn")}
          hint="Ids of tasks that must end first, one a line"
        />
        {draft.dependsOn.trim() && (
          <SelectField
            label="If one of them fails"
            value={draft.onParentFailure}
            onChange={(value) => onChange({ onParentFailure: value })}
            options={[
              ["fail", "this one fails"],
              ["skip", "this one is cancelled"],
              ["run", "this one runs"],
            ]}
          />
        )}
      </div>
    </details>
  );
}

function Preview({ text }: { text: string }) {
  const command = asCurl(apiUrl("/api/task"), text);
  return (
    <aside class="submit-preview" aria-label="As curl">
      <div class="viewer-bar">
        <h2>As curl</h2>
        <span class="grow" />
        <CopyButton text={command} word="Copy" />
      </div>
      <pre class="viewer mono" tabIndex={0}>
        <Safe text={beginning(command, SHOWN_AS_CURL)} />
        {command.length > SHOWN_AS_CURL && "…"}
      </pre>
      <p class="muted meta">The token is not in it: put it into TOKEN.</p>
    </aside>
  );
}
