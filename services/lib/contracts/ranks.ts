// What ranks that share a model's experts say on the bus to find one another. Rows travel on connections of their own (kernels/ranks).
import { z } from "zod";

const hexOf = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`));

/** Said again and again: who lives, where it is called, and which round of meeting it is in. */
export const RankNotice = z.object({
  v: z.number(),
  /** The name of the model that is shared. */
  group: z.string().min(1),
  /** Of the model's files and the expert plan: only equal ones meet. */
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
});
export type RankNotice = z.infer<typeof RankNotice>;
