// The plan that a group of ranks goes to next, from the one in force and the tokens of late. Pure, but that it lets others run between layers: those of a
// large model take a tenth of a second together.
import { balancedness, type ExpertPlan, expertCountOf } from "../lib/contracts/expert-placement.ts";
import { forecastLoads } from "./forecast.ts";
import { movesBetween, replan } from "./moves.ts";
import type { PlanSettings } from "./settings.ts";
import type { PlacementShape } from "./shape.ts";

export interface NextPlan {
  plan: ExpertPlan;
  /** Copies that ranks have to load. */
  moves: number;
  balancednessBefore: number;
  balancednessAfter: number;
}

export interface GroupState {
  isThere: (rank: number) => boolean;
  /** Slots of each rank to be filled where all ranks are there. */
  slotsPerRank: number;
  /** [layers, experts] each, the oldest first. */
  intervals: readonly ArrayLike<number>[];
}

/** Undefined: there were no tokens, or it would change nothing. What ranks hold that are not there stays. */
export async function nextPlan(
  current: ExpertPlan,
  { isThere, slotsPerRank, intervals }: GroupState,
  settings: PlanSettings,
  turn: () => Promise<void>,
): Promise<NextPlan | undefined> {
  if (!intervals.some((interval) => Array.from(interval).some((tokens) => tokens > 0))) return undefined;
  const experts = expertCountOf(current);
  const loads = forecastLoads(intervals, experts, settings);
  const ranks = Array.from({ length: current.rankCount }, (_, rank) => rank).filter(isThere);
  const perRank = Math.min(current.slotsPerRank, Math.max(slotsPerRank, Math.ceil(experts / ranks.length)));
  const shape: PlacementShape = { experts, slots: perRank * ranks.length, ranks: ranks.length, nodes: 1, groups: 1 };
  const before = {
    ...current,
    rankCount: ranks.length,
    layers: current.layers.map((placed) => ofRanks(placed, ranks, current.slotsPerRank)),
  };
  const layers: number[][] = [];
  for (const [layer, placed] of before.layers.entries()) {
    const one = { ...before, layers: [placed] };
    layers.push(
      replan(one, [loads[layer] as Float64Array], shape, settings.policy, { tolerance: settings.tolerance }).plan.layers[0] as number[],
    );
    await turn();
  }
  const after = { ...before, layers };
  const moves = movesBetween(before, after).length;
  if (moves === 0) return undefined;
  const plan = {
    ...current,
    version: current.version + 1,
    layers: current.layers.map((placed, layer) => withRanks(placed, layers[layer] as number[], ranks, current.slotsPerRank)),
  };
  return { plan, moves, balancednessBefore: balancedness(before, loads), balancednessAfter: balancedness(after, loads) };
}

function ofRanks(placed: readonly number[], ranks: readonly number[], each: number): number[] {
  return ranks.flatMap((rank) => placed.slice(rank * each, (rank + 1) * each));
}

function withRanks(placed: readonly number[], its: readonly number[], ranks: readonly number[], each: number): number[] {
  const all = [...placed];
  for (const [i, rank] of ranks.entries()) all.splice(rank * each, each, ...its.slice(i * each, (i + 1) * each));
  return all;
}
