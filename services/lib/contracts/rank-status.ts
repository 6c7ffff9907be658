// What a decode worker that shares its model's experts says of its group, on its admin port (GET /experts): for the operator and for people.
import { z } from "zod";
import { maxExpertSlots } from "./expert-placement.ts";

export const rankStatusPath = "/experts";
export const maxGroupHistory = 16;
/** Of what is said in words; who says it cuts it off there. */
export const maxReasonCharacters = 1_024;

const rank = z
  .int()
  .min(0)
  .max(maxExpertSlots - 1);
const ranks = z.array(rank).max(maxExpertSlots);

/** A group that met. Rounds grow, and every member knows a group by the same round. */
export const MetGroup = z.object({
  round: z.int().min(1),
  secondsAgo: z.number().min(0),
  members: ranks.min(1),
  /** Why the group before it ended, where one of its ranks was lost. */
  loss: z.string().max(maxReasonCharacters).nullable(),
  /** Ranks of groups before it that are not in it since they were stopped, as they said. */
  stopped: ranks.default([]),
});
export type MetGroup = z.output<typeof MetGroup>;

export const RankStatus = z.object({
  /** Only ranks of the same name share experts. */
  group: z.string().min(1).max(256),
  rank,
  rankCount: z.int().min(1).max(maxExpertSlots),
  /** Of the group that stands; none: there is no group, and nothing is computed. */
  members: ranks,
  /** Why there is none. */
  reason: z.string().max(maxReasonCharacters).nullable(),
  /** `whole`: every layer goes by it; otherwise later ones go by the plan before. */
  plan: z.object({ version: z.int().min(1), digest: z.string().min(1).max(64), whole: z.boolean() }),
  /** Copies of experts that this rank loaded for plans after the first, since the process started. */
  loaded: z.object({ experts: z.int().min(0), bytes: z.int().min(0) }),
  /** Members that hold an expert which no other member holds: without any of these the others cannot go on. */
  indispensable: ranks,
  /** Mean over MoE layers of mean over largest load of the members, of late; known to the one that hears of all loads, while there are any. */
  balancedness: z.number().min(0).max(1).nullable(),
  /** The oldest first. */
  history: z.array(MetGroup).max(maxGroupHistory),
});
export type RankStatus = z.output<typeof RankStatus>;
