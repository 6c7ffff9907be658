// One process's part in a group of ranks: says and hears on the bus what RankAssembly needs, and meets whom it decides to.
import type { Bus, Clock, Log } from "../../contracts/bus.ts";
import { PelagicError } from "../../contracts/errors.ts";
import { maxGroupHistory, type MetGroup } from "../../contracts/rank-status.ts";
import { RankNotice } from "../../contracts/ranks.ts";
import { decodeMessage, encodeMessage } from "../../contracts/wire.ts";
import type { RankMeeting } from "../native.ts";
import { type AssemblyDecision, type AssemblyOptions, type OwnRank, RankAssembly } from "./rank-assembly.ts";

/** How often a rank says that it is there; sooner when its round changed. */
const noticeMs = 250;
const lookMs = 50;
export const meetMs = 2_000;
/** Silence on the connection of a rank whose process is stopped, or whose machine is gone. A process that dies closes it. */
const silenceMs = 3_000;
/** A layer of the longest step on the slowest rank takes less. */
const longestWaitMs = 60_000;

export const assemblyTimes = { settleMs: 400, patienceMs: 30_000, staleMs: 3_000 };

export interface RankMemberOptions {
  bus: Bus;
  clock: Clock;
  log: Log;
  /** Where this rank speaks, and where all are heard. */
  subject: string;
  subjects: string;
  own: OwnRank;
  whyNot: AssemblyOptions["whyNot"];
  /** Leaves the group there was and joins this one, when no step runs. */
  meet: (meeting: RankMeeting) => Promise<void>;
  /** Whether this rank is the lowest of the group that has just met, and so decides for all; at the end, that it is not. */
  onLead?: (leads: boolean) => void;
}

export class RankMember {
  private readonly options: RankMemberOptions;
  private readonly assembly: RankAssembly;
  private cancelTimer: () => void = () => {};
  private saidMs = Number.NEGATIVE_INFINITY;
  private saidRound = 0;
  private meeting = false;
  private stopped = false;
  private decision: AssemblyDecision = { kind: "wait", reason: "has not looked yet" };
  private lastLoss: string | undefined;
  /** Why the group ended that the next one follows. */
  private endedBy: string | null = null;
  private readonly history: (Omit<MetGroup, "secondsAgo"> & { atMs: number })[] = [];
  private waiting: (() => void)[] = [];

  constructor(options: RankMemberOptions) {
    this.options = options;
    this.assembly = new RankAssembly(options.own, { ...assemblyTimes, whyNot: options.whyNot }, options.clock.nowMs());
    options.bus.subscribe(options.subjects, (message) => {
      const { body } = decodeMessage(RankNotice, message.data);
      this.assembly.hear(body, options.clock.nowMs());
      this.look();
    });
    this.look();
  }

  /** The round of the group that stands; undefined: there is none. */
  get round(): number | undefined {
    return this.decision.kind === "joined" ? this.assembly.round : undefined;
  }

  /** Ranks in it, this one included. */
  get groupMembers(): number {
    return this.assembly.memberCount;
  }

  /** Ranks of the group that stands. */
  get members(): number[] {
    return this.round === undefined ? [] : (this.history.at(-1)?.members ?? []);
  }

  /** The last groups, the oldest first. */
  get groups(): MetGroup[] {
    const nowMs = this.options.clock.nowMs();
    return this.history.map(({ atMs, ...group }) => ({ ...group, secondsAgo: (nowMs - atMs) / 1000 }));
  }

  /** Why there is no group, for people. */
  get reason(): string | undefined {
    if (this.decision.kind === "joined") return undefined;
    const what = this.decision.kind === "wait" ? this.decision.reason : "meets the other ranks";
    return this.lastLoss === undefined ? what : `${what} (${this.lastLoss})`;
  }

  /** The round of the group, once there is one. Rejects with `worker_lost` when there is none after `timeoutMs`. */
  async joined(timeoutMs: number): Promise<number> {
    const { clock, own } = this.options;
    const endMs = clock.nowMs() + timeoutMs;
    for (;;) {
      const { round } = this;
      if (round !== undefined) return round;
      const leftMs = endMs - clock.nowMs();
      if (leftMs <= 0 || this.stopped) throw new PelagicError("worker_lost", `rank ${own.rank} has no group: it ${this.reason}`);
      await new Promise<void>((resolve) => {
        const cancel = clock.setTimer(leftMs, resolve);
        this.waiting.push(() => {
          cancel();
          resolve();
        });
      });
    }
  }

  /** The group of this round is over. */
  lost(round: number, message: string): void {
    if (round !== this.assembly.round || this.stopped) return;
    this.options.log.warn({ rank: this.options.own.rank, round }, message);
    this.lastLoss = message;
    this.endedBy = message;
    this.assembly.over(round, this.options.clock.nowMs());
    this.look();
  }

  stop(): void {
    this.stopped = true;
    this.cancelTimer();
    this.options.onLead?.(false);
    this.wake();
  }

  private look(): void {
    if (this.stopped) return;
    this.cancelTimer();
    this.decision = this.assembly.decide(this.options.clock.nowMs());
    this.say();
    if (this.decision.kind === "joined") this.wake();
    else if (this.decision.kind === "meet" && !this.meeting) void this.meet(this.decision);
    this.cancelTimer = this.options.clock.setTimer(this.decision.kind === "joined" ? noticeMs : lookMs, () => this.look());
  }

  private say(): void {
    const { bus, clock, subject } = this.options;
    const nowMs = clock.nowMs();
    if (nowMs - this.saidMs < noticeMs && this.saidRound === this.assembly.round) return;
    this.saidMs = nowMs;
    this.saidRound = this.assembly.round;
    try {
      bus.publish(subject, encodeMessage(this.assembly.notice()));
    } catch {
      // Disconnected: it is said again.
    }
  }

  private async meet({ round, id, members }: Extract<AssemblyDecision, { kind: "meet" }>): Promise<void> {
    const { clock, log, own } = this.options;
    this.meeting = true;
    try {
      const ranks = members.map((member) => member && { host: member.host, port: member.port, secret: Buffer.from(member.secret, "hex") });
      await this.options.meet({ group: id, ranks, meetMs, silenceMs, longestWaitMs });
      this.assembly.met(round, members);
      const there = members.flatMap((member, rank) => (member ? [rank] : []));
      // Where a later round has begun meanwhile, nobody used it.
      if (this.assembly.memberCount > 0) this.remember(round, there);
      log.info({ rank: own.rank, round, ranks: there }, "the ranks have met");
      this.options.onLead?.(there[0] === own.rank);
    } catch (error) {
      this.lastLoss = error instanceof Error ? error.message : String(error);
      log.info({ rank: own.rank, round, error: this.lastLoss }, "the ranks have not met");
      this.assembly.over(round, clock.nowMs());
    } finally {
      this.meeting = false;
    }
    this.look();
  }

  private remember(round: number, members: number[]): void {
    this.history.push({ round, members, loss: this.endedBy, atMs: this.options.clock.nowMs() });
    if (this.history.length > maxGroupHistory) this.history.shift();
    this.endedBy = null;
  }

  private wake(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}
