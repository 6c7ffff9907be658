import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { RankNotice } from "../../contracts/ranks.ts";
import { ExpertPlan } from "../../contracts/expert-placement.ts";
import { indispensableRanks, initialPlan, missingExpert, planDigest, repairedPlan } from "./expert-slots.ts";
import { type AssemblyDecision, type OwnRank, RankAssembly } from "./rank-assembly.ts";

const options = { settleMs: 400, patienceMs: 10_000, staleMs: 3_000, mostSlotsPerRank: 8 };

function own(rank: number, rankCount: number, instance = 0): OwnRank {
  return {
    group: "m",
    sharedDigest: "00".repeat(32),
    rank,
    rankCount,
    instanceId: `i${rank}-${instance}`,
    host: "127.0.0.1",
    port: 1,
    secret: "00".repeat(32),
  };
}

/** Every expert on every rank. */
const everywhere = (rankCount: number) => initialPlan({ moeLayers: 1, logicalExperts: 2 }, rankCount, 2 * rankCount - 2);

function assembly(rank: number, rankCount: number, plan = everywhere(rankCount)) {
  return new RankAssembly(own(rank, rankCount), options, plan, 0);
}

const noticeOf = (one: RankAssembly): RankNotice => ({ v: 2, ...one.notice() });
const ranksOf = (decision: AssemblyDecision) =>
  decision.kind === "meet" ? decision.members.flatMap((member, rank) => (member ? [rank] : [])) : decision;

