// ExpertPlacement: how the ranks of a decode pool share a model's experts, as they say themselves. Made by the operator for each ModelService with
// spec.experts, under its name; nobody else writes it.
import { z } from "zod";
import { ObjectName } from "./kubernetes-fields.ts";
import { listMap } from "./rules.ts";
import { Condition } from "./status.ts";

export const expertPlacementKind = "ExpertPlacement";

export const maxRanks = 512;
export const maxChanges = 10;
export const maxChangeLength = 512;

/** Their order is the order in which a person should look. */
export const placementConditionTypes = {
  Serving: "The ranks that are there hold every expert and compute together. Otherwise requests wait, or are told to come again.",
  Complete: "Every rank takes part.",
  Redundant: "Any one rank may be lost, and the others go on at once: each expert has copies on two ranks or more.",
} as const;
export type PlacementConditionType = keyof typeof placementConditionTypes;
export const placementConditionNames = Object.keys(placementConditionTypes) as [PlacementConditionType, ...PlacementConditionType[]];

const rank = z
  .int32()
  .min(0)
  .max(maxRanks - 1);
const ranks = z.array(rank).max(maxRanks);

const Change = z.object({
  time: z.iso.datetime().describe("When it was."),
  group: z.string().max(63).describe("The StatefulSet whose pods the ranks are."),
  round: z.int().min(1).describe("Of the ranks' meetings: a later one has a larger number."),
  kind: z
    .enum(["Met", "Lost", "Stopped", "Placed"])
    .default("Met")
    .describe("Ranks met or came back; the group ended by itself, or some were lost; some were stopped; a plan came into force."),
  message: z.string().max(maxChangeLength).describe("What changed."),
});
export type Change = z.output<typeof Change>;

export const ExpertPlacementSpec = z
  .object({ modelService: ObjectName.describe("The ModelService whose decode pool it is about.") })
  .describe("What it is about.");

export const ExpertPlacementStatus = z
  .object({
    plan: z
      .object({
        version: z.int().min(1).describe("Of two plans the larger one is in force."),
        digest: z.string().max(64).describe("Over the whole plan: equal plans have equal ones."),
      })
      .optional()
      .describe("The plan in force: which rank holds which copies of experts."),
    ranks: z
      .object({
        present: z.string().max(32).describe("Ranks that take part, of all: for kubectl get."),
        members: ranks.describe("Ranks that take part."),
        lost: ranks.describe("Ranks that took part and do not now."),
        indispensable: ranks.describe("Members without which the others would lack an expert."),
      })
      .optional()
      .describe("The group that computes."),
    balancedness: z
      .number()
      .min(0)
      .max(1)
      .optional()
      .describe(
        "How evenly the ranks share the load of late, or of when there was some: the mean over layers of mean over largest load of a rank. 1 is even; tokens/s of a full pool follow it.",
      ),
    moved: z
      .object({
        experts: z.int().min(0).describe("Copies of experts."),
        bytes: z.int().min(0).describe("Their weights."),
      })
      .optional()
      .describe("What the pods that are there had loaded for plans after their first, when the plan in force began."),
    losses: z.int32().min(0).default(0).describe("How often a rank was lost, since this object was made."),
    changes: z.array(Change).max(maxChanges).optional().describe("What happened, the newest first."),
    conditions: z.array(Condition).max(32).meta(listMap("type")).optional().describe("What holds and what does not."),
  })
  .describe("What is.");
export type ExpertPlacementStatus = z.output<typeof ExpertPlacementStatus>;
