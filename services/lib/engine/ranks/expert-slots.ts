// The plan that ranks begin with, before anybody has counted what the experts get.
import type { ExpertPlan } from "../../contracts/expert-placement.ts";

export interface ExpertShape {
  moeLayers: number;
  logicalExperts: number;
}

/** Slot i holds expert i, and a redundant slot i expert i modulo their number; the slots that make the ranks equal are spare. */
export function initialPlan({ moeLayers, logicalExperts }: ExpertShape, rankCount: number, redundantSlots: number): ExpertPlan {
  const used = logicalExperts + redundantSlots;
  const slotsPerRank = Math.ceil(used / rankCount);
  const slots = Array.from({ length: rankCount * slotsPerRank }, (_, slot) => (slot < used ? slot % logicalExperts : -1));
  return { version: 1, rankCount, slotsPerRank, layers: Array.from({ length: moeLayers }, () => slots) };
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
