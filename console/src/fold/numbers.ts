/** The numbers of the overview: what was read, with what a live topic says of now. Pure. */
import type { Stats } from "../api/types.ts";

export interface LiveNumbers {
  totals: Stats["totals"];
  /** This minute and the last. */
  series: Stats["series"];
  asOf: number;
}

/** Return the figures with newer ones in them; what is older than the figures, or of other steps, changes nothing. */
export function withNow(stats: Stats, now: LiveNumbers | null): Stats {
  if (!now || now.asOf <= stats.asOf) return stats;
  const { byType, byPool, byServer, byOwner, more } = stats.totals;
  const totals = { ...now.totals, byType, byPool, byServer, byOwner, more };
  if (stats.step !== 60) return { ...stats, totals };
  const newer = new Map(now.series.map((point) => [point.at, point]));
  const series = stats.series.map((point) => newer.get(point.at) ?? point);
  const window = { ...stats.window };
  for (const [index, point] of series.entries()) {
    const before = stats.series[index];
    if (!before || before === point) continue;
    for (const name of ["submitted", "started", "finished", "failed", "cancelled"] as const)
      window[name] += point[name] - before[name];
  }
  return { ...stats, totals, series, window };
}
