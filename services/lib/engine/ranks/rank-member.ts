// One process's part in a group of ranks: says and hears on the bus what RankAssembly needs, and meets whom it decides to.
import type { Bus, BusSubscription, Clock, Log } from "../../contracts/bus.ts";
import { PelagicError } from "../../contracts/errors.ts";
import { type ExpertPlan, expertCountOf } from "../../contracts/expert-placement.ts";
import { maxGroupHistory, type MetGroup } from "../../contracts/rank-status.ts";
import { packSlots, PlanNotice, RankNotice, unpackPlan } from "../../contracts/ranks.ts";
import { decodeMessage, encodeMessage } from "../../contracts/wire.ts";
import type { PlacementState, RankLoss, RankMeeting } from "../native.ts";
import { isWhole, missingExpert } from "./expert-slots.ts";
import { type AssemblyDecision, type AssemblyOptions, type OwnRank, RankAssembly } from "./rank-assembly.ts";

/** How often a rank says that it is there; sooner when its round changed. */
const noticeMs = 250;
const lookMs = 50;
/** A group that is over meets again sooner, if its ranks have nothing to load. */
const shortMs = 1_000;
/** How often a plan is said to those that go by another one, and a next plan to those that may not have heard it. */
const planMs = 500;
export const meetMs = 2_000;
/** After a meeting that failed. Somebody may still be in one of an earlier round, and turn others away: they would fail again, and again. */
const meetPauseMs = 250;
/** A rank's part of a large model, read from a disk. */
const loadMs = 120_000;
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
  /** The same for plans. */
  planSubject: string;
  planSubjects: string;
  own: OwnRank;
  mostSlotsPerRank: AssemblyOptions["mostSlotsPerRank"];
  experts: RankExperts;
  /** Leaves the group there was and joins this one, when no step runs. */
  meet: (meeting: RankMeeting) => Promise<void>;
  /** Whether this rank is the lowest of the group that has just met, and so decides for all; at the end, that it is not. */
  onLead?: (leads: boolean) => void;
}

/** This rank's experts, see NativeModel. */
export interface RankExperts {
  readonly placementState: PlacementState;
  readonly planInForce: ExpertPlan;
  /** Goes by the plan when no step runs. */
  conform(plan: ExpertPlan): Promise<void>;
  stage(plan: ExpertPlan): boolean;
  /** It cannot have the experts that it should: the process is of no more use. */
  fail(error: Error): void;
}

export class RankMember {
  private readonly options: RankMemberOptions;
  private readonly assembly: RankAssembly;
  private cancelTimer: () => void = () => {};
  private saidMs = Number.NEGATIVE_INFINITY;
  private saidRound = 0;
  /** A meeting, or the loading of experts for one, is under way. */
  private busy = false;
  private meetFromMs = Number.NEGATIVE_INFINITY;
  private groupId: string | undefined;
  private seen: PlacementState | undefined;
  private apartSinceMs = Number.POSITIVE_INFINITY;
  private saidPlanMs = Number.NEGATIVE_INFINITY;
  /** What this rank, which leads, has decided for its group; until it is in force, or the group is over. */
  private next: ExpertPlan | undefined;
  private readonly subscriptions: BusSubscription[];
  private stopped = false;
  private decision: AssemblyDecision = { kind: "wait", reason: "has not looked yet" };
  private lastLoss: string | undefined;
  /** Why the group ended that the next one follows. */
  private endedBy: string | null = null;
  private readonly history: (Omit<MetGroup, "secondsAgo"> & { atMs: number })[] = [];
  private waiting: (() => void)[] = [];

  constructor(options: RankMemberOptions) {
    this.options = options;
    const { own, mostSlotsPerRank, experts, clock } = options;
    this.assembly = new RankAssembly(own, { ...assemblyTimes, mostSlotsPerRank }, experts.planInForce, clock.nowMs());
    const hear = options.bus.subscribe(options.subjects, (message) => {
      const { body } = decodeMessage(RankNotice, message.data);
      this.assembly.hear(body, options.clock.nowMs());
      this.look();
    });
    const hearPlan = options.bus.subscribe(options.planSubjects, ({ data }) => {
      const { body, tokens } = decodeMessage(PlanNotice, data);
      const { version, next } = experts.placementState;
      if (body.kind === "next" && body.version <= Math.max(version, next)) return;
      if (body.group === own.group && body.sharedDigest === own.sharedDigest && body.rankCount === own.rankCount)
        this.hearPlan(body, unpackPlan(body, tokens));
    });
    this.subscriptions = [hear, hearPlan];
    this.look();
  }

  /** The plan that its group is to go to, decided here since this rank leads. Returns why it is not, if so. */
  decidePlan(plan: ExpertPlan): string | undefined {
    const { planInForce } = this.options.experts;
    if (!this.mayDecide()) return "this rank leads no group that could change its plan now";
    if (!isLike(plan, planInForce) || plan.slotsPerRank !== planInForce.slotsPerRank)
      return "the plan is of another shape than the one in force";
    const missing = missingExpert(plan, (rank) => this.isMember(rank));
    if (missing !== undefined) return `no rank of the group would have expert ${missing.expert} of MoE layer ${missing.layer}`;
    this.next = plan;
    this.look();
    return undefined;
  }

