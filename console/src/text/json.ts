// JSON as it was stored: tokens and lines over the text, never its values. 64-bit numbers, the order of keys, duplicate
// keys and escapes appear as they were sent. A text may be cut anywhere: what is left is shown as far as it goes.

export const PUNCTUATION = 0;
export const KEY = 1;
export const STRING = 2;
export const NUMBER = 3;
export const WORD = 4;
/** Text that is no JSON. */
export const BAD = 5;

export interface Line {
  /** Levels of brackets around it. */
  depth: number;
  /** Its first token. */
  from: number;
  /** The token after its last. */
  to: number;
  /** The line with the closing bracket of the bracket that this line opens; -1: it opens none, or the text ends before. */
  closes: number;
  /** Elements of that bracket. */
  size: number;
  /** The line that opens the bracket around this line; -1: none. */
  parent: number;
}

export interface JsonText {
  text: string;
  kinds: Uint8Array;
  starts: Uint32Array;
  ends: Uint32Array;
  tokens: number;
  lines: Line[];
  /** True: there are more tokens than were read. */
  more: boolean;
  /** True: something in it is no JSON. */
  malformed: boolean;
}

/** Tokens that are read: about 1 MB of dense JSON. */
export const MOST_TOKENS = 200_000;
/** Characters of a line that holds several elements. */
const WIDTH = 76;

const QUOTE = 34;
const BACKSLASH = 92;

function isSpace(code: number): boolean {
  return code === 32 || code === 10 || code === 13 || code === 9;
}

/** True for what may be within a number or a word such as `null`. */
function isWord(code: number): boolean {
  return (
    (code >= 48 && code <= 57) ||
    (code >= 97 && code <= 122) ||
    (code >= 65 && code <= 90) ||
    code === 43 ||
    code === 45 ||
    code === 46
  );
}

/** The place after the string that begins at `start`; the end of the text if nothing closes it. */
function endOfString(text: string, start: number): number {
  let at = start + 1;
  for (;;) {
    const quote = text.indexOf('"', at);
    if (quote < 0) return text.length;
    let backslashes = 0;
    while (text.charCodeAt(quote - 1 - backslashes) === BACKSLASH && quote - 1 - backslashes > start) backslashes += 1;
    if (backslashes % 2 === 0) return quote + 1;
    at = quote + 1;
  }
}

const NUMBER_FORM = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
const WORDS = new Set(["true", "false", "null"]);

/** Lay out a JSON text in lines. `whole`: false if the text was cut, so that its end is not an error. */
export function readJson(text: string, whole = true, mostTokens = MOST_TOKENS): JsonText {
  const room = Math.min(mostTokens, text.length) + 1;
  const kinds = new Uint8Array(room);
  const starts = new Uint32Array(room);
  const ends = new Uint32Array(room);
  const layout = new Layout(kinds, starts, ends);
  let tokens = 0;
  let at = text.charCodeAt(0) === 0xfeff ? 1 : 0;
  let malformed = false;
  let more = false;
  while (at < text.length) {
    const code = text.charCodeAt(at);
    if (isSpace(code)) {
      at += 1;
      continue;
    }
    if (tokens >= mostTokens) {
      more = true;
      break;
    }
    let kind = PUNCTUATION;
    let end = at + 1;
    if (code === QUOTE) {
      end = endOfString(text, at);
      kind = layout.expectsKey ? KEY : STRING;
    } else if (!(code === 123 || code === 125 || code === 91 || code === 93 || code === 44 || code === 58)) {
      while (end < text.length && isWord(text.charCodeAt(end))) end += 1;
      const word = text.slice(at, Math.min(end, at + 1000));
      const isCut = !whole && end === text.length;
      kind = NUMBER_FORM.test(word) ? NUMBER : WORDS.has(word) ? WORD : isCut ? WORD : BAD;
      malformed ||= kind === BAD;
    }
    kinds[tokens] = kind;
    starts[tokens] = at;
    ends[tokens] = end;
    malformed = layout.add(tokens, kind === PUNCTUATION ? code : 0) || malformed;
    tokens += 1;
    at = end;
  }
  layout.finish(tokens);
  const isOpen = layout.depth > 0;
  return {
    text,
    kinds,
    starts,
    ends,
    tokens,
    lines: layout.lines,
    more,
    malformed: malformed || (whole && !more && isOpen),
  };
}

interface Open {
  line: number;
  isArray: boolean;
  size: number;
  /** True while every element is a scalar, so that the bracket may fit in one line. */
  isFlat: boolean;
}

/** Puts tokens into lines: a member of an object each, and as many scalars of an array as fit. */
class Layout {
  readonly lines: Line[] = [];
  expectsKey = false;
  private readonly open: Open[] = [];
  private line: Line | null = null;
  private width = 0;
  /** The last token was the comma after a scalar of an array: the next one may stay in the line. */
  private mayStay = false;

  private readonly kinds: Uint8Array;
  private readonly starts: Uint32Array;
  private readonly ends: Uint32Array;

