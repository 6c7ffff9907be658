// Whole members in a storm: processes die and come back, groups are lost, plans change, and the bus loses, doubles and delays what is said, or
// keeps it from some. What rank-assembly.test.ts hands over by itself, such as plans and meetings, they must hear and do themselves here.
// Two groups may stand in one round as long as they do not hear of each other: each has every expert. They must not stay apart.
import fc from "fast-check";
import { expect, test } from "vitest";
import { longestDelayMs, type Rank, RankWorld, shape } from "../testing/rank-world.ts";

/** Longer than any member may take to see that there is no group, to load, and to meet the others a few times in vain. */
const calmMs = 10_000;

const event = fc.record({
  afterMs: fc.integer({ min: 0, max: 1_500 }),
  what: fc.constantFrom(
    "strike" as const,
    "strike" as const,
    "lose" as const,
    "decide" as const,
    "decide" as const,
    "part" as const,
    "ask" as const,
  ),
  rank: fc.nat({ max: 4 }),
});
const storm = fc.record({
  rankCount: fc.integer({ min: 2, max: 5 }),
  redundant: fc.constantFrom(0, 4, 32),
  seed: fc.integer({ min: 1, max: 0x7ffffffe }),
  events: fc.array(event, { maxLength: 20 }),
});

test("after any storm those that live are soon in one group with one plan, and it can be changed", async () => {
  await fc.assert(
    fc.asyncProperty(storm, async ({ rankCount, redundant, seed, events }) => {
      const world = new RankWorld(rankCount, redundant, seed);
      let waiting = 0;
      for (const { afterMs, what, rank: any } of events) {
        await world.pass(afterMs);
        const rank = any % rankCount;
        const one = world.ranks[rank] as Rank;
        if (what === "strike") world.strike(rank);
        else if (what === "lose" && one.group) world.end(one.group, false);
        else if (what === "decide") world.decide();
        else if (what === "part") {
          world.parted = world.parted.length > 0 ? [] : world.ranks.filter((each) => each.rank <= rank).map((each) => each.rank);
        } else if (what === "ask") {
          waiting++;
          one.member.joined(10_000).then(
            () => waiting--,
            (error: { code: string }) => (error.code === "worker_lost" ? waiting-- : world.faults.push(error)),
          );
        }
      }
      world.calm();
      const patience = world.living.some(({ member }) => member.groups.length > 0) ? 0 : 30_000;
      // What is late arrives.
      await world.pass(longestDelayMs);
      let passed = 0;
      for (; world.lacking !== undefined; passed += 250) {
        expect(passed, world.lacking).toBeLessThan(calmMs + patience);
        await world.pass(250);
      }
      // As long as somebody might come whose notice is late.
      const { round } = (world.living[0] as Rank).member;
      const { said } = world;
      await world.pass(3_500);
      expect(world.living.map(({ member }) => member.mayDecide())).toEqual(world.living.map((_, i) => i === 0));
      world.decide();
      await world.pass(3_000);
      expect(world.lacking).toBeUndefined();
      expect(world.living.map(({ member, layersTaken }) => [member.round, layersTaken])).toEqual(
        world.living.map(() => [round, shape.moeLayers]),
      );
      expect(waiting).toBe(0);
      // Four notices a second, and the plan.
      expect(world.said - said).toBeLessThan(world.living.length * 4 * 6.5 + 20);
      for (const rank of world.living) rank.die();
    }),
    // The same storms each time: what fails fails again, and none takes longer to shrink than a test may.
    { seed: 17, numRuns: 100, endOnFailure: true },
  );
});
