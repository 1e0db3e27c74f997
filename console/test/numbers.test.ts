import assert from "node:assert/strict";
import { test } from "node:test";
import type { Stats } from "../src/api/types.ts";
import { type LiveNumbers, withNow } from "../src/fold/numbers.ts";

const point = (at: string, finished: number, failed = 0) =>
  ({ at, finished, failed, submitted: 0, started: 0, cancelled: 0 }) as Stats["series"][number];
const stats = {
  asOf: 10,
  step: 60,
  totals: { waiting: 5, byType: [{ value: "a" }] },
  window: { finished: 7, failed: 1, submitted: 0, started: 0, cancelled: 0 },
  series: [point("1", 4), point("2", 3, 1)],
} as unknown as Stats;
const now = (asOf: number) =>
  ({ asOf, totals: { waiting: 9 }, series: [point("2", 5, 2), point("3", 8)] }) as unknown as LiveNumbers;

test("newer numbers replace those of now, and the sums of the window follow", () => {
  const found = withNow(stats, now(11));
  assert.equal(found.totals.waiting, 9);
  assert.deepEqual(found.totals.byType, [{ value: "a" }]);
  assert.deepEqual([found.window.finished, found.window.failed], [9, 2]);
  assert.deepEqual(
    found.series.map((each) => each.finished),
    [4, 5],
  );
});

test("older numbers, and steps of another length, change no series", () => {
  assert.equal(withNow(stats, now(10)), stats);
  assert.equal(withNow(stats, null), stats);
  const hours = { ...stats, step: 3600 } as Stats;
  assert.equal(withNow(hours, now(11)).series, hours.series);
});
