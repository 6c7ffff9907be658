// Which ranks meet, and when. Pure: notices and times in, a decision out.
//
// Ranks that have met are a group until one of them is lost. Then each of them begins a new round and says so; whoever hears of a later round
// begins it, too. A dead rank says nothing, so those that speak in a round, when it has settled, are its group. Ranks that see different members do
// not get on with each other (their group ids differ), and begin another round.
//
// Members go by one plan: the newest that any of them goes by, mended if it leaves them without an expert. Each works that out for itself, loads what
// it lacks of it, and meets the others once they have done so, too. Who comes to a group that stands loads its plan before it is let in.
import { createHash } from "node:crypto";
import type { ExpertPlan } from "../../contracts/expert-placement.ts";
import type { PlanPosition, RankNotice } from "../../contracts/ranks.ts";
import { missingExpert, planDigest, repairedPlan } from "./expert-slots.ts";

export interface AssemblyOptions {
  /** Nobody is waited for once a round is so old. */
  settleMs: number;
  /** Nor before a process is so old, unless a group has been: the others may still be loading. */
  patienceMs: number;
  /** What was not heard of for so long is not there. */
  staleMs: number;
  /** What a rank may hold of each layer when others are lost. */
  mostSlotsPerRank: number;
}

export type AssemblyDecision =
  /** loading: for members that load experts. */
  | { kind: "wait"; reason: string; loading?: true }
  /** Load what is lacking of this plan, and go by it. */
  | { kind: "conform"; plan: ExpertPlan }
  | { kind: "meet"; round: number; id: Uint8Array; members: (RankNotice | null)[] }
  | { kind: "joined" };

/** A group changes its plan rarely, and its members go by two of them at most. */
const mostKnownPlans = 8;

/** What does not change while a process lives. */
export type OwnRank = Omit<RankNotice, "v" | "round" | "hasMet" | "standing" | "stops" | "plan">;

interface Heard {
  notice: RankNotice;
  firstMs: number;
  lastMs: number;
}

export class RankAssembly {
  private readonly own: OwnRank;
  private readonly options: AssemblyOptions;
  /** By instance. */
  private readonly heard = new Map<string, Heard>();
  private ownRound = 1;
  private roundSinceMs: number;
  private readonly startMs: number;
  private hasMet = false;
  /** Of the group that stands. */
  private joined: (RankNotice | null)[] | undefined;
  private plan: ExpertPlan;
  private position: PlanPosition;
  /** Plans that others go by, and mended ones, by digest; the oldest first. */
  private readonly known = new Map<string, ExpertPlan>();
  /** Why a rank that speaks cannot be met. */
  private readonly unlike = new Map<number, { what: string; lastMs: number }>();
  /** What was made of the newest plan for those that are there: the last of these. */
  private covered: { key: string; plan?: ExpertPlan; digest?: string; reason?: string } | undefined;
  private newcomerMs = Number.NEGATIVE_INFINITY;
  /** Ranks whose process has said that it stops, since a group met last. */
  private readonly stopping = new Set<number>();
  private absentAsSaid: number[] = [];

  constructor(own: OwnRank, options: AssemblyOptions, plan: ExpertPlan, nowMs: number) {
    this.own = own;
    this.options = options;
    this.plan = plan;
    this.position = { version: plan.version, layersTaken: plan.layers.length, digest: planDigest(plan) };
    this.roundSinceMs = nowMs;
    this.startMs = nowMs;
  }

  get round(): number {
    return this.ownRound;
  }

  /** Of the group that stands; 0: there is none. */
  get memberCount(): number {
    return this.joined?.filter((member) => member !== null).length ?? 0;
  }

  /** Ranks of the group that stands; none are there where there is no group. */
  isMember(rank: number): boolean {
    return (this.joined?.[rank] ?? null) !== null;
  }

  /** Ranks that the group lacks since they stopped, as they had said. */
  get stopped(): readonly number[] {
    return this.absentAsSaid;
  }

  /** It decides for the group: the lowest rank of it. */
  get leads(): boolean {
    return this.joined?.findIndex((member) => member !== null) === this.own.rank;
  }

  /** A rank that the group lacks was there of late, and loads the group's plan: it would be kept from it by another one. */
  hasNewcomer(nowMs: number): boolean {
    return this.joined !== undefined && nowMs - this.newcomerMs <= this.options.staleMs;
  }

