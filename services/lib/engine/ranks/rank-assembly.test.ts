import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { RankNotice } from "../../contracts/ranks.ts";
import { indispensableRanks, initialPlan, missingExpert } from "./expert-slots.ts";
import { type AssemblyDecision, type OwnRank, RankAssembly } from "./rank-assembly.ts";

const options = { settleMs: 400, patienceMs: 10_000, staleMs: 3_000 };

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

function assembly(rank: number, rankCount: number, whyNot: (isThere: (rank: number) => boolean) => string | undefined = () => undefined) {
  return new RankAssembly(own(rank, rankCount), { ...options, whyNot }, 0);
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
    const lacking = assembly(0, 2, () => "nobody else has expert 3 of MoE layer 0");
    expect(lacking.decide(1e9)).toEqual({ kind: "wait", reason: "waits for rank 1: nobody else has expert 3 of MoE layer 0" });
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
    const fresh = new RankAssembly(own(2, 3, 1), { ...options, whyNot: () => undefined }, 5_000);
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

  test("what is of another model, plan or size is not heard", () => {
    const one = assembly(0, 2);
    for (const change of [{ group: "n" }, { sharedDigest: "11".repeat(32) }, { rankCount: 3 }, { rank: 0 }, { rank: 5 }])
      one.hear({ v: 2, ...own(1, 2), round: 7, hasMet: true, ...change }, 1);
    expect(one.round).toBe(1);
    expect(one.decide(2).kind).toBe("wait");
  });

  test("whatever is lost, late or doubled, those that live end in one group, and in no other", () => {
    for (let seed = 1; seed <= 15; seed++) runStorm(seed);
  });
});

/** Ranks on a bus that loses and delays; some die and come back while they meet. */
function runStorm(seed: number): void {
  let state = seed;
  const below = (bound: number) => {
    state = (state * 48271) % 0x7fffffff;
    return state % bound;
  };
  const rankCount = 2 + below(5);
  const ranks = Array.from({ length: rankCount }, (_, rank) => ({
    rank,
    alive: true,
    instance: 0,
    one: assembly(rank, rankCount),
    saidMs: -1e9,
  }));
  let bus: { dueMs: number; notice: RankNotice }[] = [];
  const calm = 20_000;
  let group: { id: string; instances: string[] } | undefined;
  for (let nowMs = 1; nowMs < calm + 15_000; nowMs += 25) {
    const stormy = nowMs < calm;
    if (stormy && below(60) === 0) {
      const victim = ranks[below(rankCount)] as (typeof ranks)[number];
      victim.alive = !victim.alive;
      if (victim.alive) {
        victim.instance++;
        victim.one = new RankAssembly(own(victim.rank, rankCount, victim.instance), { ...options, whyNot: () => undefined }, nowMs);
      }
    }
    const due = bus.filter(({ dueMs }) => dueMs <= nowMs);
    bus = bus.filter(({ dueMs }) => dueMs > nowMs);
    for (const { notice } of due) for (const { alive, one } of ranks) if (alive) one.hear(notice, nowMs);
    // Who wants to meet does so where all members want the same; the others find out, and begin anew.
    const wanted = new Map<string, string[]>();
    for (const { alive, one, rank, instance } of ranks) {
      const decision = alive ? one.decide(nowMs) : undefined;
      if (decision?.kind !== "meet") continue;
      const id = Buffer.from(decision.id).toString("hex");
      wanted.set(id, [...(wanted.get(id) ?? []), `i${rank}-${instance}`]);
    }
    for (const { alive, one } of ranks) {
      const decision = alive ? one.decide(nowMs) : undefined;
      if (decision?.kind !== "meet") continue;
      const id = Buffer.from(decision.id).toString("hex");
      const members = decision.members.flatMap((member) => (member ? [member.instanceId] : []));
      if (members.every((member) => wanted.get(id)?.includes(member))) {
        group = { id, instances: members };
        one.met(decision.round, decision.members);
      } else if (below(3) === 0) {
        one.over(decision.round, nowMs);
      }
    }
    for (const entry of ranks) {
      if (!entry.alive) continue;
      // A connection to who died is closed.
      if (entry.one.decide(nowMs).kind === "joined") {
        const members = group?.instances ?? [];
        const gone = members.some((member) => !ranks.some(({ alive, rank, instance }) => alive && member === `i${rank}-${instance}`));
        const left = ranks.some(
          ({ alive, one, rank, instance }) => alive && members.includes(`i${rank}-${instance}`) && one.round !== entry.one.round,
        );
        if (gone || left) entry.one.over(entry.one.round, nowMs);
      }
      if (nowMs - entry.saidMs < 250) continue;
      entry.saidMs = nowMs;
      const copies = stormy ? below(3) : 1;
      for (let i = 0; i < copies; i++) bus.push({ dueMs: nowMs + below(stormy ? 600 : 30), notice: noticeOf(entry.one) });
    }
  }
  const living = ranks.filter(({ alive }) => alive);
  for (const { one } of living) expect(one.decide(calm + 15_000), `seed ${seed}`).toEqual({ kind: "joined" });
  expect(new Set(living.map(({ one }) => one.round)).size, `seed ${seed}`).toBeLessThanOrEqual(1);
  if (living.length > 0) expect(group?.instances, `seed ${seed}`).toEqual(living.map(({ rank, instance }) => `i${rank}-${instance}`));
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
