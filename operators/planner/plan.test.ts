// Single rounds: what a person sees and what is written, case by case.
import { describe, expect, it } from "vitest";
import { type ModelService, ModelServiceSpec } from "../api/model-service.ts";
import { type ConditionType, ModelServiceStatus } from "../api/status.ts";
import { difference, fingerprint } from "./difference.ts";
import type { KubernetesObject, Pod, Workload } from "./kubernetes.ts";
import { finalizer, hashAnnotation, poolLabels, replicasAnnotation, replicasFieldManager, serviceLabel } from "./names.ts";
import { type Observed, servedNameOwner } from "./observed.ts";
import { planUnreadable } from "./plan.ts";
import type { Plan } from "./planned.ts";
import { modelService } from "./testing/model-services.ts";
import { made, nowMs, round } from "./testing/rounds.ts";

function found(planned: Plan, type: ConditionType) {
  const { status, reason, message } = planned.status?.conditions?.find((condition) => condition.type === type) ?? {};
  return { status, reason, message };
}

function pod(service: ModelService, status: Pod["status"], metadata: Partial<Pod["metadata"]> = {}): Pod {
  return {
    metadata: { name: "ms-decode-abc", namespace: "test", labels: poolLabels(service, "decode"), ...metadata },
    status: { phase: "Pending", ...status },
  };
}

function waiting(reason: string, message?: string, more: object = {}): Pod["status"] {
  return { containerStatuses: [{ name: "worker", state: { waiting: { reason, ...(message && { message }) } }, ...more }] };
}

describe("what an admission webhook changes while it is written", () => {
  const service = modelService({}, { finalizers: [finalizer] });
  const before = made(service);
  const [written] = (before.deployments ?? []).filter(({ metadata }) => metadata.name === "ms-decode") as [Workload];
  const others = (before.deployments ?? []).filter((each) => each !== written);
  const mutated = structuredClone(written);
  (
    mutated.spec as { template: { spec: { priorityClassName?: string; terminationGracePeriodSeconds: number } } }
  ).template.spec.terminationGracePeriodSeconds = 1;
  const observed = (workload: Workload) => ({ ...before, deployments: [...others, workload] });
  const overruled = {
    ...{ kind: "Deployment", name: "ms-decode", written: written.metadata.annotations?.[hashAnnotation] as string },
    ...{ left: fingerprint(mutated), field: difference(written, mutated) as string },
  };

  it("is written once more where nobody knows of it, and then no longer", () => {
    expect(overruled.field).toBe("spec.template.spec.terminationGracePeriodSeconds");
    expect(round(service, observed(mutated)).apply.map(({ object }) => object.metadata.name)).toEqual(["ms-decode"]);
    const settled = round(service, { ...observed(mutated), overruled: [overruled] });
    expect(settled.apply).toEqual([]);
    expect(found(settled, "Progressing")).toMatchObject({
      status: "False",
      reason: "Settled",
      message: expect.stringContaining("spec.template.spec.terminationGracePeriodSeconds of Deployment ms-decode"),
    });
    expect(found(settled, "Ready").status).toBe("True");
  });

  it("is written again where the spec changes, or somebody else changes more", () => {
    const more = structuredClone(mutated);
    (more.spec as { replicas?: number }).replicas = 7;
    const changed = modelService({ pools: { decode: { threads: 3 } } }, { finalizers: [finalizer] });
    expect(round(service, { ...observed(more), overruled: [overruled] }).apply).toHaveLength(1);
    const names = round(changed, { ...observed(mutated), overruled: [overruled] }).apply.map(({ object }) => object.metadata.name);
    expect(names).toContain("ms-decode");
  });
});

