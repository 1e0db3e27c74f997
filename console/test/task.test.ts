import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { detailOf, foldTask, phasesUntil, seconds, type TaskEvent, timesOf, titleOf } from "../src/fold/task.ts";

const HISTORIES = new URL("histories/", import.meta.url);
const GOLDEN = new URL("../../tests/events/golden/", import.meta.url);

/** A history as a service recorded it. */
function history(name: string): TaskEvent[] {
  return JSON.parse(readFileSync(new URL(`${name}.json`, HISTORIES), "utf8")) as TaskEvent[];
}

function phases(events: TaskEvent[]): string[] {
  return foldTask(events).phases.map((phase) => `${phase.kind}${phase.attempt ? ` ${phase.attempt}` : ""}`);
}

test("an attempt that fails is followed by a wait and the next attempt", () => {
  const story = foldTask(history("retried"));
  assert.deepEqual(phases(history("retried")), ["queued", "running 1", "retry 1", "queued 1", "running 2"]);
  assert.deepEqual(
    story.attempts.map((attempt) => [attempt.number, attempt.server, attempt.outcome, attempt.kind]),
    [
      [1, "gpu-1", "retried", "error"],
      [2, "gpu-1", "succeeded", ""],
    ],
  );
  assert.equal(story.attempts[0]?.error, "the server answered 500: status 500");
  assert.equal(story.end?.status, "FINISHED");
  assert.deepEqual(
    story.actors.map((by) => by.kind),
    ["user", "worker"],
  );
});

test("phases follow each other without gaps or overlaps, up to an end", () => {
  for (const file of readdirSync(HISTORIES)) {
    const story = foldTask(history(file.replace(".json", "")));
    for (const [at, phase] of story.phases.entries()) {
      const next = story.phases[at + 1];
      const hasEnded = story.earlierEnds.some((end) => end.at === phase.to);
      if (next !== undefined && !hasEnded) assert.equal(phase.to, next.from, `${file}: ${phase.kind}`);
    }
    assert.ok(phasesUntil(story, Date.parse("2099-01-01T00:00:00Z")).every((phase) => phase.to !== null));
  }
});

test("a held task is held until it is queued", () => {
  assert.deepEqual(phases(history("delayed")).slice(0, 3), ["held", "queued", "running 1"]);
  const story = foldTask(history("held"));
  assert.equal(story.end, null);
  const until = (story.submission?.at ?? 0) + 5_000;
  assert.deepEqual(timesOf(phasesUntil(story, until)), { held: 5_000, queued: 0, retry: 0, running: 0 });
  assert.equal(story.submission?.dependsOn.length, 1);
});

test("reports give an attempt its progress over time", () => {
  const [attempt] = foldTask(history("running")).attempts;
  assert.equal(attempt?.outcome, "running");
  assert.deepEqual(
    attempt?.marks.map((mark) => [mark.progress, mark.message]),
    [
      [25, "one"],
      [50, "two"],
    ],
  );
  assert.ok((attempt?.acceptedAt ?? 0) >= (attempt?.startedAt ?? 1));
});

test("what became of a cancelled attempt is told with the attempt", () => {
  const story = foldTask(history("cancelled"));
  assert.equal(story.end?.status, "CANCELLED");
  assert.equal(story.end?.by.id, "alice");
  const [attempt] = story.attempts;
  assert.equal(attempt?.outcome, "cancelled");
  assert.equal(attempt?.error, "not needed");
  assert.equal(attempt?.cancelOutcome, "requested");
});

test("a retry by hand keeps the earlier end and the earlier attempts", () => {
  const story = foldTask(history("renewed"));
  assert.equal(story.attempts.length, 6);
  assert.equal(story.earlierEnds.length, 1);
  assert.equal(story.end?.attempt, 6);
});

test("events in any order, repeated, give the same story", () => {
  const events = history("renewed");
  assert.deepEqual(foldTask([...events.slice(4), ...events].reverse()), foldTask(events));
});

test("a history that lost its beginning is told from where it begins", () => {
  const events = history("renewed").slice(3);
  const story = foldTask(events);
  assert.equal(story.submission, null);
  assert.equal(story.end?.status, "FAILED");
  assert.deepEqual(
    story.attempts.map((attempt) => attempt.number),
    [2, 3, 4, 5, 6],
  );
  for (let at = 0; at < events.length; at += 1) foldTask(events.slice(at));
});

test("a task that fails while it waits ends no attempt", () => {
  const events = history("retried").slice(0, 3);
  const last = events[2] as TaskEvent;
  const event = { type: "TaskFailed", attempt: 1, server_id: "", kind: "deadline", error: "too late" };
  const story = foldTask([...events, { ...last, sequence: 999, event }]);
  assert.equal(story.attempts[0]?.outcome, "retried");
  assert.equal(story.end?.kind, "deadline");
});

test("a task whose next attempt is due is queued from then on", () => {
  const story = foldTask(history("retried").slice(0, 3));
  const due = story.attempts[0]?.retryAt ?? 0;
  const last = phasesUntil(story, due + 1_000).slice(-2);
  assert.deepEqual(last.map((phase) => [phase.kind, (phase.to ?? 0) - phase.from]).at(-1), ["queued", 1_000]);
});

test("every golden event of a task is folded and has words", () => {
  const files = readdirSync(GOLDEN).filter((file) => /^(Task|Attempt|Progress|Cancel)/.test(file));
  assert.ok(files.length > 30);
  files.forEach((file, sequence) => {
    const golden = JSON.parse(readFileSync(new URL(file, GOLDEN), "utf8")) as TaskEvent;
    const recorded = { ...golden, sequence };
    foldTask([recorded]);
    foldTask([...history("running"), { ...recorded, sequence: 9_999 }]);
    assert.notEqual(titleOf(recorded), golden.event.type, file);
    assert.equal(typeof detailOf(recorded), "string");
  });
});

test("an event of a later version is shown by its name", () => {
  const [first] = history("held") as [TaskEvent];
  const recorded = { ...first, sequence: 999, event: { type: "TaskMoved", to: "x" } };
  assert.equal(titleOf(recorded), "TaskMoved");
  assert.equal(foldTask([first, recorded]).lastSequence, 999);
});

test("durations of policies are read", () => {
  assert.deepEqual(
    [seconds("PT1.5S"), seconds("PT1H2M"), seconds("P1DT0S"), seconds(""), seconds("P")],
    [1.5, 3720, 86400, null, null],
  );
});
