// How many requests may be in the gateway at once. One more is refused at once, before anything is spent on it.
import { PelagicError } from "../lib/contracts/errors.ts";

export class Admission {
  readonly maxRunning: number;
  private closed = false;
  running = 0;

  constructor(maxRunning: number) {
    this.maxRunning = maxRunning;
  }

  /** Throws what to answer where the request cannot enter; the returned function leaves again, once. */
  enter(): () => void {
    if (this.closed) throw new PelagicError("shutting_down", "the gateway is shutting down; try again elsewhere");
    if (this.running >= this.maxRunning) {
      throw new PelagicError("overloaded", `${this.running} requests are running, the most this gateway takes; try again later`, {
        retryAfterMs: 1_000,
      });
    }
    this.running++;
    let left = false;
    return () => {
      if (!left) this.running--;
      left = true;
    };
  }

  get isClosed(): boolean {
    return this.closed;
  }

  close(): void {
    this.closed = true;
  }
}
