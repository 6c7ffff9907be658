// What a pool is doing, from its workloads and pods: how many workers are ready, whether a change is under way, what stands in its way.
import type { ModelService, PoolName } from "../api/model-service.ts";
import { isOver, type Pod, type Workload } from "./kubernetes.ts";
import { poolLabel } from "./names.ts";
import { type Problem, problemOf } from "./pod-problems.ts";

export interface PoolState {
  /** Workers that exist, those of an old form included. */
  replicas: number;
  ready: number;
  /** Pods that were told to stop and have not, or will be as their workload is gone. */
  draining: number;
  /** Everything that was written is done: as many as wanted, all of the newest form. */
  settled: boolean;
  problem: Problem | undefined;
}

/** `workloads`: the pool's own, of both kinds. */
export function poolState(service: ModelService, pool: PoolName, workloads: Workload[], pods: Pod[]): PoolState {
  const own = pods
    .filter(({ metadata }) => metadata.labels?.[poolLabel] === pool)
    .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  const present = own.filter((pod) => !isOver(pod));
  const stopping = present.filter(({ metadata }) => metadata.deletionTimestamp !== undefined).length;
  const podsOf = ({ kind, status }: Workload) =>
    (status?.replicas ?? 0) * (kind === "LeaderWorkerSet" ? service.spec.pools[pool].nodesPerReplica : 1);
  // The pods of a deleted workload are told to stop some time after it is gone.
  const left = present.length - stopping - workloads.reduce((total, each) => total + podsOf(each), 0);
  const draining = stopping + Math.max(0, left);
  const sum = (read: (workload: Workload) => number | undefined) => workloads.reduce((total, each) => total + (read(each) ?? 0), 0);
  return {
    replicas: sum(({ status }) => status?.replicas),
    ready: sum(({ status }) => status?.readyReplicas),
    draining,
    settled: workloads.every(isSettled) && draining === 0,
    problem: problemOf(service, pool, workloads, own),
  };
}

function isSettled({ metadata, spec, status }: Workload): boolean {
  const wanted = spec?.replicas ?? 1;
  const seen = status?.observedGeneration === undefined ? status !== undefined : status.observedGeneration >= (metadata.generation ?? 0);
  return (
    seen &&
    metadata.deletionTimestamp === undefined &&
    [status?.replicas, status?.readyReplicas, status?.updatedReplicas].every((count) => (count ?? 0) === wanted)
  );
}
