import fc from "fast-check";
import { expect, test } from "vitest";
import { kneeOf, type KneePoint, maxPoints, nextRate } from "./knee.ts";

/** `shareAt` says what a server does at a rate. */
function search(shareAt: (rate: number) => number, firstRate: number, attainment = 0.9, before: KneePoint[] = []) {
  const points = [...before];
  for (let rate = nextRate(points, attainment, firstRate); rate !== null; rate = nextRate(points, attainment, firstRate)) {
    if (points.length - before.length === maxPoints) throw new Error("no end in sight");
    points.push({ ratePerSecond: rate, share: shareAt(rate) });
  }
  return { points, knee: kneeOf(points, attainment) };
}

test("the knee is found to a tenth wherever it lies, in a bounded number of runs", () => {
  fc.assert(
    fc.property(fc.double({ min: 0.5, max: 200, noNaN: true }), (capacity) => {
      const { knee } = search((rate) => (rate <= capacity ? 1 : 0.5), 4);
      expect(knee).not.toBeNull();
      expect(knee as number).toBeLessThanOrEqual(capacity);
      expect(knee as number).toBeGreaterThan(capacity / 1.11);
    }),
  );
});

test("a server that holds no rate has no knee, and a share that falls in between is not taken for one above", () => {
  expect(search(() => 0.5, 4).knee).toBeNull();
  const points = [
    { ratePerSecond: 1, share: 1 },
    { ratePerSecond: 2, share: 0.5 },
    { ratePerSecond: 4, share: 0.95 },
  ];
  expect(kneeOf(points, 0.9)).toBe(1);
});

test("a second attainment's knee is as near, with what the first search measured, and not above the first's", () => {
  fc.assert(
    fc.property(fc.double({ min: 0.5, max: 200, noNaN: true }), fc.double({ min: 0.2, max: 1, noNaN: true }), (capacity, part) => {
      const shareAt = (rate: number) => (rate <= capacity * part ? 1 : rate <= capacity ? 0.95 : 0.5);
      const first = search(shareAt, 4);
      const second = search(shareAt, 4, 0.99, first.points);
      expect(second.knee as number).toBeLessThanOrEqual(first.knee as number);
      expect(second.knee as number).toBeLessThanOrEqual(capacity * part);
      expect(second.knee as number).toBeGreaterThan((capacity * part) / 1.11);
    }),
  );
});
