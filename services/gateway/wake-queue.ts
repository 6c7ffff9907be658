// Requests for a model that sleeps: it has no worker, and gets one because they wait (the operator reads how many do from
// pelagic_gateway_requests_waiting). Which names may sleep the operator says; for all others who has no worker is told so at once.
//
// They wait before anything else is known of the model: a gateway that began while it slept has none of its files. Then they go the way of all.
import type { GoneSignal } from "./departure.ts";
import type { Clock } from "../lib/contracts/bus.ts";
import { PelagicError } from "../lib/contracts/errors.ts";
import { mayWait } from "../lib/fair-queue/fair-order.ts";

export interface WakeQueueOptions {
  clock: Clock;
  maxWaiting: number;
  /** It is served, and has a worker that takes requests. */
  isAwake(name: string): boolean;
}

interface Waiter {
  name: string;
  tenant: string;
  end(error?: PelagicError): void;
}

const lookMs = 50;

export class WakeQueue {
  private names: ReadonlySet<string> = new Set();
  /** In the order in which they came. */
  private readonly waiters = new Set<Waiter>();
  private stopTimer: (() => void) | null = null;
  private closed = false;

  constructor(private readonly options: WakeQueueOptions) {}

  /** Those that may sleep, from now on. */
  know(names: Iterable<string>): void {
    this.names = new Set(names);
  }

  get waiting(): number {
    return this.waiters.size;
  }

  waitingFor(name: string): number {
    let count = 0;
    for (const waiter of this.waiters) if (waiter.name === name) count++;
    return count;
  }

  /** The names that are waited for. */
  get wanted(): ReadonlySet<string> {
    return new Set([...this.waiters].map(({ name }) => name));
  }

  /** Resolves at once where it does not sleep, or is none that may. Rejects with what to answer. */
  awake(name: string, tenant: string, leftMs: number, signal: GoneSignal): Promise<void> {
    const { clock, maxWaiting } = this.options;
    if (!this.sleeps(name)) return Promise.resolve();
    if (this.closed) return Promise.reject(shuttingDown());
    if (signal.aborted) return Promise.reject(cancelled());
    let own = 0;
    for (const waiter of this.waiters) if (waiter.tenant === tenant) own++;
    if (!mayWait(own, this.waiters.size, maxWaiting))
      return Promise.reject(
        new PelagicError("overloaded", `${this.waiters.size} requests wait for models that sleep; try again later`, {
          retryAfterMs: 10_000,
        }),
      );
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        name,
        tenant,
        end: (error) => {
          stopTimer();
          signal.removeEventListener("abort", onAbort);
          this.waiters.delete(waiter);
          if (error === undefined) resolve();
          else reject(error);
        },
      };
      const onAbort = () => waiter.end(cancelled());
      const stopTimer = clock.setTimer(Math.max(0, leftMs), () =>
        waiter.end(new PelagicError("deadline_exceeded", `the request's deadline passed before ${name} had a worker`)),
      );
      signal.addEventListener("abort", onAbort, { once: true });
      this.waiters.add(waiter);
      this.look();
    });
  }

  /** Who waits is refused. */
  close(): void {
    this.closed = true;
    this.stopTimer?.();
    for (const waiter of [...this.waiters]) waiter.end(shuttingDown());
  }

  private sleeps(name: string): boolean {
    return this.names.has(name) && !this.options.isAwake(name);
  }

  private look(): void {
    this.stopTimer ??= this.options.clock.setTimer(lookMs, () => {
      this.stopTimer = null;
      const awake = new Set([...this.wanted].filter((name) => !this.sleeps(name)));
      for (const waiter of [...this.waiters]) if (awake.has(waiter.name)) waiter.end();
      if (this.waiters.size > 0 && !this.closed) this.look();
    });
  }
}

function shuttingDown(): PelagicError {
  return new PelagicError("shutting_down", "the gateway is shutting down; try again elsewhere");
}

function cancelled(): PelagicError {
  return new PelagicError("cancelled", "the client went away");
}
