// For tests: processes that share a model's experts. Their members are real, the bus is in memory, and of the engine there is what members see: which
// plan it goes by, how far the next one is loaded, and groups that meet, step and end as those of kernels/ranks do.
import assert from "node:assert/strict";
import { type Bus, silentLog } from "../../contracts/bus.ts";
import type { ExpertPlan } from "../../contracts/expert-placement.ts";
import { maxGroupHistory } from "../../contracts/rank-status.ts";
import type { PlacementState, RankMeeting } from "../native.ts";
import { initialPlan, missingExpert, planDigest } from "../ranks/expert-slots.ts";
import { meetMs, type RankExperts, RankMember } from "../ranks/rank-member.ts";
import { ManualClock, MemoryBroker } from "./memory-bus.ts";

export const shape = { moeLayers: 3, logicalExperts: 8 };
/** Of a message. */
export const longestDelayMs = 600;

interface Group {
  members: Rank[];
  over: boolean;
}

/** In a meeting, and waits for the others. */
interface Caller {
  id: string;
  named: { rank: number; secret: string }[];
  rank: Rank;
  refused: boolean;
  resolve: () => void;
  reject: (error: Error) => void;
}

/** A process: its member, and what the engine would be to that, with plans and groups that are only names. */
export class Rank implements RankExperts {
  readonly rank: number;
  readonly instanceId: string;
  readonly secret: string;
  readonly member: RankMember;
  planInForce: ExpertPlan;
  layersTaken = shape.moeLayers;
  staged: { plan: ExpertPlan; ready: number } | undefined;
  group: Group | undefined;
  /** All are there, and it finds out. */
  joins: Group | undefined;
  dead = false;
  private readonly world: RankWorld;

  constructor(world: RankWorld, rank: number, instance: number) {
    this.world = world;
    this.rank = rank;
    this.instanceId = `i${rank}-${instance}`;
    this.secret = (instance * 16 + rank).toString(16).padStart(64, "0");
    this.planInForce = world.first;
    const { rankCount, slotsPerRank } = world.first;
    const { instanceId, secret } = this;
    this.member = new RankMember({
      bus: world.connect(rank),
      clock: world.clock,
      log: silentLog,
      subject: `ranks.${rank}`,
      subjects: "ranks.*",
      planSubject: `plans.${rank}`,
      planSubjects: "plans.*",
      mostSlotsPerRank: 2 * slotsPerRank,
      own: { group: "m", sharedDigest: "00".repeat(32), rank, rankCount, instanceId, host: "h", port: 1, secret },
      experts: this,
      meet: (meeting) => this.meet(meeting),
    });
  }

  get placementState(): PlacementState {
    const { staged, layersTaken } = this;
    const next = { next: staged?.plan.version ?? 0, readyLayers: staged?.ready ?? 0, failure: "" };
    return { version: this.planInForce.version, layersTaken, ...next, loadedExperts: 0, loadedBytes: 0 };
  }

  stage(plan: ExpertPlan): boolean {
    if (plan.slotsPerRank !== this.planInForce.slotsPerRank) throw new Error("slotsPerRank is another one");
    if (plan.version <= Math.max(this.planInForce.version, this.staged?.plan.version ?? 0)) return false;
    this.staged = { plan, ready: 0 };
    return true;
  }

  /** The next plan's layers up to that one. */
  take(layers: number): void {
    if (this.staged === undefined || layers === 0) return;
    const { plan } = this.staged;
    const mixed = plan.layers.map((slots, layer) => (layer < layers ? slots : (this.planInForce.layers[layer] as number[])));
    this.planInForce = { ...plan, layers: mixed };
    this.layersTaken = layers;
    if (layers === shape.moeLayers) this.staged = undefined;
  }

  async conform(plan: ExpertPlan): Promise<void> {
    this.leave();
    this.staged = undefined;
    await new Promise<void>((resolve) => this.after(this.world.below(600), resolve));
    this.planInForce = plan;
    this.layersTaken = shape.moeLayers;
  }

  fail(error: Error): void {
    this.world.faults.push(error);
  }

  meet({ group, ranks }: RankMeeting): Promise<void> {
    this.leave();
    const id = Buffer.from(group).toString("hex");
    const named = ranks.flatMap((each, rank) => (each ? [{ rank, secret: Buffer.from(each.secret).toString("hex") }] : []));
    return new Promise((resolve, reject) => {
      try {
        this.world.come({ id, named, rank: this, refused: false, resolve, reject });
      } catch (error) {
        // It would pass for a meeting that failed.
        this.fail(error as Error);
      }
    });
  }