describe("a first round", () => {
  it("makes both pools and their budgets, and says that they start", () => {
    const planned = round(modelService());
    expect(planned.finalizer).toBe("add");
    expect(planned.apply.map(({ object }) => `${object.kind} ${object.metadata.name}`)).toEqual([
      "Deployment ms-prefill",
      "PodDisruptionBudget ms-prefill",
      "Deployment ms-decode",
      "PodDisruptionBudget ms-decode",
    ]);
    expect(found(planned, "Ready")).toMatchObject({ status: "False", reason: "WorkersStarting" });
    expect(found(planned, "Progressing").status).toBe("True");
    expect(found(planned, "Degraded").status).toBe("False");
    expect(planned.events.map(({ reason }) => reason)).toEqual(["Created", "Created", "Created", "Created"]);
    for (const { object } of planned.apply) {
      expect(object.metadata.ownerReferences?.[0]).toMatchObject({ kind: "ModelService", uid: "service-uid", controller: true });
      expect(object.metadata.labels).toMatchObject({ [serviceLabel]: "ms", "app.kubernetes.io/managed-by": "pelagic-operator" });
    }
  });

  it("is ready when its workers are, and then has nothing left to say", () => {
    const service = modelService({}, { finalizers: [finalizer] });
    const planned = round(service, made(service));
    expect(planned.apply).toEqual([]);
    expect(found(planned, "Ready")).toEqual({ status: "True", reason: "Serving", message: "Requests are answered." });
    expect(found(planned, "Progressing")).toMatchObject({ status: "False", reason: "Settled" });
    expect(planned.status?.pools?.decode).toMatchObject({ workers: "1/1" });
    expect(planned.events).toEqual([{ type: "Normal", reason: "Serving", message: "Requests are answered." }]);
    const after = round({ ...service, ...(planned.status && { status: planned.status }) }, made(service), nowMs + 60_000);
    expect(after).toEqual({ finalizer: "keep", apply: [], prune: [], status: undefined, events: [], requeueAfterMs: undefined });
  });

  it("goes on changing until old workers have drained, and what is being deleted is made anew once it is gone", () => {
    const service = modelService({}, { finalizers: [finalizer] });
    const leaving = { deletionTimestamp: "2026-01-01T00:00:00Z" };
    const draining = round(service, { ...made(service), pods: [pod(service, { phase: "Running" }, leaving)] });
    expect(found(draining, "Progressing")).toMatchObject({ status: "True", message: "decode: 1 of 1 ready, 1 finish their requests." });
    // Of a workload that is gone, and not told yet.
    const forgotten = round(service, { ...made(service), pods: [pod(service, { phase: "Running" }), pod(service, { phase: "Running" })] });
    expect(found(forgotten, "Progressing")).toMatchObject({ status: "True", message: "decode: 1 of 1 ready, 1 finish their requests." });
    const observed = made(service);
    const deployments = (observed.deployments ?? []).map((each) => ({ ...each, metadata: { ...each.metadata, ...leaving } }));
    const going = round({ ...service, spec: { ...service.spec, image: "example.com/pelagic:2" } }, { ...observed, deployments });
    expect(going.apply).toEqual([]);
    expect(found(going, "Progressing").status).toBe("True");
    expect(round(service, { ...observed, deployments: [] }).apply.map(({ object }) => object.kind)).toEqual(["Deployment", "Deployment"]);
  });

  it("has nothing to write where someone else has added a condition of their own", () => {
    const service = modelService({}, { finalizers: [finalizer] });
    const { status } = round(service, made(service));
    const theirs = {
      type: "example.com/Audited",
      status: "True" as const,
      lastTransitionTime: "2026-01-01T00:00:00Z",
      reason: "Yes",
      message: "",
    };
    const audited = { ...service, status: { ...status, conditions: [theirs, ...(status?.conditions ?? [])] } };
    expect(round(audited, made(service)).status).toBeUndefined();
    const unreadable = planUnreadable(service, "x", nowMs).status;
    expect(
      planUnreadable({ ...service, status: { ...unreadable, conditions: [...(unreadable?.conditions ?? []), theirs] } }, "x", nowMs).status,
    ).toBeUndefined();
  });

  it("keeps the time since when a condition is what it is", () => {
    const service = modelService();
    const first = round(service);
    const status = first.status;
    const later = round({ ...service, ...(status && { status }) }, made(service), nowMs + 60_000);
    const times = (planned: Plan, type: ConditionType) =>
      planned.status?.conditions?.find((each) => each.type === type)?.lastTransitionTime;
    expect(times(later, "Accepted")).toBe(times(first, "Accepted"));
    expect(times(later, "Ready")).toBe("2026-01-01T00:01:00Z");
  });
});

