// The answer of `GET /api/task/{id}/why` as a page shows it: a title, then a row for each thing that holds the task, with
// its meter, its countdown and the place where it can be changed. Pure.

export interface HoldData {
  count?: number;
  of?: number;
  parents?: { id: string; status: string }[];
  counted?: number;
  concurrency?: number | null;
  perSecond?: number | null;
  opensAt?: number | null;
  ahead?: number;
  concurrencyKey?: string;
  runAt?: number;
  nextAttemptAt?: number;
  attempt?: number;
  attempts?: number;
  name?: string;
  by?: string | null;
  reason?: string | null;
  type?: string;
  require?: Record<string, string>;
  verdicts?: Record<string, number>;
  busySince?: number;
  until?: number | null;
  failsAt?: number;
  higherPriority?: number;
}

export interface Hold {
  kind: string;
  since: number | null;
  text: string;
  release: string;
  data: HoldData;
}

export interface Why {
  taskId: string;
  status: "WAITING" | "PROCESSING" | "FINISHED" | "FAILED" | "CANCELLED";
  held: boolean;
  since: number;
  summary: string;
  holds: Hold[];
  verdicts: { verdict: string; text: string; count: number }[];
  servers: { serverId: string; verdict: string; text: string; until: number | null; since: number | null }[] | null;
  running: {
    attempt: number;
    serverId: string;
    since: number;
    deadline: number | null;
    reportsByItself: boolean;
    progress: number | null;
    message: string | null;
  } | null;
  ended: {
    at: number;
    by: { kind: string; id: string };
    reason: string | null;
    failureKind: string | null;
    parentId: string | null;
    cancelOutcome: string | null;
    cancelDetail: string | null;
    release: string;
  } | null;
  attempt: number;
  attempts: number;
  lastError: string | null;
  keeper: "answered" | "silent" | "not asked";
}

export interface WhyRow {
  kind: string;
  title: string;
  /** The service's sentence; may quote what others wrote. */
  text: string;
  release: string;
  since: number | null;
  /** How much of a limit is in use. */
  meter: { used: number; most: number } | null;
  /** Tasks that come first. */
  ahead: number;
  /** When it ends by itself. */
  until: number | null;
  /** When the task fails if it still waits. */
  failsAt: number | null;
  parents: { id: string; status: string }[];
  /** Parents that are not listed. */
  moreParents: number;
  /** A route of the console, and who may use it. */
  link: { to: string; label: string; needs: "anyone" | "readAll" } | null;
}

const TITLES: Record<string, string> = {
  parents: "Parents have not ended",
  time: "Its time has not come",
  window: "Enough tasks of its owner are in the queue",
  "owner-limit": "Its owner's limit is reached",
  "type-limit": "Its type's limit is reached",
  "concurrency-key": "Its concurrency key is in use",
  project: "Another chapter of its project goes first",
  turn: "About to be queued",
  "no-keeper": "No scheduler answers",
  retry: "Its next attempt is not due",
  "pool-paused": "Its pool is paused",
  "type-paused": "Its type is paused",
  "key-unreadable": "Its model key cannot be read",
  "no-server": "No server can take it",
  "store-full": "The store is nearly full",
  "server-busy": "The servers that could take it are busy",
  "queued-behind": "Other tasks come first",
  "not-queued": "About to be queued",
};

/** What in the answer names a call of the API, for people without a page. The page has buttons. */
const CALL = /:? (?:POST|PUT) \/api\/\S+/;

export function rowsOf(why: Why, task: { type: string; pool?: string; owner: string }): WhyRow[] {
  return why.holds.map((hold) => rowOf(hold, task));
}

function rowOf(hold: Hold, task: { type: string; pool?: string; owner: string }): WhyRow {
  const { data } = hold;
  const parents = data.parents ?? [];
  return {
    kind: hold.kind,
    title: TITLES[hold.kind] ?? hold.kind,
    // The parents are listed below it.
    text: sentence(hold.kind === "parents" ? (hold.text.split(": ")[0] ?? "") : hold.text),
    release: hold.release,
    since: hold.since,
    meter: data.concurrency ? { used: data.counted ?? 0, most: data.concurrency } : null,
    ahead: (data.ahead ?? 0) + (data.higherPriority ?? 0),
    until: data.opensAt ?? data.runAt ?? data.nextAttemptAt ?? data.until ?? null,
    failsAt: data.failsAt ?? null,
    parents,
    moreParents: Math.max(0, (data.count ?? 0) - parents.length),
    link: linkOf(hold, task),
  };
}

function linkOf(hold: Hold, task: { type: string; pool?: string; owner: string }): WhyRow["link"] {
  const type = encodeURIComponent(hold.data.type ?? task.type);
  switch (hold.kind) {
    case "owner-limit":
    case "window":
      return { to: "#/limits", label: "limits", needs: "readAll" };
    case "type-limit":
    case "concurrency-key":
    case "type-paused":
      return { to: `#/types/${type}`, label: `type ${task.type}`, needs: "anyone" };
    case "pool-paused":
      return { to: "#/pools", label: "pools", needs: "readAll" };
    case "no-server":
    case "server-busy":
      return { to: "#/fleet", label: "fleet", needs: "readAll" };
    case "queued-behind":
      return { to: "#/pools", label: "pools", needs: "readAll" };
    default:
      return null;
  }
}

/** The title over the rows. */
export function headline(why: Why): string {
  switch (why.status) {
    case "WAITING":
      if (why.holds.length === 0) return "About to start";
      return why.held ? "Held" : "Waiting";
    case "PROCESSING":
      return "Running";
    case "FINISHED":
      return "Finished";
    case "FAILED":
      return "Failed";
    case "CANCELLED":
      return "Cancelled";
  }
}

/** One sentence that says why. */
export function saying(why: Why): string {
  const [first] = why.holds;
  if (why.status === "WAITING" && first !== undefined) return TITLES[first.kind] ?? sentence(first.text);
  return why.summary;
}

/** What can be done now, without the call that does it; empty if nothing. */
export function advice(why: Why): string {
  const release = why.ended?.release.replace(CALL, "") ?? "";
  return release.startsWith("nothing") ? "" : sentence(release);
}

/** True if a retry can help: the task has ended without success, and the service advises it. */
export function mayRetry(why: Why): boolean {
  return (why.status === "FAILED" || why.status === "CANCELLED") && (why.ended?.release.startsWith("retry") ?? false);
}

const GOOD = new Set(["able", "unasked", "standby"]);

/** Servers by verdict as parts of a whole: those that could take the task first. */
export function verdictParts(why: Why): { verdict: string; text: string; count: number; isGood: boolean }[] {
  return why.verdicts.map((each) => ({ ...each, isGood: GOOD.has(each.verdict) }));
}

function sentence(text: string): string {
  return text === "" ? "" : (text[0] as string).toUpperCase() + text.slice(1);
}
