import assert from "node:assert/strict";
import { test } from "node:test";
import {
  around,
  BAD,
  decoded,
  deeperThan,
  findTokens,
  type JsonText,
  lineOf,
  pathOf,
  readJson,
  textAt,
  tokenText,
  valueAt,
  visibleLines,
} from "../src/text/json.ts";

function shown(json: JsonText): string[] {
  return json.lines.map((line) => {
    let text = " ".repeat(line.depth);
    for (let token = line.from; token < line.to; token += 1) text += tokenText(json, token);
    return text;
  });
}

test("numbers of 64 bits, duplicate keys and their order stay as they were sent", () => {
  const text = '{"z":9007199254740993,"a":1.0e+2,"z":-0.10}';
  const json = readJson(text);
  const tokens = Array.from({ length: json.tokens }, (_, token) => tokenText(json, token));
  assert.equal(tokens.join(""), text);
  assert.ok(!json.malformed);
});

test("each member of an object has a line, small brackets and numbers share one", () => {
  const json = readJson('{"a":[1,2,3],"b":{"c":{"d":null}},"e":{}, "f":[]}');
  assert.deepEqual(shown(json), [
    "{",
    ' "a":[1,2,3],',
    ' "b":{',
    '  "c":{"d":null}',
    " },",
    ' "e":{},',
    ' "f":[]',
    "}",
  ]);
});

test("a long array of numbers is packed into lines of 76 characters", () => {
  const json = readJson(JSON.stringify(Array.from({ length: 100 }, (_, at) => at * 1000)));
  assert.ok(json.lines.length > 5 && json.lines.length < 20);
  for (const line of json.lines) {
    const length = (json.ends[line.to - 1] ?? 0) - (json.starts[line.from] ?? 0);
    assert.ok(length <= 76);
  }
  assert.equal(json.lines[0]?.size, 100);
});

test("a folded bracket hides what is between its lines", () => {
  const json = readJson('{"a":{"b":{"c":[{"x":{"y":1}}]}},"d":2}');
  const opens = json.lines.findIndex((line) => line.closes >= 0 && line.depth === 1);
  const all = visibleLines(json, new Set());
  const some = visibleLines(json, new Set([opens]));
  assert.equal(all.length, json.lines.length);
  assert.deepEqual(
    some.map((at) => shown(json)[at]),
    ["{", ' "a":{', ' "d":2', "}"],
  );
});

test("folding by depth leaves an outline", () => {
  const json = readJson('[{"a":{"b":[{},{"c":[[],[1]]}]}},{"a":2}]');
  assert.ok(visibleLines(json, deeperThan(json, 1)).length < json.lines.length);
});

test("the value of a line is the text as it was sent, over all its lines", () => {
  const text = '{"a" : {"n": 12345678901234567890, "deep": {"k": {"v": 1}}}, "s": "x,y"}';
  const json = readJson(text);
  assert.equal(valueAt(json, 0), text);
  assert.equal(valueAt(json, 1), '{"n": 12345678901234567890, "deep": {"k": {"v": 1}}}');
  const last = json.lines.findIndex((line) => tokenText(json, line.from) === '"s"');
  assert.equal(valueAt(json, last), '"x,y"');
});

test("the path of a value names its keys and indexes", () => {
  const json = readJson('{"images":[{"url":"a"},{"url":"b","odd key":[true,false]}]}');
  const at = (text: string): number => {
    for (let token = json.tokens - 1; token >= 0; token -= 1) if (tokenText(json, token) === text) return token;
    return -1;
  };
  assert.equal(pathOf(json, at('"b"')), "$.images[1].url");
  assert.equal(pathOf(json, at("false")), '$.images[1]["odd key"][1]');
  assert.equal(pathOf(json, 0), "$");
});

test("a text cut anywhere is shown as far as it goes", () => {
  const text = '{"a":[1,{"b":"c\\\\"}],"d":tru';
  for (let length = 0; length <= text.length; length += 1) {
    const json = readJson(text.slice(0, length), false);
    assert.ok(!json.malformed, text.slice(0, length));
    const tokens = Array.from({ length: json.tokens }, (_, token) => tokenText(json, token));
    assert.equal(tokens.join(""), text.slice(0, length));
  }
  assert.ok(readJson('{"a":1').malformed);
});

test("what is no JSON is shown and named so", () => {
  for (const text of ["NaN", "[1,,01]", '{"a":1}}', "<script>", "{]", "{'a': 1}", "\ud800"]) {
    const json = readJson(text);
    assert.ok(json.malformed, text);
    assert.equal(json.lines.at(-1)?.to ?? 0, json.tokens);
  }
  assert.equal(readJson("01").kinds[0], BAD);
});

test("reading a hostile text takes bounded memory and time", () => {
  const deep = readJson("[".repeat(500_000));
  assert.ok(deep.more && deep.tokens === 200_000);
  const wide = readJson(`[${'"\\\\",'.repeat(300_000)}1]`);
  assert.ok(wide.more);
  const line = readJson(`"${"\\".repeat(1_000_000)}"`);
  assert.equal(line.tokens, 1);
});

test("a string is found in any case, and its brackets can be unfolded", () => {
  const json = readJson('{"a":{"b":{"c":[{"needle":{"Needle":"x NEEDLE y needle"}}]}}}');
  const found = findTokens(json, "needle");
  assert.deepEqual(
    found.map((token) => tokenText(json, token)),
    ['"needle"', '"Needle"', '"x NEEDLE y needle"'],
  );
  const line = lineOf(json, found[2] ?? 0);
  const opened = around(json, line);
  const folded = new Set(json.lines.map((_, at) => at));
  for (const at of opened) folded.delete(at);
  assert.ok(visibleLines(json, folded).includes(line));
});

test("a lone surrogate escape stays an escape in the text", () => {
  const json = readJson('["\\ud800", "\\u202eabc"]');
  assert.equal(tokenText(json, 1), '"\\ud800"');
  assert.equal(decoded('"a\\nb"'), "a\nb");
  assert.equal(decoded('"cut'), "cut");
});

test("an element is taken out of a text as it was sent", () => {
  const json = readJson('{"taskId":"x","events":[{"a":[1, 2]},{"event":{"n":12345678901234567890}}],"total":2}');
  assert.equal(textAt(json, ["events", 1]), '{"event":{"n":12345678901234567890}}');
  assert.equal(textAt(json, ["events", 0, "a"]), "[1, 2]");
  assert.equal(textAt(json, ["total"]), "2");
  assert.equal(textAt(json, ["events", 2]), null);
  assert.equal(textAt(json, ["events", "a"]), null);
  assert.equal(textAt(readJson('{"a":{"b":1', false), ["a"]), null);
});
