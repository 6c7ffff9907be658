// Which object is to be reconciled next, and when: each at most once in the queue and never twice at the same time; one that fails waits longer
// each time, by itself. No clock and no timers of its own: time is passed in (queue-runner.ts has both).
import { type BackoffBounds, backoffMs } from "./backoff.ts";

export type Outcome = { ok: true; requeueAfterMs?: number | undefined } | { ok: false; retryAfterMs?: number | undefined };

interface Item {
  /** undefined: while it runs. */
  dueMs: number | undefined;
  /** Asked for again while it ran: what it read may be old. */
  again: boolean;
  /** Changed by a person since: what failed before says nothing of it. */
  fresh: boolean;
  failures: number;
}

export class WorkQueue {
  /** Of those that wait or run; who is settled is not in it. */
  private readonly items = new Map<string, Item>();

  constructor(
    private readonly bounds: BackoffBounds,
    private readonly random: () => number = Math.random,
  ) {}

  /** As soon as may be. One that fails keeps its waiting time, or its own failing would call it up; `fresh` begins anew. */
  add(key: string, nowMs: number, fresh = false): void {
    const item = this.items.get(key);
    if (item === undefined) {
      this.items.set(key, { dueMs: nowMs, again: false, fresh: false, failures: 0 });
    } else if (item.dueMs === undefined) {
      item.again = true;
      item.fresh ||= fresh;
    } else {
      if (fresh) item.failures = 0;
      if (item.failures === 0) item.dueMs = Math.min(item.dueMs, nowMs);
    }
  }

  /** The one that waited longest of those that are due; it runs until done(). */
  take(nowMs: number): { key: string; waitedMs: number } | undefined {
    let found: { key: string; item: Item; dueMs: number } | undefined;
    for (const [key, item] of this.items) {
      const { dueMs } = item;
      if (dueMs !== undefined && dueMs <= nowMs && (found === undefined || dueMs < found.dueMs)) found = { key, item, dueMs };
    }
    if (found === undefined) return undefined;
    found.item.dueMs = undefined;
    return { key: found.key, waitedMs: nowMs - found.dueMs };
  }

  done(key: string, nowMs: number, outcome: Outcome): void {
    const item = this.items.get(key);
    if (item === undefined || item.dueMs !== undefined) throw new Error(`${key} was not taken`);
    const { again, fresh } = item;
    item.again = false;
    item.fresh = false;
    if (outcome.ok) {
      item.failures = 0;
      if (again) item.dueMs = nowMs;
      else if (outcome.requeueAfterMs !== undefined) item.dueMs = nowMs + outcome.requeueAfterMs;
      else this.items.delete(key);
    } else if (fresh) {
      item.failures = 0;
      item.dueMs = nowMs;
    } else {
      item.failures++;
      item.dueMs = nowMs + Math.max(backoffMs(item.failures, this.bounds, this.random()), outcome.retryAfterMs ?? 0);
    }
  }

  /** When take() may find something that is not due yet; undefined: nothing waits. */
  nextDueMs(): number | undefined {
    let next: number | undefined;
    for (const { dueMs } of this.items.values()) if (dueMs !== undefined && (next === undefined || dueMs < next)) next = dueMs;
    return next;
  }

  /** Due and not taken. */
  depth(nowMs: number): number {
    return [...this.items.values()].filter(({ dueMs }) => dueMs !== undefined && dueMs <= nowMs).length;
  }

  get failing(): number {
    return [...this.items.values()].filter(({ failures }) => failures > 0).length;
  }

  get size(): number {
    return this.items.size;
  }
}
