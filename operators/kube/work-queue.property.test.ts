// Random histories of a queue with several workers: what must hold after each step.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { backoffMs } from "./backoff.ts";
import { WorkQueue } from "./work-queue.ts";

const bounds = { baseMs: 1000, maxMs: 60_000 };
const key = fc.constantFrom("a", "b", "c", "d");
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant("add" as const), key, fresh: fc.boolean() }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("take" as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("done" as const), ok: fc.boolean(), requeue: fc.option(fc.nat(50_000)) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("pass" as const), ms: fc.nat(100_000) }) },
);

describe("the work queue", () => {
  it("waits twice as long after each failure, up to a bound", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 10_000 }), fc.double({ min: 0, max: 0.999, noNaN: true }), (failures, random) => {
        const full = Math.min(bounds.maxMs, bounds.baseMs * 2 ** (failures - 1));
        const wait = backoffMs(failures, bounds, random);
        expect(wait).toBeGreaterThanOrEqual(full / 2);
        expect(wait).toBeLessThanOrEqual(full);
      }),
    );
  });

  it("gives out each key once at a time, never early, and forgets no wish", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), fc.double({ min: 0, max: 0.999, noNaN: true }), (steps, random) => {
        const queue = new WorkQueue(bounds, () => random);
        let now = 0;
        const running: string[] = [];
        // Of each key: asked for and not taken since; the failures in a row; the earliest time after the last failure.
        const wished = new Set<string>();
        const failures = new Map<string, number>();
        const notBefore = new Map<string, number>();
        const freshWhileRunning = new Set<string>();
        for (const one of steps) {
          if (one.do === "pass") now += one.ms;
          if (one.do === "add") {
            queue.add(one.key, now, one.fresh);
            wished.add(one.key);
            if (one.fresh) {
              if (running.includes(one.key)) freshWhileRunning.add(one.key);
              else {
                failures.delete(one.key);
                notBefore.delete(one.key);
              }
            }
          }
          if (one.do === "take") {
            const taken = queue.take(now);
            if (taken === undefined) {
              // Nothing that was wished is withheld but by its own failures.
              for (const each of wished) if (!running.includes(each)) expect(notBefore.get(each) ?? 0).toBeGreaterThan(now);
              continue;
            }
            expect(running).not.toContain(taken.key);
            expect(now).toBeGreaterThanOrEqual(notBefore.get(taken.key) ?? 0);
            running.push(taken.key);
            wished.delete(taken.key);
          }
          if (one.do === "done" && running.length > 0) {
            const ended = running.shift() as string;
            const fresh = freshWhileRunning.delete(ended);
            queue.done(ended, now, one.ok ? { ok: true, requeueAfterMs: one.requeue ?? undefined } : { ok: false });
            if (one.ok || fresh) {
              failures.delete(ended);
              notBefore.delete(ended);
              if (!one.ok) wished.add(ended);
            } else {
              const count = (failures.get(ended) ?? 0) + 1;
              failures.set(ended, count);
              notBefore.set(ended, now + backoffMs(count, bounds, random));
              wished.add(ended);
            }
          }
          expect(queue.size).toBeLessThanOrEqual(4);
          expect(queue.failing).toBe([...failures.keys()].length);
        }
        // Left alone, it empties: everything wished is given out, in bounded time.
        for (const each of running) queue.done(each, now, { ok: true });
        for (let turns = 0; queue.size > 0; turns++) {
          expect(turns).toBeLessThan(20);
          now = Math.max(now, queue.nextDueMs() ?? now);
          const taken = queue.take(now);
          expect(taken).toBeDefined();
          wished.delete(taken?.key ?? "");
          queue.done(taken?.key ?? "", now, { ok: true });
        }
        for (const each of running) wished.delete(each);
        expect([...wished]).toEqual([]);
      }),
      { numRuns: 2000 },
    );
  });

  it("keeps to what the API server asks for", () => {
    const queue = new WorkQueue(bounds, () => 0);
    queue.add("a", 0);
    queue.take(0);
    queue.done("a", 0, { ok: false, retryAfterMs: 20_000 });
    expect(queue.take(19_999)).toBeUndefined();
    expect(queue.take(20_000)?.key).toBe("a");
  });
});
