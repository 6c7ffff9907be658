// One round of reconciling, as a pure function: what is wanted and what is observed in; what to write, to take away, to say and when to look
// again out. It remembers nothing: whatever happened since, the next round starts from what is there.
import { isDeepStrictEqual } from "node:util";
import { ExpertPlacementStatus, placementConditionNames } from "../api/expert-placement.ts";
import { type ModelService, poolNames, type PoolName } from "../api/model-service.ts";
import { conditionTypeNames } from "../api/status.ts";
import { acceptanceOf } from "./acceptance.ts";
import { conditionsOf, findingsOf, type PoolFacts } from "./conditions.ts";
import type { PlannerConfig } from "./config.ts";
import { planDeletion } from "./deletion.ts";
import { differs, fingerprint, withHash } from "./difference.ts";
import { type PlannedEvent, statusEvents } from "./events.ts";
import { expertPlacementOf, placementStatusOf } from "./expert-placement.ts";
import type { KubernetesObject, ObjectReference } from "./kubernetes.ts";
import { fieldManager, finalizer, hashAnnotation, replicasAnnotation } from "./names.ts";
import type { Observed, Overruled } from "./observed.ts";
import { currentWorkload, type OwnObjects, ownObjects, replicasOnly } from "./own-objects.ts";
import type { Application, Plan } from "./planned.ts";
import { poolState } from "./pool-state.ts";
import { wantedReplicas } from "./replicas.ts";
import { isSaid, statusOf, withOwnConditions } from "./status.ts";
import { disruptionBudgetOf, workloadOf } from "./workloads.ts";

/** Watches tell of most; a claim may be outside of what is watched. */
const claimRetryMs = 30_000;

export function plan(service: ModelService, observed: Observed, config: PlannerConfig, nowMs: number): Plan {
  if (service.metadata.deletionTimestamp !== undefined) return planDeletion(service, observed, nowMs);
  const own = ownObjects(service, observed);
  const acceptance = acceptanceOf(service, observed, config);
  const apply: Application[] = [];
  const prune: ObjectReference[] = [];
  const pools = {} as Record<PoolName, PoolFacts>;
  for (const pool of poolNames) {
    const workloads = own.workloads(pool);
    const current = currentWorkload(service, pool, own);
    const wanted = wantedReplicas(service, pool, current, observed.scaling?.[pool]);
    const before = apply.length + prune.length;
    if (!acceptance.holds) {
      apply.push(...poolApplications(service, pool, wanted.written, wanted.desired, own, observed, config));
      prune.push(...unwanted(service, pool, wanted.desired, own, config));
    }
    pools[pool] = {
      state: poolState(service, pool, workloads, observed.pods),
      wanted,
      changing: apply.length + prune.length > before,
    };
  }
  const placement = placed(service, observed, config, own, nowMs);
  if (!acceptance.holds) {
    apply.push(...placement.apply);
    prune.push(...placement.prune);
  }
  const findings = findingsOf({
    service,
    acceptance,
    pools,
    claim: observed.claim,
    scaling: observed.scaling,
    overruled: observed.overruled ?? [],
  });
  const { status, events } = statusOf(service, findings, pools, nowMs);
  return {
    finalizer: service.metadata.finalizers.includes(finalizer) ? "keep" : "add",
    apply,
    prune,
    status,
    ...(placement.status && { placement: placement.status }),
    events: [...objectEvents(apply, prune, own), ...placement.events, ...events],
    requeueAfterMs: acceptance.requeueAfterMs ?? (observed.claim === "missing" ? claimRetryMs : undefined),
  };
}

/**
 * For an object that this version cannot read, which the API server should have refused: it says so and touches nothing. A deletion is not
 * held up: the garbage collector stops the workers, and they drain.
 */
export function planUnreadable(
  { metadata, status: earlier }: Pick<ModelService, "metadata" | "status">,
  problem: string,
  nowMs: number,
): Plan {
  const { generation, deletionTimestamp, finalizers } = metadata;
  const unreadable = { reason: "InvalidSpec", message: `The spec cannot be read: ${problem}. Correct it and apply it again.` };
  const failed = { ...unreadable, status: "False" as const };
  const findings = { Ready: failed, Accepted: failed, Degraded: { ...unreadable, status: "True" as const } };
  const conditions = conditionsOf(conditionTypeNames, findings, earlier?.conditions ?? [], generation, nowMs);
  const status = { ...earlier, observedGeneration: generation, conditions };
  return {
    finalizer: deletionTimestamp !== undefined && finalizers.includes(finalizer) ? "remove" : "keep",
    apply: [],
    prune: [],
    status: deletionTimestamp !== undefined || isSaid(status, earlier) ? undefined : status,
    events: statusEvents(earlier, status),
    requeueAfterMs: undefined,
  };
}

