// That a client is gone, for those who work or wait for it. What of an AbortSignal they use: a real one costs each request as much as reading its body.

export interface GoneSignal {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void, options?: { once?: boolean }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

export class Departure implements GoneSignal {
  aborted = false;
  private readonly listeners = new Set<() => void>();

  /** Each listener hears of it once. */
  addEventListener(_type: "abort", listener: () => void): void {
    this.listeners.add(listener);
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    this.listeners.delete(listener);
  }

  leave(): void {
    this.aborted = true;
    const all = [...this.listeners];
    this.listeners.clear();
    for (const listener of all) listener();
  }
}
