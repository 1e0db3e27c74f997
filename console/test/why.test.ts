import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { advice, type Hold, headline, mayRetry, rowsOf, saying, verdictParts, type Why } from "../src/fold/why.ts";

/** An answer as a service gave it. */
function answer(name: string): Why {
  return JSON.parse(readFileSync(new URL(`answers/why-${name}.json`, import.meta.url), "utf8")) as Why;
}

const TASK = { type: "a b", owner: "alice" };

function held(kind: string, data: Hold["data"]): Why {
  const why = answer("held");
  return { ...why, holds: [{ kind, since: 1, text: "a text", release: "a release", data }] };
}

test("a task that waits for its parents names and links them", () => {
  const [row] = rowsOf(answer("held"), TASK);
  assert.equal(headline(answer("held")), "Held");
  assert.equal(row?.parents.length, 1);
  assert.equal(row?.moreParents, 0);
  assert.match(row?.text ?? "", /^1 task that it depends on/);
});

test("a task that no server can take leads to the fleet, for those who may see it", () => {
  const [row] = rowsOf(answer("unserved"), TASK);
  assert.deepEqual(row?.link, { to: "#/fleet", label: "fleet", needs: "readAll" });
  assert.equal(saying(answer("unserved")), "No server can take it");
  assert.deepEqual(
    verdictParts(answer("unserved")).map((part) => [part.count, part.isGood]),
    [[4, false]],
  );
});

test("a limit shows its use, what comes first and when it opens", () => {
  const [row] = rowsOf(held("type-limit", { counted: 7, concurrency: 4, ahead: 37, opensAt: 5 }), TASK);
  assert.deepEqual(row?.meter, { used: 7, most: 4 });
  assert.equal(row?.ahead, 37);
  assert.equal(row?.until, 5);
  assert.equal(row?.link?.to, "#/types/a%20b");
});

test("a rate limit has no meter, and a hold of a later version is shown in its own words", () => {
  assert.equal(rowsOf(held("owner-limit", { concurrency: null, perSecond: 2 }), TASK)[0]?.meter, null);
  assert.equal(rowsOf(held("moon-phase", {}), TASK)[0]?.title, "moon-phase");
});

test("a failed task says what can be done, without the call that does it", () => {
  const why = answer("failed");
  assert.equal(headline(why), "Failed");
  assert.equal(advice(why), "Retry it");
  assert.ok(mayRetry(why));
  assert.match(saying(why), /^It failed for good, on attempt 3 of 3/);
});

test("a finished or running task advises nothing", () => {
  assert.equal(advice(answer("retried")), "");
  assert.equal(advice(answer("running")), "");
  assert.ok(!mayRetry(answer("retried")));
});

test("a task that is too late is not to be retried", () => {
  const why = answer("failed");
  const ended = { ...(why.ended as NonNullable<Why["ended"]>) };
  ended.release = "submit it again with a new `deadline`: POST /api/task";
  assert.ok(!mayRetry({ ...why, ended }));
  assert.equal(advice({ ...why, ended }), "Submit it again with a new `deadline`");
});
