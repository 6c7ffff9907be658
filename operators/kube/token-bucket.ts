// Calls a second at most, however many want to call.
import { setTimeout as sleep } from "node:timers/promises";

export class TokenBucket {
  /** When the next call may be made if calls came evenly; behind by up to a burst. */
  private nextMs: number;

  constructor(
    private readonly perSecond: number,
    private readonly burst: number,
    nowMs: number,
  ) {
    this.nextMs = nowMs - (burst * 1000) / perSecond;
  }

  /** How long who asks now has to wait; each call takes a place. */
  delayMs(nowMs: number): number {
    const gapMs = 1000 / this.perSecond;
    this.nextMs = Math.max(this.nextMs, nowMs - this.burst * gapMs) + gapMs;
    return Math.max(0, this.nextMs - nowMs);
  }

  async take(signal?: AbortSignal): Promise<void> {
    const delayMs = this.delayMs(performance.now());
    if (delayMs > 0) await sleep(delayMs, undefined, signal === undefined ? {} : { signal });
  }
}
