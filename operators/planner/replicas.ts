// How many workers a pool gets, and who says so.
import type { ModelService, PoolName } from "../api/model-service.ts";
import type { Workload } from "./kubernetes.ts";
import type { ScalingDecision } from "./observed.ts";

export interface WantedReplicas {
  /** Wanted now. */
  desired: number;
  /** To be written; undefined: someone else writes it. */
  written: number | undefined;
  reason: string;
}

/** `current`: the pool's workload as it is. */
export function wantedReplicas(
  service: ModelService,
  pool: PoolName,
  current: Workload | undefined,
  decision: ScalingDecision | undefined,
): WantedReplicas {
  const { pools, autoscaling } = service.spec;
  const range = autoscaling[pool];
  if (autoscaling.policy === "none" || range === undefined) {
    const desired = pools[pool].replicas;
    return { desired, written: desired, reason: `spec.pools.${pool}.replicas is ${desired}` };
  }
  if (autoscaling.policy === "external")
    return {
      desired: current?.spec?.replicas ?? range.minReplicas,
      written: undefined,
      reason: "an external autoscaler writes the workload's replicas",
    };
  const within = (replicas: number) => Math.min(range.maxReplicas, Math.max(range.minReplicas, replicas));
  if (decision === undefined) {
    const now = current?.spec?.replicas ?? range.minReplicas;
    // An operator that starts anew does not wake what sleeps.
    const desired = now === 0 && autoscaling.scaleToZeroAfterSeconds !== undefined ? 0 : within(now);
    return { desired, written: desired, reason: "autoscaling has not decided yet" };
  }
  const toZero = decision.replicas === 0 && autoscaling.scaleToZeroAfterSeconds !== undefined;
  const desired = toZero ? 0 : within(decision.replicas);
  const held =
    desired === decision.replicas ? "" : ` (${decision.replicas} wanted, held within ${range.minReplicas} to ${range.maxReplicas})`;
  return { desired, written: desired, reason: `${decision.reason}${held}` };
}
