/** Server-sent events: bytes in, events out. The rules are those of the HTML standard, section 9.2.6. */

export interface ServerEvent {
  name: string;
  data: string;
  /** The id of the event itself, or "" if the server sent none. */
  id: string;
}

export interface ServerComment {
  comment: string;
}

export type StreamItem = ServerEvent | ServerComment;

/** Parses a stream piece by piece. A piece may end anywhere, also between the two characters of a line end. */
export class EventParser {
  private rest = "";
  private endedWithCarriageReturn = false;
  private name = "";
  private data: string[] = [];
  private id = "";
  /** Milliseconds that the server asks a client to wait before it connects again. */
  retryMs: number | null = null;

  /** The events and comments that are complete after this piece of text. */
  push(text: string): StreamItem[] {
    const items: StreamItem[] = [];
    let input = text;
    // The line was ended by the `\r` before. This is the rest of `\r\n`.
    if (this.endedWithCarriageReturn && input.startsWith("\n")) input = input.slice(1);
    if (input === "") return items;
    this.endedWithCarriageReturn = input.endsWith("\r");
    const lines = (this.rest + input).split(/\r\n|\r|\n/);
    this.rest = lines.pop() ?? "";
    for (const line of lines) {
      const item = this.line(line);
      if (item) items.push(item);
    }
    return items;
  }

  private line(line: string): StreamItem | null {
    if (line === "") return this.event();
    if (line.startsWith(":")) return { comment: line.slice(1).trim() };
    const colon = line.indexOf(":");
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.name = value;
    else if (field === "data") this.data.push(value);
    else if (field === "id" && !value.includes("\0")) this.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
    return null;
  }

  private event(): ServerEvent | null {
    const event = { name: this.name || "message", data: this.data.join("\n"), id: this.id };
    const isEmpty = this.data.length === 0;
    this.name = "";
    this.data = [];
    // Not as in the standard, which keeps the last id: callers want the id of the event itself.
    this.id = "";
    return isEmpty ? null : event;
  }
}
