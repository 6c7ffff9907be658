// Which ranks meet, and when. Pure: notices and times in, a decision out.
//
// Ranks that have met are a group until one of them is lost. Then each of them begins a new round and says so; whoever hears of a later round
// begins it, too. A dead rank says nothing, so those that speak in a round, when it has settled, are its group, as long as they hold every
// expert. Ranks that see different members do not get on with each other (their group ids differ), and begin another round.
import { createHash } from "node:crypto";
import type { RankNotice } from "../../contracts/ranks.ts";

export interface AssemblyOptions {
  /** Nobody is waited for once a round is so old. */
  settleMs: number;
  /** Nor before a process is so old, unless a group has been: the others may still be loading. */
  patienceMs: number;
  /** What was not heard of for so long is not there. */
  staleMs: number;
  /** Why these ranks cannot serve without the others; undefined: they can. */
  whyNot: (isThere: (rank: number) => boolean) => string | undefined;
}

export type AssemblyDecision =
  | { kind: "wait"; reason: string }
  | { kind: "meet"; round: number; id: Uint8Array; members: (RankNotice | null)[] }
  | { kind: "joined" };

/** What does not change while a process lives. */
export type OwnRank = Omit<RankNotice, "v" | "round" | "hasMet">;

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

  constructor(own: OwnRank, options: AssemblyOptions, nowMs: number) {
    this.own = own;
    this.options = options;
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

  /** What is said of this rank. */
  notice(): Omit<RankNotice, "v"> {
    return { ...this.own, round: this.ownRound, hasMet: this.hasMet };
  }

  hear(notice: RankNotice, nowMs: number): void {
    const { own } = this;
    if (notice.group !== own.group || notice.sharedDigest !== own.sharedDigest || notice.rankCount !== own.rankCount) return;
    if (notice.rank === own.rank || notice.rank >= own.rankCount) return;
    for (const [instanceId, { lastMs }] of this.heard) {
      if (nowMs - lastMs > this.options.staleMs) this.heard.delete(instanceId);
    }
    const before = this.heard.get(notice.instanceId);
    this.heard.set(notice.instanceId, { notice, firstMs: before?.firstMs ?? nowMs, lastMs: nowMs });
    this.hasMet ||= notice.hasMet;
    if (notice.round > this.ownRound) this.begin(notice.round, nowMs);
    // One that the group lacks has come.
    else if (this.joined && this.joined[notice.rank] === null) this.begin(this.ownRound + 1, nowMs);
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
  }

  decide(nowMs: number): AssemblyDecision {
    if (this.joined) return { kind: "joined" };
    const members = this.members(nowMs);
    const absent = members.flatMap((member, rank) => (member === null ? [rank] : []));
    if (absent.length > 0) {
      const names = `rank${absent.length > 1 ? "s" : ""} ${absent.join(", ")}`;
      const settled = nowMs - this.roundSinceMs >= this.options.settleMs;
      if (!settled || (!this.hasMet && nowMs - this.startMs < this.options.patienceMs))
        return { kind: "wait", reason: `waits for ${names}` };
      const why = this.options.whyNot((rank) => members[rank] !== null);
      if (why !== undefined) return { kind: "wait", reason: `waits for ${names}: ${why}` };
    }
    return { kind: "meet", round: this.ownRound, id: this.idOf(members), members };
  }

  private begin(round: number, nowMs: number): void {
    this.ownRound = round;
    this.roundSinceMs = nowMs;
    this.joined = undefined;
  }

  /** Of each rank the process that was heard of last for the first time, if it is there and in this round. */
  private members(nowMs: number): (RankNotice | null)[] {
    return Array.from({ length: this.own.rankCount }, (_, rank) => {
      if (rank === this.own.rank) return { v: 0, ...this.notice() };
      const newest = [...this.heard.values()]
        .filter(({ notice, lastMs }) => notice.rank === rank && nowMs - lastMs <= this.options.staleMs)
        .reduce<Heard | undefined>((best, one) => (best && best.firstMs >= one.firstMs ? best : one), undefined);
      return newest?.notice.round === this.ownRound ? newest.notice : null;
    });
  }

  private idOf(members: (RankNotice | null)[]): Uint8Array {
    const text = JSON.stringify([
      this.own.group,
      this.own.sharedDigest,
      this.ownRound,
      members.map((member) => member?.instanceId ?? null),
    ]);
    return createHash("sha256").update(text).digest().subarray(0, 16);
  }
}