describe("what stands in the way is told, with what to do", () => {
  const service = modelService({ model: { image: { reference: "example.com/model:1" } } });
  const unready = (pods: Pod[], more: Partial<Observed> = {}) => round(service, { ...made(service, false), pods, ...more });
  const cases: [string, Pod["status"], ConditionType, string, string][] = [
    ["a worker image that is not there", waiting("ImagePullBackOff", "no such image"), "DecodeReady", "ImageNotPulled", "spec.image"],
    [
      "a model image that is not there",
      waiting("ErrImagePull", "pull example.com/model:1: not found"),
      "ModelAvailable",
      "ModelImageNotPulled",
      "spec.model.image.reference",
    ],
    [
      "a Secret that is not there",
      waiting("CreateContainerConfigError", 'secret "x" not found'),
      "DecodeReady",
      "ContainerNotCreated",
      'secret "x"',
    ],
    [
      "a worker that was killed for memory",
      waiting("CrashLoopBackOff", "", { lastState: { terminated: { reason: "OOMKilled", exitCode: 137 } }, restartCount: 2 }),
      "DecodeReady",
      "OutOfMemory",
      "spec.pools.decode.resources.limits.memory",
    ],
    [
      "a worker that refuses its configuration",
      waiting("CrashLoopBackOff", "", { lastState: { terminated: { exitCode: 2 } } }),
      "DecodeReady",
      "WorkerCrashes",
      "spec.pools.decode.podTemplate.env",
    ],
    [
      "a worker between two crashes",
      { containerStatuses: [{ name: "worker", state: {}, restartCount: 5 }] },
      "DecodeReady",
      "WorkerCrashes",
      "kubectl logs ms-decode-abc --previous",
    ],
    [
      "a pod without a node",
      {
        conditions: [
          { type: "PodScheduled", status: "False", reason: "Unschedulable", message: "0/1 nodes: Insufficient nvidia.com/gpu." },
        ],
      },
      "DecodeReady",
      "Unschedulable",
      "Insufficient nvidia.com/gpu",
    ],
  ];

  it.each(cases)("%s", (_, status, type, reason, words) => {
    const planned = unready([pod(service, status)]);
    expect(found(planned, type)).toMatchObject({ status: "False", reason });
    expect(found(planned, type).message).toContain(words);
    expect(found(planned, "Degraded")).toMatchObject({ status: "True", reason });
    expect(found(planned, "Ready").status).toBe("False");
    expect(planned.events.filter(({ type }) => type === "Warning")).toHaveLength(1);
    // One that is leaving, or has ended, is no problem any more.
    expect(found(unready([pod(service, { ...status, phase: "Failed" })]), "Degraded").status).toBe("False");
    expect(found(unready([pod(service, status, { deletionTimestamp: "2026-01-01T00:00:00Z" })]), "Degraded").status).toBe("False");
  });

  it("pods that may not be made, and workers that are late", () => {
    for (const [type, status, conditionReason, reason] of [
      ["ReplicaFailure", "True", "FailedCreate", "PodsForbidden"],
      ["Progressing", "False", "ProgressDeadlineExceeded", "NotReadyInTime"],
    ] as const) {
      const observed = made(service, false);
      for (const deployment of observed.deployments ?? [])
        deployment.status = { ...deployment.status, conditions: [{ type, status, reason: conditionReason, message: "exceeded quota" }] };
      expect(found(round(service, observed), "Degraded")).toMatchObject({ status: "True", reason });
    }
  });

  it("a claim that is missing, lost, or not bound yet", () => {
    const claimed = modelService({ model: { pvc: { claimName: "models" } } });
    const missing = round(claimed, { claim: "missing" });
    expect(found(missing, "ModelAvailable")).toMatchObject({ status: "False", reason: "ClaimNotFound" });
    expect(found(missing, "Ready").message).toContain("PersistentVolumeClaim models does not exist");
    expect(missing.requeueAfterMs).toBeGreaterThan(0);
    expect(found(round(claimed, { claim: "Lost" }), "ModelAvailable").reason).toBe("ClaimLost");
    expect(found(round(claimed, { claim: "Pending" }), "ModelAvailable").status).toBe("Unknown");
    expect(found(round(claimed, { claim: "Bound" }), "ModelAvailable").status).toBe("True");
  });

  it("what the API server refused, while trying again", () => {
    const planned = round(service, { refused: { object: "Deployment ms-decode", message: "cpu: must be more" } });
    expect(found(planned, "Accepted")).toMatchObject({ status: "False", reason: "Refused" });
    expect(found(planned, "Ready").message).toContain("cpu: must be more");
    expect(planned.apply.length).toBe(4);
  });

  it("what others say at any length, within what a status may have", () => {
    const message = "x".repeat(100_000);
    const range = { maxReplicas: 2 };
    const service = modelService({
      slo: { ttftSeconds: 1, tpotSeconds: 1 },
      autoscaling: { policy: "slo", prefill: range, decode: range },
    });
    const decision = { replicas: 1, reason: message, blind: true };
    const said = [
      round(service, { refused: { object: "Deployment ms-prefill", message } }),
      round(service, { scaling: { prefill: decision, decode: decision } }),
      planUnreadable({ metadata: service.metadata }, message, nowMs),
    ];
    for (const { status } of said) expect(ModelServiceStatus.safeParse(status).error).toBeUndefined();
  });

  it("what a worker has got over is no longer told when something else is the matter", () => {
    const service = modelService();
    const crashed = (reason: string, restartCount: number, unreadySince: string) => {
      const status = waiting("", undefined, {
        restartCount,
        state: { running: { startedAt: "2026-01-01T00:00:10Z" } },
        lastState: { terminated: { reason, exitCode: 1 } },
      });
      const conditions = [{ type: "Ready", status: "False", lastTransitionTime: unreadySince }];
      const planned = round(service, { ...made(service, false), pods: [pod(service, { ...status, conditions })] });
      return found(planned, "DecodeReady").reason;
    };
    // It was ready since it started again, or it was not.
    const [since, before] = ["2026-01-02T00:00:00Z", "2026-01-01T00:00:08Z"];
    expect([crashed("OOMKilled", 1, before), crashed("Error", 5, before)]).toEqual(["OutOfMemory", "WorkerCrashes"]);
    expect([crashed("OOMKilled", 1, since), crashed("Error", 5, since)]).toEqual(["WorkersStarting", "WorkersStarting"]);
  });

  it("still serves, degraded, while one worker of two is in trouble", () => {
    const two = modelService({ pools: { decode: { replicas: 2 } } });
    const observed = made(two);
    for (const { status } of observed.deployments ?? []) if (status?.replicas === 2) status.readyReplicas = 1;
    const planned = round(two, { ...observed, pods: [pod(two, waiting("CrashLoopBackOff"))] });
    expect(found(planned, "Ready").status).toBe("True");
    expect(found(planned, "Degraded")).toMatchObject({ status: "True", reason: "WorkerCrashes" });
    expect(planned.status?.pools?.decode?.workers).toBe("1/2");
  });

  it("no decode workers, by the spec", () => {
    const none = modelService({ pools: { prefill: { replicas: 0 }, decode: { replicas: 0 } } });
    const planned = round(none, made(none));
    expect(found(planned, "PrefillReady").status).toBe("True");
    expect(found(planned, "Ready")).toMatchObject({ status: "False", reason: "NoneWanted" });
  });
});

