import assert from "node:assert/strict";
import { test } from "node:test";
import { rank } from "../src/frame/rank.ts";

const items = ["Tasks", "render", "Retry the row", "gpu-7", "Overview"].map((text) => ({ text, note: "" }));
const texts = (typed: string) => rank(typed, items).map((item) => item.text);

test("what begins with the letters comes first, then words that do, then the rest", () => {
  assert.deepEqual(texts("re"), ["render", "Retry the row", "Overview"]);
  assert.deepEqual(texts("7"), ["gpu-7"]);
  assert.deepEqual(texts("row"), ["Retry the row"]);
});

test("nothing typed lists all, and what fits nothing lists nothing", () => {
  assert.equal(texts(" ").length, items.length);
  assert.deepEqual(texts("zzz"), []);
});
