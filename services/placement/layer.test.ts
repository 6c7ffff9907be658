// On cases drawn by other rules than anybody tuned for: no worse than the published balancer, and on small ones near to the best there is.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { copyCounts, layerBalancedness } from "../lib/contracts/expert-placement.ts";
import { copiesByLoad, leastPossible } from "./copies.ts";
import { descending } from "./packing.ts";
import { place } from "./policies.ts";
import { publishedPlacement } from "./published.ts";
import type { PlacementShape } from "./shape.ts";
import { repeats } from "./start.ts";

const golden = { experts: 12, slots: 16, ranks: 8, nodes: 2, groups: 4 };
const goldenLoads = [
  [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
  [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
];

describe("the published policy", () => {
  test("makes the plan in the README of deepseek-ai/EPLB", () => {
    const [first, second] = goldenLoads.map((load) => [...publishedPlacement(load, golden)].join(" "));
    expect(first).toBe("5 6 5 7 8 4 3 4 10 9 10 2 0 1 11 1");
    expect(second).toBe("7 10 6 8 6 11 8 9 2 4 5 1 5 0 3 1");
  });

  test("takes all ranks as one node where groups cannot be kept", () => {
    const placed = publishedPlacement(goldenLoads[0] as number[], { ...golden, nodes: 8 });
    expect([...placed].join(" ")).toBe("10 6 10 7 0 2 11 4 5 9 5 4 8 3 1 1");
  });
});

const loadKinds: Record<string, (random: () => number, expert: number) => number> = {
  even: (random) => 1000 + Math.floor(5000 * random()),
  skewed: (random) => Math.floor(1000 * Math.exp(4 * random() * random())),
  zipf: (_, expert) => Math.floor(1e5 / (1 + expert) ** 1.2),
  "one hot": (random, expert) => (expert === 0 ? 1e5 : Math.floor(4000 * random())),
  dead: (random) => (random() < 0.3 ? 0 : Math.floor(9000 * random())),
  none: () => 0,
  fractions: (random) => random() * 1e-3,
  ties: (random) => 1 + Math.floor(3 * random()),
  "all on one": (_, expert) => (expert === 1 ? 7 : 0),
};

interface Case {
  shape: PlacementShape;
  load: number[];
}

function cases(limits: {
  ranksOfNode: number;
  expertsOfGroup: number;
  redundant: number;
  nodes?: number;
  groups?: number;
}): fc.Arbitrary<Case> {
  return fc
    .record({
      nodes: fc.integer({ min: 1, max: limits.nodes ?? 4 }),
      ranksOfNode: fc.integer({ min: 1, max: limits.ranksOfNode }),
      groups: fc.integer({ min: 1, max: limits.groups ?? 8 }),
      expertsOfGroup: fc.integer({ min: 1, max: limits.expertsOfGroup }),
      redundant: fc.integer({ min: 0, max: limits.redundant }),
      kind: fc.constantFrom(...Object.values(loadKinds)),
      seed: fc.integer({ min: 1, max: 2 ** 31 }),
    })
    .map(({ nodes, ranksOfNode, groups, expertsOfGroup, redundant, kind, seed }) => {
      const ranks = nodes * ranksOfNode;
      const experts = groups * expertsOfGroup;
      let state = seed;
      const random = () => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return state / 2 ** 32;
      };
      const load = Array.from({ length: experts }, (_, expert) => kind(random, expert));
      return { shape: { experts, slots: ranks * (Math.ceil(experts / ranks) + redundant), ranks, nodes, groups }, load };
    });
}

const balance = (placed: Int32Array, { shape, load }: Case) => layerBalancedness(placed, shape.slots / shape.ranks, load);

describe("our policies", () => {
  test.each(["balanced", "grouped"] as const)(
    "%s: every expert has a slot, and no layer is less balanced than the published balancer's",
    (policy) => {
      const anyCase = fc.oneof(
        { weight: 9, arbitrary: cases({ ranksOfNode: 4, expertsOfGroup: 6, redundant: 3 }) },
        { weight: 1, arbitrary: cases({ ranksOfNode: 8, expertsOfGroup: 32, redundant: 2 }) },
      );
      fc.assert(
        fc.property(anyCase, ({ shape, load }) => {
          if (policy === "grouped" && shape.groups % shape.nodes !== 0) return;
          const placed = place(policy, load, shape);
          const published = publishedPlacement(load, shape);
          expect(placed.length).toBe(shape.slots);
          expect(Math.min(...copyCounts(placed, shape.experts))).toBeGreaterThan(0);
          expect(balance(placed, { shape, load })).toBeGreaterThanOrEqual(balance(published, { shape, load }) - 1e-9);
          if (policy === "grouped") expect(nodesOfGroups(placed, shape)).toBe(shape.groups);
          else if (shape.slots / shape.ranks <= shape.experts && repeats(placed, shape.ranks, shape.experts))
            expect(placed).toEqual(published);
        }),
        { numRuns: 250 },
      );
    },
  );

  test("balanced: as good as the best of all placements on four small cases in five, and within a tenth on nearly all", () => {
    const ratios: number[] = [];
    const small = cases({ nodes: 1, groups: 2, ranksOfNode: 3, expertsOfGroup: 3, redundant: 1 });
    for (const each of fc.sample(small, { numRuns: 300, seed: 8 })) {
      const { shape, load } = each;
      if (shape.slots > 9) continue;
      ratios.push(balance(place("balanced", load, shape), each) / bestBalancedness(each));
    }
    ratios.sort((a, b) => a - b);
    expect(ratios.length).toBeGreaterThan(200);
    expect(ratios.filter((ratio) => ratio > 1 - 1e-9).length / ratios.length).toBeGreaterThan(0.8);
    expect(ratios[Math.floor(ratios.length / 50)]).toBeGreaterThan(0.9);
  });
});

test("no placement of a small case undercuts what copies are said to be least possible for", () => {
  for (const each of fc.sample(cases({ nodes: 1, groups: 2, ranksOfNode: 4, expertsOfGroup: 2, redundant: 1 }), {
    numRuns: 400,
    seed: 9,
  })) {
    const { experts, slots, ranks } = each.shape;
    if (slots > 8 || slots / ranks > experts) continue;
    const rounded = Float32Array.from(each.load);
    const weights = Float64Array.from(each.load);
    const floor = leastPossible(weights, copiesByLoad(rounded, descending(rounded), slots, ranks), ranks);
    const mean = each.load.reduce((a, b) => a + b) / ranks;
    if (mean > 0) expect(mean / bestBalancedness(each)).toBeGreaterThanOrEqual(floor * (1 - 1e-9));
  }
});

/** Pairs of a group and a node with an expert of it. */
function nodesOfGroups(placed: Int32Array, { experts, groups, slots, nodes }: PlacementShape): number {
  const pairs = new Set<string>();
  for (const [slot, expert] of placed.entries()) {
    pairs.add(`${Math.floor(expert / (experts / groups))} ${Math.floor(slot / (slots / nodes))}`);
  }
  return pairs.size;
}

/** By trying every multiset of experts on every rank. */
function bestBalancedness(of: Case): number {
  const { slots, experts } = of.shape;
  const perRank = slots / of.shape.ranks;
  const placed = new Int32Array(slots);
  let best = 0;
  const fill = (slot: number): void => {
    if (slot === slots) {
      if (copyCounts(placed, experts).every((copies) => copies > 0)) best = Math.max(best, balance(placed, of));
      return;
    }
    for (let expert = slot % perRank === 0 ? 0 : (placed[slot - 1] as number); expert < experts; expert++) {
      placed[slot] = expert;
      fill(slot + 1);
    }
  };
  fill(0);
  return best;
}