  /** It leads a group that goes by one plan, and nobody is about to join it. */
  mayDecide(): boolean {
    const { experts, clock } = this.options;
    return (
      this.round !== undefined &&
      this.assembly.leads &&
      !this.isChanging(experts.placementState) &&
      !this.assembly.hasNewcomer(clock.nowMs())
    );
  }

  isMember(rank: number): boolean {
    return this.assembly.isMember(rank);
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
    const doing = this.decision.kind === "conform" ? `loads experts of plan ${this.decision.plan.version}` : "meets the other ranks";
    const what = this.decision.kind === "wait" ? this.decision.reason : doing;
    return this.lastLoss === undefined ? what : `${what} (${this.lastLoss})`;
  }

  /** Why its group has been away for longer than one takes to meet again; undefined: it has not. */
  get pausedBecause(): string | undefined {
    return this.options.clock.nowMs() - this.apartSinceMs > shortMs ? this.reason : undefined;
  }

  /** The round of the group, once there is one. Rejects with `worker_lost` when there is none after `timeoutMs`, or, while experts are loaded, after `loadMs` where that is longer. */
  async joined(timeoutMs: number): Promise<number> {
    const { clock, own } = this.options;
    const startMs = clock.nowMs();
    for (;;) {
      const { round } = this;
      if (round !== undefined) return round;
      const waitedMs = clock.nowMs() - startMs;
      if (waitedMs >= Math.max(timeoutMs, this.isLoading ? loadMs : 0) || this.stopped)
        throw new PelagicError("worker_lost", `rank ${own.rank} has no group: it ${this.reason}`);
      await new Promise<void>((resolve) => {
        const cancel = clock.setTimer(noticeMs, () => this.wake());
        this.waiting.push(() => {
          cancel();
          resolve();
        });
      });
    }
  }

  private get isLoading(): boolean {
    return this.decision.kind === "conform" || (this.decision.kind === "wait" && this.decision.loading === true);
  }

  /** The group of this round is over; undefined: the one that stood last. */
  lost(round: number | undefined, { message, byItself = false }: RankLoss): void {
    if (this.stopped) return;
    const loss = byItself ? null : message;
    if (round !== this.assembly.round) {
      // Others have said so first, but not why.
      if (this.round === undefined) this.endedBy ??= loss;
      return;
    }
    this.options.log.warn({ rank: this.options.own.rank, round }, message);
    this.lastLoss = message;
    this.endedBy = loss;
    this.assembly.over(round, this.options.clock.nowMs());
    this.look();
  }

  /** For good: the others hear that this rank is not lost. */
  stop(): void {
    if (!this.stopped) this.publish(true);
    this.stopped = true;
    this.cancelTimer();
    for (const subscription of this.subscriptions) subscription.unsubscribe();
    this.options.onLead?.(false);
    this.wake();
  }

  private look(): void {
    if (this.stopped) return;
    this.cancelTimer();
    this.seePlan();
    this.decision = this.assembly.decide(this.options.clock.nowMs());
    // It was for that group, which may also have ended by what another rank says: a later round.
    if (this.decision.kind !== "joined") this.next = undefined;
    this.say();
    this.sayPlan();
    if (this.decision.kind !== "joined") this.apartSinceMs = Math.min(this.apartSinceMs, this.options.clock.nowMs());
    else this.apartSinceMs = Number.POSITIVE_INFINITY;
    if (this.decision.kind === "joined") this.wake();
    else if (this.decision.kind === "meet" && !this.busy && this.options.clock.nowMs() >= this.meetFromMs) void this.meet(this.decision);
    else if (this.decision.kind === "conform" && !this.busy) void this.conform(this.decision.plan);
    this.cancelTimer = this.options.clock.setTimer(this.decision.kind === "joined" ? noticeMs : lookMs, () => this.look());
  }

  private isChanging(state: PlacementState): boolean {
    return this.next !== undefined || state.next !== 0;
  }

  /** How far plans are with this rank's steps. */
  private seePlan(): void {
    const { experts, log, own } = this.options;
    const state = experts.placementState;
    if (state.failure !== "" && this.seen?.failure === "") experts.fail(new Error(state.failure));
    const { seen } = this;
    this.seen = state;
    if (seen?.version === state.version && seen.layersTaken === state.layersTaken) return;
    const plan = experts.planInForce;
    this.assembly.goesBy(plan, state.layersTaken);
    const whole = isWhole(plan, state);
    if (whole && seen !== undefined)
      log.info({ rank: own.rank, version: plan.version, loaded: state.loadedExperts }, "an expert plan is in force");
    if (this.next !== undefined && whole && state.version >= this.next.version) this.next = undefined;
  }

