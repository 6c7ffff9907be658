// What ranks need to know of a plan before they meet.
import { type ExpertPlan, firstPlan } from "../../contracts/expert-placement.ts";

export interface ExpertShape {
  moeLayers: number;
  logicalExperts: number;
}

/** With so many slots more than experts that hold a copy; the slots that make the ranks equal are spare. */
export function initialPlan({ moeLayers, logicalExperts }: ExpertShape, rankCount: number, redundantSlots: number): ExpertPlan {
  const used = logicalExperts + redundantSlots;
  return firstPlan({ layerCount: moeLayers, experts: logicalExperts, rankCount, slotsPerRank: Math.ceil(used / rankCount), used });
}

/** The first logical expert that none of these ranks holds, and its layer; undefined: they hold all. */
export function missingExpert(plan: ExpertPlan, isThere: (rank: number) => boolean): { layer: number; expert: number } | undefined {
  for (const [layer, slots] of plan.layers.entries()) {
    const there = new Set(slots.filter((_, slot) => isThere(Math.floor(slot / plan.slotsPerRank))));
    const missing = slots.filter((expert) => expert >= 0 && !there.has(expert));
    if (missing.length > 0) return { layer, expert: Math.min(...missing) };
  }
  return undefined;
}
