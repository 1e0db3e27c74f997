// The axis of a timeline: time to place, in proportion or so that short phases can be seen beside long ones. Pure.

import type { Phase } from "../fold/task.ts";

export interface Scale {
  from: number;
  to: number;
  /** 0 to 1. */
  place: (at: number) => number;
  /** The instant at a place. */
  at: (place: number) => number;
}

/** In proportion. */
export function linear(from: number, to: number): Scale {
  const length = Math.max(1, to - from);
  return {
    from,
    to,
    place: (at) => Math.min(1, Math.max(0, (at - from) / length)),
    at: (place) => from + place * length,
  };
}

/** Each phase takes room by the logarithm of its length: 10 ms, 1 s and 1 h are all seen. */
export function byPhase(phases: readonly Phase[], from: number, to: number): Scale {
  const times = new Set([from, to]);
  for (const phase of phases) for (const at of [phase.from, phase.to ?? to]) if (at > from && at < to) times.add(at);
  const edges = [...times].sort((one, other) => one - other);
  const rooms = edges.slice(1).map((edge, at) => Math.log10(10 + edge - (edges[at] ?? edge)));
  const all = rooms.reduce((sum, room) => sum + room, 0) || 1;
  const places = [0];
  for (const room of rooms) places.push((places[places.length - 1] ?? 0) + room / all);
  const between = (value: number, known: number[], wanted: number[]): number => {
    if (value <= (known[0] ?? 0)) return wanted[0] ?? 0;
    for (let at = 1; at < known.length; at += 1) {
      const [low, high] = [known[at - 1] ?? 0, known[at] ?? 0];
      if (value > high) continue;
      const share = high === low ? 0 : (value - low) / (high - low);
      return (wanted[at - 1] ?? 0) + share * ((wanted[at] ?? 0) - (wanted[at - 1] ?? 0));
    }
    return wanted[wanted.length - 1] ?? 1;
  };
  return { from, to, place: (at) => between(at, edges, places), at: (place) => between(place, places, edges) };
}

const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
  3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000, 172_800_000, 604_800_000,
];

/** Round steps of an axis from its beginning on, `most` of them at most. Milliseconds. */
export function ticks(length: number, most: number): number[] {
  const step = STEPS.find((each) => length / each <= most) ?? length;
  const found = [];
  for (let at = 0; at <= length && found.length <= most; at += step) found.push(at);
  return found;
}
