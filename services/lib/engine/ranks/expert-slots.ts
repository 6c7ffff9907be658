// What ranks need to know of a plan before they meet.
import { createHash } from "node:crypto";
import { expertCountOf, type ExpertPlan, firstPlan, spareSlot } from "../../contracts/expert-placement.ts";

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

/** Ranks of those there that hold an expert, in some layer, which no other one there holds. */
export function indispensableRanks(plan: ExpertPlan, isThere: (rank: number) => boolean): number[] {
  const experts = expertCountOf(plan);
  const found = new Set<number>();
  for (const slots of plan.layers) {
    const holder = new Int32Array(experts).fill(nobody);
    for (const [slot, expert] of slots.entries()) {
      const rank = Math.floor(slot / plan.slotsPerRank);
      if (expert === spareSlot || !isThere(rank) || holder[expert] === rank) continue;
      holder[expert] = holder[expert] === nobody ? rank : several;
    }
    for (const rank of holder) if (rank >= 0) found.add(rank);
  }
  return [...found].sort((a, b) => a - b);
}

const nobody = -1;
const several = -2;

/** By which people and programs tell plans apart. */
export function planDigest(plan: ExpertPlan): string {
  return createHash("sha256").update(JSON.stringify(plan)).digest("hex").slice(0, 16);
}
