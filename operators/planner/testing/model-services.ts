// ModelServices and settings for the planner's tests.
import type { z } from "zod";
import { ModelService } from "../../api/model-service.ts";
import type { PlannerConfig } from "../config.ts";
import type { Observed } from "../observed.ts";

type SpecInput = z.input<typeof ModelService>["spec"];

export const config: PlannerConfig = {
  workerImage: "example.com/pelagic:1",
  imagePullSecret: [],
  workerService: "default",
  workerNatsUrl: "nats://nats:4222",
  prefillNatsSecret: "nats-prefill",
  decodeNatsSecret: "nats-decode",
  workerServiceAccount: "default",
  embeddedModelPath: "models/plankton",
  gpuResource: "nvidia.com/gpu",
};

export function modelService(spec: Partial<SpecInput> = {}, metadata: Partial<ModelService["metadata"]> = {}): ModelService {
  return ModelService.parse({
    apiVersion: "pelagic.dev/v1alpha1",
    kind: "ModelService",
    metadata: { name: "ms", namespace: "test", uid: "service-uid", generation: 1, ...metadata },
    spec: { model: { embedded: {} }, ...spec },
  });
}

export function nothingObserved(): Observed {
  return {
    ...{ deployments: [], statefulSets: [], leaderWorkerSets: [], podDisruptionBudgets: [], expertPlacements: [], pods: [] },
    leaderWorkerSetApi: true,
  };
}
