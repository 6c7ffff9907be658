import fc from "fast-check";
import { expect, test } from "vitest";
import { countsByLayer, countWords } from "./counts-by-layer.ts";

test("counts come back by layer and expert, beyond 32 bits", () => {
  const layers = fc
    .integer({ min: 1, max: 5 })
    .chain((experts) => fc.array(fc.array(fc.maxSafeNat(), { minLength: experts, maxLength: experts }), { minLength: 1, maxLength: 4 }));
  fc.assert(
    fc.property(layers, (counts) => {
      const words = countWords(Float64Array.from(counts.flat()));
      expect(countsByLayer({ moeLayers: counts.length, logicalExperts: counts[0]?.length ?? 0 }, words)).toEqual(counts);
    }),
  );
});

test("none, or another number than is said, are not taken for counts", () => {
  expect(countsByLayer({ moeLayers: 0, logicalExperts: 0 }, new Uint32Array(0))).toBeNull();
  expect(countsByLayer({ moeLayers: 1, logicalExperts: 2 }, Uint32Array.of(1, 0))).toBeNull();
});
