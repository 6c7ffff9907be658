// What ranks need to know of plans before they meet. Pure.
import { createHash } from "node:crypto";
import { type ExpertPlan, expertCountOf, firstPlan, spareSlot } from "../../contracts/expert-placement.ts";
import type { PlacementState } from "../native.ts";

export interface ExpertShape {
  moeLayers: number;
  logicalExperts: number;
}

/** Each rank holding each expert: more copies would be of no use. */
export function mostRedundantSlots({ logicalExperts }: Pick<ExpertShape, "logicalExperts">, rankCount: number): number {
  return (rankCount - 1) * logicalExperts;
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

/** Whether all layers go by this plan, which is in force; else the last ones go by the plan before. */
export function isWhole(plan: ExpertPlan, { layersTaken }: Pick<PlacementState, "layersTaken">): boolean {
  return layersTaken === plan.layers.length;
}

/** By which people and programs tell plans apart: 8 bytes as hex. */
export function planDigest({ version, rankCount, slotsPerRank, layers }: ExpertPlan): string {
  const hash = createHash("sha256").update(`${version} ${rankCount} ${slotsPerRank} ${layers.length};`);
  for (const slots of layers) hash.update(Int16Array.from(slots));
  return hash.digest("hex").slice(0, 16);
}

/**
 * The plan with which these ranks can serve without the others: every expert that none of them holds goes into a slot of theirs that is spare, or that
 * has the most copies. What else they hold stays, and so does what the others hold, for when they come back. Slots are added where there are too few
 * for the experts, up to `mostSlotsPerRank`; undefined: those do not do, either.
 */
export function repairedPlan(plan: ExpertPlan, isThere: (rank: number) => boolean, mostSlotsPerRank: number): ExpertPlan | undefined {
  const ranks = Array.from({ length: plan.rankCount }, (_, rank) => rank).filter(isThere);
  const experts = expertCountOf(plan);
  const slotsPerRank = Math.max(plan.slotsPerRank, Math.ceil(experts / ranks.length));
  if (ranks.length === 0 || slotsPerRank > Math.max(mostSlotsPerRank, plan.slotsPerRank)) return undefined;
  const layers = plan.layers.map((placed) => repairedLayer(widened(placed, plan, slotsPerRank), { ranks, slotsPerRank, experts }));
  return { ...plan, version: plan.version + 1, slotsPerRank, layers };
}

function widened(placed: readonly number[], { rankCount, slotsPerRank }: ExpertPlan, wanted: number): number[] {
  const spare = new Array<number>(wanted - slotsPerRank).fill(spareSlot);
  return Array.from({ length: rankCount }, (_, rank) => [...placed.slice(rank * slotsPerRank, (rank + 1) * slotsPerRank), ...spare]).flat();
}

function repairedLayer(placed: number[], size: { ranks: number[]; slotsPerRank: number; experts: number }): number[] {
  const slots = size.ranks.flatMap((rank) => Array.from({ length: size.slotsPerRank }, (_, i) => rank * size.slotsPerRank + i));
  const copies = new Array<number>(size.experts).fill(0);
  const held = new Map<number, number>();
  const rankOf = (slot: number) => Math.floor(slot / size.slotsPerRank);
  const count = (slot: number, by: number) => {
    const expert = placed[slot] as number;
    if (expert === spareSlot) return;
    copies[expert] = (copies[expert] as number) + by;
    held.set(rankOf(slot), (held.get(rankOf(slot)) ?? 0) + by);
  };
  for (const slot of slots) count(slot, 1);
  // The cheapest slot to give up: spare on the emptiest rank, else of the expert with most copies.
  const cost = (slot: number) => {
    const expert = placed[slot] as number;
    return expert === spareSlot ? (held.get(rankOf(slot)) ?? 0) - slots.length : slots.length - (copies[expert] as number);
  };
  for (let expert = 0; expert < size.experts; expert++) {
    if (copies[expert] !== 0) continue;
    const slot = slots.reduce((best, each) => (cost(each) < cost(best) ? each : best));
    count(slot, -1);
    placed[slot] = expert;
    count(slot, 1);
  }
  return placed;
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
