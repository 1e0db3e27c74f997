/** Server-sent events, read by `fetch` so that the token is in a header and in no address (WHATWG HTML, 9.2). */

export interface EventBlock {
  /** The id to resume after; "" if none came yet. */
  id: string;
  data: string;
}

/** Characters of a message. A longer one ends the stream. */
export const LONGEST_MESSAGE = 64_000_000;

/** Takes pieces of a stream, gives its messages. */
export class EventParser {
  private buffer = "";
  private searched = 0;
  private id = "";
  private data: string[] = [];
  private size = 0;

  /** Throws RangeError for a message that is too long. */
  push(piece: string): EventBlock[] {
    const blocks: EventBlock[] = [];
    this.buffer += piece;
    let start = 0;
    let end = this.buffer.indexOf("\n", this.searched);
    while (end >= 0) {
      const last = this.buffer[end - 1] === "\r" ? end - 1 : end;
      const block = this.line(this.buffer.slice(start, Math.max(start, last)));
      if (block !== null) blocks.push(block);
      start = end + 1;
      end = this.buffer.indexOf("\n", start);
    }
    this.buffer = this.buffer.slice(start);
    this.searched = this.buffer.length;
    if (this.buffer.length + this.size > LONGEST_MESSAGE) throw new RangeError("a message of the stream is too long");
    return blocks;
  }

  private line(line: string): EventBlock | null {
    if (line === "") {
      const { data, id } = this;
      this.data = [];
      this.size = 0;
      return data.length ? { id, data: data.join("\n") } : null;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") {
      this.data.push(value);
      this.size += value.length;
    } else if (name === "id" && !value.includes("\0")) this.id = value;
    return null;
  }
}
