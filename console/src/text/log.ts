// Output and log lines of a task: pieces of text that arrive, kept as rows in bounded memory. ANSI colours become tokens;
// every other escape sequence is dropped, and nothing is ever markup.

/** 0 to 15: a colour of the terminal's sixteen; -1: none. */
export interface Style {
  color: number;
  ground: number;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
}

export interface Span {
  text: string;
  style: Style;
}

export interface Row {
  spans: Span[];
  /** The channel that it came by: `output`, `log` or `mark`. */
  source: Source;
  /** True: it goes on the line before, which was too long for one row. */
  goesOn: boolean;
}

export type Source = "output" | "log" | "mark";

export interface LogBounds {
  rows: number;
  /** Characters in all rows. */
  characters: number;
  /** Characters of a row. A longer line goes on in the next. */
  columns: number;
}

export const LOG_BOUNDS: LogBounds = { rows: 20_000, characters: 8_000_000, columns: 2_000 };

export const PLAIN: Style = { color: -1, ground: -1, bold: false, dim: false, italic: false, underline: false };

/** A sequence longer than this is none. */
const LONGEST_SEQUENCE = 256;
const ESCAPE = "\u001b";

/** A terminal's view of a text: style and position are kept from one piece to the next. */
export class LogBuffer {
  rows: Row[] = [];
  /** Rows that were dropped at the beginning. */
  dropped = 0;
  /** Grows with each change. */
  version = 0;
  private readonly bounds: LogBounds;
  private characters = 0;
  private readonly channels: Record<Source, Channel> = {
    output: new Channel(),
    log: new Channel(),
    mark: new Channel(),
  };
  private current: Source | null = null;

  constructor(bounds: LogBounds = LOG_BOUNDS) {
    this.bounds = bounds;
  }

  /** Add a piece of output. The last line goes on with the next piece. */
  output(text: string): void {
    this.write("output", text);
  }

  /** Add a whole line of the log. */
  line(text: string, source: Source = "log"): void {
    if (this.current !== null) this.end(this.current);
    this.write(source, text);
    this.end(source);
  }

  /** Forget everything. */
  clear(): void {
    this.rows = [];
    this.dropped = 0;
    this.characters = 0;
    this.current = null;
    for (const channel of Object.values(this.channels)) {
      channel.style = PLAIN;
      channel.row = null;
      channel.width = 0;
      channel.pending = "";
    }
    this.version += 1;
  }

  /** The text of all rows, without styles. */
  text(): string {
    const parts: string[] = [];
    this.rows.forEach((row, at) => {
      if (at > 0 && !row.goesOn) parts.push("\n");
      for (const span of row.spans) parts.push(span.text);
    });
    return parts.join("");
  }

  private write(source: Source, text: string): void {
    if (text === "") return;
    if (this.current !== null && this.current !== source) this.end(this.current);
    this.current = source;
    const channel = this.channels[source];
    const all = channel.pending + text;
    channel.pending = "";
    let at = 0;
    let plain = 0;
    const flush = (end: number): void => {
      if (end > plain) this.put(source, channel, all.slice(plain, end));
    };
    while (at < all.length) {
      const code = all.charCodeAt(at);
      if (code >= 32 && code !== 127 && !(code >= 0x80 && code <= 0x9f)) {
        at += 1;
        continue;
      }
      if (code === 9) {
        at += 1;
        continue;
      }
      flush(at);
      if (code === 27) {
        const end = endOfSequence(all, at);
        if (end === 0) {
          channel.pending = all.slice(at);
          at = all.length;
        } else {
          apply(channel, all.slice(at, end));
          at = end;
        }
      } else {
        if (code === 13 && at + 1 === all.length) {
          channel.pending = "\r";
        } else if (code === 13 && all.charCodeAt(at + 1) !== 10) {
          this.restart(channel);
        } else if (code === 10) {
          channel.row ??= this.start(source, false);
          channel.row = null;
        }
        at += 1;
      }
      plain = at;
    }
    flush(at);
    this.version += 1;
    this.trim();
  }

