import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { balancedness, copyCounts, ExpertPlan, firstPlan, spareSlot } from "../lib/contracts/expert-placement.ts";
import { expertBytes, movesBetween, replan } from "./moves.ts";
import { place } from "./policies.ts";
import { shapeFault } from "./shape.ts";

const situation = fc
  .record({
    nodes: fc.integer({ min: 1, max: 3 }),
    ranksOfNode: fc.integer({ min: 1, max: 4 }),
    experts: fc.integer({ min: 1, max: 8 }).map((n) => n * 6),
    redundant: fc.integer({ min: 0, max: 2 }),
    spare: fc.integer({ min: 0, max: 2 }),
    layerCount: fc.integer({ min: 1, max: 3 }),
    policy: fc.constantFrom("balanced" as const, "grouped" as const, "published" as const),
    tolerance: fc.constantFrom(0, 0.02, 0.2),
  })
  .chain((of) =>
    fc.record({
      of: fc.constant(of),
      loads: fc.array(fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: of.experts, maxLength: of.experts }), {
        minLength: of.layerCount,
        maxLength: of.layerCount,
      }),
      random: fc.array(fc.nat(), { minLength: of.experts, maxLength: of.experts }),
    }),
  )
  .map(({ of, loads, random }) => {
    const ranks = of.nodes * of.ranksOfNode;
    const perRank = Math.ceil(of.experts / ranks) + of.redundant;
    const shape = { experts: of.experts, slots: ranks * perRank, ranks, nodes: of.nodes, groups: 6 };
    const slotsPerRank = perRank + of.spare;
    // Any plan may be in force: here the experts of the first one are renamed.
    const names = [...random.keys()].sort((a, b) => (random[a] as number) - (random[b] as number));
    const current = firstPlan({ layerCount: of.layerCount, experts: of.experts, rankCount: ranks, slotsPerRank, used: shape.slots });
    current.layers = current.layers.map((layer) => layer.map((expert) => (expert === spareSlot ? expert : (names[expert] as number))));
    return { shape, current, loads, policy: of.policy, tolerance: of.tolerance };
  });

describe("a new plan from the plan in force", () => {
  test("is near enough to a fresh one, and its moves are what is new", () => {
    fc.assert(
      fc.property(situation, ({ shape, current, loads, policy, tolerance }) => {
        expect(shapeFault(shape)).toBeUndefined();
        const { plan, moves, ...figures } = replan(current, loads, shape, policy, { tolerance });
        expect(ExpertPlan.parse(plan).version).toBe(current.version + 1);
        expect(figures.balancednessAfter).toBeCloseTo(balancedness(plan, loads), 12);
        const fresh = loads.map((load) => [...place(policy, load, shape)]);
        const freshBalancedness = balancedness({ layers: fresh, slotsPerRank: shape.slots / shape.ranks }, loads);
        expect(figures.balancednessFresh).toBeCloseTo(freshBalancedness, 12);
        expect(figures.balancednessAfter).toBeGreaterThanOrEqual(freshBalancedness - tolerance - 1e-9);
        // Moves carry the old plan to the new one, from slots that had the expert.
        const layers = current.layers.map((layer) => [...layer]);
        for (const { layer, expert, from, to } of moves) {
          expect(current.layers[layer]?.[from]).toBe(expert);
          (layers[layer] as number[])[to] = expert;
        }
        for (const [layer, placed] of plan.layers.entries()) {
          expect(copyCounts(placed, shape.experts).reduce((a, b) => a + b)).toBe(shape.slots);
          for (const [slot, expert] of placed.entries()) if (expert !== spareSlot) expect(layers[layer]?.[slot]).toBe(expert);
        }
        // Again with the same loads: nothing moves.
        expect(replan(plan, loads, shape, policy, { tolerance }).moves).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test("keeps to the most moves that it is given, and never loses balance", () => {
    fc.assert(
      fc.property(situation, fc.integer({ min: 0, max: 30 }), ({ shape, current, loads }, mostMoves) => {
        const { moves, balancednessBefore, balancednessAfter } = replan(current, loads, shape, "balanced", { tolerance: 0.01, mostMoves });
        expect(moves.length).toBeLessThanOrEqual(mostMoves);
        expect(balancednessAfter).toBeGreaterThanOrEqual(balancednessBefore - 1e-9);
      }),
      { numRuns: 200 },
    );
  });

  test("uses as few moves as any on most small layers", () => {
    let [fewest, all] = [0, 0];
    for (const loads of fc.sample(fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 4, maxLength: 4 }), { numRuns: 100, seed: 3 })) {
      const shape = { experts: 4, slots: 6, ranks: 3, nodes: 1, groups: 1 };
      const current = firstPlan({ layerCount: 1, experts: 4, rankCount: 3, slotsPerRank: 2 });
      const { moves, balancednessFresh } = replan(current, [loads], shape, "balanced", { tolerance: 0.05 });
      let least = Infinity;
      for (let code = 0; code < 4 ** 6; code++) {
        const placed = Array.from({ length: 6 }, (_, slot) => Math.floor(code / 4 ** slot) % 4);
        if (copyCounts(placed, 4).includes(0) || balancedness({ layers: [placed], slotsPerRank: 2 }, [loads]) < balancednessFresh - 0.05)
          continue;
        least = Math.min(least, movesBetween(current, { ...current, layers: [placed] }).length);
      }
      all++;
      if (moves.length === least) fewest++;
      expect(moves.length).toBeLessThanOrEqual(least + 2);
    }
    expect(fewest / all).toBeGreaterThan(0.8);
  });
});

test("an expert of V3 in FP8 has the bytes of its tensors", () => {
  expect(expertBytes({ hiddenSize: 7168, width: 2048, bytesPerWeight: 1, scaleBlock: 128 })).toBe(44_040_192 + 10_752);
});
