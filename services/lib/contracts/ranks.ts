// What ranks that share a model's experts say on the bus to find one another. Rows travel on connections of their own (kernels/ranks).
import { z } from "zod";
import { ExpertPlan, maxExpertSlots, maxMoeLayers } from "./expert-placement.ts";

const hexOf = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`));

/** Said again and again: who lives, where it is called, and which round of meeting it is in. */
export const RankNotice = z.object({
  v: z.number(),
  /** The name of the model that is shared. */
  group: z.string().min(1),
  /** Of the model's files, the engine's, the backend and the type of its weights: only equal ones meet. */
  sharedDigest: hexOf(32),
  rank: z.number().int().nonnegative(),
  rankCount: z.number().int().positive(),
  instanceId: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  round: z.number().int().positive(),
  /** It has been in a group: who is absent now is not merely late for the first one. */
  hasMet: z.boolean(),
  /** A numeric address. */
  host: z.string().min(1).max(64),
  port: z.number().int().min(1).max(65535),
  /** Whoever calls shows that it knows this. */
  secret: hexOf(32),
  /** It is of a group that has met in this round. */
  standing: z.boolean(),
  /** It will be gone at once, as it was asked to: its last notice. */
  stops: z.boolean().default(false),
  plan: z.object({
    version: z.number().int().positive(),
    /** The first MoE layers of that version; the others are of the plan before. */
    layersTaken: z.number().int().nonnegative(),
    /** Of the whole plan that it goes by: planDigest. */
    digest: hexOf(8),
  }),
});
export type PlanPosition = RankNotice["plan"];
export type RankNotice = z.infer<typeof RankNotice>;

/** Which plan a rank goes by, for those that go by another one; or the plan that a group is to go to, from the rank that leads it. Tail: the slots. */
export const PlanNotice = z.object({
  v: z.number(),
  group: z.string().min(1),
  sharedDigest: hexOf(32),
  kind: z.enum(["inForce", "next"]),
  /** Of the group that a next plan is for: no other one takes it. */
  groupId: z.union([hexOf(16), z.literal("")]),
  version: z.number().int().positive(),
  rankCount: z.number().int().positive().max(maxExpertSlots),
  slotsPerRank: z.number().int().positive().max(maxExpertSlots),
  layerCount: z.number().int().positive().max(maxMoeLayers),
});
export type PlanNotice = z.infer<typeof PlanNotice>;

/** Two slots in a word: the logical expert and one, 0 for a spare slot. */
export function packSlots({ layers }: Pick<ExpertPlan, "layers">): Uint32Array {
  const slots = layers.flat();
  const packed = new Uint16Array(slots.length + (slots.length % 2));
  for (const [i, expert] of slots.entries()) packed[i] = expert + 1;
  return new Uint32Array(packed.buffer);
}

/** Throws where the tail is no plan of that size. */
export function unpackPlan(size: Pick<PlanNotice, "version" | "rankCount" | "slotsPerRank" | "layerCount">, tail: Uint32Array): ExpertPlan {
  const { version, rankCount, slotsPerRank, layerCount } = size;
  const perLayer = rankCount * slotsPerRank;
  const count = layerCount * perLayer;
  if (tail.length !== Math.ceil(count / 2)) throw new RangeError(`slots: ${2 * tail.length} values, not ${count}`);
  const packed = new Uint16Array(tail.buffer, tail.byteOffset, count);
  const layers = Array.from({ length: layerCount }, (_, layer) =>
    Array.from(packed.subarray(layer * perLayer, (layer + 1) * perLayer), (slot) => slot - 1),
  );
  return ExpertPlan.parse({ version, rankCount, slotsPerRank, layers });
}