  private end(source: Source): void {
    const channel = this.channels[source];
    channel.row = null;
    channel.pending = "";
    this.current = null;
  }

  private start(source: Source, goesOn: boolean): Row {
    const row: Row = { spans: [], source, goesOn };
    this.rows.push(row);
    return row;
  }

  /** A carriage return: the line is written anew, as progress bars do. */
  private restart(channel: Channel): void {
    while (channel.row?.goesOn === true && this.rows[this.rows.length - 1] === channel.row) {
      this.characters -= channel.width;
      this.rows.pop();
      channel.row = this.rows[this.rows.length - 1] ?? null;
      channel.width = channel.row === null ? 0 : widthOf(channel.row);
    }
    if (channel.row !== null) {
      this.characters -= channel.width;
      channel.row.spans = [];
    }
    channel.width = 0;
  }

  private put(source: Source, channel: Channel, text: string): void {
    let at = 0;
    while (at < text.length) {
      if (channel.row === null) {
        channel.row = this.start(source, false);
        channel.width = 0;
      } else if (channel.width >= this.bounds.columns) {
        channel.row = this.start(source, true);
        channel.width = 0;
      }
      let end = Math.min(text.length, at + this.bounds.columns - channel.width);
      const last = text.charCodeAt(end - 1);
      if (end < text.length && end - at > 1 && last >= 0xd800 && last <= 0xdbff) end -= 1;
      const piece = text.slice(at, end);
      const { spans } = channel.row;
      const previous = spans[spans.length - 1];
      if (previous !== undefined && previous.style === channel.style) previous.text += piece;
      else spans.push({ text: piece, style: channel.style });
      channel.width += piece.length;
      if (end < text.length) channel.width = this.bounds.columns;
      this.characters += piece.length;
      at = end;
      if (this.characters > this.bounds.characters * 1.2) this.trim();
    }
  }

  private trim(): void {
    let excess = Math.max(0, this.rows.length - this.bounds.rows);
    let characters = this.characters;
    for (let at = 0; at < excess; at += 1) characters -= widthOf(this.rows[at] as Row);
    while (characters > this.bounds.characters && excess < this.rows.length - 1) {
      characters -= widthOf(this.rows[excess] as Row);
      excess += 1;
    }
    if (excess === 0) return;
    this.rows = this.rows.slice(excess);
    this.dropped += excess;
    this.characters = characters;
  }
}

class Channel {
  style: Style = PLAIN;
  row: Row | null = null;
  width = 0;
  /** The beginning of a sequence that has not ended. */
  pending = "";
}

function widthOf(row: Row): number {
  let width = 0;
  for (const span of row.spans) width += span.text.length;
  return width;
}

/** The place after the escape sequence at `start`; 0: it has not ended. */
function endOfSequence(text: string, start: number): number {
  const kind = text[start + 1];
  if (kind === undefined) return 0;
  if (kind === "[") {
    for (let at = start + 2; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code >= 0x40 && code <= 0x7e) return at + 1;
      if (code < 0x20 || code > 0x7e || at - start > LONGEST_SEQUENCE) return at;
    }
    return 0;
  }
  if (kind === "]" || kind === "P" || kind === "_" || kind === "^" || kind === "X") {
    for (let at = start + 2; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code === 7 || code === 0x9c) return at + 1;
      if (code === 27) return text[at + 1] === "\\" ? at + 2 : at;
      if (code === 10 || at - start > 4 * LONGEST_SEQUENCE) return at;
    }
    return 0;
  }
  const code = kind.charCodeAt(0);
  if (code >= 0x20 && code <= 0x2f) return Math.min(text.length, start + 3);
  return code > 0x2f && code < 0x7f ? start + 2 : start + 1;
}

