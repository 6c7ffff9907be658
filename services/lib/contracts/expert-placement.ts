// Where copies of experts are: a *logical* expert is the model's, a *physical* expert is one placed copy of it, in one slot of one rank.
import { z } from "zod";

export const maxExpertSlots = 8192;
export const maxMoeLayers = 512;
/** How the experts of ranks that serve are placed anew: ours, or by DeepSeek's published algorithm. */
export const expertPolicies = ["balanced", "published"] as const;
/** In a slot that holds no expert. */
export const spareSlot = -1;

const slot = z
  .int()
  .min(spareSlot)
  .max(maxExpertSlots - 1);

/** The only reason, if any, why these layers are no plan; path within the plan. */
function planFault({ rankCount, slotsPerRank, layers }: Omit<ExpertPlan, "version">): { path: PropertyKey[]; message: string } | undefined {
  const slots = rankCount * slotsPerRank;
  if (slots > maxExpertSlots) return { path: ["slotsPerRank"], message: `${slots} slots a layer are more than ${maxExpertSlots}` };
  const experts = expertCountOf({ layers });
  if (experts === 0) return { path: ["layers", 0], message: "holds no expert" };
  for (const [layer, placed] of layers.entries()) {
    if (placed.length !== slots)
      return { path: ["layers", layer], message: `has ${placed.length} slots, not rankCount * slotsPerRank = ${slots}` };
    const copies = copyCounts(placed, experts);
    const missing = copies.indexOf(0);
    if (missing >= 0) return { path: ["layers", layer], message: `has no slot with expert ${missing}` };
  }
  return undefined;
}

/** `layers[layer][slot]` is the logical expert there or -1, slot = rank * slotsPerRank + i; MoE layers alone, in their order. Every logical expert
 * has a slot in every layer. Of two plans the one with the larger version counts. */
export const ExpertPlan = z
  .object({
    version: z.int().min(1),
    rankCount: z.int().min(1).max(maxExpertSlots),
    slotsPerRank: z.int().min(1).max(maxExpertSlots),
    layers: z.array(z.array(slot).min(1).max(maxExpertSlots)).min(1).max(maxMoeLayers),
  })
  .superRefine((plan, context) => {
    const fault = planFault(plan);
    if (fault !== undefined) context.addIssue({ code: "custom", ...fault });
  });
export type ExpertPlan = z.output<typeof ExpertPlan>;

/** One physical expert to be loaded: into slot `to`, from slot `from` of the plan before, which lies on another rank unless a copy was there already. */
export interface ExpertMove {
  layer: number;
  expert: number;
  from: number;
  to: number;
}

/** Logical experts of a plan: they are numbered from 0. */
export function expertCountOf({ layers }: Pick<ExpertPlan, "layers">): number {
  let largest = -1;
  for (const placed of layers) for (const expert of placed) if (expert > largest) largest = expert;
  return largest + 1;
}

/** Copies of each logical expert among the slots of one layer. */
export function copyCounts(placed: ArrayLike<number>, experts: number): Uint32Array {
  const copies = new Uint32Array(experts);
  for (let i = 0; i < placed.length; i++) {
    const expert = placed[i] as number;
    if (expert !== spareSlot) (copies[expert] as number)++;
  }
  return copies;
}

/** Load of each rank in one layer. The copies of an expert share its load evenly. */
export function rankLoads(placed: ArrayLike<number>, slotsPerRank: number, load: ArrayLike<number>): Float64Array {
  const copies = copyCounts(placed, load.length);
  const loads = new Float64Array(placed.length / slotsPerRank);
  for (let i = 0; i < placed.length; i++) {
    const expert = placed[i] as number;
    if (expert !== spareSlot) (loads[Math.floor(i / slotsPerRank)] as number) += (load[expert] as number) / (copies[expert] as number);
  }
  return loads;
}

/** Mean rank load over largest rank load of one layer: 1 is even, 1/ranks is all on one. A layer without load is even. */
export function layerBalancedness(placed: ArrayLike<number>, slotsPerRank: number, load: ArrayLike<number>): number {
  let sum = 0;
  let largest = 0;
  const loads = rankLoads(placed, slotsPerRank, load);
  for (const each of loads) {
    sum += each;
    if (each > largest) largest = each;
  }
  return largest === 0 ? 1 : sum / loads.length / largest;
}

/** Mean over layers of mean rank load / largest rank load. */
export function balancedness(
  { layers, slotsPerRank }: Pick<ExpertPlan, "layers" | "slotsPerRank">,
  loads: ArrayLike<ArrayLike<number>>,
): number {
  const sum = layers.reduce(
    (total, placed, layer) => total + layerBalancedness(placed, slotsPerRank, loads[layer] as ArrayLike<number>),
    0,
  );
  return sum / layers.length;
}

/** The plan before any load is known: each rank holds the next experts, and after the last expert the first ones again. Every layer alike. Of each
 * layer's slots `used` hold an expert, as many on each rank as on any other, or one less; the rest are spare. */
export function firstPlan(shape: {
  layerCount: number;
  experts: number;
  rankCount: number;
  slotsPerRank: number;
  used?: number;
}): ExpertPlan {
  const { layerCount, experts, rankCount, slotsPerRank } = shape;
  const slots = rankCount * slotsPerRank;
  const used = shape.used ?? slots;
  if (experts > used || used > slots) throw new RangeError(`${experts} experts cannot be in ${used} of ${slots} slots`);
  const placed = new Array<number>(slots).fill(spareSlot);
  for (let rank = 0; rank < rankCount; rank++) {
    const first = Math.floor((rank * used) / rankCount);
    const end = Math.floor(((rank + 1) * used) / rankCount);
    for (let i = first; i < end; i++) placed[rank * slotsPerRank + i - first] = i % experts;
  }
  return { version: 1, rankCount, slotsPerRank, layers: Array.from({ length: layerCount }, () => [...placed]) };
}
