import assert from "node:assert/strict";
import { test } from "node:test";
import { apply, merge, still } from "../src/live/merge.ts";

interface Row {
  id: string;
  status: string;
}
const row = (id: string, status = "WAITING"): Row => ({ id, status });
const keyOf = (each: Row) => each.id;
// Newest first: the larger id comes before.
const before = (a: Row, b: Row) => a.id > b.id;

test("rows change in place, and their order stays", () => {
  const shown = still([row("3"), row("2"), row("1")]);
  const next = merge(shown, [row("3"), row("2", "FAILED"), row("1")], keyOf, 100, before);
  assert.deepEqual(
    next.rows.map((each) => each.status),
    ["WAITING", "FAILED", "WAITING"],
  );
  assert.equal(next.rows[0], shown.rows[0], "an unchanged row is the same object, so it is not drawn again");
});

test("new rows are counted and not shown", () => {
  const next = merge(still([row("2"), row("1")]), [row("4"), row("3"), row("2"), row("1")], keyOf, 100, before);
  assert.deepEqual(next.rows.map(keyOf), ["2", "1"]);
  assert.deepEqual([...next.fresh], ["4", "3"]);
});

test("a row that no longer matches stays, and is marked", () => {
  const next = merge(still([row("3"), row("2"), row("1")]), [row("3"), row("1")], keyOf, 100, before);
  assert.deepEqual(next.rows.map(keyOf), ["3", "2", "1"]);
  assert.deepEqual([...next.gone], ["2"]);
});

test("a row that new ones pushed off a full page is not said to be gone", () => {
  const next = merge(still([row("3"), row("2"), row("1")]), [row("4"), row("3"), row("2")], keyOf, 3, before);
  assert.deepEqual([...next.gone], []);
  const other = merge(still([row("3"), row("2"), row("1")]), [row("5"), row("4"), row("2")], keyOf, 3, before);
  assert.deepEqual([...other.gone], ["3"], "this one would be on the page");
});

test("an answer that changes nothing is the same list, so nothing is drawn", () => {
  const shown = still([row("2"), row("1")]);
  assert.equal(merge(shown, [row("2"), row("1")], keyOf, 100, before), shown);
});

test("a change that is pushed goes into its row, a new one into the count, one that left is marked", () => {
  const shown = still([row("3"), row("2"), row("1")]);
  const next = apply(shown, [row("2", "PROCESSING"), row("4")], ["1", "9"], keyOf, true);
  assert.deepEqual(
    next.rows.map((each) => each.status),
    ["WAITING", "PROCESSING", "WAITING"],
  );
  assert.deepEqual([[...next.gone], [...next.fresh]], [["1"], ["4"]]);
  const back = apply(next, [row("1")], ["4"], keyOf, true);
  assert.deepEqual([[...back.gone], [...back.fresh]], [[], []]);
});

test("a later page counts no new rows", () => {
  const shown = still([row("2")]);
  assert.equal(apply(shown, [row("4")], ["7"], keyOf, false), shown);
});