describe("nothing is half made", () => {
  it("without LeaderWorkerSets, where one pool needs them", () => {
    const service = modelService({ pools: { decode: { nodesPerReplica: 2 } } });
    const planned = round(service, { leaderWorkerSetApi: false });
    expect([planned.apply, planned.prune]).toEqual([[], []]);
    expect(found(planned, "Accepted")).toMatchObject({ status: "False", reason: "LeaderWorkerSetMissing" });
    expect(found(planned, "Ready").message).toContain("spec.pools.decode.nodesPerReplica");
    expect(planned.requeueAfterMs).toBeGreaterThan(0);
    expect(round(service).apply.map(({ object }) => object.kind)).toContain("LeaderWorkerSet");
  });

  it("what runs goes on where a change cannot be made", () => {
    const before = modelService();
    const after = modelService({ pools: { decode: { nodesPerReplica: 2 } }, image: "example.com/pelagic:2" });
    const planned = round(after, { ...made(before), leaderWorkerSetApi: false });
    expect([planned.apply, planned.prune]).toEqual([[], []]);
    expect(found(planned, "DecodeReady").status).toBe("True");
    expect(found(planned, "Ready")).toMatchObject({ status: "False", reason: "LeaderWorkerSetMissing" });
  });

  it("where another has the served name first", () => {
    const older = modelService({ servedName: "same" }, { name: "older", namespace: "x", creationTimestamp: "2026-01-01T00:00:00Z" });
    const younger = modelService({ servedName: "same" }, { name: "a-younger", creationTimestamp: "2026-01-02T00:00:00Z" });
    const named = modelService({}, { name: "same", creationTimestamp: "2026-01-03T00:00:00Z" });
    const all = [younger, named, modelService({}, { name: "other", creationTimestamp: "2025-01-01T00:00:00Z" }), older];
    expect(all.map((each) => servedNameOwner(each, all))).toEqual(["x/older", "x/older", undefined, undefined]);
    const twin = modelService({ servedName: "same" }, { name: "older", namespace: "w", creationTimestamp: "2026-01-01T00:00:00Z" });
    expect(servedNameOwner(older, [older, twin])).toBe("w/older");
    expect(servedNameOwner(twin, [older, twin])).toBeUndefined();
    const planned = round(younger, { servedNameOwner: "x/older" });
    expect(planned.apply).toEqual([]);
    expect(found(planned, "Accepted")).toMatchObject({ reason: "ServedNameTaken" });
  });

  it("over an object that is someone else's; what was orphaned is taken over", () => {
    const service = modelService();
    const observed = made(service);
    const withOwner = (ownerReferences: KubernetesObject["metadata"]["ownerReferences"], labels?: Record<string, string>) => ({
      ...observed,
      deployments: (observed.deployments ?? []).map((each) => {
        const { ownerReferences: _, ...metadata } = each.metadata;
        return { ...each, metadata: { ...metadata, ...(ownerReferences && { ownerReferences }), ...(labels && { labels }) } };
      }),
    });
    const owner = { apiVersion: "pelagic.dev/v1alpha1", kind: "ModelService", name: "ms", uid: "former", controller: true };
    const former = round(service, withOwner([owner]));
    expect(found(former, "Accepted")).toMatchObject({ status: "False", reason: "NameOccupied" });
    expect(found(former, "Accepted").message).toContain("garbage collector");
    expect([former.apply, former.prune]).toEqual([[], []]);
    expect(found(round(service, withOwner([{ ...owner, kind: "Other", name: "o" }])), "Accepted").message).toContain("Other o");
    expect(found(round(service, withOwner(undefined, { app: "x" })), "Accepted").message).toContain("someone else");
    const orphaned = round(service, withOwner(undefined));
    expect(found(orphaned, "Accepted").status).toBe("True");
    expect(orphaned.apply.map(({ object }) => object.kind)).toEqual(["Deployment", "Deployment"]);
  });
});

