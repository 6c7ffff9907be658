import { expect, test } from "vitest";
import { silentLog } from "../../contracts/bus.ts";
import type { ExpertPlan } from "../../contracts/expert-placement.ts";
import { packSlots, RankNotice, unpackPlan } from "../../contracts/ranks.ts";
import { decodeMessage, encodeMessage } from "../../contracts/wire.ts";
import type { PlacementState } from "../native.ts";
import { ManualClock, MemoryBroker, settle } from "../testing/memory-bus.ts";
import { initialPlan } from "./expert-slots.ts";
import { RankMember } from "./rank-member.ts";

const first = initialPlan({ moeLayers: 2, logicalExperts: 4 }, 2, 0);

/** Of a rank whose every layer is ready as soon as a plan is staged. */
class Experts {
  planInForce: ExpertPlan = first;
  layersTaken = first.layers.length;
  staged: ExpertPlan | undefined;
  conformed: number[] = [];
  failure = "";
  failed: Error[] = [];
  get placementState(): PlacementState {
    const { version, layers } = this.planInForce;
    const ready = this.staged === undefined ? 0 : layers.length;
    return {
      version,
      layersTaken: this.layersTaken,
      next: this.staged?.version ?? 0,
      readyLayers: ready,
      failure: this.failure,
      loadedExperts: 0,
      loadedBytes: 0,
    };
  }
  stage(plan: ExpertPlan): boolean {
    if (plan.version <= Math.max(this.planInForce.version, this.staged?.version ?? 0)) return false;
    this.staged = plan;
    return true;
  }
  take(): void {
    this.planInForce = this.staged as ExpertPlan;
    this.staged = undefined;
  }
  async conform(plan: ExpertPlan): Promise<void> {
    this.conformed.push(plan.version);
    this.planInForce = plan;
    this.layersTaken = plan.layers.length;
    this.staged = undefined;
  }
  fail(error: Error): void {
    this.failed.push(error);
  }
}

function setUp() {
  const clock = new ManualClock();
  const broker = new MemoryBroker();
  const start = (rank: number, instance = 0, meetingEnds?: Error) => {
    const experts = new Experts();
    const member = new RankMember({
      bus: broker.connect(clock),
      clock,
      log: silentLog,
      subject: `ranks.${rank}`,
      subjects: "ranks.*",
      planSubject: `plans.${rank}`,
      planSubjects: "plans.*",
      mostSlotsPerRank: 4,
      own: {
        group: "m",
        sharedDigest: "00".repeat(32),
        rank,
        rankCount: 2,
        instanceId: `i${rank}-${instance}`,
        host: "h",
        port: 1,
        secret: "00".repeat(32),
      },
      experts,
      meet: async () => {
        experts.staged = undefined;
        if (meetingEnds !== undefined) throw meetingEnds;
      },
    });
    return { member, experts };
  };
  const run = async (ms: number) => {
    for (let passed = 0; passed < ms; passed += 50) {
      await clock.advance(50);
      await settle();
    }
  };
  return { broker, start, run };
}

const turned = (version: number): ExpertPlan => ({ ...first, version, layers: first.layers.map((slots) => slots.toReversed()) });

