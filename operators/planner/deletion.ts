// A deleted ModelService drains before it goes: decode workers first, since they own requests and may still ask prefill for rows, then
// prefill. The finalizer holds the object until then, but not for ever: a pod on a lost node never ends. Who deletes it without its dependents
// (--cascade=orphan) wants these to work on: nothing is drained.
import { type ModelService, poolNames, type PoolName } from "../api/model-service.ts";
import type { Findings, PoolFacts } from "./conditions.ts";
import { isOver } from "./kubernetes.ts";
import { controllerOf, finalizer, poolLabel } from "./names.ts";
import type { Observed } from "./observed.ts";
import { ownObjects, replicasOnly } from "./own-objects.ts";
import type { Application, Plan } from "./planned.ts";
import { terminationGraceSeconds } from "./pod-template.ts";
import { poolState } from "./pool-state.ts";
import { statusOf } from "./status.ts";

/** Of the API server, on what is deleted without its dependents; the garbage collector takes it away when it has made them nobody's. */
const orphanFinalizer = "orphan";

/** For the scheduler, the controllers and the kubelet to do their parts. */
const allowanceSeconds = 60;

export function planDeletion(service: ModelService, observed: Observed, nowMs: number): Plan {
  const own = ownObjects(service, observed);
  const livePods = (pool: PoolName) => observed.pods.filter((pod) => pod.metadata.labels?.[poolLabel] === pool && !isOver(pod)).length;
  const scaleDown = (pool: PoolName): Application[] =>
    own
      .workloads(pool)
      .filter(({ metadata, spec }) => metadata.deletionTimestamp === undefined && (spec?.replicas ?? 1) !== 0)
      .map((workload) => replicasOnly(workload, 0));
  const deadlineMs =
    Date.parse(service.metadata.deletionTimestamp as string) +
    1000 * poolNames.reduce((sum, pool) => sum + terminationGraceSeconds(service.spec.pools[pool]), allowanceSeconds);
  const held = service.metadata.finalizers.includes(finalizer);
  const drained = (pool: PoolName) => scaleDown(pool).length === 0 && livePods(pool) === 0;
  const orphaned =
    service.metadata.finalizers.includes(orphanFinalizer) ||
    poolNames.some((pool) => own.workloads(pool).some(({ metadata }) => controllerOf(metadata) === undefined));
  const draining = orphaned ? undefined : (["decode", "prefill"] as const).find((pool) => !drained(pool));
  const late = draining !== undefined && nowMs >= deadlineMs;
  const gone = draining === undefined || late;
  const apply = held && draining !== undefined && !late ? scaleDown(draining) : [];
  const left = `${livePods("decode")} decode and ${livePods("prefill")} prefill workers`;
  const findings: Findings = {
    Ready: { status: "False", reason: "Deleting", message: "It is being deleted; its workers finish their requests." },
    Progressing: { status: "True", reason: "Draining", message: `${left} are left, decode first.` },
  };
  const pools = Object.fromEntries(
    poolNames.map((pool): [PoolName, PoolFacts] => [
      pool,
      {
        state: poolState(service, pool, own.workloads(pool), observed.pods),
        wanted: { desired: 0, written: 0, reason: "the ModelService is being deleted" },
        changing: false,
      },
    ]),
  ) as Record<PoolName, PoolFacts>;
  const { status, events } = statusOf(service, findings, pools, nowMs);
  return {
    finalizer: held && gone ? "remove" : "keep",
    apply,
    prune: [],
    // With the finalizer gone, the object is.
    status: held && gone ? undefined : status,
    events: [
      ...(held && !gone ? events : []),
      ...(held && late
        ? [
            {
              type: "Warning" as const,
              reason: "DrainTimedOut",
              message: `${left} did not end in time; the ModelService is deleted without waiting longer. Look for nodes that are not ready.`,
            },
          ]
        : []),
    ],
    requeueAfterMs: held && !gone ? Math.max(1000, deadlineMs - nowMs) : undefined,
  };
}
