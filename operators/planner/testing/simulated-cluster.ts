// A slow, obvious cluster for the planner's tests: server-side apply with two field managers, and controllers that do one thing at a time, when
// told to. Everything else of Kubernetes is left out.
import { createHash } from "node:crypto";
import type { ModelService, PoolName } from "../../api/model-service.ts";
import { type KubernetesObject, type ObjectReference, type Pod, type Workload, workloadKinds } from "../kubernetes.ts";
import { fieldManager, poolLabel, replicasFieldManager } from "../names.ts";
import type { Observed } from "../observed.ts";
import type { Application, Plan } from "../planned.ts";

interface SimPod {
  name: string;
  pool: PoolName;
  workload: string;
  /** Of the template that it was made from. */
  revision: string;
  ready: boolean;
  /** Told to stop; ends when the simulation says so. */
  stopping: boolean;
}

// biome-ignore lint/suspicious/noExplicitAny: any object's fields
type Json = any;

interface Stored {
  /** What each field manager applied last. */
  applied: Map<string, Json>;
  uid: string;
  generation: number;
}

export class SimulatedCluster {
  readonly objects = new Map<string, Stored>();
  pods: SimPod[] = [];
  service: ModelService;
  leaderWorkerSetApi = true;
  scaling: NonNullable<Observed["scaling"]> = {};
  private uids = 0;

  constructor(service: ModelService) {
    this.service = service;
  }

  /** What a round says, done. */
  carryOut(plan: Plan, finalizer: string): void {
    const { metadata } = this.service;
    if (plan.finalizer === "add") metadata.finalizers = [...metadata.finalizers, finalizer];
    for (const application of plan.apply) this.apply(application);
    for (const reference of plan.prune) this.delete(reference);
    if (plan.status) this.service = { ...this.service, status: plan.status };
    if (plan.finalizer === "remove") metadata.finalizers = metadata.finalizers.filter((name) => name !== finalizer);
  }

  private apply({ object, fieldManager: manager }: Application): void {
    const key = keyOf(object);
    const existing = this.objects.get(key);
    if (existing === undefined && manager === replicasFieldManager) throw new Error(`${key}: replicas of an object that is not there`);
    const stored = existing ?? { applied: new Map(), uid: `uid-${++this.uids}`, generation: 0 };
    const before = JSON.stringify(this.specOf(stored));
    // Forced: the field is this manager's alone, unless both say the same.
    const replicas = (object.spec as { replicas?: number }).replicas;
    if (replicas !== undefined) {
      for (const [other, theirs] of stored.applied) {
        if (other !== manager && theirs.spec.replicas !== replicas) delete theirs.spec.replicas;
      }
    }
    stored.applied.set(manager, structuredClone(object));
    const nobodys = [...stored.applied.values()].every(({ spec }) => spec.replicas === undefined);
    if (existing !== undefined && nobodys && isWorkloadKey(key)) throw new Error(`${key}: nobody owns replicas any more`);
    if (JSON.stringify(this.specOf(stored)) !== before) stored.generation++;
    this.objects.set(key, stored);
  }

  /** An HPA or a person writes through the scale subresource. */
  scale(kind: string, name: string, replicas: number): void {
    const stored = this.objects.get(`${kind}/${name}`);
    if (stored === undefined) return;
    for (const theirs of stored.applied.values()) delete theirs.spec.replicas;
    stored.applied.set("hpa", { spec: { replicas } });
    stored.generation++;
  }

  private specOf(stored: Stored): Json {
    const own = stored.applied.get(fieldManager);
    if (own === undefined) return {};
    const replicas = [...stored.applied.values()].map(({ spec }) => spec.replicas).find((value) => value !== undefined);
    // A field without an owner falls back to its default.
    return "maxUnavailable" in own.spec || "modelService" in own.spec ? own.spec : { ...own.spec, replicas: replicas ?? 1 };
  }

  private delete({ kind, name, uid }: ObjectReference): void {
    const key = `${kind}/${name}`;
    if (this.objects.get(key)?.uid !== uid) throw new Error(`pruned ${key}, which is not there`);
    this.objects.delete(key);
    for (const pod of this.pods) if (pod.workload === key) pod.stopping = true;
  }

