import assert from "node:assert/strict";
import { test } from "node:test";
import { sequenceOf } from "../../src/follow.ts";
import { parse, stringify } from "../../src/json.ts";
import { EventParser } from "../../src/sse.ts";
import { expiryOf, renewalOf, TokenSource } from "../../src/token.ts";

const STREAM =
  'retry: 1000\r\nid: 1\r\ndata: {"a":1}\r\n\r\n: heartbeat\n\nid: 2\ndata: one\ndata: two\n\nid: 3\ndata: cut';

test("a stream has the same messages however it is cut", () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const parser = new EventParser();
    const blocks = [];
    for (let at = 0; at < STREAM.length; at += size) blocks.push(...parser.push(STREAM.slice(at, at + size)));
    assert.deepEqual(blocks, [
      { id: "1", data: '{"a":1}' },
      { id: "2", data: "one\ntwo" },
    ]);
  }
});

test("long integers are BigInts, and nothing else is", () => {
  const text =
    '{"a":9007199254740993,"b":"9007199254740993","c":9007199254740991,"d":1e300,"e":0.12345678901234568,"\\"1":-12345678901234567890}';
  assert.deepEqual(parse(text, true), {
    a: 9007199254740993n,
    b: "9007199254740993",
    c: 9007199254740991,
    d: 1e300,
    e: 0.12345678901234568,
    '"1': -12345678901234567890n,
  });
  assert.equal((parse(text, false) as { a: unknown }).a, 9007199254740992);
});

test("a BigInt is sent as an integer, and a text that looks like one as text", () => {
  const value = { a: 9007199254740993n, b: "9007199254740993", c: [-1n], d: 'int-0:5"' };
  assert.equal(stringify(value), '{"a":9007199254740993,"b":"9007199254740993","c":[-1],"d":"int-0:5\\""}');
  assert.deepEqual(parse(stringify(value), true), { ...value, c: [-1] });
  assert.throws(() => stringify(undefined), TypeError);
});

const jwt = (exp: unknown) => `h.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.s`;

test("a token is renewed a minute early, or after nine tenths of a short life", () => {
  assert.equal(renewalOf(jwt(3600), 0), 3_540_000);
  assert.equal(renewalOf(jwt(100), 0), 90_000);
  assert.equal(renewalOf("opaque", 0), Number.POSITIVE_INFINITY);
  assert.equal(expiryOf(jwt("soon")), null);
  assert.equal(expiryOf("a.%%%.c"), null);
});

test("all who need a token wait for the same one", async () => {
  let asked = 0;
  const source = new TokenSource(null, async () => jwt(asked++ ? 4e9 : 1));
  const first = await Promise.all([source.token(), source.token()]);
  assert.deepEqual(first, [jwt(1), jwt(1)]);
  await source.token();
  assert.equal(asked, 2);
  assert.equal(await source.replaced("another"), jwt(4e9));
  assert.equal(asked, 2);
});

test("a token that cannot be had is asked for again", async () => {
  let asked = 0;
  const source = new TokenSource(null, () => {
    if (!asked++) throw new Error("signed out");
    return "token";
  });
  await assert.rejects(source.token(), /signed out/);
  assert.equal(await source.token(), "token");
});

test("the number of an event is found in an id", () => {
  assert.equal(sequenceOf("41"), 41);
  assert.equal(sequenceOf("5f0c9e1b-41"), 41);
  assert.equal(sequenceOf("5f0c9e1b-41;x-7:1:2:3"), 41);
  assert.equal(sequenceOf(""), null);
  assert.equal(sequenceOf("nonsense"), null);
});
