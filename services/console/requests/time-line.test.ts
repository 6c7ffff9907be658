import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { RequestTimeline } from "../../lib/contracts/timeline.ts";
import { barsOf, ticksOf } from "./time-line.ts";

const timeline: RequestTimeline = {
  requestId: "r",
  traceId: null,
  endpoint: "chat",
  model: "m",
  arrivedAt: "2026-01-01T00:00:00Z",
  outcome: "stop",
  seconds: 2,
  ttftSeconds: 0.5,
  promptTokens: 1,
  cachedTokens: 0,
  completionTokens: 1,
  decodeWorkerId: null,
  prefillWorkerId: null,
  resumes: 0,
  phases: [
    { name: "admission", process: "gateway", startSeconds: 0, seconds: 0.1 },
    { name: "first token", process: "gateway", startSeconds: 0.1, seconds: 0.4 },
    { name: "queue", process: "decode", workerId: "decode-1", startSeconds: 0.2, seconds: 0.4 },
    { name: "stream", process: "gateway", startSeconds: 0.5, seconds: 1.5 },
  ],
};

describe("bars", () => {
  it("stand on the whole request, or on the time to the first token and end there", () => {
    expect(barsOf(timeline, "whole").map(({ from, length }) => [from, length])).toEqual([
      [0, 0.05],
      [0.05, 0.2],
      [0.1, expect.closeTo(0.2)],
      [0.25, 0.75],
    ]);
    const first = barsOf(timeline, "first-token");
    expect(first.map(({ name }) => name)).toEqual(["admission", "first token", "queue"]);
    expect(first.map(({ where }) => where)).toEqual([null, null, "decode-1"]);
    expect(first[2]).toMatchObject({ from: 0.4, length: 0.6, seconds: 0.4 });
  });

  it("lie on the scale whatever the times are", () => {
    const seconds = fc.double({ min: 0, max: 1e4, noNaN: true });
    fc.assert(
      fc.property(seconds, seconds, seconds, (whole, startSeconds, length) => {
        const phases = [{ name: "x", process: "decode" as const, startSeconds, seconds: length }];
        for (const bar of barsOf({ ...timeline, seconds: whole, phases }, "whole")) {
          expect(bar.from).toBeGreaterThanOrEqual(0);
          expect(bar.length).toBeGreaterThanOrEqual(0);
          expect(bar.from + bar.length).toBeLessThanOrEqual(1);
        }
      }),
    );
  });
});

it("ticks are few, round and within", () => {
  expect(ticksOf(0.34)).toEqual([0, 0.1, 0.2, expect.closeTo(0.3)]);
  expect(ticksOf(0)).toEqual([0]);
  fc.assert(
    fc.property(fc.double({ min: 1e-6, max: 1e5, noNaN: true }), (seconds) => {
      const ticks = ticksOf(seconds);
      expect(ticks.length).toBeGreaterThanOrEqual(3);
      expect(ticks.length).toBeLessThanOrEqual(7);
      expect(ticks.at(-1)).toBeLessThanOrEqual(seconds * (1 + 1e-9));
    }),
  );
});
