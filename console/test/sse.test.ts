import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser, LONGEST_MESSAGE } from "../src/live/sse.ts";
import { byPhase, linear, ticks } from "../src/task/scale.ts";

const STREAM =
  'retry: 1000\nid: 5f-41\ndata: {"a":1}\n\n: heartbeat\n\ndata: {"b":"ü"}\nid: 5f-42\n\ndata:x\ndata: y\r\n\r\n';

test("messages are the same however the stream is cut", () => {
  const whole = new EventParser().push(STREAM);
  assert.deepEqual(whole, [
    { id: "5f-41", data: '{"a":1}' },
    { id: "5f-42", data: '{"b":"ü"}' },
    { id: "5f-42", data: "x\ny" },
  ]);
  for (let length = 1; length < 9; length += 1) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < STREAM.length; at += length) found.push(...parser.push(STREAM.slice(at, at + length)));
    assert.deepEqual(found, whole);
    assert.equal(parser.lastId, "5f-42");
  }
});

test("an id counts only once its message is whole", () => {
  const parser = new EventParser();
  parser.push("id: 1\ndata: a\n\nid: 2\ndata: b\n");
  assert.equal(parser.lastId, "1");
});

test("a message without an end is refused, not kept", () => {
  const parser = new EventParser();
  const piece = "x".repeat(LONGEST_MESSAGE / 4);
  assert.throws(() => {
    for (let at = 0; at < 6; at += 1) parser.push(piece);
  }, RangeError);
});

test("a second beside an hour is seen when lengths are not to scale", () => {
  const phase = { kind: "held", attempt: 0, reason: "", sequence: 1 } as const;
  const phases = [
    { ...phase, from: 0, to: 3_600_000 },
    { ...phase, kind: "running" as const, from: 3_600_000, to: 3_601_000 },
  ];
  assert.ok(1 - linear(0, 3_601_000).place(3_600_000) < 0.001);
  const scale = byPhase(phases, 0, 3_601_000);
  assert.ok(1 - scale.place(3_600_000) > 0.2);
  for (const at of [0, 1_000, 3_600_000, 3_600_500, 3_601_000]) assert.ok(Math.abs(scale.at(scale.place(at)) - at) < 1);
  assert.equal(scale.place(-5), 0);
  assert.equal(scale.place(9_999_999), 1);
});

test("an axis has round steps, and never more than fit", () => {
  assert.deepEqual(ticks(2_000, 5), [0, 500, 1000, 1500, 2000]);
  for (const length of [1, 7, 999, 61_000, 90_000_000, 10 ** 12]) assert.ok(ticks(length, 6).length <= 7);
});
