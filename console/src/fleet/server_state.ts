/** What a server is doing, in one word and in one sentence. */

/** The fields of a server that its state is read from. */
export interface StatedServer {
  id: string;
  status: "online" | "offline";
  statusReason: string;
  statusSince: string;
  offlineSince: string | null;
  maintenance: boolean;
  maintenanceReason: string | null;
  maintenanceSince: string | null;
  circuit: "closed" | "open" | "half-open";
  circuitOpenUntil: string | null;
  circuitReason: string | null;
  circuitOwner: string | null;
  busySince: string | null;
  nextTryAt: string | null;
  overflow: object | null;
  activeTasks: number;
  maxConcurrent: number;
  currentLimit: number;
  removed: { since: string; reason: string; by: Record<string, string>; returns: boolean } | null;
}

/** Worst first: the order of the table. */
export const STATES = ["offline", "open", "half-open", "maintenance", "gone", "busy", "standby", "online"] as const;
export type ServerState = (typeof STATES)[number];

/** As they are written in the table, in filters and in counts. */
export const STATE_NAMES: Record<ServerState, string> = {
  offline: "offline",
  open: "circuit open",
  "half-open": "on trial",
  maintenance: "maintenance",
  gone: "gone",
  busy: "busy",
  standby: "standby",
  online: "online",
};

/** Return a server's state: the strongest reason why it gets no tasks, else what it does. */
export function stateOf(server: StatedServer): ServerState {
  if (server.removed) return "gone";
  if (server.maintenance) return "maintenance";
  if (server.status === "offline") return "offline";
  if (server.circuit === "open") return "open";
  if (server.circuit === "half-open") return "half-open";
  if (server.busySince) return "busy";
  return server.overflow && !server.activeTasks ? "standby" : "online";
}

/** Return since when a server is in its state; null: it is not known. */
export function sinceOf(server: StatedServer): string | null {
  switch (stateOf(server)) {
    case "gone":
      return server.removed?.since ?? null;
    case "maintenance":
      return server.maintenanceSince;
    case "offline":
      return server.offlineSince ?? server.statusSince;
    case "busy":
      return server.busySince;
    case "open":
    case "half-open":
      return null;
    default:
      return server.statusSince;
  }
}

const counted = (number: number, one: string, many = `${one}s`): string => `${number} ${number === 1 ? one : many}`;

/** Return why a server is in its state, as one sentence without a full stop. Instants are left to the caller. */
export function reasonOf(server: StatedServer): string {
  const running = server.activeTasks ? `; ${counted(server.activeTasks, "task")} still ${verb(server)}` : "";
  switch (stateOf(server)) {
    case "gone":
      return server.removed?.reason ?? "";
    case "maintenance": {
      const away = server.status === "offline" ? `; offline: ${server.statusReason}` : "";
      return `${server.maintenanceReason || "no reason was given"}${running}${away}`;
    }
    case "open": {
      const owner = server.circuitOwner ? `, all of ${server.circuitOwner}` : "";
      return `${server.circuitReason || "too many failures"}${owner}`;
    }
    case "half-open":
      return `one task is on trial${server.circuitReason ? `; it opened: ${server.circuitReason}` : ""}`;
    case "busy":
      return `it says that it is busy; sent ${server.currentLimit} of ${server.maxConcurrent} at a time`;
    case "standby":
      return "takes work only when much waits";
    default:
      return server.statusReason;
  }
}

const verb = (server: StatedServer): string => (server.activeTasks === 1 ? "runs" : "run");

/** Return the slots that a server would fill now: none while it gets no tasks. */
export function roomOf(server: StatedServer): number {
  const state = stateOf(server);
  if (state !== "online" && state !== "standby" && state !== "busy") return 0;
  return Math.max(0, server.currentLimit - server.activeTasks);
}

/** Return the servers, worst first, then by id. */
export function worstFirst<T extends StatedServer>(servers: readonly T[]): T[] {
  const rank = (server: T) => STATES.indexOf(stateOf(server));
  return [...servers].sort((one, other) => rank(one) - rank(other) || (one.id < other.id ? -1 : 1));
}

/** Return how many servers are in each state, worst first, without zeros. */
export function countStates(servers: readonly StatedServer[]): [ServerState, number][] {
  const counts = new Map<ServerState, number>();
  for (const server of servers) {
    const state = stateOf(server);
    counts.set(state, (counts.get(state) ?? 0) + 1);
  }
  return STATES.filter((state) => counts.has(state)).map((state) => [state, counts.get(state) ?? 0]);
}

export interface ServerFilter {
  states: string[];
  pool: string;
  provider: string;
  /** `name=value`, or a name alone. */
  label: string;
  /** A part of the id, the name or the reason. */
  text: string;
}

/** What a filter looks at, beside a server's state. */
export interface FilteredServer extends StatedServer {
  name: string;
  provider: string;
  labels: Record<string, string>;
}

/** Return the servers that match. `pools`: of each server, by id; a server without an entry is in none. */
export function filtered<T extends FilteredServer>(
  servers: readonly T[],
  filter: ServerFilter,
  pools: ReadonlyMap<string, readonly string[]>,
): T[] {
  const [name, value] = filter.label.split(/=(.*)/s);
  const text = filter.text.toLowerCase();
  return servers.filter(
    (server) =>
      (!filter.states.length || filter.states.includes(stateOf(server))) &&
      (!filter.pool || (pools.get(server.id) ?? []).includes(filter.pool)) &&
      (!filter.provider || server.provider === filter.provider) &&
      (!name || (name in server.labels && (value === undefined || server.labels[name] === value))) &&
      (!text || [server.id, server.name, reasonOf(server)].some((each) => each.toLowerCase().includes(text))),
  );
}

/** Return the share of failures among ended attempts; null: none ended. */
export function failureRate(rates: {
  finished: number;
  failed: number;
  attemptsFailed: number;
}): { share: number; ended: number } | null {
  const failures = rates.failed + rates.attemptsFailed;
  const ended = rates.finished + failures;
  return ended ? { share: failures / ended, ended } : null;
}

/** Return a share in percent: `0 %`, `0.2 %`, `61 %`. Never 0 if it is not 0. */
export function percent(share: number): string {
  const value = share * 100;
  if (value === 0 || value === 100) return `${value} %`;
  if (value < 0.1) return "< 0.1 %";
  if (value < 10) return `${value.toFixed(1)} %`;
  return value > 99 ? "> 99 %" : `${Math.round(value)} %`;
}
