import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { addTokens, type ExpertSnapshot, layerLoad, rememberExperts, tokensOf, windowSeconds } from "./expert-load.ts";

const experts = (tokens: number[][] | null, instanceId = "a") => ({ workerId: "w", instanceId, firstLayer: 1, expertsPerToken: 2, tokens });

describe("what experts got", () => {
  it("since the start is the newest snapshot, in the last minute a difference", () => {
    let kept = rememberExperts([], experts([[1, 2]]), 0);
    expect(tokensOf(kept, "start")).toEqual({ tokens: [[1, 2]], seconds: null });
    expect(tokensOf(kept, "minute")).toBeNull();
    kept = rememberExperts(kept, experts([[4, 2]]), 30);
    expect(tokensOf(kept, "minute")).toEqual({ tokens: [[3, 0]], seconds: 30 });
  });

  it("of a worker that came anew begins anew; of one that counts nothing is nothing", () => {
    const kept = rememberExperts(rememberExperts([], experts([[9, 9]]), 0), experts([[1, 1]], "b"), 1);
    expect(tokensOf(kept, "start")?.tokens).toEqual([[1, 1]]);
    expect(tokensOf(kept, "minute")).toBeNull();
    expect(rememberExperts(kept, experts(null), 2)).toEqual([]);
  });

  it("is remembered for about a minute, in few snapshots, however often it is asked for", () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0.1, max: 20, noNaN: true }), { minLength: 60, maxLength: 300 }), (gaps) => {
        let kept: readonly ExpertSnapshot[] = [];
        let at = 0;
        gaps.forEach((gap, i) => {
          at += gap;
          kept = rememberExperts(kept, experts([[i]]), at);
          expect(kept.length).toBeLessThanOrEqual(8);
          expect(kept.at(-1)?.tokens).toEqual([[i]]);
        });
        const seconds = tokensOf(kept, "minute")?.seconds ?? 0;
        if (at > 3 * windowSeconds) expect(seconds).toBeGreaterThanOrEqual(windowSeconds - 20);
        expect(seconds).toBeLessThan(windowSeconds + 60);
      }),
    );
  });
});

it("a layer's load is relative to its mean", () => {
  expect(layerLoad([0, 2, 6, 0])).toEqual({ tokens: 8, relative: [0, 1, 3, 0], busiest: 2, highest: 3, unused: 2 });
  expect(layerLoad([0, 0])).toEqual({ tokens: 0, relative: [0, 0], busiest: 0, highest: 0, unused: 2 });
});

it("workers of one shape add up", () => {
  expect(addTokens([[[1, 2]], [[10, 20]], [[1, 2, 3]]])).toEqual([[11, 22]]);
  expect(addTokens([])).toBeNull();
});
