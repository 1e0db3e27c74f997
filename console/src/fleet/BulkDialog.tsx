/** Retry or discard dead letters: first what it would do, then the number again, then how far the service is. */
import { useEffect, useRef, useState } from "preact/hooks";
import { newKey } from "../api/client.ts";
import { Dialog } from "../parts/Dialog.tsx";
import { TextField } from "../parts/fields.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { count, plural } from "../text/format.ts";
import { type Command, hasEnded, type Looked, look, type Operation, read, start, stop, type Target } from "./bulk.ts";

/** Above it the number is typed. */
const TYPED_ABOVE = 100;
const LOOK_MS = 400;
const WORDS: Record<Command, { verb: string; would: string; done: string; says: string }> = {
  retry: {
    verb: "Retry",
    would: "would be queued again, each with all its attempts",
    done: "queued again",
    says: "What failed for good may run again.",
  },
  discard: {
    verb: "Discard",
    would: "would be removed from every list",
    done: "discarded",
    says: "Their histories stay for auditors. This cannot be undone.",
  },
};

export function BulkDialog({
  command,
  target,
  what,
  about,
  onClose,
  onDone,
}: {
  command: Command;
  target: Target;
  /** How many, in words. */
  what: string;
  /** What they have in common. */
  about?: string;
  onClose: () => void;
  onDone: () => void;
}) {
  const { verb, would, done, says } = WORDS[command];
  const [looked, setLooked] = useState<Looked | null>(null);
  const [operation, setOperation] = useState<Operation | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [starting, setStarting] = useState(false);
  const [typed, setTyped] = useState("");
  const [reason, setReason] = useState("");
  const key = useRef(newKey());
  useEffect(() => {
    look(command, target).then(setLooked, setError);
  }, []);
  const ended = operation !== null && hasEnded(operation);
  useEffect(() => {
    if (!operation) return;
    if (ended) {
      onDone();
      if (operation.state === "done" && !operation.counts.refused.length) {
        toast(`${plural(operation.counts.done, "dead letter")} ${done}.`);
        onClose();
      }
      return;
    }
    const timer = setTimeout(() => read(operation.id).then(setOperation, setError), LOOK_MS);
    return () => clearTimeout(timer);
  }, [operation]);
  const number = looked?.done ?? 0;
  const mustType = number > TYPED_ABOVE || looked?.more;
  const allowed = number > 0 && (!mustType || typed.replace(/[,\s]/g, "") === String(number));
  const begin = async () => {
    if (operation || starting || !allowed) return;
    setStarting(true);
    setError(null);
    try {
      setOperation(await start(command, target, reason, key.current));
    } catch (refusal) {
      setError(refusal as Error);
    }
    setStarting(false);
  };
  const close = () => {
    if (operation && !ended) toast("It goes on without this page.", "note");
    onClose();
  };
  const shown = operation?.counts ?? looked;
  return (
    <Dialog
      title={`${verb} ${what}`}
      onClose={close}
      onSubmit={begin}
      actions={
        operation
          ? [
              ...(ended
                ? []
                : [
                    <button key="stop" type="button" onClick={() => stop(operation.id).then(setOperation, setError)}>
                      Stop
                    </button>,
                  ]),
              <button key="close" type="button" onClick={close}>
                Close
              </button>,
            ]
          : [
              <button key="no" type="button" onClick={close}>
                Keep as they are
              </button>,
              <button
                key="yes"
                type="submit"
                class={command === "discard" ? "danger" : "primary"}
                disabled={!allowed || starting}
              >
                {verb} {looked ? `${count(number)}${looked.more ? "+" : ""}` : ""}
              </button>,
            ]
      }
    >
      {about && <p class="muted">{about}</p>}
      {!looked && !error && <Skeleton rows={2} label="Asking what it would do" />}
      {shown && (
        <div aria-live="polite">
          <p>
            <b class="number">
              {count(shown.done)}
              {!operation && looked?.more && "+"}
            </b>{" "}
            of {count(operation ? operation.total.count : shown.matched)} {operation ? done : would}.
            {shown.unchanged > 0 && ` ${count(shown.unchanged)} unchanged.`}
          </p>
          {shown.refused.length > 0 && (
            <ul class="refused">
              {shown.refused.map((each) => (
                <li key={each.reason}>
                  <b class="number">{count(each.count)}</b> refused: {each.reason}
                </li>
              ))}
            </ul>
          )}
        </div>
      )}
      {!operation && looked && (
        <>
          <p class="muted">{says}</p>
          <TextField label="Reason (kept in the log)" value={reason} onChange={setReason} />
          {mustType && <TextField label={`Type ${number} to confirm`} value={typed} onChange={setTyped} />}
        </>
      )}
      {operation && !ended && (
        <>
          <progress value={operation.progress ?? undefined} aria-label="Progress" />
          <p class="muted">The service does it, also when this page is closed. Nothing is done twice.</p>
        </>
      )}
      {operation?.stateReason && <p>{operation.stateReason}</p>}
      {error && <Problem error={error} />}
    </Dialog>
  );
}
