// A Bus within one process for tests: delivers each message after a delay that a test chooses, or never, or twice.
import { type Bus, BusError, type BusMessage, type BusSubscription, type Clock, systemClock } from "../../services/lib/contracts/bus.ts";

/** Delays in ms at which a message arrives; empty: lost. */
export type Fate = (subject: string) => number[];

export class MemoryBus implements Bus {
  connected = true;
  maxPayloadBytes = 1024 * 1024;
  fate: Fate = () => [0];
  private readonly clock: Clock;
  private readonly subscriptions = new Set<{ subject: string; handler: (message: BusMessage) => void }>();
  private readonly reconnectHandlers: (() => void)[] = [];
  private readonly breaks = new Set<() => void>();

  constructor(clock: Clock = systemClock) {
    this.clock = clock;
  }

  get subscriptionCount(): number {
    return this.subscriptions.size;
  }

  publish(subject: string, data: Uint8Array): void {
    this.check(data);
    this.deliver(subject, data);
  }

  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.check(data);
      if (![...this.subscriptions].some((one) => matches(one.subject, subject))) {
        reject(new BusError("no_responders", `nobody listens on ${subject}`));
        return;
      }
      const onBreak = () => settle(() => reject(new BusError("disconnected", "the connection broke")));
      const stopTimer = this.clock.setTimer(timeoutMs, () => settle(() => reject(new BusError("timeout", `no answer on ${subject}`))));
      const settle = (how: () => void) => {
        stopTimer();
        this.breaks.delete(onBreak);
        how();
      };
      this.breaks.add(onBreak);
      this.deliver(subject, data, (answer) => {
        for (const delay of this.fate("_INBOX")) this.clock.setTimer(delay, () => this.connected && settle(() => resolve(answer)));
      });
    });
  }

  subscribe(subject: string, handler: (message: BusMessage) => void): BusSubscription {
    const entry = { subject, handler };
    this.subscriptions.add(entry);
    return { unsubscribe: () => this.subscriptions.delete(entry) };
  }

  flush(): Promise<void> {
    return Promise.resolve();
  }

  onReconnect(handler: () => void): void {
    this.reconnectHandlers.push(handler);
  }

  close(): Promise<void> {
    this.subscriptions.clear();
    return Promise.resolve();
  }

  disconnect(): void {
    this.connected = false;
    for (const onBreak of [...this.breaks]) onBreak();
  }

  reconnect(): void {
    this.connected = true;
    for (const handler of this.reconnectHandlers) handler();
  }

  private check(data: Uint8Array): void {
    if (!this.connected) throw new BusError("disconnected", "not connected");
    if (data.length > this.maxPayloadBytes) throw new BusError("too_large", `${data.length} bytes`);
  }

  private deliver(subject: string, data: Uint8Array, respond?: (data: Uint8Array) => void): void {
    for (const delay of this.fate(subject)) {
      this.clock.setTimer(delay, () => {
        if (!this.connected) return;
        for (const one of [...this.subscriptions]) if (matches(one.subject, subject)) one.handler({ subject, data: data.slice(), respond });
      });
    }
  }
}

function matches(pattern: string, subject: string): boolean {
  if (pattern === subject) return true;
  const parts = pattern.split(".");
  const tokens = subject.split(".");
  return parts.length === tokens.length && parts.every((part, index) => part === "*" || part === tokens[index]);
}

/** Time that moves only when told to; due timers run in order, with the promises that they settle in between. */
export class ManualClock implements Clock {
  private now = 0;
  private sequence = 0;
  private readonly timers = new Map<number, { atMs: number; run: () => void }>();

  nowMs(): number {
    return this.now;
  }

  setTimer(delayMs: number, run: () => void): () => void {
    const id = this.sequence++;
    this.timers.set(id, { atMs: this.now + delayMs, run });
    return () => this.timers.delete(id);
  }

  /** Runs until the condition holds; throws at the limit. */
  async runUntil(condition: () => boolean, limitMs: number): Promise<void> {
    const untilMs = this.now + limitMs;
    await settlePromises();
    while (!condition()) {
      if (!(await this.step(untilMs))) throw new Error(`not reached within ${limitMs} ms`);
    }
  }

  async advance(ms: number): Promise<void> {
    const untilMs = this.now + ms;
    await settlePromises();
    while (await this.step(untilMs));
    this.now = untilMs;
  }

  private async step(untilMs: number): Promise<boolean> {
    let next: [number, { atMs: number; run: () => void }] | undefined;
    for (const entry of this.timers) if (next === undefined || entry[1].atMs < next[1].atMs) next = entry;
    if (next === undefined || next[1].atMs > untilMs) return false;
    this.timers.delete(next[0]);
    this.now = Math.max(this.now, next[1].atMs);
    next[1].run();
    await settlePromises();
    return true;
  }
}

async function settlePromises(): Promise<void> {
  for (let i = 0; i < 12; i++) await Promise.resolve();
}
