import { expect, it } from "vitest";
import { addTokens, layerLoad } from "./layer-load.ts";

it("a layer's load is relative to its mean", () => {
  expect(layerLoad([0, 2, 6, 0])).toEqual({ tokens: 8, relative: [0, 1, 3, 0], busiest: 2, highest: 3, unused: 2 });
  expect(layerLoad([0, 0])).toEqual({ tokens: 0, relative: [0, 0], busiest: 0, highest: 0, unused: 2 });
});

it("workers of one shape add up", () => {
  expect(addTokens([[[1, 2]], [[10, 20]], [[1, 2, 3]]])).toEqual([[11, 22]]);
  expect(addTokens([])).toBeNull();
});
