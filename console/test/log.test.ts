import assert from "node:assert/strict";
import { test } from "node:test";
import { findRows, LogBuffer, type Row, windowOf } from "../src/text/log.ts";
import { beginning, isPlain, visible } from "../src/text/visible.ts";

function plain(row: Row | undefined): string {
  return (row?.spans ?? []).map((span) => span.text).join("");
}

function rows(log: LogBuffer): string[] {
  return log.rows.map(plain);
}

const ESC = "\u001b";

test("colours become tokens, and hold over lines and pieces", () => {
  const log = new LogBuffer();
  log.output(`a ${ESC}[1;31mred`);
  log.output(`\nstill ${ESC}`);
  log.output("[0mplain");
  assert.deepEqual(rows(log), ["a red", "still plain"]);
  assert.equal(log.rows[0]?.spans[1]?.style.color, 1);
  assert.equal(log.rows[1]?.spans[0]?.style.bold, true);
  assert.equal(log.rows[1]?.spans[1]?.style.color, -1);
});

test("colours of 256 and of 16 million become the nearest of sixteen", () => {
  const log = new LogBuffer();
  log.output(`${ESC}[38;5;196ma${ESC}[38;2;0;200;10mb${ESC}[48;5;4mc${ESC}[38:5:21md`);
  assert.deepEqual(
    log.rows[0]?.spans.map((span) => span.style.color),
    [9, 2, 2, 4],
  );
  assert.equal(log.rows[0]?.spans[2]?.style.ground, 4);
});

test("sequences that move, link or set titles are dropped", () => {
  const log = new LogBuffer();
  log.output(
    `${ESC}[2J${ESC}[10;10Ha${ESC}]0;title\u0007b${ESC}]8;;http://evil/${ESC}\\link${ESC}]8;;${ESC}\\${ESC}(Bc\u0008\u0000`,
  );
  assert.deepEqual(rows(log), ["ablinkc"]);
});

test("a sequence without an end does not swallow the text", () => {
  const log = new LogBuffer();
  log.output(`${ESC}]0;${"x".repeat(5000)}\nnext`);
  assert.equal(rows(log).at(-1), "next");
  log.output(`${ESC}[${"1;".repeat(1000)}`);
  log.output("\nlast");
  assert.equal(rows(log).at(-1), "last");
});

test("a carriage return writes the line anew, also across pieces", () => {
  const log = new LogBuffer();
  log.output("10 %\r");
  log.output("20 %\r30 %\r\ndone\r\n");
  log.output("x");
  assert.deepEqual(rows(log), ["30 %", "done", "x"]);
});

test("log lines and output do not run into each other", () => {
  const log = new LogBuffer();
  log.output("to");
  log.output("ken");
  log.line("a line");
  log.output("more\n\nend");
  assert.deepEqual(rows(log), ["token", "a line", "more", "", "end"]);
  assert.deepEqual(
    log.rows.map((row) => row.source),
    ["output", "log", "output", "output", "output"],
  );
});

test("a line of a megabyte is many rows and the same text", () => {
  const log = new LogBuffer();
  const long = "é😀".repeat(350_000);
  log.line(long);
  assert.ok(log.rows.length > 400);
  assert.ok(log.rows.every((row) => plain(row).length <= 2000));
  assert.equal(log.text(), long);
});

test("a log keeps its newest rows and counts those it dropped", () => {
  const log = new LogBuffer({ rows: 100, characters: 1_000, columns: 50 });
  for (let at = 0; at < 250; at += 1) log.line(`line ${at}`);
  assert.equal(log.rows.length + log.dropped, 250);
  assert.ok(log.rows.length <= 100);
  assert.equal(plain(log.rows.at(-1)), "line 249");
  log.line("y".repeat(5_000));
  assert.ok(log.rows.reduce((sum, row) => sum + plain(row).length, 0) <= 1_050);
});

test("a view needs the rows around what is seen", () => {
  assert.deepEqual(windowOf(0, 400, 20, 10_000), [0, 40]);
  assert.deepEqual(windowOf(100_000, 400, 20, 10_000), [4980, 5040]);
  assert.deepEqual(windowOf(10_000_000, 400, 20, 10), [9, 10]);
});

test("rows are found in any case", () => {
  const log = new LogBuffer();
  log.line(`an ${ESC}[31mErr${ESC}[0mor`);
  log.line("fine");
  assert.deepEqual(findRows(log.rows, "error"), [0]);
});

test("marks of direction, controls and half characters are named", () => {
  const shown = visible("a\u202eb\u0000\ud800c\ud83d\ude00");
  assert.deepEqual(
    shown.map((run) => run.text),
    ["a", "U+202E", "b", "U+0000", "U+D800", "c😀"],
  );
  assert.ok(!isPlain("abc\u202e") && isPlain("<b>é😀\n"));
  assert.deepEqual(visible("abc\u202e")[1]?.text, "U+202E");
  assert.deepEqual(visible("<b>"), [{ text: "<b>", isMark: false }]);
  assert.equal(beginning("a😀b", 2), "a");
});
