import { expect, test } from "vitest";
import { ExpertTally } from "./expert-tally.ts";

test("counts of steps add up, beyond 32 bits", () => {
  const tally = new ExpertTally();
  for (let step = 0; step < 3; step++) tally.add(Uint32Array.of(1, 0xffff_ffff));
  expect([...tally.totals]).toEqual([3, 3 * 0xffff_ffff]);
});

test("a runner without experts has none", () => {
  const tally = new ExpertTally();
  tally.add(new Uint32Array(0));
  expect(tally.totals).toHaveLength(0);
});
