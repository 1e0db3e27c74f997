import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, duration, exact, plural, relative, shortCount, shortId } from "../src/text/format.ts";

test("durations are short and keep two digits that matter", () => {
  const series = [0, 0.012, 0.4, 8.24, 41, 119, 300, 7200, 11_520, 187_200].map(duration);
  assert.deepEqual(series, ["0 s", "12 ms", "0.4 s", "8.2 s", "41 s", "119 s", "5 min", "2 h", "3 h 12 m", "2 d 4 h"]);
  assert.equal(duration(-3), "−3.0 s");
  assert.equal(duration(Number.NaN), "–");
});

test("an instant is shown by its distance, in both directions", () => {
  const series = [0, 8_000, 200_000, -60_000].map((ago) => relative(1_000_000_000 - ago, 1_000_000_000));
  assert.deepEqual(series, ["now", "8 s ago", "3 min ago", "in 60 s"]);
});

test("an exact instant names its zone", () => {
  assert.equal(exact(Date.UTC(2026, 0, 2, 3, 4, 5, 6), "UTC"), "2026-01-02 03:04:05.006 UTC");
  assert.equal(exact(Date.UTC(2026, 0, 2, 3, 4, 5, 6), "no/such zone"), "2026-01-02 03:04:05.006 UTC");
});

test("numbers and sizes", () => {
  assert.deepEqual([999, 1204, 12_345, 4_100_000].map(shortCount), ["999", "1,204", "12.3 k", "4.1 M"]);
  assert.deepEqual([12, 1200, 2_500_000].map(bytes), ["12 B", "1.2 kB", "2.5 MB"]);
  assert.equal(plural(1, "task"), "1 task");
  assert.equal(plural(10_000, "task", "tasks", true), "10,000+ tasks");
});

test("a short id keeps what tells tasks apart, and its owner", () => {
  assert.equal(shortId("01KDW1Z6P00000000000000000~alice"), "01KD…00000~alice");
  assert.equal(shortId("short"), "short");
});