describe("autoscaling", () => {
  const range = { minReplicas: 2, maxReplicas: 4 };
  const slo = modelService({
    slo: { ttftSeconds: 1, tpotSeconds: 1 },
    autoscaling: { policy: "slo", prefill: range, decode: range, scaleToZeroAfterSeconds: 600 },
  });
  const decided = (replicas: number) => {
    const decision = { replicas, reason: "1,000 tokens a second", blind: false };
    return { scaling: { prefill: decision, decode: decision } };
  };
  const written = (planned: Plan) =>
    planned.apply.filter(({ object }) => object.kind === "Deployment").map(({ object }) => (object.spec as { replicas?: number }).replicas);

  it("is obeyed within its bounds, and gives its reason", () => {
    expect(written(round(slo))).toEqual([2, 2]);
    expect(written(round(slo, decided(3)))).toEqual([3, 3]);
    expect(written(round(slo, decided(9)))).toEqual([4, 4]);
    expect(written(round(slo, decided(1)))).toEqual([2, 2]);
    expect(round(slo, decided(9)).status?.pools?.decode?.reason).toContain("1,000 tokens a second (9 wanted, held within 2 to 4)");
    expect(found(round(slo, decided(3)), "Autoscaled").message).toContain("decode 3: 1,000 tokens a second");
    expect(found(round(slo), "Autoscaled").status).toBe("Unknown");
    expect(found(round(modelService()), "Autoscaled").status).toBeUndefined();
  });

  it("goes to zero only where that is asked for, and counts as ready there", () => {
    const zero = round(slo, decided(0));
    expect(written(zero)).toEqual([0, 0]);
    expect(found(zero, "DecodeReady")).toMatchObject({ status: "True", reason: "ScaledToZero" });
    const never = { ...slo, spec: ModelServiceSpec.parse({ ...slo.spec, autoscaling: { policy: "slo", prefill: range, decode: range } }) };
    expect(written(round(never, decided(0)))).toEqual([2, 2]);
  });

  it("is waited for at the number that is, also at zero; an external one begins at the least", () => {
    const at = (replicas: number) => {
      const observed = made(slo);
      for (const deployment of observed.deployments ?? []) deployment.spec = { ...deployment.spec, replicas };
      return round(slo, observed).status?.pools?.decode?.desired;
    };
    expect([at(0), at(1), at(3), at(9)]).toEqual([0, 2, 3, 4]);
    const external = modelService({ autoscaling: { policy: "external", prefill: range, decode: range } });
    const planned = round(external);
    expect(planned.status?.pools?.decode?.desired).toBe(2);
    expect(
      planned.apply.map(({ object, fieldManager }) => [fieldManager, object.kind, (object.spec as { replicas?: number }).replicas]),
    ).toEqual(
      ["prefill", "decode"].flatMap(() => [
        ["pelagic-operator", "Deployment", undefined],
        ["pelagic-operator", "PodDisruptionBudget", undefined],
        ["pelagic-operator-replicas", "Deployment", 2],
      ]),
    );
  });

  it("hands a pool over awake: an HPA does nothing at zero; who has it already may take it there", () => {
    const at = (replicas: number, by: string) => {
      const observed = made(slo);
      for (const deployment of observed.deployments ?? []) {
        deployment.spec = { ...deployment.spec, replicas };
        deployment.metadata.annotations = { ...deployment.metadata.annotations, [replicasAnnotation]: by };
      }
      return round(modelService({ autoscaling: { policy: "external", prefill: range, decode: range } }), observed);
    };
    const asleep = at(0, "operator");
    expect(
      asleep.apply.flatMap(({ object, fieldManager }) =>
        fieldManager === replicasFieldManager ? [(object.spec as { replicas: number }).replicas] : [],
      ),
    ).toEqual([2, 2]);
    expect(asleep.status?.pools?.decode?.desired).toBe(2);
    expect(at(1, "operator").status?.pools?.decode?.desired).toBe(1);
    const theirs = at(0, "external");
    expect(theirs.apply.filter(({ fieldManager }) => fieldManager === replicasFieldManager)).toEqual([]);
    expect(found(theirs, "DecodeReady")).toMatchObject({ status: "False", reason: "NoneWanted" });
    expect(found(theirs, "DecodeReady").message).toContain("external autoscaler");
    expect(found(theirs, "DecodeReady").message).not.toContain("spec.pools");
  });

  it("tells a new number as an event, and a new reason alone not", () => {
    const first = round(slo, { ...made(slo), ...decided(2) });
    const service = { ...slo, ...(first.status && { status: first.status }) };
    const other = { scaling: { prefill: { replicas: 2, reason: "x", blind: false }, decode: { replicas: 2, reason: "x", blind: false } } };
    expect(round(service, { ...made(slo), ...other }).events).toEqual([]);
    const scaled = round(service, { ...made(slo), ...decided(3) }).events.filter(({ reason }) => reason === "Scaled");
    expect(scaled.map(({ message }) => message)).toEqual([
      "prefill: 2 to 3 workers, as 1,000 tokens a second",
      "decode: 2 to 3 workers, as 1,000 tokens a second",
    ]);
  });
});

