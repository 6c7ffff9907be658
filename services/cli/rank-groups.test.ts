import { expect, it } from "vitest";
import type { RankStatus } from "../lib/contracts/rank-status.ts";
import { groupLines } from "./rank-groups.ts";

const whole: RankStatus = {
  group: "m",
  rank: 0,
  rankCount: 3,
  members: [0, 1, 2],
  reason: null,
  plan: { version: 1, digest: "d", whole: true },
  loaded: { experts: 0, bytes: 0 },
  indispensable: [],
  balancedness: null,
  history: [{ round: 1, secondsAgo: 60, members: [0, 1, 2], loss: null, stopped: [] }],
};
const met = { round: 2, secondsAgo: 7.4, members: [0, 2], loss: "rank 1 lost: its connection ended", stopped: [] };
const less: RankStatus = {
  ...whole,
  members: [0, 2],
  plan: { version: 4, digest: "e", whole: false },
  indispensable: [2],
  history: [...whole.history, met],
};

it("tells how many ranks share a model's experts, and who is not there", () => {
  expect(groupLines([])).toEqual([]);
  expect(groupLines([whole])).toEqual(["ranks of m: 3 of 3 share their experts by plan 1"]);
  const line =
    "ranks of m: 2 of 3 share their experts by plan 4, which they go over to; not there: 1; with the only copies of some: 2; last loss 7 s ago: rank 1 lost: its connection ended";
  // Whoever has not heard of the loss yet, and whoever waits to be taken in, knows less.
  const outside: RankStatus = { ...whole, rank: 1, members: [], reason: "waits for the others", history: [{ ...met, round: 9 }] };
  for (const statuses of [
    [whole, less, outside],
    [outside, less, whole],
  ])
    expect(groupLines(statuses)).toEqual([line]);
  expect(groupLines([outside])).toEqual(["ranks of m: none of 3 share their experts: waits for the others"]);
});
