// Server-sent events to one reader, no faster than it reads.
import type { ServerResponse } from "node:http";
import { PelagicError } from "../lib/contracts/errors.ts";

export const doneEvent = "data: [DONE]\n\n";

/** One event; JSON never contains a line break. */
export function sseEvent(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}

export class SseWriter {
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
    if (this.response.write(events)) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        // Reset, not closed: the kernel would keep for minutes what it has for a reader that does not read.
        this.response.socket?.resetAndDestroy();
        this.response.destroy();
      }, this.stallMs);
      const done = () => {
        clearTimeout(timer);
        this.response.off("drain", done);
        this.response.off("close", done);
        resolve();
      };
      this.response.on("drain", done);
      this.response.on("close", done);
    });
    this.checkReader();
  }

  private checkReader(): void {
    if (this.response.destroyed) throw new PelagicError("cancelled", "the reader is gone");
  }

  end(): void {
    this.response.end();
  }
}
