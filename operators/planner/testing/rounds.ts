// Single rounds of planning, and what a cluster looks like after the first.
import type { ModelService } from "../../api/model-service.ts";
import type { KubernetesObject, Workload } from "../kubernetes.ts";
import type { Observed } from "../observed.ts";
import { plan } from "../plan.ts";
import type { Plan } from "../planned.ts";
import { config, nothingObserved } from "./model-services.ts";

export const nowMs = Date.parse("2026-01-01T00:00:00Z");

export function round(service: ModelService, observed: Partial<Observed> = {}, atMs = nowMs): Plan {
  return plan(service, { ...nothingObserved(), ...observed }, config, atMs);
}

/** What a first round of this service makes, as if the controllers had done everything. */
export function made(service: ModelService, ready = true): Partial<Observed> {
  const objects = round(service).apply.map(({ object }) => object);
  const withStatus = (object: KubernetesObject): Workload => {
    const replicas = (object.spec as { replicas?: number }).replicas ?? 1;
    return {
      ...object,
      metadata: { ...object.metadata, uid: `${object.kind}-${object.metadata.name}`, generation: 1 },
      status: { observedGeneration: 1, replicas, updatedReplicas: replicas, readyReplicas: ready ? replicas : 0 },
    };
  };
  return {
    deployments: objects.filter(({ kind }) => kind === "Deployment").map(withStatus),
    statefulSets: objects.filter(({ kind }) => kind === "StatefulSet").map(withStatus),
    expertPlacements: objects.filter(({ kind }) => kind === "ExpertPlacement"),
    leaderWorkerSets: objects.filter(({ kind }) => kind === "LeaderWorkerSet").map(withStatus),
    podDisruptionBudgets: objects.filter(({ kind }) => kind === "PodDisruptionBudget"),
  };
}