describe("ranks that assemble", () => {
  test("all of them meet as soon as all are heard, under one id", () => {
    const ranks = [0, 1, 2].map((rank) => assembly(rank, 3));
    expect(ranks[0]?.decide(5_000)).toEqual({ kind: "wait", reason: "waits for ranks 1, 2" });
    for (const one of ranks) for (const other of ranks) if (one !== other) one.hear(noticeOf(other), 1);
    const decisions = ranks.map((one) => one.decide(2));
    for (const decision of decisions) {
      expect(ranksOf(decision)).toEqual([0, 1, 2]);
      expect(decision.kind === "meet" && decision.id).toEqual(decisions[0]?.kind === "meet" && decisions[0].id);
    }
  });

  test("before they have ever met they wait long, and without an expert for ever", () => {
    const one = assembly(0, 2);
    expect(one.decide(options.patienceMs - 1).kind).toBe("wait");
    expect(ranksOf(one.decide(options.patienceMs))).toEqual([0]);
    const lacking = assembly(0, 2, initialPlan({ moeLayers: 1, logicalExperts: 4 }, 2, 0));
    expect(lacking.decide(1e9)).toEqual({ kind: "wait", reason: "waits for rank 1: nobody else has expert 2 of MoE layer 0" });
  });

  test("a group that is over is followed by one of those that speak in the next round, and that by one with who comes back", () => {
    const [a, b, c] = [0, 1, 2].map((rank) => assembly(rank, 3)) as [RankAssembly, RankAssembly, RankAssembly];
    const lastOfC = noticeOf(c);
    for (const one of [a, b]) for (const other of [a, b, c]) if (one !== other) one.hear(noticeOf(other), 1);
    for (const one of [a, b]) {
      const decision = one.decide(2);
      if (decision.kind === "meet") one.met(decision.round, decision.members);
      expect(one.decide(3)).toEqual({ kind: "joined" });
    }
    a.over(1, 1_000);
    a.over(1, 1_001); // said twice, of the same group
    expect(a.round).toBe(2);
    b.hear(noticeOf(a), 1_002); // hears of it before it sees it
    expect(b.round).toBe(2);
    a.hear(noticeOf(b), 1_003);
    a.hear(lastOfC, 1_004); // late
    expect(a.decide(1_399).kind).toBe("wait");
    for (const one of [a, b]) {
      const decision = one.decide(1_402);
      expect(ranksOf(decision)).toEqual([0, 1]);
      if (decision.kind === "meet") one.met(decision.round, decision.members);
    }
    const fresh = new RankAssembly(own(2, 3, 1), options, everywhere(3), 5_000);
    fresh.hear(noticeOf(a), 5_001);
    expect(fresh.round).toBe(2);
    a.hear(noticeOf(fresh), 5_002);
    expect(a.round).toBe(3);
    for (const [to, from] of [
      [b, a],
      [fresh, a],
      [a, b],
      [b, fresh],
      [a, fresh],
      [fresh, b],
    ] as const)
      to.hear(noticeOf(from), 5_003);
    for (const one of [a, b, fresh]) expect(ranksOf(one.decide(5_004))).toEqual([0, 1, 2]);
  });

  test("what is of another model or size is not heard", () => {
    const one = assembly(0, 2);
    for (const change of [{ group: "n" }, { sharedDigest: "11".repeat(32) }, { rankCount: 3 }, { rank: 0 }, { rank: 5 }])
      one.hear({ ...noticeOf(assembly(1, 2)), round: 7, hasMet: true, ...change }, 1);
    expect(one.round).toBe(1);
    expect(one.decide(2).kind).toBe("wait");
  });

  test("it says that a rank it waits for is there, and why they do not meet, until that falls silent", () => {
    const lacking = initialPlan({ moeLayers: 1, logicalExperts: 4 }, 3, 0);
    const one = assembly(0, 3, lacking);
    const other = noticeOf(assembly(1, 3, lacking));
    one.hear({ ...other, sharedDigest: "11".repeat(32) }, 1);
    const model = "has other model files or is of another build, or computes them on another backend or type of weights";
    expect(one.decide(2)).toEqual({ kind: "wait", reason: `waits for ranks 1, 2; a rank 1 is there, but ${model}` });
    one.hear({ ...other, rank: 2, rankCount: 4 }, 2);
    expect(one.decide(2 + options.staleMs)).toMatchObject({ reason: "waits for ranks 1, 2; a rank 2 is there, but counts 4 ranks, not 3" });
    expect(one.decide(3 + options.staleMs)).toMatchObject({ reason: "waits for ranks 1, 2" });
    one.hear({ ...other, group: "n" }, 4_000);
    expect(one.decide(4_001)).toMatchObject({ reason: "waits for ranks 1, 2" });
    one.hear({ ...other, sharedDigest: "11".repeat(32) }, 1e6);
    expect(one.decide(1e6)).toMatchObject({
      reason: expect.stringMatching(/^waits for ranks 1, 2: nobody else has expert .*; a rank 1 is there/),
    });
  });

  test("whatever is lost, late or doubled, those that live end in one group, and in no other", () => {
    for (let seed = 1; seed <= 15; seed++) runStorm(seed, everywhere);
  });

  test("the same where each expert is on one rank and plans change: all of a group go by one plan, and hold every expert of it", () => {
    const repairs = Array.from({ length: 10 }, (_, seed) =>
      runStorm(seed + 100, (rankCount) => initialPlan({ moeLayers: 3, logicalExperts: 8 }, rankCount, 0)),
    );
    expect(Math.max(...repairs)).toBeGreaterThan(3);
  });

  test("without the only copy of an expert, those that are left load it and meet; who comes back loads their plan before it is let in", () => {
    const plan = initialPlan({ moeLayers: 1, logicalExperts: 4 }, 2, 0);
    const [a, b] = [assembly(0, 2, plan), assembly(1, 2, plan)];
    a.hear(noticeOf(b), 1);
    const first = a.decide(2);
    if (first.kind === "meet") a.met(first.round, first.members);
    a.over(1, 5_000);
    expect(a.decide(5_399)).toEqual({ kind: "wait", reason: "waits for rank 1" });
    const repaired: ExpertPlan = { version: 2, rankCount: 2, slotsPerRank: 4, layers: [[0, 1, 2, 3, 2, 3, -1, -1]] };
    expect(a.decide(5_400)).toEqual({ kind: "conform", plan: repaired });
    a.goesBy(repaired, 1);
    const alone = a.decide(5_401);
    expect(ranksOf(alone)).toEqual([0]);
    if (alone.kind === "meet") a.met(alone.round, alone.members);
    expect(a.leads).toBe(true);

    const fresh = new RankAssembly(own(1, 2, 1), options, plan, 6_000);
    fresh.hear(noticeOf(a), 6_001);
    a.hear(noticeOf(fresh), 6_002);
    expect([a.decide(6_003).kind, a.hasNewcomer(6_003), a.disagrees(6_003), a.round]).toEqual(["joined", true, true, 2]);
    expect(fresh.decide(6_003)).toEqual({ kind: "wait", reason: "waits to hear expert plan 2" });
    fresh.learn(repaired);
    expect(fresh.decide(6_004)).toEqual({ kind: "conform", plan: repaired });
    fresh.goesBy(repaired, 1);
    a.hear(noticeOf(fresh), 6_005);
    expect(a.round).toBe(3);
    fresh.hear(noticeOf(a), 6_006);
    a.hear(noticeOf(fresh), 6_007);
    expect([a, fresh].map((one) => ranksOf(one.decide(6_008)))).toEqual([
      [0, 1],
      [0, 1],
    ]);
  });

  test("a loss in the middle of a change: all go on from where the one that got farthest is", () => {
    const before = initialPlan({ moeLayers: 2, logicalExperts: 2 }, 3, 1);
    const mixed: ExpertPlan = { ...before, version: 2, layers: [[1, 0, 0], before.layers[1] as number[]] };
    const ranks = [0, 1].map((rank) => assembly(rank, 3, before)) as [RankAssembly, RankAssembly];
    const [a, b] = ranks;
    a.goesBy(mixed, 1);
    a.hear({ ...noticeOf(b), hasMet: true }, 1);
    b.hear({ ...noticeOf(a), hasMet: true }, 1);
    expect(a.decide(400)).toEqual({ kind: "wait", reason: "waits for rank 1 to load experts of plan 2", loading: true });
    expect(b.decide(400)).toEqual({ kind: "wait", reason: "waits to hear expert plan 2" });
    b.learn(mixed);
    expect(b.decide(400)).toEqual({ kind: "conform", plan: mixed });
  });

  test("with room for too few experts they wait, and say what for", () => {
    const plan = initialPlan({ moeLayers: 1, logicalExperts: 9 }, 9, 0);
    const one = assembly(0, 9, plan);
    one.hear({ ...noticeOf(assembly(1, 9, plan)), round: 2, hasMet: true }, 1);
    one.over(2, 10_000);
    expect(one.decide(20_000)).toEqual({
      kind: "wait",
      reason:
        "waits for ranks 1, 2, 3, 4, 5, 6, 7, 8: nobody else has expert 1 of MoE layer 0, and those that are there have no room for all experts",
    });
  });
});

