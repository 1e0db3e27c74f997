/** What waiting tasks of a pool wait for, in words. */

/** What a person may change first, what passes with time last. */
const REASONS: [reason: string, words: string][] = [
  ["store-full", "space in the store"],
  ["no-server", "a server that fits"],
  ["pool-paused", "the end of the pool's pause"],
  ["type-paused", "the end of their type's pause"],
  ["type-limit", "their type's limit"],
  ["owner-limit", "their owner's limit"],
  ["window", "tasks of the same owner"],
  ["concurrency-key", "a task with the same key"],
  ["project", "a task of their project"],
  ["queued", "a free slot"],
  ["parents", "parents"],
  ["retry", "their next attempt"],
  ["time", "their start time"],
  ["turn", "the scheduler"],
];
const WORDS = new Map(REASONS);
const RANK = new Map(REASONS.map(([reason], index) => [reason, index]));

/** Where tasks with this reason can be listed, as the filter `hold` of the list of tasks; null: by no filter. */
const HOLDS: Record<string, string> = { parents: "parents", time: "time", retry: "retry" };

export const reasonText = (reason: string): string => WORDS.get(reason) ?? reason;
export const holdOf = (reason: string): string | null => HOLDS[reason] ?? null;

export interface WaitingFor {
  reason: string;
  text: string;
  count: number;
  /** True: it does not pass by itself. */
  needsHelp: boolean;
}

const NEEDS_HELP = new Set(["store-full", "no-server", "pool-paused", "type-paused"]);

/** Return the reasons with their numbers, those that need a person first, then the largest. */
export function waitingFor(counts: Readonly<Record<string, number>>): WaitingFor[] {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([reason, count]) => ({ reason, count, text: reasonText(reason), needsHelp: NEEDS_HELP.has(reason) }))
    .sort(
      (one, other) =>
        Number(other.needsHelp) - Number(one.needsHelp) ||
        other.count - one.count ||
        (RANK.get(one.reason) ?? 99) - (RANK.get(other.reason) ?? 99),
    );
}

export const sum = (counts: Readonly<Record<string, number>>): number =>
  Object.values(counts).reduce((total, each) => total + each, 0);

/** Return the slots of a pool: running, and all of its servers that can get tasks. */
export function slotsOf(servers: readonly { available: boolean; running: number; room: number }[]): {
  running: number;
  slots: number;
  available: number;
} {
  let [running, slots, available] = [0, 0, 0];
  for (const server of servers) {
    running += server.running;
    slots += server.running + server.room;
    available += Number(server.available);
  }
  return { running, slots, available };
}
