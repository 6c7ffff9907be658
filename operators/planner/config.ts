// What the operator is told about the workers that it makes: by flags or environment, as every process (lib/runtime/config.ts).
import { z } from "zod";

export const plannerFields = {
  /** The image of workers whose ModelService names none. */
  workerImage: z.string().min(1),
  workerImagePullPolicy: z.enum(["Always", "IfNotPresent", "Never"]).optional(),
  /** Names of Secrets, one a flag or line. */
  imagePullSecret: z
    .string()
    .transform((text) => text.split("\n").filter((name) => name !== ""))
    .default([])
    .meta({ list: true }),
  /** The service on the bus that all workers join; the gateway's own. */
  workerService: z
    .string()
    .regex(/^[A-Za-z0-9_-]+$/)
    .default("default"),
  /** As workers reach the bus. */
  workerNatsUrl: z.string().min(1),
  /** Secrets with credentials.json ({user, password}) of the role, in the ModelService's namespace; none: a server without users. */
  prefillNatsSecret: z.string().min(1).optional(),
  decodeNatsSecret: z.string().min(1).optional(),
  workerServiceAccount: z.string().min(1).default("default"),
  /** Where the worker image has the embedded model. */
  embeddedModelPath: z.string().min(1).default("models/plankton"),
  /** The resource that gpus asks for. */
  gpuResource: z.string().min(1).default("nvidia.com/gpu"),
};

const schema = z.object(plannerFields);
export type PlannerConfig = z.output<typeof schema>;