  leave(): void {
    const { group } = this;
    this.group = undefined;
    if (group) this.world.end(group, true);
  }

  die(): void {
    this.dead = true;
    this.member.stop();
    const group = this.joins ?? this.group;
    if (group) this.world.end(group, false);
  }

  /** What a process that died was about to do, it does not. */
  after(ms: number, run: () => void): void {
    this.world.clock.setTimer(ms, () => {
      if (!this.dead) run();
    });
  }
}

export class RankWorld {
  readonly clock = new ManualClock(() => new Promise((resolve) => setImmediate(resolve)));
  readonly faults: unknown[] = [];
  readonly first: ExpertPlan;
  readonly below: (bound: number) => number;
  readonly broker = new MemoryBroker();
  /** By rank; some are dead. */
  readonly ranks: Rank[];
  said = 0;
  /** Those of them hear only one another, and so do the others. */
  parted: number[] = [];
  private stormy = true;
  private instances = 0;
  private resending = false;
  private callers: Caller[] = [];

  constructor(rankCount: number, redundant: number, seed: number) {
    let state = seed;
    this.below = (bound) => {
      state = (state * 48271) % 0x7fffffff;
      return state % bound;
    };
    this.first = initialPlan(shape, rankCount, redundant);
    this.broker.deliveries = (subject, data) => this.deliveries(subject, data);
    this.ranks = Array.from({ length: rankCount }, (_, rank) => new Rank(this, rank, this.instances++));
  }

  get living(): Rank[] {
    return this.ranks.filter(({ dead }) => !dead);
  }

  connect(rank: number): Bus {
    const hears = (subject: string) => this.parted.includes(Number(subject.split(".")[1])) === this.parted.includes(rank);
    const bus = this.broker.connect(this.clock);
    return Object.assign(bus, {
      subscribe: (subject: string, handler: Parameters<Bus["subscribe"]>[1]) =>
        this.broker.subscribe(subject, (message) => {
          if (hears(message.subject)) handler(message);
        }),
    });
  }

  private deliveries(subject: string, data: Uint8Array): number {
    if (this.resending) return 1;
    this.said++;
    if (!this.stormy) return 1;
    for (let copies = this.below(3); copies > 0; copies--) {
      this.clock.setTimer(this.below(longestDelayMs), () => {
        this.resending = true;
        this.broker.send(subject, data);
        this.resending = false;
      });
    }
    return 0;
  }

  strike(rank: number): void {
    const one = this.ranks[rank] as Rank;
    if (one.dead) this.ranks[rank] = new Rank(this, rank, this.instances++);
    else one.die();
  }

  /** As in kernels/ranks/rank_meeting.cpp: each calls those below it, waits for those above it, then for the answers of those that it called. */
  come(caller: Caller): void {
    this.callers = [...this.callers.filter(({ rank }) => !rank.dead), caller];
    caller.rank.after(meetMs, () => this.fail(caller));
    if (caller.named.some(({ secret }) => !this.living.some((each) => each.secret === secret)))
      caller.rank.after(5, () => this.fail(caller));
    // Who is called in another meeting turns the caller away.
    const calls = (from: Caller, to: Caller) => from.rank.rank > to.rank.rank && from.named.some(({ secret }) => secret === to.rank.secret);
    for (const other of this.callers.filter(({ id }) => id !== caller.id)) {
      if (calls(caller, other)) caller.refused = true;
      if (calls(other, caller)) other.refused = true;
    }
    const there = (id: string, secret: string) => this.callers.some((each) => each.id === id && each.rank.secret === secret);
    for (const one of this.callers) {
      const isCalled = one.named.every(({ rank, secret }) => rank <= one.rank.rank || there(one.id, secret));
      if (one.refused && isCalled) one.rank.after(5, () => this.fail(one));
    }
    const callers = this.callers.filter(({ id }) => id === caller.id);
    if (callers.length < caller.named.length || callers.some(({ refused }) => refused)) return;
    this.callers = this.callers.filter(({ id }) => id !== caller.id);
    const members = callers.map(({ rank }) => rank);
    this.expectOnePlan(members);
    const missing = missingExpert(caller.rank.planInForce, (rank) => members.some((member) => member.rank === rank));
    assert.equal(missing, undefined, "an expert that no member has");
    const group: Group = { members, over: false };
    // Each finds out for itself, and one perhaps too late.
    const late = this.below(6) === 0 ? this.below(members.length) : -1;
    for (const [i, { rank, resolve, reject }] of callers.entries()) {
      rank.joins = group;
      rank.after(this.below(80), () => {
        rank.joins = undefined;
        if (i === late) {
          reject(new Error("it was too late"));
          this.end(group, true);
          return;
        }
        rank.group = group;
        rank.staged = undefined;
        resolve();
        if (group.over) this.tell(rank, group, true);
      });
    }
  }

