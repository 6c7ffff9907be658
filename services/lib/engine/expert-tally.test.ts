import { expect, test } from "vitest";
import { countWords, ExpertTally } from "./expert-tally.ts";

test("counts of steps add up, beyond 32 bits, as low and high words", () => {
  const tally = new ExpertTally();
  for (let step = 0; step < 3; step++) tally.add(Uint32Array.of(1, 0xffff_ffff));
  const words = countWords(tally.totals);
  expect([...words]).toEqual([3, 0, 0xffff_fffd, 2]);
  expect((words[2] as number) + (words[3] as number) * 2 ** 32).toBe(3 * 0xffff_ffff);
});

test("a runner without experts has none", () => {
  const tally = new ExpertTally();
  tally.add(new Uint32Array(0));
  expect(countWords(tally.totals)).toHaveLength(0);
});
