import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Bucket, duration, Usage } from "./rate-limits.ts";

describe("a bucket", () => {
  test("lets through no more in any span of time than it holds and what comes in meanwhile", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000 }),
        fc.array(fc.record({ afterMs: fc.nat({ max: 30_000 }), amount: fc.integer({ min: 1, max: 50 }) }), { minLength: 1, maxLength: 60 }),
        (perMinute, arrivals) => {
          const bucket = new Bucket(perMinute, 0);
          const taken: { atMs: number; amount: number }[] = [];
          let now = 0;
          for (const { afterMs, amount } of arrivals) {
            now += afterMs;
            if (bucket.waitMs(amount, now) > 0) continue;
            bucket.take(amount, now);
            taken.push({ atMs: now, amount });
          }
          // The slow way: every span between two that were let through.
          for (const [from, first] of taken.entries()) {
            let sum = 0;
            for (const { atMs, amount } of taken.slice(from)) {
              sum += amount;
              expect(sum).toBeLessThanOrEqual(perMinute + ((atMs - first.atMs) / 60_000) * perMinute + 1e-6);
            }
          }
        },
      ),
    );
  });

  test("says how long to wait: a moment before is too early, and then it is there", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10_000 }),
        fc.double({ min: 0.01, max: 1, noNaN: true }),
        fc.nat({ max: 20_000 }),
        (perMinute, share, over) => {
          const bucket = new Bucket(perMinute, 0);
          // Also overdrawn: an answer was longer than expected.
          bucket.take(perMinute + over, 0);
          const amount = perMinute * share;
          const waitMs = bucket.waitMs(amount, 0);
          expect(waitMs).toBeGreaterThan(0);
          expect(bucket.waitMs(amount, waitMs * 0.99)).toBeGreaterThan(0);
          expect(bucket.waitMs(amount, waitMs)).toBeLessThan(1e-3);
        },
      ),
    );
    expect(new Bucket(10, 0).waitMs(11, 0)).toBe(Number.POSITIVE_INFINITY);
  });

  test("is never more than full, and time that goes backwards gives nothing", () => {
    const bucket = new Bucket(60, 1_000);
    bucket.take(-100, 1_000);
    expect(bucket.remaining(1_000_000)).toBe(60);
    bucket.take(60, 1_000_000);
    expect(bucket.remaining(500_000)).toBe(0);
    expect(bucket.remaining(1_001_000)).toBe(1);
  });

  test("that is resized keeps what was used", () => {
    const bucket = new Bucket(60, 0);
    bucket.take(50, 0);
    bucket.resize(100, 0);
    expect(bucket.remaining(0)).toBe(50);
    bucket.resize(40, 0);
    expect(bucket.remaining(0)).toBe(0);
    expect(bucket.resetMs(0)).toBe(75_000);
  });
});

test("headers are those of OpenAI", () => {
  const usage = new Usage();
  expect(usage.headers(0)).toEqual({});
  usage.apply({ requestsPerMinute: 60, tokensPerMinute: 1_000 }, 0);
  usage.requests?.take(1, 0);
  usage.tokens?.take(1_500, 0);
  expect(usage.headers(0)).toEqual({
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "1m30s",
  });
  expect([0, 20, 1_500, 360_000].map(duration)).toEqual(["0s", "20ms", "1.5s", "6m0s"]);
});
