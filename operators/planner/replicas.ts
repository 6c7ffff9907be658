// How many workers a pool gets, and who says so.
import type { ModelService, PoolName } from "../api/model-service.ts";
import type { Workload } from "./kubernetes.ts";
import { replicasAnnotation } from "./names.ts";
import type { ScalingDecision } from "./observed.ts";

export interface WantedReplicas {
  /** Wanted now. */
  desired: number;
  /** To be written; undefined: someone else writes it. */
  written: number | undefined;
  /** For who writes it instead; undefined: nobody is told one. */
  recommended?: number | undefined;
  reason: string;
}

/** `current`: the pool's workload as it is. */
export function wantedReplicas(
  service: ModelService,
  pool: PoolName,
  current: Workload | undefined,
  decision: ScalingDecision | undefined,
): WantedReplicas {
  const { pools, autoscaling, experts } = service.spec;
  if (pool === "decode" && experts !== undefined)
    return { desired: experts.ranks, written: experts.ranks, reason: `spec.experts.ranks is ${experts.ranks}` };
  const range = autoscaling[pool];
  if (autoscaling.policy === "none" || range === undefined) {
    const desired = pools[pool].replicas;
    return { desired, written: desired, reason: `spec.pools.${pool}.replicas is ${desired}` };
  }
  const now = current?.spec?.replicas ?? range.minReplicas;
  const earlier = hasDecided(service) ? service.status?.pools?.[pool] : undefined;
  if (autoscaling.policy === "external") {
    const hasItAlready = current?.metadata.annotations?.[replicasAnnotation] === "external";
    // An HPA does nothing at zero.
    const others = { desired: now === 0 && !hasItAlready ? range.minReplicas : now, written: undefined };
    if (service.spec.slo === undefined) return { ...others, reason: "an external autoscaler writes the workload's replicas" };
    if (decision === undefined)
      return { ...others, recommended: earlier?.recommended, reason: earlier?.reason ?? "autoscaling has not decided yet" };
    const { replicas, reason } = within(service, pool, decision);
    return { ...others, recommended: replicas, reason: `an external autoscaler is told ${replicas}: ${reason}` };
  }
  if (decision === undefined) {
    // An operator that starts anew does not wake what sleeps.
    const desired = now === 0 && autoscaling.scaleToZeroAfterSeconds !== undefined ? 0 : held(now, range);
    // What was decided before it started holds until something else is.
    const reason = earlier?.desired === desired ? earlier.reason : "autoscaling has not decided yet";
    return { desired, written: desired, reason };
  }
  const { replicas, reason } = within(service, pool, decision);
  return { desired: replicas, written: replicas, reason };
}

/** A decision within the pool's bounds. */
export function within(service: ModelService, pool: PoolName, { replicas, reason }: ScalingDecision): { replicas: number; reason: string } {
  const { policy, scaleToZeroAfterSeconds, [pool]: range } = service.spec.autoscaling;
  const toZero = replicas === 0 && policy === "slo" && scaleToZeroAfterSeconds !== undefined;
  if (toZero || range === undefined || held(replicas, range) === replicas) return { replicas, reason };
  const { minReplicas, maxReplicas } = range;
  return { replicas: held(replicas, range), reason: `${reason} (${replicas} wanted, held within ${minReplicas} to ${maxReplicas})` };
}

function held(replicas: number, { minReplicas, maxReplicas }: { minReplicas: number; maxReplicas: number }): number {
  return Math.min(maxReplicas, Math.max(minReplicas, replicas));
}

/** The last status told of a decision under the policy that is still in force. */
function hasDecided({ spec, status }: ModelService): boolean {
  const wanted = decidedReasons[spec.autoscaling.policy];
  return status?.conditions?.some(({ type, reason }) => type === "Autoscaled" && reason === wanted) ?? false;
}

/** Of the condition Autoscaled, where there is a decision; by policy. */
export const decidedReasons = { none: undefined, slo: "Decided", external: "Recommended" } as const;
