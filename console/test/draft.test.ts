import assert from "node:assert/strict";
import { test } from "node:test";
import { asCurl, EMPTY, exampleOf, placeOf, requestOf, stepsOf, syntaxError } from "../src/submit/draft.ts";

test("the payload goes into the request as it was written", () => {
  const payload = '{"z": 9007199254740993,\n "a": 1.0, "a": 1e400}';
  const { text, problems } = requestOf({ ...EMPTY, type: "resize", payload });
  assert.equal(text, `{"type": "resize", "payload": ${payload}}`);
  assert.deepEqual(problems, {});
});

test("only what was filled in is sent", () => {
  const { text } = requestOf({
    ...EMPTY,
    priority: "high",
    attempts: "5",
    start: "delay",
    delay: "1.5",
    runAt: "2026-01-01T00:00",
    dependsOn: "01A~alice\n01B~alice",
    require: "gpu=a100\nnote=a=b",
    deadline: "2030-01-01T00:00:00Z",
  });
  assert.deepEqual(JSON.parse(text), {
    type: "default",
    payload: {},
    priority: "high",
    attempts: 5,
    delay: 1.5,
    deadline: "2030-01-01T00:00:00.000Z",
    dependsOn: ["01A~alice", "01B~alice"],
    onParentFailure: "fail",
    require: { gpu: "a100", note: "a=b" },
  });
});

test("what is wrong is told at its path, before anything is sent", () => {
  const draft = { ...EMPTY, type: " ", payload: "{", attempts: "x", require: "gpu", expiresAt: "soon" };
  assert.deepEqual(Object.keys(requestOf(draft).problems).sort(), [
    "$.attempts",
    "$.expiresAt",
    "$.payload",
    "$.require",
    "$.type",
  ]);
});

test("a syntax error names its line", () => {
  assert.match(syntaxError('{"a": 1,\n"b": 2,\n}'), /line 3/);
  assert.match(syntaxError(""), /must not be empty/);
  assert.equal(syntaxError("null"), "");
});

test("a path of the service leads to its place in the payload, or to what is around it", () => {
  const payload = '{"images": [{"url": "a"}, {"url": 7}]}';
  assert.equal(placeOf(payload, "$.payload.images[1].url"), payload.indexOf("7"));
  assert.equal(placeOf(payload, "$.payload.images[1].width"), payload.lastIndexOf("{"));
  assert.equal(placeOf(payload, "$.payload"), 0);
  assert.equal(placeOf(payload, "$.timeout"), null);
  assert.deepEqual(stepsOf('$.a["odd \\"key"][2]'), ["a", 'odd "key', 2]);
});

test("the command has the body as it is, whatever is in it", () => {
  const command = asCurl("http://localhost/api/task", '{"a": "it\'s\nEOF"}\nEOF');
  assert.match(command, /<<'EOF_'\n/);
  assert.ok(command.endsWith("\nEOF\nEOF_"));
  assert.ok(!command.includes("eyJ"));
});

test("a schema gives a payload to begin with", () => {
  const schema = {
    type: "object",
    required: ["url", "width", "tags"],
    properties: {
      url: { type: "string", examples: ["https://example.org/a.png"] },
      width: { type: "integer", minimum: 1 },
      tags: { type: "array", items: { enum: ["a", "b"] } },
      more: { type: "boolean" },
    },
  };
  assert.deepEqual(exampleOf(schema), { url: "https://example.org/a.png", width: 1, tags: ["a"] });
  assert.equal(exampleOf(true), null);
});
