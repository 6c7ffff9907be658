import fc from "fast-check";
import { expect, test } from "vitest";
import { copyCounts, ExpertPlan, expertPolicies, firstPlan } from "../lib/contracts/expert-placement.ts";
import { nextPlan } from "./next-plan.ts";
import { ourSettings as settings } from "./settings.ts";

const turn = async () => {};

const cases = fc.record({
  ranks: fc.integer({ min: 1, max: 5 }),
  experts: fc.integer({ min: 1, max: 12 }),
  extra: fc.integer({ min: 0, max: 3 }),
  layerCount: fc.integer({ min: 1, max: 3 }),
  policy: fc.constantFrom(...expertPolicies),
  absent: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
  tokens: fc.array(fc.nat(1000), { minLength: 36, maxLength: 36 }),
});

test("the next plan is a plan, no worse balanced, holds all experts on the ranks that are there and leaves the others' slots alone", async () => {
  await fc.assert(
    fc.asyncProperty(cases, async ({ ranks, experts, extra, layerCount, policy, absent, tokens }) => {
      // Any one rank has room for all: whichever are there hold every expert.
      const current = firstPlan({ layerCount, experts, rankCount: ranks, slotsPerRank: experts + extra });
      const isThere = (rank: number) => rank === 0 || !absent[rank];
      const intervals = [tokens.slice(0, layerCount * experts)];
      const next = await nextPlan(current, { isThere, slotsPerRank: experts + extra, intervals }, { ...settings, policy }, turn);
      if (next === undefined) return;
      const { plan } = next;
      expect(ExpertPlan.parse(plan)).toEqual(plan);
      expect(plan.version).toBe(current.version + 1);
      expect(next.balancednessAfter).toBeGreaterThanOrEqual(next.balancednessBefore - 1e-9);
      for (const [layer, placed] of plan.layers.entries()) {
        const ofRank = (slots: number[], rank: number) => slots.slice(rank * plan.slotsPerRank, (rank + 1) * plan.slotsPerRank);
        const there: number[] = [];
        for (let rank = 0; rank < ranks; rank++) {
          if (isThere(rank)) there.push(...ofRank(placed, rank));
          else expect(ofRank(placed, rank)).toEqual(ofRank(current.layers[layer] as number[], rank));
        }
        expect(copyCounts(there, experts)).not.toContain(0);
      }
    }),
  );
});

test("a skewed load moves copies of the hot expert, no tokens or an even load move nothing", async () => {
  const current = firstPlan({ layerCount: 1, experts: 8, rankCount: 4, slotsPerRank: 3 });
  const next = (tokens: number[]) => nextPlan(current, { isThere: () => true, slotsPerRank: 3, intervals: [tokens] }, settings, turn);
  expect(await next([0, 0, 0, 0, 0, 0, 0, 0])).toBeUndefined();
  const skewed = await next([1000, 10, 10, 10, 10, 10, 10, 10]);
  expect(copyCounts(skewed?.plan.layers[0] as number[], 8)[0]).toBe(4);
  expect(skewed?.balancednessAfter).toBeGreaterThan(0.9);
  expect(skewed?.balancednessBefore).toBeLessThan(0.6);
});

test("experts are placed by the policy that is asked for", async () => {
  const current = firstPlan({ layerCount: 1, experts: 8, rankCount: 4, slotsPerRank: 3 });
  const intervals = [[91, 31, 71, 7, 47, 49, 13, 39]];
  const evenness = async (policy: (typeof expertPolicies)[number]) =>
    (await nextPlan(current, { isThere: () => true, slotsPerRank: 3, intervals }, { ...settings, policy }, turn))?.balancednessAfter;
  expect(await evenness("balanced")).toBeCloseTo(0.98864, 5);
  expect(await evenness("published")).toBeCloseTo(0.93048, 5);
});