  /** Others go by another plan than this rank. */
  disagrees(nowMs: number): boolean {
    return this.fresh(nowMs).some(({ plan }) => plan.digest !== this.position.digest);
  }

  /** This rank goes by that plan now, of which so many layers are of its own version. */
  goesBy(plan: ExpertPlan, layersTaken: number): void {
    this.plan = plan;
    this.position = { version: plan.version, layersTaken, digest: planDigest(plan) };
  }

  /** Some rank goes by that plan. */
  learn(plan: ExpertPlan): void {
    const digest = planDigest(plan);
    this.known.delete(digest);
    this.known.set(digest, plan);
    for (const oldest of this.known.keys()) {
      if (this.known.size <= mostKnownPlans) break;
      this.known.delete(oldest);
    }
  }

  /** What is said of this rank. */
  notice(stops = false): Omit<RankNotice, "v"> {
    return { ...this.own, round: this.ownRound, hasMet: this.hasMet, standing: this.joined !== undefined, stops, plan: this.position };
  }

  hear(notice: RankNotice, nowMs: number): void {
    const { own } = this;
    if (notice.group !== own.group) return;
    if (notice.sharedDigest !== own.sharedDigest || notice.rankCount !== own.rankCount) {
      this.hearUnlike(notice, nowMs);
      return;
    }
    if (notice.rank === own.rank || notice.rank >= own.rankCount) return;
    for (const [instanceId, { lastMs }] of this.heard) {
      if (nowMs - lastMs > this.options.staleMs) this.heard.delete(instanceId);
    }
    const before = this.heard.get(notice.instanceId);
    // What it said earlier may come later.
    if (before?.notice.stops) return;
    if (notice.stops) this.stopping.add(notice.rank);
    this.heard.set(notice.instanceId, { notice, firstMs: before?.firstMs ?? nowMs, lastMs: nowMs });
    this.hasMet ||= notice.hasMet;
    if (notice.round > this.ownRound) this.begin(notice.round, nowMs);
    else if (notice.stops) {
      if (this.joined?.[notice.rank]?.instanceId === notice.instanceId) this.begin(this.ownRound + 1, nowMs);
    } else if (this.joined && this.joined[notice.rank] === null) {
      // One that the group lacks has come, or is of another group that met in this round unheard: neither is let into the other's.
      if (notice.standing || notice.plan.digest === this.position.digest) this.begin(this.ownRound + 1, nowMs);
      else this.newcomerMs = nowMs;
    }
  }

  private hearUnlike({ rank, rankCount }: RankNotice, nowMs: number): void {
    if (rank >= this.own.rankCount) return;
    const what =
      rankCount === this.own.rankCount
        ? "has other model files or is of another build, or computes them on another backend or type of weights"
        : `counts ${rankCount} ranks, not ${this.own.rankCount}`;
    this.unlike.set(rank, { what, lastMs: nowMs });
  }

  /** The group of this round is over, or did not come about. What happened to an earlier one is old news. */
  over(round: number, nowMs: number): void {
    if (round === this.ownRound) this.begin(round + 1, nowMs);
  }

  /** All members of this round have met. */
  met(round: number, members: (RankNotice | null)[]): void {
    if (round !== this.ownRound) return;
    this.joined = members;
    this.hasMet = true;
    this.absentAsSaid = [...this.stopping].filter((rank) => members[rank] === null).sort((a, b) => a - b);
    this.stopping.clear();
  }

  decide(nowMs: number): AssemblyDecision {
    if (this.joined) return { kind: "joined" };
    // A group that stands without this rank lets it in when it goes by the group's plan.
    const standing = this.fresh(nowMs).filter((notice) => notice.standing && notice.round === this.ownRound);
    if (standing.length > 0) {
      const position = newest(standing.map(({ plan }) => plan));
      if (position.digest !== this.position.digest) {
        const plan = this.known.get(position.digest);
        return plan === undefined ? waits(`waits to hear expert plan ${position.version}`) : { kind: "conform", plan };
      }
    }
    const members = this.members(nowMs);
    const absent = ranksOf(members, (member) => member === null);
    const settled = nowMs - this.roundSinceMs >= this.options.settleMs;
    if (absent.length > 0 && (!settled || (!this.hasMet && nowMs - this.startMs < this.options.patienceMs)))
      return waits(`waits for ${namesOf(absent)}${this.unlikeOf(absent, nowMs)}`);
    const there = members.filter((member) => member !== null);
    const position = newest(there.map(({ plan }) => plan));
    const plan = position.digest === this.position.digest ? this.plan : this.known.get(position.digest);
    if (plan === undefined) return waits(`waits to hear expert plan ${position.version}`);
    const key = [position.digest, ...absent].join(" ");
    if (this.covered?.key !== key) this.covered = { key, ...this.cover(plan, position.digest, absent) };
    const { plan: target, digest, reason } = this.covered;
    // Before they have ever met, who is absent is late, not lost.
    if (target === undefined || (reason !== undefined && !this.hasMet))
      return waits(`waits for ${namesOf(absent)}: ${reason}${this.unlikeOf(absent, nowMs)}`);
    if (digest !== this.position.digest) return { kind: "conform", plan: target };
    const behind = ranksOf(members, (member) => member !== null && member.plan.digest !== digest);
    if (behind.length > 0) return { ...waits(`waits for ${namesOf(behind)} to load experts of plan ${target.version}`), loading: true };
    return { kind: "meet", round: this.ownRound, id: this.idOf(members), members };
  }

