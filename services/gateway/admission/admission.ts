// Lets requests into the gateway, as many as it may hold and its workers take. Others wait, in the order of lib/fair-queue and for a bounded
// time, before anything is spent on them and before a header is sent; whoever finds the queue full, or waits too long, is refused.
//
// It orders only what no worker takes: whatever a worker has in its queue is ordered there, among the requests of all gateways and beside the
// blocks that they wait for (docs/decisions/0402).
import type { GoneSignal } from "../departure.ts";
import type { Clock } from "../../lib/contracts/bus.ts";
import { PelagicError } from "../../lib/contracts/errors.ts";
import { mayWait } from "../../lib/fair-queue/fair-order.ts";
import { RequestQueue, type Standing } from "../../lib/fair-queue/request-queue.ts";
import { retryAfter } from "./retry-after.ts";
import type { Room } from "./room.ts";

export interface AdmissionOptions {
  clock: Clock;
  /** Requests in the gateway at once. */
  maxRunning: number;
  maxWaiting: number;
  /** So long at most. */
  maxWaitMs: number;
}

export interface EnterOptions {
  /** At the workers; absent: the request needs none. */
  room?: Room;
  /** So many places there, all at once: a place that another takes meanwhile would be missed when prefill is spent. */
  answers?: number;
  /** The client's own patience, and what is left to its deadline. */
  waitMs?: number;
  leftMs?: number;
  signal?: GoneSignal;
}

/** What one request holds. */
export interface Place {
  /** One of its answers was asked of a worker, whose own account counts it from now on. */
  dispatched(): void;
  /** It is over. Without effect the second time. */
  leave(): void;
}

interface Waiter {
  tenant: string;
  room: Room | undefined;
  answers: number;
  admit(): void;
  refuse(error: PelagicError): void;
}

/** What workers say changes all the time. */
const lookMs = 50;

export class Admission {
  private readonly options: AdmissionOptions;
  private readonly queue = new RequestQueue<Waiter>();
  private readonly runningOf = new Map<string, number>();
  private readonly waitingOf = new Map<string, number>();
  private stopTimer: (() => void) | null = null;
  private closed = false;
  /** How often somebody leaves, over the last ones. */
  private leaveEveryMs = 0;
  private leftAtMs: number | null = null;
  running = 0;

  constructor(options: AdmissionOptions) {
    this.options = options;
  }

  get maxRunning(): number {
    return this.options.maxRunning;
  }

  get waiting(): number {
    return this.queue.size;
  }

  /** Of them, those that wait to go to the workers of this room. */
  waitingFor(room: Room): number {
    let count = 0;
    for (const waiter of this.queue) if (waiter.room === room) count++;
    return count;
  }

  /** Rejects with what to answer where the request cannot enter. */
  enter(
    standing: Standing,
    { room, answers = 1, waitMs = Number.POSITIVE_INFINITY, leftMs = Number.POSITIVE_INFINITY, signal }: EnterOptions = {},
  ): Promise<Place> {
    const { clock, maxWaiting, maxWaitMs } = this.options;
    const { tenant } = standing;
    if (this.closed) return Promise.reject(shuttingDown());
    if (signal?.aborted) return Promise.reject(cancelled());
    if (leftMs <= 0) return Promise.reject(deadlineExceeded());
    // Workers may have room since somebody looked last: who waits and can go comes first.
    const left = this.admitWaiting();
    if (this.mayEnter(tenant) && (!room || room.takes(tenant, left.get(room) ?? room.places, answers)))
      return Promise.resolve(this.take(tenant, room, answers));
    if (!mayWait(this.waitingOf.get(tenant) ?? 0, this.queue.size, maxWaiting)) {
      return Promise.reject(this.overloaded(`${this.queue.size} requests are waiting already`));
    }
    return new Promise((resolve, reject) => {
      const boundMs = Math.max(0, Math.min(waitMs, maxWaitMs, leftMs));
      const stopWaiting = () => {
        stopTimer();
        signal?.removeEventListener("abort", onAbort);
        this.queue.remove(waiter);
        add(this.waitingOf, tenant, -1);
      };
      const waiter: Waiter = {
        tenant,
        room,
        answers,
        admit: () => {
          this.queue.serve(waiter);
          stopWaiting();
          resolve(this.take(tenant, room, answers));
        },
        refuse: (error) => {
          stopWaiting();
          reject(error);
        },
      };
      const onAbort = () => waiter.refuse(cancelled());
      const stopTimer = clock.setTimer(boundMs, () =>
        waiter.refuse(
          boundMs === leftMs ? deadlineExceeded() : this.overloaded(`no worker had room for the request within ${Math.round(boundMs)} ms`),
        ),
      );
      signal?.addEventListener("abort", onAbort, { once: true });
      add(this.waitingOf, tenant, 1);
      this.queue.add(waiter, standing, answers, clock.nowMs());
      this.look();
    });
  }

