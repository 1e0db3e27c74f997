import assert from "node:assert/strict";
import { test } from "node:test";
import {
  after,
  type Cell,
  cellOf,
  countStates,
  groupErrors,
  indexOf,
  type Summary,
  timeLeft,
} from "../src/batch/cells.ts";
import { split } from "../src/batch/ndjson.ts";

const WAITING: Summary = {
  id: "01M8PYA339SETKFKPG79YX8K0C~alice",
  type: "resize",
  status: "WAITING",
  held: true,
  progress: null,
  serverId: null,
  error: null,
  failureKind: null,
  attempt: 0,
  attempts: 3,
  startedAt: null,
  endedAt: null,
  nextAttemptAt: null,
};

test("a task's place in its batch is in its id", () => {
  assert.equal(indexOf("01M8PYA339SETKFKPG79YX8K0C~alice"), 12);
  assert.equal(indexOf("01M8PYA339SETKFKPG79YX8KZ7~a~b"), 31 * 32 + 7);
});

test("a cell follows the events of its task", () => {
  let cell = cellOf(WAITING);
  const event = (type: string, more = {}) => {
    const next = after(cell, { type, ...more }, 5);
    assert.ok(next);
    cell = next;
    return [cell.status, cell.held];
  };
  assert.deepEqual(event("TaskQueued"), ["WAITING", false]);
  assert.deepEqual(event("AttemptStarted", { attempt: 1, server_id: "gpu-1" }), ["PROCESSING", false]);
  event("ProgressReported", { progress: 40 });
  assert.equal(cell.progress, 40);
  event("AttemptFailed", { kind: "timeout", error: "late", retry_at: "1970-01-01T00:00:01Z" });
  assert.deepEqual([cell.status, cell.kind, cell.nextAttemptAt, cell.progress], ["WAITING", "timeout", 1000, null]);
  assert.deepEqual(event("TaskFailed", { kind: "error", error: "x" }), ["FAILED", false]);
  assert.equal(cell.endedAt, 5);
  assert.deepEqual(event("TaskQueued", { renewed: true }), ["WAITING", false]);
  assert.deepEqual([cell.error, cell.endedAt], ["", null]);
  assert.deepEqual(event("TaskSucceeded"), ["FINISHED", false]);
  assert.equal(after(cell, { type: "TaskDeleted" }, 6), null);
  assert.equal(after(cell, { type: "OfALaterVersion" }, 6), cell);
});

function cells(number: number, part: (at: number) => Partial<Cell>): Cell[] {
  return Array.from({ length: number }, (_, index) => ({ ...cellOf(WAITING), index, ...part(index) }));
}

test("states are counted, held apart from waiting", () => {
  const counts = countStates(cells(4, (at) => ({ held: at === 0, status: at === 3 ? "FAILED" : "WAITING" })));
  assert.deepEqual([counts.held, counts.waiting, counts.failed], [1, 2, 1]);
});

test("errors that differ in numbers and ids are one group", () => {
  const failed = cells(5, (at) => ({
    status: "FAILED",
    kind: "error",
    error: at < 4 ? `out of memory: ${at} GiB at 0x${at}f for 01M8PYA339SETKFKPG79YX8K0${at}` : "prompt is empty",
  }));
  assert.deepEqual(
    groupErrors(failed).map((group) => group.cells.length),
    [4, 1],
  );
});

test("the time left is a range, and unknown before twenty have ended", () => {
  const now = 1_000_000;
  const ended = (number: number) => (at: number) => (at < number ? { endedAt: now - (number - at) * 1000 } : {});
  assert.equal(timeLeft(cells(100, ended(19)), now), null);
  const left = timeLeft(cells(200, ended(100)), now);
  assert.ok(left && left[0] <= left[1] && left[0] > 90 && left[1] < 110);
  assert.equal(timeLeft(cells(30, ended(30)), now), null);
  assert.equal(
    timeLeft(
      cells(50, (at) => (at < 25 ? { endedAt: now - 200_000 } : {})),
      now,
    ),
    null,
  );
});

test("lines are the elements of a page as they came", () => {
  const page = '{"batchId":"tasks","tasks":[{"a":"],}\\"{","n":9007199254740993},\n{"b":[1,\n2]},3],"nextCursor":null}';
  const { elements, rest } = split(page, "tasks");
  assert.deepEqual(JSON.parse(rest), { batchId: "tasks", tasks: [], nextCursor: null });
  assert.deepEqual(elements, ['{"a":"],}\\"{","n":9007199254740993}', '{"b":[1, 2]}', "3"]);
  assert.deepEqual(split('{"tasks":[]}', "tasks").elements, []);
  assert.throws(() => split('{"task":[]}', "tasks"), SyntaxError);
});
