// When the next step of a stub ends: steps follow one another at an even pace while there is work, and the first after a pause waits for none.

export class StepClock {
  private readonly stepMs: number;
  private dueMs = Number.NEGATIVE_INFINITY;

  constructor(stepMs: number) {
    this.stepMs = stepMs;
  }

  async next(): Promise<void> {
    const waitMs = this.dueMs + this.stepMs - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    // What else this process has to do comes first, messages that arrived among it.
    else await new Promise((resolve) => setImmediate(resolve));
    const now = performance.now();
    this.dueMs += this.stepMs;
    // Late by a whole step: the pace begins anew.
    if (!(now - this.dueMs < this.stepMs)) this.dueMs = now;
  }
}