  constructor(kinds: Uint8Array, starts: Uint32Array, ends: Uint32Array) {
    this.kinds = kinds;
    this.starts = starts;
    this.ends = ends;
  }

  get depth(): number {
    return this.open.length;
  }

  /** Add a token; return true if it may not be here. */
  add(token: number, code: number): boolean {
    const length = (this.ends[token] ?? 0) - (this.starts[token] ?? 0);
    const top = this.open[this.open.length - 1];
    if (code === 125 || code === 93) return this.close(token, code === 93);
    if (code === 44 || code === 58) {
      const isWrong = top === undefined || (code === 58 && top.isArray);
      this.put(token, length + 1);
      if (code === 44) {
        this.mayStay = top?.isArray === true && this.kinds[token - 1] !== PUNCTUATION;
        if (!this.mayStay) this.line = null;
        this.expectsKey = top !== undefined && !top.isArray;
      } else {
        this.expectsKey = false;
      }
      return isWrong;
    }
    const opens = code === 123 || code === 91;
    if (this.mayStay && (opens || this.width + length > WIDTH)) this.line = null;
    this.mayStay = false;
    if (top !== undefined && this.startsElement(token)) top.size += 1;
    this.put(token, length);
    if (opens) {
      if (top !== undefined) top.isFlat = false;
      this.open.push({ line: this.lines.length - 1, isArray: code === 91, size: 0, isFlat: true });
      this.line = null;
      this.expectsKey = code === 123;
    }
    return false;
  }

  finish(tokens: number): void {
    const last = this.lines[this.lines.length - 1];
    if (last !== undefined) last.to = tokens;
    for (const open of this.open) {
      const line = this.lines[open.line];
      if (line !== undefined) line.size = open.size;
    }
  }

  private startsElement(token: number): boolean {
    const top = this.open[this.open.length - 1];
    return top?.isArray === true || this.kinds[token] === KEY;
  }

  private put(token: number, width: number): void {
    if (this.line === null) {
      const parent = this.open[this.open.length - 1]?.line ?? -1;
      this.line = { depth: this.open.length, from: token, to: token, closes: -1, size: 0, parent };
      this.lines.push(this.line);
      this.width = this.line.depth * 2;
    }
    this.line.to = token + 1;
    this.width += width;
  }

  private close(token: number, isArray: boolean): boolean {
    const top = this.open.pop();
    this.mayStay = false;
    this.line = null;
    const parent = this.open[this.open.length - 1];
    this.expectsKey = false;
    if (top === undefined) {
      this.put(token, 1);
      return true;
    }
    const first = this.lines[top.line] as Line;
    if (this.fits(top, first, token)) {
      this.lines.length = top.line + 1;
      first.to = token + 1;
      this.line = first;
      this.width = this.widthOf(first);
    } else {
      first.size = top.size;
      first.closes = this.lines.length;
      this.put(token, 1);
    }
    if (parent !== undefined && this.lines.length - 1 !== top.line) parent.isFlat = false;
    return top.isArray !== isArray;
  }

  /** True if a bracket with its elements fits in the line that opens it. */
  private fits(open: Open, first: Line, token: number): boolean {
    if (open.size === 0) return true;
    if (!open.isFlat || this.lines.length - open.line > 9 || (!open.isArray && open.size > 4)) return false;
    const opener = first.to - 1;
    const length = (this.ends[token] ?? 0) - (this.starts[opener] ?? 0);
    return length <= 4 * WIDTH && this.widthOf({ ...first, to: token + 1 }) <= WIDTH;
  }

  private widthOf(line: Line): number {
    let width = line.depth * 2;
    for (let token = line.from; token < line.to; token += 1) {
      width += (this.ends[token] ?? 0) - (this.starts[token] ?? 0) + 1;
    }
    return width;
  }
}

/** The lines that are seen when some are folded. */
export function visibleLines(json: JsonText, folded: ReadonlySet<number>): number[] {
  const seen: number[] = [];
  for (let at = 0; at < json.lines.length; at += 1) {
    seen.push(at);
    const closes = json.lines[at]?.closes ?? -1;
    if (folded.has(at) && closes >= 0) at = closes;
  }
  return seen;
}

/** The lines whose brackets are at this depth or deeper: folding them leaves an outline. */
export function deeperThan(json: JsonText, depth: number): Set<number> {
  const folded = new Set<number>();
  json.lines.forEach((line, at) => {
    if (line.depth >= depth && line.closes >= 0) folded.add(at);
  });
  return folded;
}

export function tokenText(json: JsonText, token: number): string {
  return json.text.slice(json.starts[token], json.ends[token]);
}

/** The value that begins in a line, as it was sent: for a member without its key. */
export function valueAt(json: JsonText, at: number): string {
  const line = json.lines[at];
  if (line === undefined) return "";
  const isMember = json.kinds[line.from] === KEY;
  const first = isMember ? line.from + 2 : line.from;
  const start = json.starts[first];
  if (start === undefined || first >= json.tokens) return "";
  if (line.closes >= 0) {
    const last = json.lines[line.closes];
    return json.text.slice(start, json.ends[last?.from ?? first]);
  }
  let last = line.to - 1;
  if (json.kinds[last] === PUNCTUATION && json.text.charCodeAt(json.starts[last] ?? 0) === 44) last -= 1;
  return json.text.slice(start, json.ends[last]);
}