type Decided = { dueMs: number } & ({ notice: RankNotice } | { plan: ExpertPlan });

/** Ranks on a bus that loses and delays; some die and come back while they meet, and groups change plans. Returns how many plans were repaired. */
function runStorm(seed: number, firstPlan: (rankCount: number) => ExpertPlan): number {
  let state = seed;
  const below = (bound: number) => {
    state = (state * 48271) % 0x7fffffff;
    return state % bound;
  };
  const rankCount = 2 + below(5);
  const first = firstPlan(rankCount);
  const needsAll = missingExpert(first, (rank) => rank === 0) !== undefined;
  const process = (rank: number, instance: number, nowMs: number) => ({
    rank,
    alive: true,
    instance,
    one: new RankAssembly(own(rank, rankCount, instance), options, first, nowMs),
    plan: first,
    loadedMs: -1,
    saidMs: -1e9,
    saidPlanMs: -1e9,
  });
  const ranks = Array.from({ length: rankCount }, (_, rank) => process(rank, 0, 0));
  const nameOf = ({ rank, instance }: { rank: number; instance: number }) => `i${rank}-${instance}`;
  let bus: Decided[] = [];
  const calm = 20_000;
  let group: { id: string; instances: string[] } | undefined;
  let repairs = 0;
  for (let nowMs = 1; nowMs < calm + 15_000; nowMs += 25) {
    const stormy = nowMs < calm;
    for (const [i, entry] of ranks.entries()) {
      const strikes = stormy && below(60 * rankCount) === 0;
      if (strikes && entry.alive) entry.alive = false;
      else if (!entry.alive && (strikes || (!stormy && needsAll))) ranks[i] = process(entry.rank, entry.instance + 1, nowMs);
    }
    const living = ranks.filter(({ alive }) => alive);
    const due = bus.filter(({ dueMs }) => dueMs <= nowMs);
    bus = bus.filter(({ dueMs }) => dueMs > nowMs);
    for (const said of due) {
      for (const { one } of living) {
        if ("notice" in said) one.hear(said.notice, nowMs);
        else one.learn(said.plan);
      }
    }
    for (const entry of living) {
      const decision = entry.one.decide(nowMs);
      if (decision.kind !== "conform") continue;
      if (entry.loadedMs < 0) entry.loadedMs = nowMs + below(300);
      if (nowMs < entry.loadedMs) continue;
      entry.loadedMs = -1;
      entry.plan = decision.plan;
      entry.one.goesBy(decision.plan, decision.plan.layers.length);
      if (decision.plan.slotsPerRank > first.slotsPerRank) repairs++;
    }
    // Who wants to meet does so where all members want the same; the others find out, and begin anew.
    const wanted = new Map<string, string[]>();
    for (const entry of living) {
      const decision = entry.one.decide(nowMs);
      if (decision.kind !== "meet") continue;
      const id = Buffer.from(decision.id).toString("hex");
      wanted.set(id, [...(wanted.get(id) ?? []), nameOf(entry)]);
    }
    for (const { one, plan } of living) {
      const decision = one.decide(nowMs);
      if (decision.kind !== "meet") continue;
      const id = Buffer.from(decision.id).toString("hex");
      const members = decision.members.flatMap((member) => (member ? [member.instanceId] : []));
      if (members.every((member) => wanted.get(id)?.includes(member))) {
        group = { id, instances: members };
        one.met(decision.round, decision.members);
        expect(
          missingExpert(plan, (rank) => decision.members[rank] !== null),
          `seed ${seed}`,
        ).toBeUndefined();
        const plans = living.filter((entry) => members.includes(nameOf(entry))).map((entry) => planDigest(entry.plan));
        expect(new Set(plans).size, `seed ${seed}`).toBe(1);
      } else if (below(3) === 0) {
        one.over(decision.round, nowMs);
      }
    }
    // Some layers of a new plan, on all of the group, or on those that heard it before another one was lost.
    const standing = living.filter(({ one }) => one.decide(nowMs).kind === "joined");
    if (stormy && needsAll && standing.length === group?.instances.length && below(20) === 0) {
      const current = (standing[0] as (typeof ranks)[number]).plan;
      const layersTaken = 1 + below(current.layers.length);
      const layers = current.layers.map((slots, layer) => (layer < layersTaken ? rotated(slots, current.slotsPerRank, standing) : slots));
      const next = { ...current, version: current.version + 1, layers };
      const breaks = below(4) === 0;
      for (const entry of standing) {
        if (breaks && below(2) === 0) continue;
        entry.plan = next;
        entry.one.goesBy(next, layersTaken);
      }
      if (breaks) for (const { one } of standing) one.over(one.round, nowMs);
    }
    for (const entry of living) {
      // A connection to who died is closed.
      if (entry.one.decide(nowMs).kind === "joined") {
        const members = group?.instances ?? [];
        const gone = members.some((member) => !living.some((each) => member === nameOf(each)));
        const left = living.some((each) => members.includes(nameOf(each)) && each.one.round !== entry.one.round);
        if (gone || left) entry.one.over(entry.one.round, nowMs);
      }
      const copies = stormy ? below(3) : 1;
      const dueMs = nowMs + below(stormy ? 600 : 30);
      const isJoined = entry.one.decide(nowMs).kind === "joined";
      if (nowMs - entry.saidPlanMs >= 500 && (!isJoined || entry.one.leads) && entry.one.disagrees(nowMs)) {
        entry.saidPlanMs = nowMs;
        for (let i = 0; i < copies; i++) bus.push({ dueMs, plan: entry.plan });
      }
      if (nowMs - entry.saidMs < 250) continue;
      entry.saidMs = nowMs;
      for (let i = 0; i < copies; i++) bus.push({ dueMs, notice: noticeOf(entry.one) });
    }
  }
  const living = ranks.filter(({ alive }) => alive);
  for (const { one } of living) expect(one.decide(calm + 15_000), `seed ${seed}`).toEqual({ kind: "joined" });
  expect(new Set(living.map(({ one }) => one.round)).size, `seed ${seed}`).toBeLessThanOrEqual(1);
  expect(new Set(living.map(({ plan }) => planDigest(plan))).size, `seed ${seed}`).toBeLessThanOrEqual(1);
  if (living.length > 0) expect(group?.instances, `seed ${seed}`).toEqual(living.map(nameOf));
  return repairs;
}

