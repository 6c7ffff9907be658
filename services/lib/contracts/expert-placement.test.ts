import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  balancedness,
  copyCounts,
  ExpertPlan,
  expertCountOf,
  firstPlan,
  layerBalancedness,
  rankLoads,
  spareSlot,
} from "./expert-placement.ts";

const shape = fc
  .record({
    layerCount: fc.integer({ min: 1, max: 3 }),
    experts: fc.integer({ min: 1, max: 24 }),
    rankCount: fc.integer({ min: 1, max: 9 }),
    extra: fc.integer({ min: 0, max: 3 }),
    part: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ layerCount, experts, rankCount, extra, part }) => {
    const slotsPerRank = Math.ceil(experts / rankCount) + extra;
    return { layerCount, experts, rankCount, slotsPerRank, used: experts + Math.round(part * (rankCount * slotsPerRank - experts)) };
  });

describe("the plan of experts", () => {
  test("before any load holds each expert, in as many slots as are used, evenly over ranks", () => {
    fc.assert(
      fc.property(shape, (of) => {
        const plan = ExpertPlan.parse(firstPlan(of));
        expect(expertCountOf(plan)).toBe(of.experts);
        for (const placed of plan.layers) {
          const copies = copyCounts(placed, of.experts);
          expect(Math.min(...copies)).toBeGreaterThan(0);
          expect(Math.max(...copies) - Math.min(...copies)).toBeLessThanOrEqual(1);
          expect(copies.reduce((a, b) => a + b)).toBe(of.used);
          const held = Array.from(
            { length: of.rankCount },
            (_, rank) => placed.slice(rank * of.slotsPerRank, (rank + 1) * of.slotsPerRank).filter((slot) => slot !== spareSlot).length,
          );
          expect(Math.max(...held) - Math.min(...held)).toBeLessThanOrEqual(1);
        }
      }),
    );
  });

  test("is refused with the field that is wrong", () => {
    const good = {
      version: 1,
      rankCount: 2,
      slotsPerRank: 2,
      layers: [
        [0, 1, 2, 0],
        [2, 1, 0, spareSlot],
      ],
    };
    const fault = (change: object) => {
      const { error } = ExpertPlan.safeParse({ ...good, ...change });
      return error && `${error.issues[0]?.path.join(".")} ${error.issues[0]?.message}`;
    };
    expect(fault({})).toBeUndefined();
    expect(fault({ version: 0 })).toMatch(/^version /);
    expect(fault({ rankCount: 3 })).toMatch(/^layers\.0 has 4 slots/);
    expect(fault({ rankCount: 8000 })).toMatch(/^slotsPerRank 16000 slots/);
    expect(
      fault({
        layers: [
          [0, 1, 2, 0],
          [0, 1, 1, spareSlot],
        ],
      }),
    ).toBe("layers.1 has no slot with expert 2");
    expect(fault({ layers: [[0, -2, 1, 1]] })).toMatch(/^layers\.0\.1 /);
    expect(fault({ layers: [[-1, -1, -1, -1]] })).toBe("layers.0 holds no expert");
    expect(fault({ layers: [] })).toMatch(/^layers /);
  });
});

test("copies share their expert's load, and balancedness is mean rank load over the largest", () => {
  const placed = [0, 1, 0, 2, 0, spareSlot];
  expect([...rankLoads(placed, 2, [6, 1, 3])]).toEqual([3, 5, 2]);
  expect(layerBalancedness(placed, 2, [6, 1, 3])).toBeCloseTo(10 / 3 / 5, 12);
  expect(layerBalancedness(placed, 2, [0, 0, 0])).toBe(1);
  expect(
    balancedness({ layers: [placed, placed], slotsPerRank: 2 }, [
      [6, 1, 3],
      [0, 0, 0],
    ]),
  ).toBeCloseTo((10 / 3 / 5 + 1) / 2, 12);
});