const PLAIN_NAME = /^[A-Za-z_$][\w$]*$/;

/** The path of the element that a token is of, as in `$.images[3].url`. */
export function pathOf(json: JsonText, wanted: number): string {
  const path: { isArray: boolean; index: number; key: string }[] = [];
  for (let token = 0; token <= wanted && token < json.tokens; token += 1) {
    const top = path[path.length - 1];
    if (json.kinds[token] === KEY && top !== undefined) top.key = tokenText(json, token);
    if (json.kinds[token] !== PUNCTUATION) continue;
    const code = json.text.charCodeAt(json.starts[token] ?? 0);
    if (code === 44 && top !== undefined) top.index += 1;
    if ((code === 123 || code === 91) && token < wanted) path.push({ isArray: code === 91, index: 0, key: "" });
    if (code === 125 || code === 93) path.pop();
  }
  return `$${path.map((step) => (step.isArray ? `[${step.index}]` : member(step.key))).join("")}`;
}

function member(key: string): string {
  if (key === "") return "";
  const name = key.slice(1, -1);
  return PLAIN_NAME.test(name) ? `.${name}` : `[${key}]`;
}

/** The text that a string stands for. Escapes that are none stay as they are. */
export function decoded(literal: string): string {
  try {
    const value: unknown = JSON.parse(literal);
    return typeof value === "string" ? value : literal;
  } catch {
    return literal.slice(1);
  }
}

export const MOST_FOUND = 1_000;

/** The tokens that contain a text, upper and lower case alike. */
export function findTokens(json: JsonText, text: string): number[] {
  const found: number[] = [];
  if (text === "") return found;
  const wanted = text.toLowerCase();
  const all = json.text.toLowerCase();
  // Some letters change their length with their case; then the places would be wrong.
  const haystack = all.length === json.text.length ? all : json.text;
  let token = 0;
  let at = haystack.indexOf(wanted);
  while (at >= 0 && found.length < MOST_FOUND) {
    while (token < json.tokens && (json.ends[token] ?? 0) <= at) token += 1;
    if (token >= json.tokens) break;
    found.push(token);
    at = haystack.indexOf(wanted, json.ends[token] ?? at + 1);
  }
  return found;
}

/** The line that a token is in. */
export function lineOf(json: JsonText, token: number): number {
  let low = 0;
  let high = json.lines.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((json.lines[middle]?.from ?? 0) <= token) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The lines to unfold so that a line is seen. */
export function around(json: JsonText, line: number): number[] {
  const lines: number[] = [];
  for (let at = json.lines[line]?.parent ?? -1; at >= 0; at = json.lines[at]?.parent ?? -1) lines.push(at);
  return lines;
}

/** The text of a member of an object, or of an element of an array, found by keys and indexes; null: it is not there. */
export function textAt(json: JsonText, path: readonly (string | number)[]): string | null {
  const token = tokenAt(json, path);
  const end = token === null ? null : endOfValue(json, token);
  return end === null ? null : json.text.slice(json.starts[token as number], json.ends[end]);
}

/** Where in the text that value begins; null: it is not there. */
export function offsetAt(json: JsonText, path: readonly (string | number)[]): number | null {
  const token = tokenAt(json, path);
  return token === null || token >= json.tokens ? null : (json.starts[token] ?? null);
}

function tokenAt(json: JsonText, path: readonly (string | number)[]): number | null {
  let token = 0;
  for (const step of path) {
    const found = elementAt(json, token, step);
    if (found === null) return null;
    token = found;
  }
  return token;
}

function codeAt(json: JsonText, token: number): number {
  return json.kinds[token] === PUNCTUATION ? json.text.charCodeAt(json.starts[token] ?? 0) : 0;
}

/** The last token of the value that begins with a token; null: the text ends before. */
function endOfValue(json: JsonText, first: number): number | null {
  let depth = 0;
  for (let token = first; token < json.tokens; token += 1) {
    const code = codeAt(json, token);
    if (code === 123 || code === 91) depth += 1;
    if (code === 125 || code === 93) depth -= 1;
    if (depth === 0) return token;
  }
  return null;
}

function elementAt(json: JsonText, opener: number, step: string | number): number | null {
  const wanted = typeof step === "number" ? 91 : 123;
  if (codeAt(json, opener) !== wanted) return null;
  let token = opener + 1;
  for (let index = 0; token < json.tokens && codeAt(json, token) !== 93 && codeAt(json, token) !== 125; index += 1) {
    const value = wanted === 123 ? token + 2 : token;
    if (wanted === 123 ? decoded(tokenText(json, token)) === step : index === step) {
      return value < json.tokens ? value : null;
    }
    const end = endOfValue(json, value);
    if (end === null || codeAt(json, end + 1) !== 44) return null;
    token = end + 2;
  }
  return null;
}
