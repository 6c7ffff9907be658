import { expect, test } from "vitest";
import type { NativeRunner, RunOptions, RunResult } from "../model-runner.ts";
import type { RankLoss } from "../native.ts";
import type { RankMember } from "./rank-member.ts";
import { RankedRunner } from "./ranked-runner.ts";

const done: RunResult[] = [{ sequences: [], expertCounts: new Uint32Array(0) }];
const lost = (message: string) => Object.assign(new Error(message), { code: "rank-lost" });

/** Calls end as `ends` says, each after the layers given; a group of the next round is there at once. */
function setUp(ends: { layers: number; error?: Error }[]) {
  let round = 1;
  const losses: string[] = [];
  let running = 0;
  const native = {
    info: {},
    rowBytes: 1,
    async run(_work: unknown, { onLayer }: RunOptions) {
      expect(++running).toBe(1);
      await Promise.resolve();
      const { layers, error } = ends.shift() as (typeof ends)[number];
      for (let layer = 0; layer < layers; layer++) onLayer?.(layer);
      running--;
      if (error) throw error;
      return done;
    },
  };
  const runner = new RankedRunner(native as unknown as NativeRunner, "m");
  runner.setMember({
    joined: async () => round,
    lost: (of: number, { message }: RankLoss) => {
      losses.push(message);
      if (of === round) round++;
    },
  } as unknown as RankMember);
  return { runner, losses };
}

test("a step that a lost rank has ended is made again, and layers are reported once", async () => {
  const { runner, losses } = setUp([
    { layers: 2, error: lost("rank 1 is lost") },
    { layers: 1, error: lost("rank 2 is lost") },
    { layers: 4 },
  ]);
  const layers: number[] = [];
  expect(await runner.run([], { onLayer: (layer) => layers.push(layer) })).toBe(done);
  expect(layers).toEqual([0, 1, 2, 3]);
  expect(losses).toEqual(["rank 1 is lost", "rank 2 is lost"]);
});

test("other failures pass, and a step that no group survives ends with an error that sends its requests elsewhere", async () => {
  const { runner } = setUp([{ layers: 0, error: Object.assign(new Error("tokens[0]"), { code: "argument" }) }]);
  await expect(runner.run([])).rejects.toMatchObject({ code: "argument" });
  const never = setUp(Array.from({ length: 100 }, () => ({ layers: 0, error: lost("rank 1 is out of step") })));
  await expect(never.runner.run([])).rejects.toMatchObject({ code: "worker_lost", message: "rank 1 is out of step" });
});

test("a meeting waits for the step that runs", async () => {
  const { runner } = setUp([{ layers: 1 }]);
  const order: string[] = [];
  await Promise.all([
    runner.run([], { onLayer: () => order.push("step") }),
    Promise.resolve().then(() => runner.exclusive(async () => void order.push("meeting"))),
  ]);
  expect(order).toEqual(["step", "meeting"]);
});
