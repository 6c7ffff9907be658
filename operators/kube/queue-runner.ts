// Runs what the work queue says, several at once, with the clock and the timers that it has not.
import type { Outcome, WorkQueue } from "./work-queue.ts";

export interface QueueObserver {
  waited(seconds: number): void;
}

export class QueueRunner {
  private timer: NodeJS.Timeout | undefined;
  private readonly running = new Set<Promise<void>>();
  private stopped = false;

  constructor(
    private readonly queue: WorkQueue,
    private readonly concurrency: number,
    /** Never rejects. */
    private readonly work: (key: string) => Promise<Outcome>,
    private readonly observer: QueueObserver,
  ) {}

  add(key: string, fresh = false): void {
    this.queue.add(key, performance.now(), fresh);
    this.pump();
  }

  /** Takes no more, and waits for what runs. */
  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    await Promise.all(this.running);
  }

  private pump(): void {
    clearTimeout(this.timer);
    if (this.stopped) return;
    while (this.running.size < this.concurrency) {
      const taken = this.queue.take(performance.now());
      if (taken === undefined) break;
      this.observer.waited(taken.waitedMs / 1000);
      const run = this.work(taken.key).then((outcome) => {
        this.queue.done(taken.key, performance.now(), outcome);
        this.running.delete(run);
        this.pump();
      });
      this.running.add(run);
    }
    const dueMs = this.queue.nextDueMs();
    if (dueMs === undefined || this.running.size >= this.concurrency) return;
    this.timer = setTimeout(() => this.pump(), Math.max(1, Math.ceil(dueMs - performance.now())));
  }
}
