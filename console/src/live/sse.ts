// Server-sent events, read by fetch so that the token is in a header and in no address (WHATWG HTML, 9.2). Pure.

export interface Message {
  /** The id to resume after. */
  id: string;
  data: string;
}

/** Characters of a message. A longer one ends the stream. */
export const LONGEST_MESSAGE = 32_000_000;

/** Takes pieces of a stream, gives its messages. */
export class EventParser {
  /** The last id of a whole message. */
  lastId = "";
  private buffer = "";
  private searched = 0;
  private id = "";
  private data: string[] = [];
  private size = 0;

  /** Throws RangeError for a message that is too long. */
  push(piece: string): Message[] {
    const messages: Message[] = [];
    this.buffer += piece;
    let start = 0;
    let end = this.buffer.indexOf("\n", this.searched);
    while (end >= 0) {
      const last = this.buffer[end - 1] === "\r" ? end - 1 : end;
      const message = this.line(this.buffer.slice(start, Math.max(start, last)));
      if (message !== null) messages.push(message);
      start = end + 1;
      end = this.buffer.indexOf("\n", start);
    }
    this.buffer = this.buffer.slice(start);
    this.searched = this.buffer.length;
    if (this.buffer.length + this.size > LONGEST_MESSAGE) throw new RangeError("a message of the stream is too long");
    return messages;
  }

  private line(line: string): Message | null {
    if (line === "") {
      const { data, id } = this;
      this.data = [];
      this.size = 0;
      this.lastId = id;
      return data.length ? { id, data: data.join("\n") } : null;
    }
    const [, name = "", value = ""] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === "data") {
      this.data.push(value);
      this.size += value.length;
    } else if (name === "id" && !value.includes("\0")) this.id = value;
    return null;
  }
}