/** What each rank held, its next one of those there holds. */
function rotated(slots: readonly number[], each: number, there: readonly { rank: number }[]): number[] {
  const moved = [...slots];
  for (const [i, { rank }] of there.entries()) {
    const from = (there[(i + 1) % there.length] as { rank: number }).rank;
    for (let slot = 0; slot < each; slot++) moved[rank * each + slot] = slots[from * each + slot] as number;
  }
  return moved;
}

describe("the plan to begin with", () => {
  test("every expert has a slot, redundant ones follow in order, and what makes ranks equal is spare", () => {
    expect(initialPlan({ moeLayers: 1, logicalExperts: 4 }, 2, 0).layers).toEqual([[0, 1, 2, 3]]);
    expect(initialPlan({ moeLayers: 2, logicalExperts: 4 }, 3, 1)).toEqual({
      version: 1,
      rankCount: 3,
      slotsPerRank: 2,
      layers: Array(2).fill([0, -1, 1, 2, 3, 0]),
    });
  });

  test("a repaired plan holds every expert on the ranks that are there, loads no more than was missing, and leaves the others' slots alone", () => {
    const shapes = fc.record({
      ranks: fc.integer({ min: 1, max: 6 }),
      experts: fc.integer({ min: 1, max: 12 }),
      redundant: fc.integer({ min: 0, max: 8 }),
      lost: fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }),
    });
    fc.assert(
      fc.property(shapes, ({ ranks, experts, redundant, lost }) => {
        const plan = initialPlan({ moeLayers: 2, logicalExperts: experts }, ranks, redundant);
        const isThere = (rank: number) => rank === 0 || !lost[rank];
        const repaired = repairedPlan(plan, isThere, experts) as ExpertPlan;
        expect(ExpertPlan.parse(repaired)).toEqual(repaired);
        expect(missingExpert(repaired, isThere)).toBeUndefined();
        expect(repaired.version).toBe(plan.version + 1);
        const [each, wide] = [plan.slotsPerRank, repaired.slotsPerRank];
        for (const [layer, placed] of repaired.layers.entries()) {
          const old = plan.layers[layer] as number[];
          const held = new Set<number>();
          let loaded = 0;
          for (let rank = 0; rank < ranks; rank++) {
            const [before, after] = [old.slice(rank * each, (rank + 1) * each), placed.slice(rank * wide, (rank + 1) * wide)];
            if (!isThere(rank)) expect(after).toEqual([...before, ...new Array(wide - each).fill(-1)]);
            else {
              for (const expert of before) held.add(expert);
              loaded += after.filter((expert, i) => expert !== (before[i] ?? -1)).length;
            }
          }
          held.delete(-1);
          expect(loaded).toBe(experts - held.size);
        }
      }),
    );
    expect(repairedPlan(initialPlan({ moeLayers: 1, logicalExperts: 9 }, 3, 0), (rank) => rank === 0, 8)).toBeUndefined();
    expect(planDigest(everywhere(3))).not.toBe(planDigest({ ...everywhere(3), version: 2 }));
  });

  test("it is known which expert is missing when ranks are", () => {
    const plan = initialPlan({ moeLayers: 1, logicalExperts: 4 }, 3, 2);
    expect(missingExpert(plan, () => true)).toBeUndefined();
    expect(missingExpert(plan, (rank) => rank !== 0)).toBeUndefined();
    expect(missingExpert(plan, (rank) => rank === 2)).toEqual({ layer: 0, expert: 2 });
  });
});

test("a rank is indispensable where the others would lack an expert without it", () => {
  const shape = fc.record({ moeLayers: fc.integer({ min: 1, max: 3 }), logicalExperts: fc.integer({ min: 1, max: 12 }) });
  fc.assert(
    fc.property(shape, fc.integer({ min: 1, max: 6 }), fc.nat(24), fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }), (...args) => {
      const [experts, rankCount, redundant, there] = args;
      const plan = initialPlan(experts, rankCount, redundant);
      const members = Array.from({ length: rankCount }, (_, rank) => rank).filter((rank) => there[rank]);
      fc.pre(missingExpert(plan, (rank) => members.includes(rank)) === undefined);
      const expected = members.filter((lost) => missingExpert(plan, (rank) => rank !== lost && members.includes(rank)) !== undefined);
      expect(indispensableRanks(plan, (rank) => members.includes(rank))).toEqual(expected);
    }),
  );
});
