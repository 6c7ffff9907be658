// Which rank holds which experts. A logical expert is the model's, a physical one (a slot) is a placed copy of it.
import { z } from "zod";

const count = z.number().int().min(1);

/** In layers: MoE layers only, in order, each [slot] -> logical expert, or -1 for a spare slot; slot = rank * slotsPerRank + i. */
export const ExpertPlan = z
  .object({
    version: count,
    rankCount: count,
    slotsPerRank: count,
    layers: z.array(z.array(z.number().int().min(-1))),
  })
  .superRefine(({ rankCount, slotsPerRank, layers }, context) => {
    for (const [layer, slots] of layers.entries()) {
      if (slots.length !== rankCount * slotsPerRank) {
        const message = `${slots.length} slots, rankCount * slotsPerRank is ${rankCount * slotsPerRank}`;
        context.addIssue({ code: "custom", path: ["layers", layer], message });
      }
    }
  });
export type ExpertPlan = z.infer<typeof ExpertPlan>;