  /** The plan, or what is made of it where members lack an expert, and why that; no plan: there is none. */
  private cover(plan: ExpertPlan, digest: string, absent: number[]): { plan?: ExpertPlan; digest?: string; reason?: string } {
    const isThere = (rank: number) => !absent.includes(rank);
    const missing = missingExpert(plan, isThere);
    if (missing === undefined) return { plan, digest };
    const reason = `nobody else has expert ${missing.expert} of MoE layer ${missing.layer}`;
    const repaired = repairedPlan(plan, isThere, this.options.mostSlotsPerRank);
    if (repaired === undefined) return { reason: `${reason}, and those that are there have no room for all experts` };
    this.learn(repaired);
    return { plan: repaired, digest: planDigest(repaired), reason };
  }

  /** Of one of these ranks, so that nobody looks for a process that is there. */
  private unlikeOf(ranks: number[], nowMs: number): string {
    for (const rank of ranks) {
      const one = this.unlike.get(rank);
      if (one && nowMs - one.lastMs <= this.options.staleMs) return `; a rank ${rank} is there, but ${one.what}`;
    }
    return "";
  }

  private fresh(nowMs: number): RankNotice[] {
    return [...this.heard.values()]
      .filter(({ notice, lastMs }) => !notice.stops && nowMs - lastMs <= this.options.staleMs)
      .map(({ notice }) => notice);
  }

  private begin(round: number, nowMs: number): void {
    this.ownRound = round;
    this.roundSinceMs = nowMs;
    this.joined = undefined;
  }

  /** Of each rank the process that was heard of last for the first time, if it is there and in this round. */
  private members(nowMs: number): (RankNotice | null)[] {
    const newest: (Heard | undefined)[] = [];
    for (const one of this.heard.values()) {
      const best = newest[one.notice.rank];
      if (one.notice.stops || nowMs - one.lastMs > this.options.staleMs || (best && best.firstMs >= one.firstMs)) continue;
      newest[one.notice.rank] = one;
    }
    return Array.from({ length: this.own.rankCount }, (_, rank) => {
      if (rank === this.own.rank) return { v: 0, ...this.notice() };
      const notice = newest[rank]?.notice;
      return notice?.round === this.ownRound ? notice : null;
    });
  }

  private idOf(members: (RankNotice | null)[]): Uint8Array {
    const text = JSON.stringify([
      this.position.digest,
      this.own.group,
      this.own.sharedDigest,
      this.ownRound,
      members.map((member) => member?.instanceId ?? null),
    ]);
    return createHash("sha256").update(text).digest().subarray(0, 16);
  }
}

function waits(reason: string): Extract<AssemblyDecision, { kind: "wait" }> {
  return { kind: "wait", reason };
}

function ranksOf(members: (RankNotice | null)[], is: (member: RankNotice | null) => boolean): number[] {
  return members.flatMap((member, rank) => (is(member) ? [rank] : []));
}

function namesOf(ranks: number[]): string {
  return `rank${ranks.length > 1 ? "s" : ""} ${ranks.join(", ")}`;
}

/** The latest version, then the one with more layers of it; at the last the digest decides, so that all ranks agree. */
function newest(positions: PlanPosition[]): PlanPosition {
  return positions.reduce((best, one) => {
    const order = one.version - best.version || one.layersTaken - best.layersTaken || (one.digest < best.digest ? -1 : 1);
    return order > 0 ? one : best;
  });
}
