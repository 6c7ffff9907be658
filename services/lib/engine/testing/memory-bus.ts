// For tests: a bus in memory, delivered in order on the next turn, which a test may watch, cut or make lossy.
import { BusError, type Bus, type BusMessage, type BusSubscription, type Clock } from "../../contracts/bus.ts";
import { DamagedMessage } from "../../contracts/wire.ts";

interface Sub {
  pattern: string[];
  handler: (message: BusMessage) => void;
}

/** The server. Connections share its subjects. */
export class MemoryBroker {
  private readonly subs = new Set<Sub>();
  /** What happens to a message: how often it arrives. */
  deliveries: (subject: string, data: Uint8Array) => number = () => 1;
  /** The last say over its bytes. */
  tamper: (subject: string, data: Uint8Array) => Uint8Array = (_, data) => data;
  connected = true;
  /** Called when it is back. */
  readonly reconnectHandlers = new Set<() => void>();

  /** Ends an outage. */
  restart(): void {
    this.connected = true;
    for (const handler of this.reconnectHandlers) handler();
  }

  connect(clock: Clock): MemoryBus {
    return new MemoryBus(this, clock);
  }

  subscribe(subject: string, handler: (message: BusMessage) => void): BusSubscription {
    const sub = { pattern: subject.split("."), handler };
    this.subs.add(sub);
    return { unsubscribe: () => this.subs.delete(sub) };
  }

  get subscriptionCount(): number {
    return this.subs.size;
  }

  listeners(subject: string): Sub[] {
    const parts = subject.split(".");
    return [...this.subs].filter(({ pattern }) => pattern.length === parts.length && pattern.every((p, i) => p === "*" || p === parts[i]));
  }

  send(subject: string, data: Uint8Array, respond?: (data: Uint8Array) => void): void {
    const copies = this.deliveries(subject, data);
    for (let copy = 0; copy < copies; copy++) {
      const bytes = this.tamper(subject, data.slice());
      queueMicrotask(() => {
        for (const sub of this.listeners(subject)) {
          if (!this.subs.has(sub)) continue;
          try {
            sub.handler({ subject, data: bytes, ...(respond ? { respond } : {}) });
          } catch (error) {
            // The real bus logs whatever a handler throws; anything but damage is a bug, and a test should see it.
            if (!(error instanceof DamagedMessage)) throw error;
          }
        }
      });
    }
  }
}

export class MemoryBus implements Bus {
  private readonly broker: MemoryBroker;
  private readonly clock: Clock;
  readonly maxPayloadBytes = 1 << 20;

  constructor(broker: MemoryBroker, clock: Clock) {
    this.broker = broker;
    this.clock = clock;
  }

  get connected(): boolean {
    return this.broker.connected;
  }

  publish(subject: string, data: Uint8Array): void {
    if (!this.connected) throw new BusError("disconnected", "cut");
    this.broker.send(subject, data);
  }

  request(subject: string, data: Uint8Array, timeoutMs: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      if (!this.connected) return reject(new BusError("disconnected", "cut"));
      if (this.broker.listeners(subject).length === 0) return reject(new BusError("no_responders", subject));
      const cancel = this.clock.setTimer(timeoutMs, () => reject(new BusError("timeout", subject)));
      this.broker.send(subject, data, (answer) => {
        cancel();
        resolve(answer.slice());
      });
    });
  }

  subscribe(subject: string, handler: (message: BusMessage) => void): BusSubscription {
    return this.broker.subscribe(subject, handler);
  }

  async flush(): Promise<void> {}
  onReconnect(handler: () => void): void {
    this.broker.reconnectHandlers.add(handler);
  }
  async close(): Promise<void> {}
}

/** Time that stands still until a test moves it. */
export class ManualClock implements Clock {
  private now = 0;
  private timers: { atMs: number; run: () => void }[] = [];
  private readonly turn: () => Promise<void>;

  /** turn: less than settle where only promises are to be waited for, and time passes often. */
  constructor(turn = settle) {
    this.turn = turn;
  }

  nowMs(): number {
    return this.now;
  }

  setTimer(delayMs: number, run: () => void): () => void {
    const timer = { atMs: this.now + delayMs, run };
    this.timers.push(timer);
    return () => {
      this.timers = this.timers.filter((other) => other !== timer);
    };
  }

  /** Runs what is due, in order, letting promises settle in between. */
  async advance(ms: number): Promise<void> {
    const end = this.now + ms;
    for (;;) {
      await this.turn();
      const next = this.timers.filter(({ atMs }) => atMs <= end).sort((a, b) => a.atMs - b.atMs)[0];
      if (!next) break;
      this.timers = this.timers.filter((timer) => timer !== next);
      this.now = Math.max(this.now, next.atMs);
      next.run();
    }
    this.now = end;
    await this.turn();
  }
}

/** Until nothing is left to run without time passing. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
