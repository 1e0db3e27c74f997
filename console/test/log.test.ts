import assert from "node:assert/strict";
import { test } from "node:test";
import { inShort, logQuery, placeOf, subjectRoute } from "../src/log/filters.ts";
import { lastRun } from "../src/schedules/words.ts";

test("a place is a sequence in a log, a bare sequence of tasks, or an instant", () => {
  assert.equal(placeOf("fleet:12"), "fleet:12");
  assert.equal(placeOf(" 48812 "), "tasks:48812");
  assert.equal(placeOf("2026-11-29T02:00Z"), "2026-11-29T02:00:00.000Z");
  assert.equal(placeOf("yesterday, or so"), null);
});

test("only parameters of the log are sent to it", () => {
  const query = new URLSearchParams("event=TaskFailed&event=TaskSucceeded&before=tasks:9&view=x&since=1h");
  assert.equal(String(logQuery(query)), "event=TaskFailed&event=TaskSucceeded&since=1h");
});

test("an id in a route is encoded, and a kind without a page has no link", () => {
  assert.equal(subjectRoute("task", "01K~a/b"), "#/task/01K~a%2Fb");
  assert.equal(subjectRoute("unheard-of", "x"), null);
});

test("a line has the fields that say something, and ends", () => {
  assert.equal(inShort({ attempt: 2, error: "", labels: {}, kind: "timeout", list: [] }), "attempt 2 · kind timeout");
  assert.equal(inShort({ error: "x".repeat(500) }, 20).length, 21);
});

test("the last run failed if the failure was recorded with its firing or after it", () => {
  const fired = { at: 10, runs: [{ dueAt: 9, taskId: "t1" }] };
  const failure = { at: 10, runs: [{ dueAt: 9, taskId: "t2" }], error: "no", path: null };
  assert.deepEqual(lastRun({ lastFired: fired, lastFailure: null }), { at: 10, failed: false, taskId: "t1" });
  assert.equal(lastRun({ lastFired: fired, lastFailure: failure })?.failed, true);
  assert.equal(lastRun({ lastFired: { ...fired, at: 20 }, lastFailure: failure })?.failed, false);
  assert.equal(lastRun({ lastFired: null, lastFailure: null }), null);
});
