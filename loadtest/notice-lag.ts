// How late this process notices anything: probes at fixed times, each as late as the turn of the event loop that comes to it. What arrives while
// the process is busy gets its time as late as the probes of that moment do.

const everyMs = 5;

/** Of the probes that were due from `dueMs` on and are seen now. One long turn counts once for each that it held up, not once. */
export function lagsOf(dueMs: number, nowMs: number): number[] {
  const lags: number[] = [];
  for (let atMs = dueMs; atMs <= nowMs; atMs += everyMs) lags.push(nowMs - atMs);
  return lags;
}

export class NoticeLag {
  private readonly lagsMs: number[] = [];
  private dueMs = performance.now() + everyMs;
  private timer: NodeJS.Timeout | undefined;

  constructor() {
    this.wait();
  }

  /** Evenly over the time until now. */
  stop(): number[] {
    clearTimeout(this.timer);
    this.look();
    return this.lagsMs;
  }

  private wait(): void {
    this.timer = setTimeout(
      () => {
        this.look();
        this.wait();
      },
      Math.ceil(this.dueMs - performance.now()),
    );
  }

  private look(): void {
    const lags = lagsOf(this.dueMs, performance.now());
    for (const lag of lags) this.lagsMs.push(lag);
    this.dueMs += lags.length * everyMs;
  }
}
