/** One call of a server outside the queue: what was sent, what came back, and what it means. */
import { useEffect, useState } from "preact/hooks";
import { type ApiError, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { Dialog } from "../parts/Dialog.tsx";
import { SelectField, TextArea, TextField } from "../parts/fields.tsx";
import { Icon } from "../parts/Icon.tsx";
import { Shape } from "../parts/StateMark.tsx";
import { Problem } from "../parts/states.tsx";
import { bytes, duration } from "../text/format.ts";

type Trial = Schema<"TryAnswer">;
type Outcome = Trial["verdict"]["outcome"];

const WORDS: Record<Outcome, [word: string, means: string, mark: "finished" | "failed" | "retry" | "processing"]> = {
  completed: ["completed", "a task would be FINISHED", "finished"],
  accepted: ["accepted", "it reports later, which a trial does not wait for", "processing"],
  failed: ["failed", "a task would be FAILED, by the server's own word", "failed"],
  rejected: ["rejected", "a task would be FAILED, without another try", "failed"],
  busy: ["busy", "a task would wait, and lose no attempt", "retry"],
  error: ["error", "the attempt would fail, and the task be tried again", "failed"],
  timeout: ["timeout", "the attempt would fail, and the task be tried again", "failed"],
  unreachable: ["unreachable", "the attempt would fail, and the task be tried again", "failed"],
  bad_answer: ["bad answer", "the attempt would fail, and the task be tried again", "failed"],
  unsent: ["not sent", "this process could not send", "failed"],
};

/** `path`: of the call. `before`: text of the body before the payload, such as `"server":{…},`. */
export function TryDialog({
  title,
  path,
  before = "",
  types,
  onClose,
}: {
  title: string;
  path: string;
  before?: string;
  types: readonly string[];
  onClose: () => void;
}) {
  const [payload, setPayload] = useState("{}");
  const [type, setType] = useState(types[0] ?? "default");
  const [timeout, setTimeout_] = useState("30");
  const [busy, setBusy] = useState(false);
  const [trial, setTrial] = useState<Trial | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [wrong, setWrong] = useState<string | null>(null);
  const seconds = Number(timeout);
  const badTimeout = !(seconds >= 0.1 && seconds <= 60) ? "must be 0.1 to 60 seconds" : null;
  useEffect(() => setWrong(null), [payload]);
  const run = async () => {
    try {
      JSON.parse(payload);
    } catch (problem) {
      return setWrong(`must be JSON: ${(problem as Error).message}`);
    }
    if (busy || badTimeout) return;
    setBusy(true);
    setError(null);
    setTrial(null);
    try {
      const body = `{${before}"payload":${payload},"type":${JSON.stringify(type)},"timeout":${seconds}}`;
      setTrial(await post<Trial>(path, body));
    } catch (refusal) {
      setError(refusal as ApiError);
    }
    setBusy(false);
  };
  return (
    <Dialog
      title={title}
      wide
      onClose={onClose}
      onSubmit={run}
      actions={[
        <button key="close" type="button" onClick={onClose}>
          Close
        </button>,
        <button key="try" type="submit" class="primary" disabled={busy}>
          {busy ? "Calling…" : trial ? "Try again" : "Try"}
        </button>,
      ]}
    >
      <p class="muted">It is called once, from the API. No task is made, nothing is stored, and no slot is taken.</p>
      <TextArea label="Payload" value={payload} onChange={setPayload} rows={5} mono error={wrong} />
      <div class="field-row">
        <SelectField
          label="Type"
          value={type}
          onChange={setType}
          options={[...new Set([...types, "default"])].map((each) => [each, each])}
        />
        <TextField label="Timeout, seconds" value={timeout} onChange={setTimeout_} error={badTimeout} />
      </div>
      {error && <Problem error={error} />}
      <div aria-live="polite">{trial && <TrialView trial={trial} />}</div>
    </Dialog>
  );
}

export function TrialView({ trial }: { trial: Trial }) {
  const { verdict } = trial;
  const [word, means, mark] = WORDS[verdict.outcome];
  return (
    <section class="trial">
      <p class={`state state-${mark}`}>
        <Shape mark={mark} /> <b>{word}</b>
        <span class="muted">
          {duration(trial.durationMs / 1000)} · {trial.dialect} · {means}
        </span>
      </p>
      {verdict.reason && <p class="pre">{verdict.reason}</p>}
      {verdict.result != null && <Body title="Result" text={JSON.stringify(verdict.result, null, 2)} />}
      {verdict.result == null && verdict.resultBytes > 0 && (
        <p class="muted">A result of {bytes(verdict.resultBytes)}, too large to show.</p>
      )}
      {verdict.notes.map((note) => (
        <p key={note} class="muted">
          {note}
        </p>
      ))}
      {trial.updates.length > 0 && (
        <Body
          title={`${trial.updates.length} updates`}
          text={trial.updates
            .map((each) =>
              [each.progress != null && `${each.progress} %`, each.message, each.output, ...each.lines]
                .filter(Boolean)
                .join(" "),
            )
            .join("\n")}
        />
      )}
      {trial.exchanges.map((each, index) => (
        <details key={index} class="exchange" open={trial.exchanges.length === 1}>
          <summary>
            <code>
              {each.method} {each.url}
            </code>{" "}
            <Icon name="arrow-right" size={12} />{" "}
            {each.answer ? <b>{each.answer.status}</b> : <span class="danger-text">{each.error}</span>}
            <span class="muted"> after {duration(each.afterMs / 1000)}</span>
          </summary>
          <Message title="Request" headers={each.headers} body={each.body} />
          {each.answer && <Message title="Answer" headers={each.answer.headers} body={each.answer.body} />}
        </details>
      ))}
      {trial.exchangesLeftOut > 0 && <p class="muted">{trial.exchangesLeftOut} further requests are not shown.</p>}
    </section>
  );
}

function Message({
  title,
  headers,
  body,
}: {
  title: string;
  headers: Record<string, string>;
  body: { text: string | null; bytes: number };
}) {
  const head = Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}`)
    .join("\n");
  return (
    <>
      <h3>
        {title} <span class="muted">{bytes(body.bytes)}</span>
      </h3>
      <pre class="code" tabIndex={0}>{`${head}\n\n${body.text ?? "(not text)"}`}</pre>
    </>
  );
}

function Body({ title, text }: { title: string; text: string }) {
  return (
    <>
      <h3>{title}</h3>
      <pre class="code" tabIndex={0}>
        {text}
      </pre>
    </>
  );
}
