/** Retry or discard dead letters: first what it would do, then the number again, then how far it is. */
import { useEffect, useRef, useState } from "preact/hooks";
import { Dialog } from "../parts/Dialog.tsx";
import { TextField } from "../parts/fields.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { count, plural } from "../text/format.ts";
import { type Command, type Looked, look, run, type Target } from "./bulk.ts";
import { NOTHING, type Outcome } from "./dead.ts";

/** Above it the number is typed. */
const TYPED_ABOVE = 100;
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
  onClose,
  onDone,
}: {
  command: Command;
  target: Target;
  /** What they have in common, in words. */
  what: string;
  onClose: () => void;
  onDone: () => void;
}) {
  const { verb, would, done, says } = WORDS[command];
  const [looked, setLooked] = useState<Looked | null>(null);
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const [phase, setPhase] = useState<"asking" | "running" | "ended">("asking");
  const [error, setError] = useState<Error | null>(null);
  const [typed, setTyped] = useState("");
  const [reason, setReason] = useState("");
  const stopped = useRef(false);
  useEffect(() => {
    look(command, target).then(setLooked, setError);
    return () => {
      stopped.current = true;
    };
  }, []);
  const number = looked?.done ?? 0;
  const mustType = number > TYPED_ABOVE || looked?.more;
  const allowed = number > 0 && (!mustType || typed.replace(/[,\s]/g, "") === String(number));
  const start = async () => {
    if (phase !== "asking" || !allowed) return;
    setPhase("running");
    setError(null);
    try {
      const found = await run(command, target, reason, (sofar) => {
        setOutcome(sofar);
        return !stopped.current;
      });
      setOutcome(found);
      onDone();
      if (!stopped.current && !found.refused.length) {
        toast(`${plural(found.done, "dead letter")} ${done}.`);
        return onClose();
      }
    } catch (refusal) {
      setError(refusal as Error);
      onDone();
    }
    setPhase("ended");
  };
  const shown = outcome ?? looked;
  const close = () => {
    stopped.current = true;
    onClose();
  };
  return (
    <Dialog
      title={`${verb} ${what}`}
      onClose={close}
      onSubmit={start}
      actions={
        phase === "asking"
          ? [
              <button key="no" type="button" onClick={close}>
                Keep as they are
              </button>,
              <button key="yes" type="submit" class={command === "discard" ? "danger" : "primary"} disabled={!allowed}>
                {verb} {looked ? `${count(number)}${looked.more ? "+" : ""}` : ""}
              </button>,
            ]
          : [
              phase === "running" ? (
                <button
                  key="stop"
                  type="button"
                  onClick={() => {
                    stopped.current = true;
                  }}
                >
                  Stop
                </button>
              ) : (
                <button key="close" type="button" onClick={onClose}>
                  Close
                </button>
              ),
            ]
      }
    >
      {!looked && !error && <Skeleton rows={2} label="Asking what it would do" />}
      {shown && (
        <div aria-live="polite">
          <p>
            <b class="number">
              {count(shown.done)}
              {!outcome && looked?.more && "+"}
            </b>{" "}
            of {count(shown.matched)} {outcome ? done : would}.
            {shown.unchanged > 0 && ` ${count(shown.unchanged)} would not change.`}
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
      {phase === "asking" && looked && (
        <>
          <p class="muted">{says}</p>
          <TextField label="Reason (kept in the log)" value={reason} onChange={setReason} />
          {mustType && <TextField label={`Type ${number} to confirm`} value={typed} onChange={setTyped} />}
        </>
      )}
      {phase === "running" && looked && (
        <>
          <progress value={(outcome ?? NOTHING).matched} max={Math.max(looked.matched, 1)} aria-label="Progress" />
          <p class="muted">It stops when this tab is closed. Nothing is done twice.</p>
        </>
      )}
      {error && <Problem error={error} />}
    </Dialog>
  );
}