test("the rank that leads decides, all of its group stage the plan however it gets lost, and nobody decides another one meanwhile", async () => {
  const { broker, start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  expect([a.member.mayDecide(), b.member.mayDecide()]).toEqual([true, false]);
  expect(b.member.decidePlan(turned(2))).toMatch(/leads no group/);
  expect(a.member.decidePlan({ ...turned(2), slotsPerRank: 3 })).toMatch(/another shape/);
  let lost = 3;
  broker.deliveries = (subject) => (subject.startsWith("plans.") && lost-- > 0 ? 0 : 2);
  expect(a.member.decidePlan(turned(2))).toBeUndefined();
  await run(3_000);
  expect([a.experts.staged, b.experts.staged]).toEqual([turned(2), turned(2)]);
  expect(a.member.decidePlan(turned(3))).toMatch(/could change/);
  for (const { experts } of [a, b]) experts.take();
  await run(300);
  expect(a.member.mayDecide()).toBe(true);
});

test("a plan for another group, an older one and one of another model are not taken; what cannot be loaded ends the rank", async () => {
  const { broker, start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  const said: Uint8Array[] = [];
  broker.subscribe("plans.*", ({ data }) => said.push(data.slice()));
  expect(a.member.decidePlan(turned(2))).toBeUndefined();
  await run(100);
  for (const { experts } of [a, b]) experts.take();
  // The group ends, and another one of the same ranks meets.
  b.member.lost(b.member.round, { message: "rank 0 is lost" });
  await run(1_000);
  expect([a.member.groupMembers, b.member.groupMembers]).toEqual([2, 2]);
  const say = (changes: object, plan = turned(9)) => {
    const { version, rankCount, slotsPerRank, layers } = plan;
    const about = {
      group: "m",
      sharedDigest: "00".repeat(32),
      kind: "next",
      groupId: "11".repeat(16),
      version,
      rankCount,
      slotsPerRank,
      layerCount: layers.length,
    };
    broker.send("plans.0", encodeMessage({ ...about, ...changes }, packSlots(plan)));
  };
  for (const data of said) broker.send("plans.0", data);
  say({});
  say({ group: "n" });
  say({ kind: "inForce", groupId: "" }, { version: 9, rankCount: 2, slotsPerRank: 1, layers: [[0, 1]] });
  await run(500);
  expect([a, b].map(({ experts }) => [experts.staged, experts.planInForce.version])).toEqual([
    [undefined, 2],
    [undefined, 2],
  ]);
  b.experts.failure = "plan 3: model.safetensors is gone";
  await run(500);
  expect(b.experts.failed.map(({ message }) => message)).toEqual(["plan 3: model.safetensors is gone"]);
});

test("what was decided for a group ends with it, also where this rank hears of a later round before it hears of a loss", async () => {
  const { broker, start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  let said = new Uint8Array();
  broker.subscribe("ranks.1", ({ data }) => {
    said = data.slice();
  });
  await run(300);
  expect(a.member.decidePlan(turned(2))).toBeUndefined();
  const { body } = decodeMessage(RankNotice, said);
  broker.send("ranks.1", encodeMessage({ ...body, round: body.round + 1 }));
  await run(1_500);
  expect([a.member.round, b.member.round]).toEqual([body.round + 1, body.round + 1]);
  expect([a.experts.staged, b.experts.staged]).toEqual([undefined, undefined]);
  expect(a.member.mayDecide()).toBe(true);
});

test("ranks that a loss catches in different places of a change go on from where the one that got farthest is", async () => {
  const { start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  expect(a.member.decidePlan(turned(2))).toBeUndefined();
  await run(600);
  const mixed = { ...turned(2), layers: [turned(2).layers[0] as number[], first.layers[1] as number[]] };
  Object.assign(a.experts, { planInForce: mixed, layersTaken: 1 });
  for (const { member } of [a, b]) member.lost(member.round, { message: "a rank is lost" });
  await run(2_000);
  expect([a.member.groupMembers, b.member.groupMembers]).toEqual([2, 2]);
  expect(b.experts.planInForce).toEqual(mixed);
});

test("two that went on apart, each by a plan of its own, meet again when they hear of each other", async () => {
  const { broker, start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  broker.deliveries = () => 0;
  for (const { member } of [a, b]) member.lost(member.round, { message: "a rank is lost" });
  // Until the last notices are old.
  await run(4_000);
  const plans = [a, b].map(({ experts }) => experts.planInForce);
  expect(plans).toMatchObject([{ version: 2 }, { version: 2 }]);
  expect(plans[0]).not.toEqual(plans[1]);
  expect([a.member.members, b.member.members, a.member.round]).toEqual([[0], [1], b.member.round]);
  broker.deliveries = () => 1;
  await run(4_000);
  expect([a.member.members, b.member.members]).toEqual([
    [0, 1],
    [0, 1],
  ]);
  expect(a.experts.planInForce).toEqual(b.experts.planInForce);
});

test("a rank that stops says so: the others go on without it at once, and it is no loss, unless nobody heard it", async () => {
  for (const heard of [true, false]) {
    const { broker, start, run } = setUp();
    const [a, b] = [start(0), start(1)];
    await run(500);
    if (!heard) broker.deliveries = () => 0;
    b.member.stop();
    broker.deliveries = () => 1;
    a.member.lost(a.member.round, { message: "rank 1 has left", byItself: true });
    await run(heard ? 700 : 5_000);
    expect(a.member.members).toEqual([0]);
    expect(a.member.groups.at(-1)).toMatchObject({ members: [0], loss: null, stopped: heard ? [1] : [] });
    const fresh = start(1, 1);
    await run(3_000);
    expect([a.member.members, fresh.member.members]).toEqual([
      [0, 1],
      [0, 1],
    ]);
    expect(a.member.groups.at(-1)).toMatchObject({ loss: null, stopped: [] });
    fresh.member.stop();
  }
});

test("a rank that has stopped hears nothing", async () => {
  const { broker, start, run } = setUp();
  const [a] = [start(0), start(1)];
  await run(500);
  const before = broker.subscriptionCount;
  a.member.stop();
  expect(broker.subscriptionCount).toBe(before - 2);
});

test("a group that a rank left by itself to go on in another one has lost nobody", async () => {
  const { start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  for (const [byItself, loss] of [
    [true, null],
    [false, "rank 1 is gone"],
  ] as const) {
    b.member.lost(b.member.round, { message: "rank 1 is gone", byItself: true });
    a.member.lost(a.member.round, { message: "rank 1 is gone", byItself });
    await run(2_000);
    expect(a.member.groups.at(-1)).toMatchObject({ members: [0, 1], loss });
  }
});

test("who comes back hears the plan of the group, loads it and is let in", async () => {
  const { start, run } = setUp();
  const [a, b] = [start(0), start(1)];
  await run(500);
  b.member.stop();
  a.member.lost(a.member.round, { message: "rank 1 is lost" });
  // No longer than notices are fresh: the repaired plan holds both ranks' experts.
  await run(5_000);
  expect(a.member.groupMembers).toBe(1);
  expect(a.experts.planInForce).toMatchObject({ version: 2, slotsPerRank: 4 });
  expect(a.member.pausedBecause).toBeUndefined();
  const fresh = start(1, 1);
  await run(3_000);
  expect(fresh.experts.conformed).toEqual([2]);
  expect(fresh.experts.planInForce).toEqual(a.experts.planInForce);
  expect([a.member.groupMembers, fresh.member.groupMembers]).toEqual([2, 2]);
});

test("slots come back as they were packed", () => {
  const plan = {
    ...first,
    layers: [
      [0, -1, 3, 2],
      [8191, 1, 2, 3],
    ],
  };
  const size = { version: 1, rankCount: 2, slotsPerRank: 2, layerCount: 2 };
  expect(() => unpackPlan(size, packSlots(plan))).toThrow(/no slot with expert/);
  expect(unpackPlan(size, packSlots(first))).toEqual(first);
  expect(() => unpackPlan({ ...size, layerCount: 3 }, packSlots(first))).toThrow(/slots: 8 values, not 12/);
});

test("a rank whose memory ends at a meeting is of no more use, and one that met nobody is", async () => {
  const { start, run } = setUp();
  const ended = (code: string) => Object.assign(new Error("it did not come about"), { code });
  const [a, b] = [start(0, 0, ended("memory")), start(1, 0, ended("rank-lost"))];
  await run(500);
  expect([a.experts.failed.at(0)?.message, b.experts.failed]).toEqual(["it did not come about", []]);
  expect(b.member.reason).toMatch(/did not come about/);
});