function poolApplications(
  service: ModelService,
  pool: PoolName,
  written: number | undefined,
  desired: number,
  own: OwnObjects,
  { overruled }: Observed,
  config: PlannerConfig,
): Application[] {
  const workload = withHash(workloadOf(service, pool, written, config));
  const existing = own.find(workload);
  const applications = [workload, withHash(disruptionBudgetOf(service, pool))].filter((object) => {
    const present = own.find(object);
    if (present === undefined) return true;
    // What is being deleted is made anew when it is gone.
    return present.metadata.deletionTimestamp === undefined && differs(object, present) && !isOverruled(object, present, overruled);
  });
  const all = applications.map((object) => ({ object, fieldManager }));
  const ours = existing?.metadata.annotations?.[replicasAnnotation] !== "external";
  if (written !== undefined || !ours || existing?.metadata.deletionTimestamp !== undefined) return all;
  // We stop writing spec.replicas. A field that nobody owns falls back to 1: so a second manager holds it until the autoscaler writes.
  const handedOver = replicasOnly(workload, desired);
  return existing === undefined ? [...all, handedOver] : [handedOver, ...all];
}

/** It came to just this when it was written last, and would again. */
function isOverruled(wanted: KubernetesObject, present: KubernetesObject, overruled: Overruled[] = []): boolean {
  const written = wanted.metadata.annotations?.[hashAnnotation];
  const { kind, metadata } = wanted;
  const known = overruled.find((each) => each.kind === kind && each.name === metadata.name);
  return known !== undefined && known.written === written && known.left === fingerprint(present);
}

/** What is ours and no longer wanted. A workload of another kind or name stays until its successor has as many ready as are wanted. */
function unwanted(service: ModelService, pool: PoolName, desired: number, own: OwnObjects, config: PlannerConfig): ObjectReference[] {
  const wanted = workloadOf(service, pool, undefined, config);
  const isWanted = ({ kind, metadata }: KubernetesObject) => kind === wanted.kind && metadata.name === wanted.metadata.name;
  const workloads = own.workloads(pool);
  const successor = workloads.find(isWanted);
  const taken = desired === 0 || (successor?.status?.readyReplicas ?? 0) >= desired;
  const former = workloads.filter((workload) => !isWanted(workload));
  return referencesTo([...(taken ? former : []), ...own.strayBudgets(pool)]);
}

function referencesTo(objects: KubernetesObject[]): ObjectReference[] {
  return objects
    .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
    .map(({ apiVersion, kind, metadata: { namespace, name, uid } }) => ({ apiVersion, kind, namespace, name, ...(uid && { uid }) }));
}

interface Placed extends Pick<Plan, "apply" | "prune" | "events"> {
  status?: ExpertPlacementStatus;
}

/** The ExpertPlacement, where experts are shared, and its status, once it is there. */
function placed(service: ModelService, observed: Observed, config: PlannerConfig, own: OwnObjects, nowMs: number): Placed {
  const { experts } = service.spec;
  if (experts === undefined) return { apply: [], prune: referencesTo(own.placements), events: [] };
  const object = withHash(expertPlacementOf(service));
  const present = own.find(object);
  const mine = present !== undefined && present.metadata.deletionTimestamp === undefined;
  const apply = present === undefined || (mine && differs(object, present)) ? [{ object, fieldManager }] : [];
  if (!mine || observed.ranks === undefined) return { apply, prune: [], events: [] };
  const read = ExpertPlacementStatus.safeParse((present as { status?: unknown }).status ?? {});
  const earlier = read.success && Object.hasOwn(present, "status") ? read.data : undefined;
  const { status, events } = placementStatusOf({
    experts,
    namespace: service.metadata.namespace,
    group: workloadOf(service, "decode", undefined, config).metadata.name,
    reports: observed.ranks,
    earlier,
    generation: present.metadata.generation ?? 1,
    nowMs,
  });
  const isTold = isDeepStrictEqual(status, earlier && withOwnConditions(earlier, placementConditionNames));
  return { apply, prune: [], ...(!isTold && { status }), events };
}

function objectEvents(apply: Application[], prune: ObjectReference[], own: OwnObjects): PlannedEvent[] {
  const said = (verb: string, { kind, name }: { kind: string; name: string }): PlannedEvent => ({
    type: "Normal",
    reason: verb,
    message: `${verb} ${kind} ${name}`,
  });
  return [
    ...apply
      .filter((application) => application.fieldManager === fieldManager)
      .map(({ object }) => said(own.find(object) ? "Changed" : "Created", { kind: object.kind, name: object.metadata.name })),
    ...prune.map((reference) => said("Pruned", reference)),
  ];
}
