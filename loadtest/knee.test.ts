import fc from "fast-check";
import { expect, test } from "vitest";
import { kneeOf, type KneePoint, nextRate } from "./knee.ts";

function search(capacity: number, firstRate: number): { points: KneePoint[]; knee: number | null } {
  const points: KneePoint[] = [];
  for (let rate = nextRate(points, 0.9, firstRate); rate !== null; rate = nextRate(points, 0.9, firstRate)) {
    points.push({ ratePerSecond: rate, share: rate <= capacity ? 1 : 0.5 });
  }
  return { points, knee: kneeOf(points, 0.9) };
}

test("the knee is found to a tenth wherever it lies, in a bounded number of runs", () => {
  fc.assert(
    fc.property(fc.double({ min: 0.5, max: 200, noNaN: true }), (capacity) => {
      const { points, knee } = search(capacity, 4);
      expect(points.length).toBeLessThanOrEqual(14);
      expect(knee).not.toBeNull();
      expect(knee as number).toBeLessThanOrEqual(capacity);
      expect(knee as number).toBeGreaterThan(capacity / 1.11);
    }),
  );
});

test("a server that holds no rate has no knee, and a share that falls in between is not taken for one above", () => {
  expect(search(0, 4).knee).toBeNull();
  const points = [
    { ratePerSecond: 1, share: 1 },
    { ratePerSecond: 2, share: 0.5 },
    { ratePerSecond: 4, share: 0.95 },
  ];
  expect(kneeOf(points, 0.9)).toBe(1);
});
