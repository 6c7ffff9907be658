import { expect, test } from "vitest";
import { groupBalancedness } from "./group-balance.ts";

// Experts 0 and 1 on rank 0, 2 and 0 on rank 1, 1 and 2 on rank 2; in the second layer no copies.
const plan = {
  version: 1,
  rankCount: 3,
  slotsPerRank: 2,
  layers: [
    [0, 1, 2, 0, 1, 2],
    [0, -1, 1, -1, 2, -1],
  ],
};

test("balancedness is that of the ranks that are there", () => {
  const loads = Float64Array.of(4, 2, 2, 1, 2, 3);
  // Ranks have 2 + 1, 1 + 2 and 1 + 1 in one layer, and 1, 2 and 3 in the other.
  expect(groupBalancedness(plan, () => true, loads)).toEqual([8 / 3 / 3, 2 / 3]);
  // Without rank 2 experts 1 and 2 have one copy each; nothing of expert 2 is there in the other layer.
  expect(groupBalancedness(plan, (rank) => rank < 2, loads)).toEqual([1, 1.5 / 2]);
  expect(groupBalancedness(plan, () => true, new Float64Array(6))).toEqual([1, 1]);
});
