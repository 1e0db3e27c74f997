/**
 * An action on many tasks: a dry run first, then the run. Selected tasks are one request; all that match a filter are an
 * operation, which the service carries out. Both leave a card that stays until it is closed.
 */
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { type ApiError, get, newKey, post, serverNow } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { Icon } from "../parts/Icon.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { href } from "../router.ts";
import { isAdmin } from "../session.ts";
import { count, plural } from "../text/format.ts";
import { bulkFilter, fixed, inWords } from "../text/taskFilter.ts";

export type BulkAction = "cancel" | "retry" | "delete";
type Answer = Schema<"BulkAnswer">;

/** What an action is for: some tasks, or all that match a filter. */
export type BulkTarget = { ids: string[] } | { filter: URLSearchParams };

export interface BulkRequest {
  action: BulkAction;
  target: BulkTarget;
}

export const asked = signal<BulkRequest | null>(null);

type Operation = Schema<"OperationSummary">;

interface Run {
  id: string;
  /** Its id in the service; null: it was one request. */
  operation: string | null;
  action: BulkAction;
  what: string;
  done: number;
  unchanged: number;
  refused: { reason: string; count: number }[];
  state: Operation["state"];
  progress: number | null;
  error: string;
  /** The list of what was changed, as near as a filter can say. */
  link: string;
}

export const runs = signal<Run[]>([]);
const IDS_PER_REQUEST = 500;
const TYPED_ABOVE = 100;
const FOLLOW_MS = 700;
const WORDS: Record<BulkAction, { verb: string; past: string; danger: boolean }> = {
  retry: { verb: "Retry", past: "retried", danger: false },
  cancel: { verb: "Cancel", past: "cancelled", danger: true },
  delete: { verb: "Delete", past: "deleted", danger: true },
};

type Body = { filter: Record<string, unknown> } | { ids: string[] };

/** The requests of a target: one for a filter, several for many ids. */
function bodies(target: BulkTarget, now: number): Body[] {
  if ("filter" in target) {
    const filter = bulkFilter(fixed(target.filter, now));
    // The list shows everybody's to an admin; a command must say so.
    if (isAdmin.value && filter.owner === undefined) filter.owner = "*";
    return [{ filter }];
  }
  const parts: Body[] = [];
  for (let at = 0; at < target.ids.length; at += IDS_PER_REQUEST)
    parts.push({ ids: target.ids.slice(at, at + IDS_PER_REQUEST) });
  return parts;
}

const wordsOf = (target: BulkTarget) =>
  "filter" in target
    ? inWords(target.filter)
    : target.ids.length === 1
      ? target.ids[0]!
      : `${target.ids.length} selected`;

interface Found {
  answer: Pick<Answer, "matched" | "done" | "unchanged" | "refused">;
  /** There are more than were looked at. */
  more: boolean;
  bodies: Body[];
}

async function dryRun({ action, target }: BulkRequest, signal: AbortSignal): Promise<Found> {
  const parts = bodies(target, serverNow());
  const whole = { matched: 0, done: 0, unchanged: 0, refused: [] as Answer["refused"] };
  let more = false;
  for (const body of parts) {
    const answer = await post<Answer>(`/api/tasks/${action}`, { ...body, dryRun: true }, { signal });
    whole.matched += answer.matched;
    whole.done += answer.done;
    whole.unchanged += answer.unchanged;
    whole.refused.push(...answer.refused);
    more ||= answer.nextCursor !== null;
  }
  return { answer: whole, more, bodies: parts };
}

/** The dialog of the action that is asked for, and the cards of those that run. */
export function Bulk({ onDone }: { onDone: () => void }) {
  return <>{asked.value && <BulkDialog key={JSON.stringify(asked.value)} request={asked.value} onDone={onDone} />}</>;
}

function BulkDialog({ request, onDone }: { request: BulkRequest; onDone: () => void }) {
  const [found, setFound] = useState<Found | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [key] = useState(newKey);
  const { verb, danger } = WORDS[request.action];
  useEffect(() => {
    const stop = new AbortController();
    dryRun(request, stop.signal).then(setFound, (problem: Error) => !stop.signal.aborted && setError(problem));
    return () => stop.abort();
  }, [request]);
  const close = () => {
    asked.value = null;
  };
  const number = found?.answer.done ?? 0;
  const typed = found && (number > TYPED_ABOVE || found.more) ? number : null;
  return (
    <ConfirmDialog
      title={`${verb} ${wordsOf(request.target)}`}
      action={found ? `${verb} ${count(number)}${found.more ? " and more" : ""}` : verb}
      danger={danger}
      disabled={!found || number === 0}
      typed={typed}
      reason
      onClose={close}
      onConfirm={async (reason) => {
        if (!found) return;
        const started = start(request, found, reason, key);
        // What was selected one by one is done when the dialog closes; the card follows the rest.
        if ("ids" in request.target) await started;
        else await Promise.race([started, appeared(key)]);
        onDone();
      }}
    >
      {error ? (
        <Problem error={error} />
      ) : found ? (
        <Preview found={found} action={request.action} byFilter={"filter" in request.target} />
      ) : (
        <Skeleton rows={3} label="Looking what would change" />
      )}
    </ConfirmDialog>
  );
}

