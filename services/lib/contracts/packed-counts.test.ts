import fc from "fast-check";
import { expect, test } from "vitest";
import { largestPackedCount, packCounts, unpackCounts } from "./packed-counts.ts";

const counts = fc.array(
  fc.oneof(
    fc.nat(10_000),
    fc.maxSafeNat().map((n) => n % largestPackedCount),
  ),
  { maxLength: 40 },
);

test("counts come back: small ones as they were, large ones within one part in 4,096", () => {
  fc.assert(
    fc.property(counts, (values) => {
      const tail = packCounts(values);
      expect(tail).toHaveLength(Math.ceil(values.length / 2));
      for (const [i, back] of unpackCounts(tail, values.length).entries()) {
        const value = values[i] as number;
        if (value < 4096) expect(back).toBe(value);
        else expect(Math.abs(back - value) / value).toBeLessThanOrEqual(1 / 4096);
      }
    }),
  );
});

test("a larger count is packed no smaller, and the largest stands for all above it", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.maxSafeNat(), (a, b) => {
      const [small, large] = unpackCounts(packCounts([Math.min(a, b), Math.max(a, b)]), 2);
      expect(small).toBeLessThanOrEqual(large as number);
      expect(large).toBeLessThanOrEqual(largestPackedCount);
    }),
  );
  const powers = Array.from({ length: 43 }, (_, power) => 2 ** power - 1);
  expect([...unpackCounts(packCounts(powers), 43)].slice(0, 13)).toEqual(powers.slice(0, 13));
});

test("a tail of another length is refused", () => {
  expect(() => unpackCounts(packCounts([1, 2, 3]), 5)).toThrow(/counts: 4 values, not 5/);
});