  get isClosed(): boolean {
    return this.closed;
  }

  /** Who waits is refused; who is here may end. */
  close(): void {
    this.closed = true;
    for (const waiter of [...this.queue]) waiter.refuse(shuttingDown());
  }

  private mayEnter(tenant: string): boolean {
    return mayWait(this.runningOf.get(tenant) ?? 0, this.running, this.options.maxRunning);
  }

  private take(tenant: string, room: Room | undefined, answers: number): Place {
    this.running++;
    add(this.runningOf, tenant, 1);
    const atWorkers = room?.enter(tenant, answers);
    let left = false;
    return {
      dispatched: () => atWorkers?.dispatched(),
      leave: () => {
        if (left) return;
        left = true;
        atWorkers?.leave();
        this.running--;
        add(this.runningOf, tenant, -1);
        this.noteLeave();
        this.admitWaiting();
      },
    };
  }

  /** Returns the places that each room has for who comes now, where somebody waits for it. */
  private admitWaiting(): Map<Room, number> {
    const places = new Map<Room, number>();
    if (this.closed || this.queue.size === 0) return places;
    this.queue.age(this.options.clock.nowMs());
    for (const waiter of [...this.queue]) {
      const { tenant, room, answers } = waiter;
      if (this.running >= this.options.maxRunning) return places;
      if (!this.mayEnter(tenant)) continue;
      if (room) {
        const left = places.get(room) ?? room.places;
        const takes = room.takes(tenant, left, answers);
        // Who needs more places than there are gets the next ones: it would wait for ever behind those that need one.
        const isNext = !takes && !mayWait(answers - 1, answers - 1, left);
        places.set(room, takes ? left - answers : isNext ? 0 : left);
        if (!takes) continue;
      }
      waiter.admit();
    }
    return places;
  }

  /** Workers may have room although nobody left here. */
  private look(): void {
    this.stopTimer ??= this.options.clock.setTimer(lookMs, () => {
      this.stopTimer = null;
      this.admitWaiting();
      if (this.queue.size > 0) this.look();
    });
  }

  private noteLeave(): void {
    const now = this.options.clock.nowMs();
    if (this.leftAtMs !== null) {
      const everyMs = now - this.leftAtMs;
      this.leaveEveryMs = this.leaveEveryMs === 0 ? everyMs : 0.9 * this.leaveEveryMs + 0.1 * everyMs;
    }
    this.leftAtMs = now;
  }

  /** To be tried again when those who wait now will have found a place. */
  private overloaded(why: string): PelagicError {
    return new PelagicError("overloaded", `${why}; try again later`, {
      retryAfterMs: retryAfter((this.queue.size + 1) * this.leaveEveryMs),
    });
  }
}

function shuttingDown(): PelagicError {
  return new PelagicError("shutting_down", "the gateway is shutting down; try again elsewhere");
}

function deadlineExceeded(): PelagicError {
  return new PelagicError(
    "deadline_exceeded",
    "the request's deadline passed before a worker had room for it; try again later, or with a longer x-request-timeout-ms",
  );
}

function cancelled(): PelagicError {
  return new PelagicError("cancelled", "the client went away");
}

function add(counts: Map<string, number>, name: string, amount: number): void {
  const count = (counts.get(name) ?? 0) + amount;
  if (count === 0) counts.delete(name);
  else counts.set(name, count);
}
