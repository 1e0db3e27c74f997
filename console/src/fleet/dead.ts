/** Dead letters in groups, and what a retry or a discard would do. */

export interface Refused {
  reason: string;
  count: number;
}

/** What bulk commands answer, summed up over their pages. */
export interface Outcome {
  matched: number;
  done: number;
  unchanged: number;
  refused: Refused[];
}

export const NOTHING: Outcome = { matched: 0, done: 0, unchanged: 0, refused: [] };

/** Return the sum of two outcomes: refusals with the same reason together. */
export function plus(one: Outcome, other: Outcome): Outcome {
  const reasons = new Map(one.refused.map((each) => [each.reason, each.count]));
  for (const { reason, count } of other.refused) reasons.set(reason, (reasons.get(reason) ?? 0) + count);
  return {
    matched: one.matched + other.matched,
    done: one.done + other.done,
    unchanged: one.unchanged + other.unchanged,
    refused: [...reasons].map(([reason, count]) => ({ reason, count })).sort((a, b) => b.count - a.count),
  };
}

export interface DeadLetter {
  id: string;
  type: string;
  serverId: string | null;
  error: string | null;
  failureKind: string | null;
  endedAt: number | null;
  updatedAt: number;
}

export interface TypeGroup {
  type: string;
  count: number;
  first: number;
  last: number;
  kinds: [string, number][];
}

const diedAt = (letter: DeadLetter): number => letter.endedAt ?? letter.updatedAt;

/** Return dead letters by type, the largest group first. */
export function byType(letters: readonly DeadLetter[]): TypeGroup[] {
  const groups = new Map<string, DeadLetter[]>();
  for (const letter of letters) groups.set(letter.type, [...(groups.get(letter.type) ?? []), letter]);
  return [...groups]
    .map(([type, found]) => {
      const kinds = new Map<string, number>();
      for (const each of found)
        kinds.set(each.failureKind ?? "error", (kinds.get(each.failureKind ?? "error") ?? 0) + 1);
      const times = found.map(diedAt);
      return {
        type,
        count: found.length,
        first: Math.min(...times),
        last: Math.max(...times),
        kinds: [...kinds].sort((a, b) => b[1] - a[1]),
      };
    })
    .sort((a, b) => b.count - a.count || (a.type < b.type ? -1 : 1));
}

/** Return the largest counts in one line: `gpu-7 39, gpu-2 2, 3 more`. */
export function topText(counts: Readonly<Record<string, number>>, most = 2): string {
  const sorted = Object.entries(counts).sort((one, other) => other[1] - one[1]);
  const shown = sorted.slice(0, most).map(([name, count]) => `${name || "no server"} ${count.toLocaleString("en")}`);
  return [...shown, ...(sorted.length > most ? [`${sorted.length - most} more`] : [])].join(", ");
}