/** Take the colours of a sequence `ESC [ … m`; ignore others. */
function apply(channel: Channel, sequence: string): void {
  if (!sequence.startsWith(`${ESCAPE}[`) || !sequence.endsWith("m")) return;
  const numbers = sequence
    .slice(2, -1)
    .split(/[;:]/)
    .map((text) => (text === "" ? 0 : Number.parseInt(text, 10)));
  let style: Style = { ...channel.style };
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at] as number;
    if (code === 0) style = { ...PLAIN };
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code >= 30 && code <= 37) style.color = code - 30;
    else if (code >= 90 && code <= 97) style.color = code - 90 + 8;
    else if (code >= 40 && code <= 47) style.ground = code - 40;
    else if (code >= 100 && code <= 107) style.ground = code - 100 + 8;
    else if (code === 39) style.color = -1;
    else if (code === 49) style.ground = -1;
    else if (code === 7) [style.color, style.ground] = [style.ground, style.color === -1 ? 7 : style.color];
    else if (code === 38 || code === 48) {
      const [color, used] = extended(numbers, at + 1);
      if (code === 38) style.color = color;
      else style.ground = color;
      at += used;
    }
  }
  channel.style = same(style, PLAIN) ? PLAIN : style;
}

/** The nearest of the sixteen colours for `5;n` or `2;r;g;b`, and how many numbers that took. */
function extended(numbers: number[], at: number): [number, number] {
  if (numbers[at] === 5) return [fromCube(numbers[at + 1] ?? 0), 2];
  if (numbers[at] === 2) return [nearest(numbers[at + 1] ?? 0, numbers[at + 2] ?? 0, numbers[at + 3] ?? 0), 4];
  return [-1, 0];
}

function fromCube(index: number): number {
  if (!(index >= 16)) return index >= 0 ? index : -1;
  if (index >= 232) return nearest(8 + (index - 232) * 10, 8 + (index - 232) * 10, 8 + (index - 232) * 10);
  const level = (step: number): number => (step === 0 ? 0 : 55 + step * 40);
  const place = index - 16;
  return nearest(level(Math.floor(place / 36) % 6), level(Math.floor(place / 6) % 6), level(place % 6));
}

const SIXTEEN: [number, number, number][] = [
  [0, 0, 0],
  [205, 0, 0],
  [0, 205, 0],
  [205, 205, 0],
  [0, 0, 238],
  [205, 0, 205],
  [0, 205, 205],
  [229, 229, 229],
  [127, 127, 127],
  [255, 0, 0],
  [0, 255, 0],
  [255, 255, 0],
  [92, 92, 255],
  [255, 0, 255],
  [0, 255, 255],
  [255, 255, 255],
];

function nearest(red: number, green: number, blue: number): number {
  let best = 7;
  let least = Number.POSITIVE_INFINITY;
  SIXTEEN.forEach(([r, g, b], color) => {
    const distance = (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2;
    if (distance < least) [best, least] = [color, distance];
  });
  return best;
}

function same(one: Style, other: Style): boolean {
  return (
    one.color === other.color &&
    one.ground === other.ground &&
    one.bold === other.bold &&
    one.dim === other.dim &&
    one.italic === other.italic &&
    one.underline === other.underline
  );
}

/** The first and last of the rows, of equal height, that a scrolled view needs; some more at both ends. */
export function windowOf(scrolled: number, height: number, rowHeight: number, rows: number): [number, number] {
  const more = Math.ceil(height / rowHeight);
  const first = Math.floor(scrolled / rowHeight) - more;
  const last = Math.ceil((scrolled + height) / rowHeight) + more;
  return [Math.max(0, Math.min(first, rows - 1)), Math.max(0, Math.min(last, rows))];
}

/** The rows with a text, upper and lower case alike. */
export function findRows(rows: readonly Row[], text: string): number[] {
  const wanted = text.toLowerCase();
  const found: number[] = [];
  if (wanted === "") return found;
  rows.forEach((row, at) => {
    const whole = row.spans.length === 1 ? (row.spans[0] as Span).text : row.spans.map((span) => span.text).join("");
    if (whole.toLowerCase().includes(wanted)) found.push(at);
  });
  return found;
}
