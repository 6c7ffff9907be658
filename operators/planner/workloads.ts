// The objects of a pool: a Deployment, a StatefulSet where its pods share experts, or a LeaderWorkerSet where a replica spans nodes; and a
// PodDisruptionBudget.
import type { ModelService, PoolName } from "../api/model-service.ts";
import type { PlannerConfig } from "./config.ts";
import { groupSuffix, rankGroupLabel } from "./expert-ranks.ts";
import { type KubernetesObject, podDisruptionBudgetApi, type Workload, type WorkloadKind, workloadKinds } from "./kubernetes.ts";
import { ownerReference, poolLabels, poolObjectName, poolSelector, replicasAnnotation } from "./names.ts";
import { podTemplate } from "./pod-template.ts";

/** A large model loads for long before its worker is ready. */
const progressDeadlineSeconds = 1_800;
/** New workers are ready before old ones are drained. */
const rolling = { maxUnavailable: 0, maxSurge: 1 };

export function sharesExperts({ spec }: ModelService, pool: PoolName): boolean {
  return pool === "decode" && spec.experts !== undefined;
}

export function workloadKindOf(service: ModelService, pool: PoolName): WorkloadKind {
  if (sharesExperts(service, pool)) return "StatefulSet";
  return service.spec.pools[pool].nodesPerReplica > 1 ? "LeaderWorkerSet" : "Deployment";
}

/** `replicas` undefined: someone else writes them. */
export function workloadOf(service: ModelService, pool: PoolName, replicas: number | undefined, config: PlannerConfig): Workload {
  const kind = workloadKindOf(service, pool);
  const metadata = metadataOf(service, pool);
  if (kind === "StatefulSet") metadata.name = rankGroupName(service, pool, config);
  return {
    apiVersion: workloadKinds[kind],
    kind,
    metadata: { ...metadata, annotations: { [replicasAnnotation]: replicas === undefined ? "external" : "operator" } },
    spec: {
      ...(replicas === undefined ? {} : { replicas }),
      ...specs[kind](service, pool, config, metadata.name),
    },
  };
}

const specs: Record<WorkloadKind, (service: ModelService, pool: PoolName, config: PlannerConfig, name: string) => object> = {
  Deployment: (service, pool, config) => ({
    selector: { matchLabels: poolSelector(service, pool) },
    strategy: { type: "RollingUpdate", rollingUpdate: rolling },
    revisionHistoryLimit: 3,
    progressDeadlineSeconds,
    template: podTemplate(service, pool, config),
  }),
  StatefulSet: (service, pool, config, name) => ({
    // All at once: no rank is ready before it has met the others.
    podManagementPolicy: "Parallel",
    selector: { matchLabels: { ...poolSelector(service, pool), [rankGroupLabel]: name } },
    revisionHistoryLimit: 1,
    template: podTemplate(service, pool, config, name),
  }),
  LeaderWorkerSet: (service, pool, config) => ({
    startupPolicy: "LeaderCreated",
    rolloutStrategy: { type: "RollingUpdate", rollingUpdateConfiguration: rolling },
    leaderWorkerTemplate: {
      size: service.spec.pools[pool].nodesPerReplica,
      // Each pod is a worker of its own: the others of its group need not start again with it.
      restartPolicy: "None",
      workerTemplate: podTemplate(service, pool, config),
    },
  }),
};

function rankGroupName(service: ModelService, pool: PoolName, config: PlannerConfig): string {
  const form = [podTemplate(service, pool, config), service.spec.experts];
  return `${poolObjectName(service, pool)}-${groupSuffix(form)}`;
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
