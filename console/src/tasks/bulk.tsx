/**
 * An action on many tasks: a dry run first, then the run, page by page. A run is a card that stays until it is closed; it
 * ends with the tab, and does nothing twice if it is begun again.
 */
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type ApiError, newKey, post, serverNow } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { Icon } from "../parts/Icon.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
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

interface Run {
  id: string;
  action: BulkAction;
  what: string;
  matched: number;
  done: number;
  unchanged: number;
  refused: Map<string, number>;
  state: "running" | "paused" | "done" | "stopped" | "failed";
  error: string;
  /** The list of what was changed, as near as a filter can say. */
  link: string;
}

export const runs = signal<Run[]>([]);
const IDS_PER_REQUEST = 500;
const TYPED_ABOVE = 100;
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
        if (found) void start(request, found, reason).then(onDone);
      }}
    >
      {error ? (
        <Problem error={error} />
      ) : found ? (
        <Preview found={found} action={request.action} />
      ) : (
        <Skeleton rows={3} label="Looking what would change" />
      )}
    </ConfirmDialog>
  );
}

function Preview({ found, action }: { found: Found; action: BulkAction }) {
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
      {done > 1 && <p class="muted">It stops when this tab is closed; nothing is done twice.</p>}
    </>
  );
}

function change(id: string, part: Partial<Run>): void {
  runs.value = runs.value.map((run) => (run.id === id ? { ...run, ...part } : run));
}

const find = (id: string) => runs.peek().find((run) => run.id === id);

async function resumed(id: string): Promise<boolean> {
  while (find(id)?.state === "paused")
    await new Promise<void>((resolve) => {
      const stop = runs.subscribe(() => {
        if (find(id)?.state === "paused") return;
        queueMicrotask(() => stop());
        resolve();
      });
    });
  return find(id)?.state === "running";
}

async function start({ action, target }: BulkRequest, found: Found, reason: string): Promise<void> {
  const id = newKey();
  const since = new Date(serverNow()).toISOString();
  const status = { retry: [], cancel: ["CANCELLED"], delete: [] }[action];
  const query = new URLSearchParams([...status.map((each) => ["status", each]), ["updatedSince", since]]);
  const run: Run = {
    id,
    action,
    what: wordsOf(target),
    matched: 0,
    done: 0,
    unchanged: 0,
    refused: new Map(),
    state: "running",
    error: "",
    link: href("/tasks", {}, query),
  };
  runs.value = [...runs.value, run];
  const total = { matched: 0, done: 0, unchanged: 0, refused: new Map<string, number>() };
  try {
    for (const body of found.bodies) {
      let cursor: string | null = null;
      do {
        if (!(await resumed(id))) return;
        const answer: Answer = await post<Answer>(`/api/tasks/${action}`, {
          ...body,
          reason,
          ...(cursor && { cursor }),
        });
        total.matched += answer.matched;
        total.done += answer.done;
        total.unchanged += answer.unchanged;
        for (const each of answer.refused)
          total.refused.set(each.reason, (total.refused.get(each.reason) ?? 0) + each.count);
        change(id, { ...total, refused: new Map(total.refused) });
        cursor = answer.nextCursor;
      } while (cursor !== null);
    }
    change(id, { state: "done" });
  } catch (error) {
    change(id, { state: "failed", error: (error as ApiError).message });
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
  const button = (label: string, state: Run["state"]): ComponentChildren => (
    <button type="button" class="small" onClick={() => change(run.id, { state })}>
      {label}
    </button>
  );
  return (
    <div class="card run-card">
      <div>
        <b>
          {plural(run.done, "task")} {past}
        </b>
        {run.state === "running" && ", running …"}
        {run.state === "paused" && ", paused"}
        {run.state === "stopped" && ", stopped"}
        <span class="muted"> · {run.what}</span>
        {run.unchanged > 0 && <p class="meta">{count(run.unchanged)} not changed</p>}
        {[...run.refused].map(([reason, number]) => (
          <p key={reason} class="meta">
            {count(number)}: {reason}
          </p>
        ))}
        {run.error && <p class="field-error">{run.error}</p>}
      </div>
      {run.state === "running" && button("Pause", "paused")}
      {run.state === "paused" && button("Go on", "running")}
      {(run.state === "running" || run.state === "paused") && button("Stop", "stopped")}
      {run.state === "done" && run.action !== "delete" && run.done > 0 && <a href={run.link}>See them</a>}
      {run.state !== "running" && run.state !== "paused" && (
        <button type="button" class="quiet small" aria-label="Close" onClick={close}>
          <Icon name="x" size={14} />
        </button>
      )}
    </div>
  );
}