  private hearPlan(notice: PlanNotice, plan: ExpertPlan): void {
    if (!isLike(plan, this.options.experts.planInForce)) return;
    if (notice.kind === "inForce") {
      this.assembly.learn(plan);
      this.look();
      return;
    }
    if (this.round === undefined || notice.groupId !== this.groupId) return;
    try {
      this.options.experts.stage(plan);
    } catch (error) {
      this.options.log.warn({ rank: this.options.own.rank, version: plan.version, error: String(error) }, "an expert plan is not taken");
    }
  }

  private sayPlan(): void {
    const { bus, clock, planSubject, own, experts } = this.options;
    const nowMs = clock.nowMs();
    const joined = this.decision.kind === "joined";
    if ((joined && !this.assembly.leads) || nowMs - this.saidPlanMs < planMs) return;
    const kind = this.next !== undefined ? "next" : "inForce";
    // A plan that is changing is of no use to anybody yet. Without a group it changes no more, however far it is, and others may wait for it.
    const changes = joined && this.isChanging(experts.placementState);
    if (kind === "inForce" && (changes || !this.assembly.disagrees(nowMs))) return;
    const plan = this.next ?? experts.planInForce;
    const { version, rankCount, slotsPerRank, layers } = plan;
    const about = { group: own.group, sharedDigest: own.sharedDigest, version, rankCount, slotsPerRank, layerCount: layers.length };
    this.saidPlanMs = nowMs;
    try {
      bus.publish(planSubject, encodeMessage({ ...about, kind, groupId: kind === "next" ? this.groupId : "" }, packSlots(plan)));
    } catch {
      // Disconnected: it is said again.
    }
    if (kind === "next") experts.stage(plan);
  }

  private async conform(plan: ExpertPlan): Promise<void> {
    const { experts, log, own } = this.options;
    this.busy = true;
    try {
      await experts.conform(plan);
      // It may be of the same version as the one before: two groups that did not hear of each other have mended one plan.
      this.seen = undefined;
      log.info({ rank: own.rank, version: plan.version }, "the rank goes by the expert plan of its group");
    } catch (error) {
      if (!this.stopped) experts.fail(error instanceof Error ? error : new Error(String(error)));
    } finally {
      this.busy = false;
    }
    // A group that stands begins a round for this rank once it hears; its members are not there to be met in the one before.
    this.saidMs = Number.NEGATIVE_INFINITY;
    this.meetFromMs = this.options.clock.nowMs() + meetPauseMs;
    this.look();
  }

  private say(): void {
    const nowMs = this.options.clock.nowMs();
    if (nowMs - this.saidMs < noticeMs && this.saidRound === this.assembly.round) return;
    this.saidMs = nowMs;
    this.saidRound = this.assembly.round;
    this.publish(false);
  }

  private publish(stops: boolean): void {
    try {
      this.options.bus.publish(this.options.subject, encodeMessage(this.assembly.notice(stops)));
    } catch {
      // Disconnected: it is said again, or taken for a loss.
    }
  }

  private async meet({ round, id, members }: Extract<AssemblyDecision, { kind: "meet" }>): Promise<void> {
    const { clock, log, own } = this.options;
    this.busy = true;
    try {
      const ranks = members.map((member) => member && { host: member.host, port: member.port, secret: Buffer.from(member.secret, "hex") });
      await this.options.meet({ group: id, ranks, meetMs, silenceMs, longestWaitMs });
      this.assembly.met(round, members);
      this.groupId = Buffer.from(id).toString("hex");
      const there = members.flatMap((member, rank) => (member ? [rank] : []));
      // Where a later round has begun meanwhile, nobody uses it.
      if (this.assembly.memberCount > 0 && !this.stopped) {
        this.remember(round, there);
        log.info({ rank: own.rank, round, ranks: there }, "the ranks have met");
        this.options.onLead?.(there[0] === own.rank);
      }
    } catch (error) {
      this.lastLoss = error instanceof Error ? error.message : String(error);
      // Nobody else's fault, and no better at the next meeting.
      if ((error as { code?: unknown }).code === "memory") this.options.experts.fail(error as Error);
      log.info({ rank: own.rank, round, error: this.lastLoss }, "the ranks have not met");
      this.meetFromMs = clock.nowMs() + meetPauseMs;
      this.assembly.over(round, clock.nowMs());
    } finally {
      this.busy = false;
    }
    this.look();
  }

  private remember(round: number, members: number[]): void {
    this.history.push({ round, members, loss: this.endedBy, stopped: [...this.assembly.stopped], atMs: this.options.clock.nowMs() });
    if (this.history.length > maxGroupHistory) this.history.shift();
    this.endedBy = null;
  }

  private wake(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}

/** Of the same ranks, layers and experts. */
function isLike(a: ExpertPlan, b: ExpertPlan): boolean {
  return a.rankCount === b.rankCount && a.layers.length === b.layers.length && expertCountOf(a) === expertCountOf(b);
}