function Preview({ found, action, byFilter }: { found: Found; action: BulkAction; byFilter: boolean }) {
  const { matched, done, unchanged, refused } = found.answer;
  return (
    <>
      <p>
        {found.more && "Of the first "}
        {plural(matched, "task")} {found.more ? "" : "in all"}: <b>{plural(done, "task")}</b> would be{" "}
        {WORDS[action].past}.{found.more && " More match: the run goes on until none is left."}
      </p>
      <ul>
        {unchanged > 0 && <li>{plural(unchanged, "task")} would not change.</li>}
        {refused.map((each) => (
          <li key={each.reason}>
            {plural(each.count, "task")}: {each.reason}
          </li>
        ))}
      </ul>
      {byFilter && (
        <p class="muted">
          The service does it, also when this tab is closed: it can be paused and stopped, and does nothing twice. Tasks
          that are submitted from now on are left alone.
        </p>
      )}
    </>
  );
}

function change(id: string, part: Partial<Run>): void {
  runs.value = runs.value.map((run) => (run.id === id ? { ...run, ...part } : run));
}

const isShown = (id: string) => runs.peek().some((run) => run.id === id);

/** Return when the card of a run is there. */
const appeared = (id: string) =>
  new Promise<void>((resolve) => {
    const end = runs.subscribe((now) => {
      if (!now.some((run) => run.id === id)) return;
      queueMicrotask(() => end());
      resolve();
    });
  });

async function start({ action, target }: BulkRequest, found: Found, reason: string, key: string): Promise<void> {
  const since = new Date(serverNow()).toISOString();
  const status = action === "cancel" ? [["status", "CANCELLED"]] : [];
  const run: Run = {
    id: key,
    operation: null,
    action,
    what: wordsOf(target),
    done: 0,
    unchanged: 0,
    refused: [],
    state: "running",
    progress: null,
    error: "",
    link: href("/tasks", {}, new URLSearchParams([...status, ["updatedSince", since]])),
  };
  if ("filter" in target) {
    const body = { action, ...found.bodies[0], reason };
    const operation = await post<Operation>("/api/operations", body, { idempotencyKey: key });
    runs.value = [...runs.value, { ...run, operation: operation.id, ...shownOf(operation) }];
    await follow(key, operation.id);
    return;
  }
  const total = { done: 0, unchanged: 0, refused: [] as Run["refused"] };
  for (const body of found.bodies) {
    const answer = await post<Answer>(`/api/tasks/${action}`, { ...body, reason });
    total.done += answer.done;
    total.unchanged += answer.unchanged;
    total.refused.push(...answer.refused);
  }
  runs.value = [...runs.value, { ...run, ...total, state: "done" }];
}

const shownOf = ({ counts, state, stateReason, progress }: Operation): Partial<Run> => ({
  done: counts.done,
  unchanged: counts.unchanged,
  refused: counts.refused,
  state,
  progress,
  error: state === "failed" ? (stateReason ?? "") : "",
});

const isOver = (state: Run["state"]) => state === "done" || state === "stopped" || state === "failed";

/** Read an operation until it has ended or its card is closed. */
async function follow(id: string, operation: string): Promise<void> {
  while (isShown(id)) {
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
    try {
      const now = await get<Operation>(`/api/operations/${encodeURIComponent(operation)}`, { noted: false });
      change(id, shownOf(now));
      if (isOver(now.state)) return;
    } catch (error) {
      // It goes on without us; a service that is away is asked again.
      if (!(error as ApiError).isOutage) return change(id, { state: "failed", error: (error as Error).message });
    }
  }
}

async function tell(run: Run, command: "pause" | "resume" | "stop"): Promise<void> {
  try {
    const body = command === "resume" ? undefined : {};
    const now = await post<Operation>(`/api/operations/${encodeURIComponent(run.operation ?? "")}/${command}`, body);
    change(run.id, shownOf(now));
  } catch (error) {
    toast((error as Error).message, "failed");
  }
}

/** The cards of what runs, until they are closed. */
export function BulkCards() {
  if (!runs.value.length) return null;
  return (
    <div class="cards" role="status" aria-live="polite">
      {runs.value.map((run) => (
        <BulkCard key={run.id} run={run} />
      ))}
    </div>
  );
}

function BulkCard({ run }: { run: Run }) {
  const { past } = WORDS[run.action];
  const close = () => {
    runs.value = runs.value.filter((each) => each.id !== run.id);
  };
  return (
    <div class="card run-card">
      <div>
        <b>
          {plural(run.done, "task")} {past}
        </b>
        {run.state !== "done" && `, ${run.state}`}
        {run.progress !== null && !isOver(run.state) && ` ${Math.floor(100 * run.progress)} %`}
        <span class="muted"> · {run.what}</span>
        {run.unchanged > 0 && <p class="meta">{count(run.unchanged)} not changed</p>}
        {run.refused.map((each) => (
          <p key={each.reason} class="meta">
            {count(each.count)}: {each.reason}
          </p>
        ))}
        {run.error && <p class="field-error">{run.error}</p>}
      </div>
      {run.operation && run.state === "running" && (
        <button type="button" class="small" onClick={() => tell(run, "pause")}>
          Pause
        </button>
      )}
      {run.operation && run.state === "paused" && (
        <button type="button" class="small" onClick={() => tell(run, "resume")}>
          Go on
        </button>
      )}
      {run.operation && !isOver(run.state) && (
        <button type="button" class="small" onClick={() => tell(run, "stop")}>
          Stop
        </button>
      )}
      {run.action !== "delete" && run.done > 0 && <a href={run.link}>See them</a>}
      <button type="button" class="quiet small" aria-label="Close" onClick={close}>
        <Icon name="x" size={14} />
      </button>
    </div>
  );
}
