// Server-sent events to one reader, no faster than it reads.
import type { ServerResponse } from "node:http";
import { PelagicError } from "../lib/contracts/errors.ts";

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
    this.checkReader();
    if (!this.response.headersSent) {
      this.response.writeHead(200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
      });
    }
    this.wroteAtMs = performance.now();
    if (this.response.write(events)) return;
    this.waitsForReader = true;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        // Reset, not closed: the kernel would keep for minutes what it has for a reader that does not read.
        this.response.socket?.resetAndDestroy();
        this.response.destroy();
      }, this.stallMs);
      const done = () => {
        clearTimeout(timer);
        this.waitsForReader = false;
        this.response.off("drain", done);
        this.response.off("close", done);
        resolve();
      };
      this.response.on("drain", done);
      this.response.on("close", done);
    });
    this.checkReader();
  }

  /** What to say where nothing was said for so long, and the reader takes what is: nothing else tells the machines in between that the stream lives. */
  keepAliveAfter(silentMs: number): string {
    return this.waitsForReader || performance.now() - this.wroteAtMs < silentMs ? "" : keepAliveComment;
  }

  private checkReader(): void {
    if (this.response.destroyed || this.response.writableEnded) throw new PelagicError("cancelled", "the reader is gone");
  }

  end(): void {
    this.response.end();
  }
}
