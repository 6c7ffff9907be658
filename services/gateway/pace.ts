// What comes to a stream within a little time goes out together while the process is busy: an event for each token would then cost more than
// it is worth, and come late all the same. With time to spare nothing waits, and a stream slower than that never does.

/**
 * The shares of time at work from which and down to which the process counts as busy, how often that is looked at, and the shortest time between two
 * writes then. A third of its work is saved by it: with one share for both, a process that is busy would be so in every other look only.
 */
const busyShare = 0.7;
const stillBusyShare = 0.45;
const lookMs = 100;
const turnMs = 20;

export class Pace {
  private readonly utilization: () => number;
  private isBusy = false;
  private lookedAtMs = 0;
  private waiting: (() => void)[] = [];

  /** `utilization`: the share of time at work since it was last asked. */
  constructor(utilization: () => number) {
    this.utilization = utilization;
  }

  /** What a stream waits for between two writes; null: nothing. */
  turn(): Promise<void> | null {
    const nowMs = performance.now();
    if (nowMs - this.lookedAtMs >= lookMs) {
      this.isBusy = this.utilization() >= (this.isBusy ? stillBusyShare : busyShare);
      this.lookedAtMs = nowMs;
    }
    if (!this.isBusy) return null;
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      if (this.waiting.length > 1) return;
      setTimeout(() => {
        const all = this.waiting;
        this.waiting = [];
        for (const go of all) go();
      }, turnMs);
    });
  }
}

/** One for the process: it has one event loop. */
export const pace = new Pace(loopUtilization());

function loopUtilization(): () => number {
  let last = performance.eventLoopUtilization();
  return () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, last);
    last = now;
    return utilization;
  };
}
