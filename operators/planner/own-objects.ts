// Of what is observed, that which belongs to one ModelService.
import { expertPlacementKind } from "../api/expert-placement.ts";
import { apiVersion, type ModelService, type PoolName, poolNames } from "../api/model-service.ts";
import type { KubernetesObject, Workload } from "./kubernetes.ts";
import { podDisruptionBudgetApi, workloadKinds } from "./kubernetes.ts";
import { controllerOf, isOwnedBy, poolLabel, poolObjectName, replicasFieldManager, serviceLabel } from "./names.ts";
import type { Observed } from "./observed.ts";
import { workloadKindOf } from "./workloads.ts";

export interface OwnObjects {
  /** A pool's, of all kinds. */
  workloads(pool: PoolName): Workload[];
  placements: KubernetesObject[];
  /** Its observed form. */
  find(object: KubernetesObject): KubernetesObject | undefined;
  /** Budgets of the pool that do not bear its name. */
  strayBudgets(pool: PoolName): KubernetesObject[];
}

export function ownObjects(service: ModelService, observed: Observed): OwnObjects {
  const names = poolNames.map((pool) => poolObjectName(service, pool));
  const isOwn = ({ metadata }: KubernetesObject) =>
    isOwnedBy(metadata, service) ||
    // Orphaned by a deletion without its dependents, and ours to take over again.
    (controllerOf(metadata) === undefined &&
      metadata.labels?.[serviceLabel] === service.metadata.name &&
      (names.includes(metadata.name) || rankGroupOf(metadata.name)));
  /** Groups of ranks have something behind the pool's name. */
  const rankGroupOf = (name: string) => names.some((pool) => name.startsWith(`${pool}-`));
  // Items of a list come without their kind.
  const of = <T extends KubernetesObject>(objects: T[], apiVersion: string, kind: string): T[] =>
    objects.filter(isOwn).map((object) => ({ ...object, apiVersion, kind }));
  const workloads: Workload[] = [
    ...of(observed.deployments, workloadKinds.Deployment, "Deployment"),
    ...of(observed.statefulSets, workloadKinds.StatefulSet, "StatefulSet"),
    ...of(observed.leaderWorkerSets, workloadKinds.LeaderWorkerSet, "LeaderWorkerSet"),
  ];
  const budgets = of(observed.podDisruptionBudgets, podDisruptionBudgetApi, "PodDisruptionBudget");
  const placements = of(observed.expertPlacements, apiVersion, expertPlacementKind);
  const inPool = (pool: PoolName) => (object: KubernetesObject) => object.metadata.labels?.[poolLabel] === pool;
  return {
    workloads: (pool) => workloads.filter(inPool(pool)),
    placements,
    find: ({ kind, metadata }) =>
      [...workloads, ...budgets, ...placements].find((each) => each.kind === kind && each.metadata.name === metadata.name),
    strayBudgets: (pool) => budgets.filter(inPool(pool)).filter(({ metadata }) => metadata.name !== poolObjectName(service, pool)),
  };
}

/** The one whose replicas count: of the wanted kind where it is there. */
export function currentWorkload(service: ModelService, pool: PoolName, own: OwnObjects): Workload | undefined {
  const workloads = own.workloads(pool);
  return workloads.find(({ kind }) => kind === workloadKindOf(service, pool)) ?? workloads[0];
}

/** Writes a workload's replicas and nothing else, as a second manager. */
export function replicasOnly({ apiVersion, kind, metadata }: KubernetesObject, replicas: number) {
  const { name, namespace } = metadata;
  return { object: { apiVersion, kind, metadata: { name, namespace }, spec: { replicas } }, fieldManager: replicasFieldManager };
}