describe("a deletion", () => {
  const service = modelService({ pools: { decode: { drainSeconds: 600 } } }, { finalizers: [finalizer] });
  const deleted = (finalizers = [finalizer]) => ({
    ...service,
    metadata: { ...service.metadata, finalizers, deletionTimestamp: "2026-01-01T00:00:00Z" },
  });

  it("lets go at once where nothing was ever made, and touches nothing where the finalizer is another's", () => {
    expect(round(deleted())).toMatchObject({ finalizer: "remove", apply: [], prune: [], requeueAfterMs: undefined });
    expect(round(deleted(["other"]), made(service))).toMatchObject({ finalizer: "keep", apply: [], prune: [] });
  });

  it("ends in bounded time, and says what it did not wait for", () => {
    const stuck = { ...made(service), pods: [pod(service, { phase: "Running" }, { deletionTimestamp: "2026-01-01T00:00:00Z" })] };
    const planned = round(deleted(), stuck);
    expect(planned.finalizer).toBe("keep");
    expect(found(planned, "Ready").reason).toBe("Deleting");
    const boundMs = planned.requeueAfterMs as number;
    expect(boundMs).toBeGreaterThan(600_000);
    const late = round(deleted(), stuck, nowMs + boundMs);
    expect(late.finalizer).toBe("remove");
    expect(late.events).toEqual([expect.objectContaining({ type: "Warning", reason: "DrainTimedOut" })]);
  });

  it("without its dependents lets go at once, and leaves them at work", () => {
    const running = { ...made(service), pods: [pod(service, { phase: "Running" })] };
    const left = { finalizer: "remove", apply: [], prune: [], status: undefined, requeueAfterMs: undefined };
    expect(round(deleted([finalizer, "orphan"]), running)).toMatchObject({ ...left, events: [] });
    // The garbage collector was quicker, and has taken its finalizer away again.
    for (const { metadata } of running.deployments ?? []) delete metadata.ownerReferences;
    expect(round(deleted(), running)).toMatchObject({ ...left, events: [] });
  });

  it("does not wait for pods that have ended", () => {
    const observed = made(service);
    for (const deployment of observed.deployments ?? []) deployment.spec = { ...deployment.spec, replicas: 0 };
    expect(round(deleted(), { ...observed, pods: [pod(service, { phase: "Failed" })] }).finalizer).toBe("remove");
  });
});

describe("an object that cannot be read", () => {
  const { metadata } = modelService({}, { generation: 3, finalizers: [finalizer] });

  it("is left alone, and says so once", () => {
    const planned = planUnreadable({ metadata }, "spec.model: required", nowMs);
    expect(found(planned, "Accepted")).toMatchObject({ status: "False", reason: "InvalidSpec" });
    expect(found(planned, "Ready").message).toContain("spec.model: required");
    expect([planned.apply, planned.prune, planned.finalizer]).toEqual([[], [], "keep"]);
    expect(planned.events).toEqual([expect.objectContaining({ type: "Warning", reason: "InvalidSpec" })]);
    const again = planUnreadable({ metadata, status: planned.status }, "spec.model: required", nowMs + 1000);
    expect([again.status, again.events]).toEqual([undefined, []]);
  });

  it("does not hold up its own deletion", () => {
    const deleted = { ...metadata, deletionTimestamp: "2026-01-01T00:00:00Z" };
    expect(planUnreadable({ metadata: deleted }, "spec.model: required", nowMs)).toMatchObject({ finalizer: "remove", status: undefined });
  });
});