  observe(): Observed {
    const of = (kind: string) =>
      [...this.objects]
        .filter(([key]) => key.startsWith(`${kind}/`))
        .map(([key, stored]) => {
          const object = stored.applied.get(fieldManager);
          return structuredClone({
            ...object,
            metadata: { ...object.metadata, uid: stored.uid, generation: stored.generation },
            spec: this.specOf(stored),
            ...(isWorkloadKey(key) && { status: this.statusOf(key, stored) }),
          });
        });
    return {
      deployments: of("Deployment") as Workload[],
      statefulSets: of("StatefulSet") as Workload[],
      expertPlacements: of("ExpertPlacement") as KubernetesObject[],
      leaderWorkerSets: of("LeaderWorkerSet") as Workload[],
      podDisruptionBudgets: of("PodDisruptionBudget") as KubernetesObject[],
      pods: this.pods.map(podOf),
      leaderWorkerSetApi: this.leaderWorkerSetApi,
      scaling: this.scaling,
    };
  }

  workload(key: string): { replicas: number; revision: string; maxUnavailable: number; maxSurge: number; pool: PoolName } | undefined {
    const stored = this.objects.get(key);
    if (stored === undefined || !isWorkloadKey(key)) return undefined;
    const spec = this.specOf(stored);
    // A StatefulSet's own way, where nothing else is said.
    const inPlace = { maxUnavailable: 1, maxSurge: 0 };
    const { maxUnavailable, maxSurge } = spec.strategy?.rollingUpdate ?? spec.rolloutStrategy?.rollingUpdateConfiguration ?? inPlace;
    const template = spec.template ?? spec.leaderWorkerTemplate;
    const revision = createHash("sha256").update(JSON.stringify(template)).digest("hex").slice(0, 8);
    const pool = stored.applied.get(fieldManager).metadata.labels[poolLabel];
    return { replicas: spec.replicas, revision, maxUnavailable, maxSurge, pool };
  }

  podsOf(key: string): SimPod[] {
    return this.pods.filter(({ workload, stopping }) => workload === key && !stopping);
  }

  /** One step of a controller: makes or stops one pod at most. */
  control(key: string): boolean {
    const workload = this.workload(key);
    if (workload === undefined) return false;
    const { replicas, revision, maxUnavailable, maxSurge, pool } = workload;
    const pods = this.podsOf(key);
    const newest = pods.filter((pod) => pod.revision === revision);
    const old = pods.filter((pod) => pod.revision !== revision);
    if (newest.length < replicas && pods.length < replicas + maxSurge) {
      this.pods.push({ name: `${key}-${this.uids++}`, pool, workload: key, revision, ready: false, stopping: false });
      return true;
    }
    const ready = pods.filter((pod) => pod.ready).length;
    const surplus =
      // Old ones go where enough are ready without them.
      old.find((pod) => !pod.ready || ready > replicas - maxUnavailable) ??
      (newest.length > replicas ? (newest.find((pod) => !pod.ready) ?? newest[0]) : undefined);
    if (surplus === undefined) return false;
    surplus.stopping = true;
    return true;
  }

  private statusOf(key: string, { generation }: Stored) {
    const pods = this.podsOf(key);
    const revision = this.workload(key)?.revision;
    return {
      observedGeneration: generation,
      replicas: pods.length,
      readyReplicas: pods.filter((pod) => pod.ready).length,
      updatedReplicas: pods.filter((pod) => pod.revision === revision).length,
    };
  }
}

export function isWorkloadKey(key: string): boolean {
  return Object.keys(workloadKinds).some((kind) => key.startsWith(`${kind}/`));
}

function keyOf({ kind, metadata }: KubernetesObject): string {
  return `${kind}/${metadata.name}`;
}

function podOf({ name, pool, ready, stopping }: SimPod): Pod {
  return {
    metadata: {
      name,
      namespace: "test",
      labels: { [poolLabel]: pool },
      ...(stopping && { deletionTimestamp: "2026-01-01T00:00:00Z" }),
    },
    status: { phase: "Running", conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  };
}