  private fail(caller: Caller): void {
    if (!this.callers.includes(caller)) return;
    this.callers = this.callers.filter((each) => each !== caller);
    caller.reject(new Error("a rank does not come"));
  }

  /** A loss may find some in the middle of a step in which a layer is taken. Who leaves by itself is in none. */
  end(group: Group, byItself: boolean): void {
    if (group.over) return;
    if (!byItself) this.load(group, () => true);
    const ready = byItself ? 0 : readyLayers(group);
    group.over = true;
    for (const rank of group.members) {
      if (this.below(2) === 0) rank.take(ready);
      if (rank.group === group) this.tell(rank, group, byItself);
    }
  }

  private load({ members }: Group, loads: () => boolean): void {
    for (const { staged } of members) {
      if (staged && loads()) staged.ready = Math.min(staged.ready + 1, shape.moeLayers);
    }
  }

  private tell(rank: Rank, group: Group, byItself: boolean): void {
    rank.after(this.below(10) === 0 ? this.below(3_000) : this.below(100), () => {
      if (rank.group !== group) return;
      rank.group = undefined;
      rank.member.lost(rank.member.round, { message: "a rank is lost", byItself });
    });
  }

  decide(): void {
    const leader = this.living.find(({ member }) => member.mayDecide());
    if (leader === undefined) return;
    const { planInForce, member } = leader;
    const layers = planInForce.layers.map((slots) => rotated(slots, planInForce.slotsPerRank, member.members));
    assert.equal(member.decidePlan({ ...planInForce, version: planInForce.version + 1, layers }), undefined);
  }

  async pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 50) {
      await this.clock.advance(50);
      for (const group of new Set(this.living.flatMap(({ group }) => (group && !group.over ? [group] : [])))) this.step(group);
      this.expectSound();
    }
  }

  private step(group: Group): void {
    // So slowly that a loss finds changes under way.
    this.load(group, () => !this.stormy || this.below(8) === 0);
    const ready = readyLayers(group);
    for (const rank of group.members) rank.take(ready);
    this.expectOnePlan(group.members);
  }

  private expectOnePlan(ranks: Rank[]): void {
    assert.equal(new Set(ranks.map(({ planInForce }) => planDigest(planInForce))).size, 1, "plans of one group");
  }

  private expectSound(): void {
    assert.deepEqual(this.faults, []);
    assert.equal(this.broker.subscriptionCount, 2 * this.living.length);
    for (const { member } of this.living) assert(member.groups.length <= maxGroupHistory);
  }

  /** What is away stays so where the others can do without it. */
  calm(): void {
    this.stormy = false;
    this.parted = [];
    const { slotsPerRank } = this.first;
    const canDoWithout =
      2 * slotsPerRank * this.living.length >= shape.logicalExperts && this.living.some(({ member }) => member.groups.length > 0);
    for (const { dead, rank } of this.ranks) if (dead && !canDoWithout) this.strike(rank);
  }

  /** Undefined: all that live are in one group. */
  get lacking(): string | undefined {
    const { living } = this;
    const group = living[0]?.group;
    const there = living.map(({ rank }) => rank);
    const isIn = (one: Rank) => one.member.round !== undefined && one.group === group && String(one.member.members) === String(there);
    if (group !== undefined && !group.over && living.every(isIn)) return undefined;
    return living.map(({ rank, member }) => `rank ${rank}: ${member.reason ?? `of ${member.members} in round ${member.round}`}`).join("; ");
  }
}

/** That all of the group have, of one and the same next plan. */
function readyLayers({ members, over }: Group): number {
  const digests = new Set(members.map(({ staged }) => staged && planDigest(staged.plan)));
  if (over || digests.size !== 1 || members.some(({ group }) => group?.members !== members)) return 0;
  return Math.min(...members.map(({ staged }) => staged?.ready ?? 0));
}

/** What each rank held, its next one of those there holds. */
function rotated(slots: readonly number[], each: number, there: readonly number[]): number[] {
  const moved = [...slots];
  for (const [i, rank] of there.entries()) {
    const from = there[(i + 1) % there.length] as number;
    for (let slot = 0; slot < each; slot++) moved[rank * each + slot] = slots[from * each + slot] as number;
  }
  return moved;
}
