// On the rank that leads its group: places the experts anew, every so often, by what the group's tokens asked of them of late.
import type { Clock, Log } from "../../contracts/bus.ts";
import type { ExpertPlan } from "../../contracts/expert-placement.ts";
import type { GroupLoad } from "./group-load.ts";
import type { RankMember } from "./rank-member.ts";

/** Undefined: the plan in force is good enough. */
export type Planner = (
  current: ExpertPlan,
  state: { isThere: (rank: number) => boolean; slotsPerRank: number; intervals: readonly ArrayLike<number>[] },
) => Promise<{ plan: ExpertPlan; moves: number; balancednessBefore: number; balancednessAfter: number } | undefined>;

export interface RebalancerOptions {
  clock: Clock;
  log: Log;
  member: Pick<RankMember, "mayDecide" | "decidePlan" | "isMember">;
  load: Pick<GroupLoad, "window">;
  planInForce: () => ExpertPlan;
  planner: Planner;
  everyMs: number;
  slotsPerRank: number;
}

export class Rebalancer {
  private readonly options: RebalancerOptions;
  private cancelTimer: () => void = () => {};
  private stopped = false;

  constructor(options: RebalancerOptions) {
    this.options = options;
    this.wait();
  }

  stop(): void {
    this.stopped = true;
    this.cancelTimer();
  }

  private wait(): void {
    if (this.stopped) return;
    this.cancelTimer = this.options.clock.setTimer(this.options.everyMs, () => {
      void this.rebalance().then(() => this.wait());
    });
  }

  private async rebalance(): Promise<void> {
    const { member, load, planner, planInForce, slotsPerRank, log } = this.options;
    const intervals = load.window?.intervals() ?? [];
    try {
      if (intervals.length === 0 || !member.mayDecide()) return;
      const current = planInForce();
      const next = await planner(current, {
        isThere: (rank) => member.isMember(rank),
        slotsPerRank,
        intervals: intervals.map((each) => each.slice()),
      });
      // The group, or its plan, may have become another one meanwhile.
      if (next === undefined || planInForce().version !== current.version || member.decidePlan(next.plan) !== undefined) return;
      const { plan, ...figures } = next;
      log.info({ version: plan.version, ...figures }, "experts are placed anew");
    } catch (error) {
      log.warn({ error: String(error) }, "experts are not placed anew");
    }
  }
}
