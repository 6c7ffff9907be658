import { describe, expect, test } from "vitest";
import { generateLoads, type LoadModel, type LoadStory } from "./loads.ts";
import { simulate } from "./run.ts";

const model: LoadModel = { layers: 3, experts: 64, topics: 5, commonSpread: 0.5, topicSpread: 0.8, tokensPerInterval: 1e6 };
const story: LoadStory = {
  intervals: 90,
  drift: 0.15,
  shiftEvery: 30,
  shiftWeight: 0.4,
  burstChance: 0.03,
  burstIntervals: 4,
  burstWeight: 0.5,
};
const shape = { experts: 64, slots: 72, ranks: 8, nodes: 2, groups: 8 };
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b) / values.length;

describe("placement over time", () => {
  test("ours is better balanced than the published balancer at the same cadence, and moves a third or less", () => {
    const [none, published, ours] = simulate(generateLoads(model, story, 3), model.layers, shape, [
      { name: "none", kind: "none", every: 1 },
      { name: "published", kind: "published", every: 10 },
      { name: "ours", kind: "ours", every: 10 },
    ]).map(({ balancedness, moves, plans }) => ({ balancedness: mean(balancedness), moves, plans }));
    expect(none).toMatchObject({ moves: 0, plans: 0 });
    expect(published?.plans).toBe(ours?.plans);
    expect(published?.balancedness).toBeGreaterThan(none?.balancedness ?? 1);
    expect(ours?.balancedness).toBeGreaterThan(published?.balancedness ?? 1);
    expect(ours?.moves).toBeLessThan((published?.moves ?? 0) / 3);
  });

  test("loads are the same for a seed, of so many tokens a layer", () => {
    const [first, again, other] = [5, 5, 6].map((seed) => [...generateLoads(model, { ...story, intervals: 2 }, seed)]);
    expect(first).toEqual(again);
    expect(first).not.toEqual(other);
    const layer = first?.[1]?.subarray(64, 128).reduce((a, b) => a + b) ?? 0;
    expect(layer / 1e6).toBeCloseTo(1, 1);
  });
});
