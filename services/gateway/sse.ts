// Server-sent events to one reader, no faster than it reads.
import type { ServerResponse } from "node:http";
import { writeBounded } from "./http-response.ts";

export const doneEvent = "data: [DONE]\n\n";

/** One event; JSON never contains a line break. */
export function sseEvent(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}

/** Readers pass over a comment. */
const keepAliveComment = ": keep-alive\n\n";

export class SseWriter {
  private wroteAtMs = performance.now();
  private waitsForReader = false;
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

  /** Resolves when more may be written; throws `cancelled` where the reader is gone. Whole events only: an error never lands in half a line. */
  async write(events: string): Promise<void> {
    if (!this.response.headersSent && !this.response.destroyed) {
      this.response.writeHead(200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
      });
    }
    this.wroteAtMs = performance.now();
    this.waitsForReader = true;
    try {
      await writeBounded(this.response, events, this.stallMs);
    } finally {
      this.waitsForReader = false;
    }
  }

  /** What to say where nothing was said for so long, and the reader takes what is: nothing else tells the machines in between that the stream lives. */
  keepAliveAfter(silentMs: number): string {
    return this.waitsForReader || performance.now() - this.wroteAtMs < silentMs ? "" : keepAliveComment;
  }

  end(): void {
    this.response.end();
  }
}
