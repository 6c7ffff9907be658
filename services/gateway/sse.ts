// Server-sent events to one reader, no faster than it reads.
import type { ServerResponse } from "node:http";
import { writeBounded } from "./http-response.ts";

export const doneEvent = "data: [DONE]\n\n";

/** One event; JSON never contains a line break. */
export function sseEvent(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}

/** Events that differ in one text: the JSON around it is made once. */
export class TextEvents {
  private readonly head: string;
  private readonly tail: string;

  /** `around`: what an event says with this text; no empty string comes after it. */
  constructor(around: (text: "") => object) {
    const event = sseEvent(around(""));
    const at = event.lastIndexOf('""');
    this.head = event.slice(0, at);
    this.tail = event.slice(at + 2);
  }

  event(text: string): string {
    return this.head + JSON.stringify(text) + this.tail;
  }
}

/** Readers pass over a comment. */
const keepAliveComment = ": keep-alive\n\n";

/** After the last chunk of a body that is sent in chunks. */
const endOfChunks = "0\r\n\r\n";

export class SseWriter {
  private wroteAtMs = performance.now();
  private waitsForReader = false;
  /** The body goes out in HTTP/1.1's chunks, which are framed here: Node makes four writes of each. */
  private inChunks = false;
  private readonly response: ServerResponse;
  private readonly stallMs: number;

  /** A reader that takes nothing for stallMs loses its stream. */
  constructor(response: ServerResponse, stallMs: number) {
    this.response = response;
    this.stallMs = stallMs;
  }

  get started(): boolean {
    return this.response.headersSent;
  }

  /**
   * Resolves when more may be written, null: at once; throws or rejects as `cancelled` where the reader is gone. Whole events only: an error never
   * lands in half a line.
   */
  write(events: string): Promise<void> | null {
    // An empty chunk would be the last one.
    if (events === "") return null;
    const { response } = this;
    if (!response.headersSent && !response.destroyed) {
      response.writeHead(200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
      });
      this.inChunks = response.chunkedEncoding;
      response.chunkedEncoding = false;
    }
    this.wroteAtMs = performance.now();
    const drained = writeBounded(response, this.inChunks ? chunkOf(events) : events, this.stallMs);
    if (drained === null) return null;
    this.waitsForReader = true;
    return drained.finally(() => {
      this.waitsForReader = false;
    });
  }

  /** What to say where nothing was said for so long, and the reader takes what is: nothing else tells the machines in between that the stream lives. */
  keepAliveAfter(silentMs: number): string {
    return this.waitsForReader || performance.now() - this.wroteAtMs < silentMs ? "" : keepAliveComment;
  }

  end(): void {
    this.response.end(this.inChunks ? endOfChunks : undefined);
  }
}

function chunkOf(text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
}
