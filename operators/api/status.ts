// ModelService.status: what is, beside what is wanted. The conditions are a tree: Ready stands on the others.
import { z } from "zod";
import { listMap } from "./rules.ts";

/** Each with what it is about; their order is the order in which a person should look. */
export const conditionTypes = {
  Ready:
    "Requests are answered: Accepted, ModelAvailable, PrefillReady and DecodeReady all hold. Otherwise its reason is that of the first which does not.",
  Accepted: "The operator can act on the spec. Otherwise what runs stays as it is, and nothing is half made.",
  ModelAvailable: "The model's volume is there and can be mounted.",
  PrefillReady: "At least one prefill worker is ready, or none is wanted.",
  DecodeReady: "At least one decode worker is ready, or the pools are at zero and a request wakes them.",
  Autoscaled: "What autoscaling decided last, and why. Only where autoscaling.policy is slo or external.",
  Progressing: "Workers are being made, changed, scaled or drained.",
  Degraded: "Something needs a person: fewer workers are ready than wanted, and waiting alone will not mend it.",
} as const;
export type ConditionType = keyof typeof conditionTypes;

export const conditionTypeNames = Object.keys(conditionTypes) as [ConditionType, ...ConditionType[]];

export const maxMessageLength = 32_768;
/** Of a pool's reason. */
export const maxReasonLength = 1024;

export const Condition = z.object({
  // An open string for the API server: a newer operator may have written others.
  type: z.string().min(1).max(316).describe("What it is about."),
  status: z.enum(["True", "False", "Unknown"]).describe("Whether it holds."),
  observedGeneration: z.int().min(0).optional().describe("The metadata.generation that it was found for."),
  // Checked by the API server, which also takes other zones than ours: what somebody else's condition says must not make the object unreadable.
  lastTransitionTime: z.string().meta({ format: "date-time" }).describe("When status last changed."),
  reason: z.string().min(1).max(1024).describe("One word, for programs."),
  message: z.string().max(maxMessageLength).describe("For a person: what is, and what to do."),
});
export type Condition = z.output<typeof Condition>;

export const PoolStatus = z.object({
  replicas: z.int32().min(0).default(0).describe("Workers that exist."),
  ready: z.int32().min(0).default(0).describe("Workers that take requests."),
  desired: z.int32().min(0).default(0).describe("Workers wanted now."),
  workers: z.string().max(64).default("0/0").describe("ready/desired, for kubectl get."),
  recommended: z.int32().min(0).optional().describe("Workers that the operator would choose, where an external autoscaler does."),
  reason: z.string().max(maxReasonLength).default("").describe("Why so many are wanted."),
});
export type PoolStatus = z.output<typeof PoolStatus>;

export const ModelServiceStatus = z
  .object({
    observedGeneration: z.int().min(0).optional().describe("The metadata.generation that this status is about."),
    servedName: z.string().max(128).optional().describe("The model's name in requests."),
    pools: z.object({ prefill: PoolStatus.optional(), decode: PoolStatus.optional() }).optional().describe("The pools' workers."),
    conditions: z.array(Condition).max(32).meta(listMap("type")).optional().describe("What holds and what does not."),
  })
  .describe("What is.");
export type ModelServiceStatus = z.output<typeof ModelServiceStatus>;
