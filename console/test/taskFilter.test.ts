import assert from "node:assert/strict";
import { test } from "node:test";
import { bulkFilter, filterOf, fixed, inWords, isEmpty, isPreset, PRESETS } from "../src/text/taskFilter.ts";

const NOW = Date.UTC(2026, 0, 2, 12, 0, 0);

test("the filter of an address is what selects tasks, and nothing else", () => {
  const query = new URLSearchParams("status=FAILED&sort=-ended&view=errors&label.gpu=a100&cursor=7&type=&payload.=x");
  assert.equal(filterOf(query).toString(), "status=FAILED&label.gpu=a100");
});

test("a list and a bulk command of the same address mean the same tasks", () => {
  const filter = new URLSearchParams(
    "status=FAILED,CANCELLED&type=a&type=b&attempts=2&label.gpu=a100&payload.customer=acme&error=out of",
  );
  assert.deepEqual(bulkFilter(filter), {
    status: ["FAILED", "CANCELLED"],
    type: ["a", "b"],
    attempts: 2,
    labels: { gpu: "a100" },
    payload: { customer: "acme" },
    error: "out of",
  });
});

test("times ago become instants once, so a dry run and its run mean the same time", () => {
  const filter = fixed(
    new URLSearchParams("endedSince=1h&createdSince=90s&endedBefore=2026-01-01T00:00:00Z&minRun=5m"),
    NOW,
  );
  assert.equal(filter.get("endedSince"), "2026-01-02T11:00:00.000Z");
  assert.equal(filter.get("createdSince"), "2026-01-02T11:58:30.000Z");
  assert.equal(filter.get("endedBefore"), "2026-01-01T00:00:00Z");
  assert.equal(filter.get("minRun"), "5m");
});

test("a filter of an owner alone selects everything of that owner", () => {
  assert.ok(isEmpty(new URLSearchParams("owner=*")));
  assert.ok(!isEmpty(new URLSearchParams("owner=*&status=FAILED")));
});

test("a filter is said in words", () => {
  assert.equal(
    inWords(new URLSearchParams("status=FAILED&type=resize&endedSince=1h")),
    "failed · type resize · ended since 1h",
  );
  assert.equal(inWords(new URLSearchParams()), "all tasks");
});

test("an address that a preset made is recognized, whatever the order of its parameters", () => {
  for (const preset of PRESETS) {
    const turned = new URLSearchParams([...new URLSearchParams(preset.query)].reverse());
    turned.set("view", "list");
    assert.deepEqual(
      PRESETS.filter((each) => isPreset(turned, each)).map((each) => each.name),
      [preset.name],
    );
  }
});
