// The objects of a pool: a Deployment, or a LeaderWorkerSet where a replica spans nodes, and a PodDisruptionBudget.
import type { ModelService, PoolName } from "../api/model-service.ts";
import type { PlannerConfig } from "./config.ts";
import { type KubernetesObject, podDisruptionBudgetApi, type Workload, type WorkloadKind, workloadKinds } from "./kubernetes.ts";
import { ownerReference, poolLabels, poolObjectName, poolSelector, replicasAnnotation } from "./names.ts";
import { podTemplate } from "./pod-template.ts";

/** A large model loads for long before its worker is ready. */
const progressDeadlineSeconds = 1_800;
/** New workers are ready before old ones are drained. */
const rolling = { maxUnavailable: 0, maxSurge: 1 };

export function workloadKindOf(service: ModelService, pool: PoolName): WorkloadKind {
  return service.spec.pools[pool].nodesPerReplica > 1 ? "LeaderWorkerSet" : "Deployment";
}

/** `replicas` undefined: someone else writes them. */
export function workloadOf(service: ModelService, pool: PoolName, replicas: number | undefined, config: PlannerConfig): Workload {
  const kind = workloadKindOf(service, pool);
  const template = podTemplate(service, pool, config);
  const metadata = metadataOf(service, pool);
  return {
    apiVersion: workloadKinds[kind],
    kind,
    metadata: { ...metadata, annotations: { [replicasAnnotation]: replicas === undefined ? "external" : "operator" } },
    spec: {
      ...(replicas === undefined ? {} : { replicas }),
      ...(kind === "Deployment"
        ? {
            selector: { matchLabels: poolSelector(service, pool) },
            strategy: { type: "RollingUpdate", rollingUpdate: rolling },
            revisionHistoryLimit: 3,
            progressDeadlineSeconds,
            template,
          }
        : {
            startupPolicy: "LeaderCreated",
            rolloutStrategy: { type: "RollingUpdate", rollingUpdateConfiguration: rolling },
            leaderWorkerTemplate: {
              size: service.spec.pools[pool].nodesPerReplica,
              // Each pod is a worker of its own: the others of its group need not start again with it.
              restartPolicy: "None",
              workerTemplate: template,
            },
          }),
    },
  };
}

export function disruptionBudgetOf(service: ModelService, pool: PoolName): KubernetesObject {
  return {
    apiVersion: podDisruptionBudgetApi,
    kind: "PodDisruptionBudget",
    metadata: metadataOf(service, pool),
    spec: {
      // One at a time, and not none: a pool of one must not hold up a node's maintenance, and an evicted worker drains.
      maxUnavailable: 1,
      selector: { matchLabels: poolSelector(service, pool) },
      unhealthyPodEvictionPolicy: "AlwaysAllow",
    },
  };
}

function metadataOf(service: ModelService, pool: PoolName) {
  return {
    name: poolObjectName(service, pool),
    namespace: service.metadata.namespace,
    labels: poolLabels(service, pool),
    ownerReferences: [ownerReference(service)],
  };
}
