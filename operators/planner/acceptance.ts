// Whether the operator can act on a spec at all. Where it cannot, what runs stays as it is: nothing is half made.
import { type ModelService, poolNames, servedNameOf } from "../api/model-service.ts";
import type { KubernetesObject } from "./kubernetes.ts";
import { controllerOf, isOwnedBy } from "./names.ts";
import type { Observed } from "./observed.ts";
import { disruptionBudgetOf, workloadKindOf, workloadOf } from "./workloads.ts";
import type { PlannerConfig } from "./config.ts";

export interface Acceptance {
  accepted: boolean;
  /** Nothing is written, and nothing taken away. */
  holds: boolean;
  reason: string;
  message: string;
  /** When to look again, where no watch tells. */
  requeueAfterMs?: number;
}

const slowRetryMs = 60_000;
const quickRetryMs = 5_000;

export function acceptanceOf(service: ModelService, observed: Observed, config: PlannerConfig): Acceptance {
  const { servedNameOwner, refused } = observed;
  if (servedNameOwner !== undefined)
    return {
      accepted: false,
      holds: true,
      reason: "ServedNameTaken",
      message: `ModelService ${servedNameOwner} already serves the name ${servedNameOf(service)}. Give one of them another spec.servedName.`,
      requeueAfterMs: slowRetryMs,
    };
  const spanning = poolNames.filter((pool) => workloadKindOf(service, pool) === "LeaderWorkerSet");
  if (spanning.length > 0 && !observed.leaderWorkerSetApi)
    return {
      accepted: false,
      holds: true,
      reason: "LeaderWorkerSetMissing",
      message: `${spanning.map((pool) => `spec.pools.${pool}.nodesPerReplica`).join(" and ")} needs LeaderWorkerSets, which this cluster does not know or which cannot be listed (then the operator's log says why). Install the LeaderWorkerSet CRD and its controller (leaderworkerset.x-k8s.io/v1), or set it to 1. Nothing was changed.`,
      requeueAfterMs: slowRetryMs,
    };
  const occupied = occupiedBy(service, observed, config);
  if (occupied !== undefined) return occupied;
  if (refused !== undefined)
    return {
      accepted: false,
      holds: false,
      reason: "Refused",
      message: `The API server refused ${refused.object}: ${refused.message}`,
    };
  return { accepted: true, holds: false, reason: "Accepted", message: "The spec is in force." };
}

/** An object with a name that we need, but another's: taking it over would break whoever made it. */
function occupiedBy(service: ModelService, observed: Observed, config: PlannerConfig): Acceptance | undefined {
  for (const pool of poolNames) {
    const workload = workloadOf(service, pool, undefined, config);
    const budget = disruptionBudgetOf(service, pool);
    const found: [KubernetesObject, KubernetesObject | undefined][] = [
      [workload, observedOf(workload.kind, observed).find(({ metadata }) => metadata.name === workload.metadata.name)],
      [budget, observed.podDisruptionBudgets.find(({ metadata }) => metadata.name === budget.metadata.name)],
    ];
    for (const [wanted, existing] of found) {
      if (existing === undefined || isOwnedBy(existing.metadata, service)) continue;
      const controller = controllerOf(existing.metadata);
      if (controller === undefined && isLeftBehind(existing, wanted)) continue;
      const name = `${wanted.kind} ${wanted.metadata.name}`;
      const former = controller?.kind === service.kind && controller.name === service.metadata.name;
      return {
        accepted: false,
        holds: true,
        reason: "NameOccupied",
        message: former
          ? `${name} still belongs to a deleted ModelService of the same name; it is awaited that the garbage collector takes it away.`
          : `${name} exists and belongs to ${controller === undefined ? "someone else" : `${controller.kind} ${controller.name}`}. Delete it, or give the ModelService another name.`,
        requeueAfterMs: quickRetryMs,
      };
    }
  }
  return undefined;
}

function observedOf(kind: string, { deployments, statefulSets, leaderWorkerSets }: Observed): KubernetesObject[] {
  return kind === "Deployment" ? deployments : kind === "StatefulSet" ? statefulSets : leaderWorkerSets;
}

/** Ours, orphaned by kubectl delete --cascade=orphan: taken over again. */
export function isLeftBehind(existing: KubernetesObject, wanted: KubernetesObject): boolean {
  return Object.entries(wanted.metadata.labels ?? {}).every(([key, value]) => existing.metadata.labels?.[key] === value);
}
