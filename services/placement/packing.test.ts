import fc from "fast-check";
import { expect, test } from "vitest";
import { descending, Packing, packBalanced } from "./packing.ts";

test("pairs are packed as any packing is: each item into the least loaded pack with room, the first of equals", () => {
  const weights = fc
    .integer({ min: 1, max: 12 })
    .chain((packs) =>
      fc.array(fc.oneof(fc.constantFrom(0, 1, 2), fc.integer({ min: 0, max: 1000 })), { minLength: 2 * packs, maxLength: 2 * packs }),
    );
  fc.assert(
    fc.property(weights, (each) => {
      const items = Float32Array.from(each);
      const packing = new Packing(items.length / 2, 2);
      const places = new Int32Array(items.length);
      for (const item of descending(items)) places[item] = packing.put(items[item] as number);
      expect(packBalanced(items, items.length / 2)).toEqual(places);
    }),
    { numRuns: 500 },
  );
});
