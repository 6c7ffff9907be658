// The planner against a slow, obvious cluster: changes of the spec, controllers, starts, crashes and ends in any order.
import { deepStrictEqual } from "node:assert/strict";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { z } from "zod";
import { type ModelService, type ModelServiceSpec, type PoolName, poolNames } from "../api/model-service.ts";
import type { Condition, ConditionType } from "../api/status.ts";
import { finalizer } from "./names.ts";
import { plan } from "./plan.ts";
import type { Plan } from "./planned.ts";
import { workloadOf } from "./workloads.ts";
import { config, modelService } from "./testing/model-services.ts";
import { isWorkloadKey, SimulatedCluster } from "./testing/simulated-cluster.ts";

const startMs = Date.parse("2026-01-01T00:00:00Z");

interface RandomPool {
  replicas: number;
  nodesPerReplica: number;
  drainSeconds: number;
  threads?: number | undefined;
}
interface RandomSpec {
  pools: { prefill: RandomPool; decode: RandomPool };
  image: string | undefined;
  autoscaling: z.input<typeof ModelServiceSpec>["autoscaling"];
  experts: z.input<typeof ModelServiceSpec>["experts"];
}

const poolSpec: fc.Arbitrary<RandomPool> = fc.record({
  replicas: fc.integer({ min: 0, max: 3 }),
  nodesPerReplica: fc.constantFrom(1, 1, 1, 2),
  drainSeconds: fc.constantFrom(1, 120),
  threads: fc.constantFrom(undefined, 1, 2),
});
const spec: fc.Arbitrary<RandomSpec> = fc
  .record({
    pools: fc.record({ prefill: poolSpec, decode: poolSpec }),
    image: fc.constantFrom(undefined, "example.com/pelagic:2", "example.com/pelagic:3"),
    autoscaling: fc.constantFrom(
      undefined,
      { policy: "slo" as const, prefill: { maxReplicas: 3 }, decode: { minReplicas: 2, maxReplicas: 3 } },
      { policy: "external" as const, prefill: { maxReplicas: 3 }, decode: { minReplicas: 2, maxReplicas: 3 } },
    ),
    experts: fc.constantFrom(undefined, undefined, { ranks: 2 }, { ranks: 3 }, { ranks: 3, redundancy: 4 }),
  })
  // As the API server has it.
  .map((one) => (one.experts === undefined ? one : sharing(one, one.experts)));

function sharing(one: RandomSpec, experts: RandomSpec["experts"]): RandomSpec {
  const { prefill, decode } = one.pools;
  return { ...one, experts, autoscaling: undefined, pools: { prefill, decode: { ...decode, nodesPerReplica: 1 } } };
}

const action = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("change" as const), spec }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant("plan" as const) }) },
  { weight: 12, arbitrary: fc.record({ do: fc.constant("control" as const), which: fc.nat(7) }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant("ready" as const), which: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("crash" as const), which: fc.nat(9) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("end" as const), which: fc.nat(9) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("scale" as const),
      prefill: fc.integer({ min: 1, max: 3 }),
      decode: fc.integer({ min: 1, max: 5 }),
    }),
  },
);
type Action = typeof action extends fc.Arbitrary<infer A> ? A : never;

class Run {
  readonly cluster = new SimulatedCluster(modelService({ slo: { ttftSeconds: 1, tpotSeconds: 1 } }));
  nowMs = startMs;

  change(changed: RandomSpec): void {
    const { metadata, status } = this.cluster.service;
    const parsed = modelService(
      { ...JSON.parse(JSON.stringify(changed)), slo: { ttftSeconds: 1, tpotSeconds: 1 } },
      { ...metadata, generation: metadata.generation + 1 },
    );
    this.cluster.service = { ...parsed, ...(status && { status }) };
  }

  /** A round, checked before and after it is done. */
  plan(): Plan {
    const { cluster } = this;
    this.nowMs += 1000;
    const observed = cluster.observe();
    const planned = plan(cluster.service, observed, config, this.nowMs);
    deepStrictEqual(plan(cluster.service, observed, config, this.nowMs), planned, "the same twice");
    this.expectNothingWantedPruned(planned);
    this.expectReadyKept(planned);
    cluster.carryOut(planned, finalizer);
    const again = plan(cluster.service, cluster.observe(), config, this.nowMs + 500);
    // Status may follow what was done; nothing is done twice.
    deepStrictEqual([again.apply, again.prune, again.finalizer], [[], [], "keep"], "nothing left to do");
    cluster.carryOut(again, finalizer);
    const third = plan(cluster.service, cluster.observe(), config, this.nowMs + 900);
    deepStrictEqual([third.status, third.events], [undefined, []], "status is what it was");
    return planned;
  }

  private expectNothingWantedPruned(planned: Plan): void {
    for (const { kind, name } of planned.prune)
      for (const { object } of planned.apply) expect(`${object.kind}/${object.metadata.name}`).not.toBe(`${kind}/${name}`);
    const wanted = wantedObjects(this.cluster.service);
    for (const { kind, name } of planned.prune) expect(wanted).not.toContain(`${kind}/${name}`);
  }

  /** What is taken away leaves as many ready as are wanted now. */
  private expectReadyKept(planned: Plan): void {
    for (const pool of poolNames) {
      const desired = planned.status?.pools?.[pool]?.desired ?? this.cluster.service.status?.pools?.[pool]?.desired ?? 0;
      const going = planned.prune.map(({ kind, name }) => `${kind}/${name}`).filter(isWorkloadKey);
      const ready = this.cluster.pods.filter((pod) => pod.pool === pool && pod.ready && !pod.stopping);
      if (!ready.some((pod) => going.includes(pod.workload))) continue;
      expect(ready.filter((pod) => !going.includes(pod.workload)).length).toBeGreaterThanOrEqual(desired);
    }
  }

  act(next: Action): void {
    const { cluster } = this;
    const keys = [...cluster.objects.keys()].filter(isWorkloadKey);
    const live = cluster.pods.filter((pod) => !pod.stopping);
    if (next.do === "change") this.change(next.spec);
    else if (next.do === "plan") this.plan();
    else if (next.do === "scale") this.scale(next.prefill, next.decode);
    else if (next.do === "control" && keys.length > 0) cluster.control(keys[next.which % keys.length] as string);
    else if (next.do === "end") {
      const stopping = cluster.pods.filter((pod) => pod.stopping);
      const ended = stopping[next.which % Math.max(1, stopping.length)];
      cluster.pods = cluster.pods.filter((pod) => pod !== ended);
    } else if ((next.do === "ready" || next.do === "crash") && live.length > 0)
      (live[next.which % live.length] as { ready: boolean }).ready = next.do === "ready";
  }

  /** The autoscaler's own decision, or an external one's. */
  scale(prefill: number, decode: number): void {
    const { cluster } = this;
    if (cluster.service.spec.autoscaling.policy === "slo")
      cluster.scaling = {
        prefill: { replicas: prefill, reason: "load", blind: false },
        decode: { replicas: decode, reason: "load", blind: false },
      };
    if (cluster.service.spec.autoscaling.policy !== "external") return;
    for (const [key, stored] of cluster.objects) {
      const [kind, name] = key.split("/") as [string, string];
      if (isWorkloadKey(key) && stored !== undefined) cluster.scale(kind, name, name.endsWith("prefill") ? prefill : decode);
    }
  }

  /** Lets everybody do all they can, until nothing changes. */
  settle(): void {
    const { cluster } = this;
    for (let round = 0; round < 40; round++) {
      const before = JSON.stringify([cluster.observe(), cluster.service.spec]);
      this.plan();
      for (const key of [...cluster.objects.keys()].filter(isWorkloadKey)) while (cluster.control(key));
      cluster.pods = cluster.pods.filter((pod) => !pod.stopping);
      for (const pod of cluster.pods) pod.ready = true;
      if (JSON.stringify([cluster.observe(), cluster.service.spec]) === before) return;
    }
    throw new Error("it does not settle");
  }
}

/** The obvious model: what there must be in the end, from the spec alone. */
function wantedObjects(service: ModelService): string[] {
  const { spec } = service;
  const pods = (pool: PoolName) =>
    pool === "decode" && spec.experts
      ? `StatefulSet/${workloadOf(service, pool, 1, config).metadata.name}`
      : `${spec.pools[pool].nodesPerReplica > 1 ? "LeaderWorkerSet" : "Deployment"}/ms-${pool}`;
  return [...poolNames.flatMap((pool) => [pods(pool), `PodDisruptionBudget/ms-${pool}`]), ...(spec.experts ? ["ExpertPlacement/ms"] : [])];
}

function condition(service: ModelService, type: ConditionType): Condition | undefined {
  return service.status?.conditions?.find((each) => each.type === type);
}

const runs = { numRuns: 60 };
const timeoutMs = 240_000;

describe("planning, with anything happening in between", () => {
  it(
    "does nothing twice, prunes nothing that is wanted, and ends in the objects that the spec wants",
    () => {
      fc.assert(
        fc.property(spec, fc.array(action, { maxLength: 60, size: "max" }), (first, actions) => {
          const run = new Run();
          run.change(first);
          for (const next of actions) run.act(next);
          run.settle();
          const { cluster } = run;
          const { service } = cluster;
          expect([...cluster.objects.keys()].sort()).toEqual(wantedObjects(service).sort());
          for (const pool of poolNames) {
            const key = wantedObjects(service).find((each) => each.includes(`/ms-${pool}`) && isWorkloadKey(each)) as string;
            const workload = cluster.workload(key);
            const { policy } = service.spec.autoscaling;
            const range = service.spec.autoscaling[pool];
            const ranks = pool === "decode" ? service.spec.experts?.ranks : undefined;
            if (policy === "none") expect(workload?.replicas).toBe(ranks ?? service.spec.pools[pool].replicas);
            if (policy === "slo") {
              expect(workload?.replicas).toBeGreaterThanOrEqual(range?.minReplicas ?? 0);
              expect(workload?.replicas).toBeLessThanOrEqual(range?.maxReplicas ?? 0);
            }
            const pods = cluster.podsOf(key);
            expect(pods.length).toBe(workload?.replicas);
            expect(pods.every((pod) => pod.revision === workload?.revision)).toBe(true);
            expect(service.status?.pools?.[pool]?.workers).toBe(`${workload?.replicas}/${workload?.replicas}`);
          }
          expect(cluster.pods.length).toBe(poolNames.reduce((sum, pool) => sum + (service.status?.pools?.[pool]?.desired ?? 0), 0));
          expect(condition(service, "Progressing")?.status).toBe("False");
          expect(condition(service, "Degraded")?.status).toBe("False");
          expect(condition(service, "Ready")?.status).toBe((service.status?.pools?.decode?.desired ?? 0) > 0 ? "True" : "False");
          expect(service.status?.observedGeneration).toBe(service.metadata.generation);
        }),
        runs,
      );
    },
    timeoutMs,
  );

  it(
    "changes a running pool without ever having fewer ready than it wants",
    () => {
      fc.assert(
        fc.property(spec, spec, fc.array(action, { maxLength: 80, size: "max" }), (first, second, actions) => {
          const run = new Run();
          // The same number before and after, by the spec: then every moment must have as many.
          const replicas = { prefill: first.pools.prefill.replicas, decode: first.pools.decode.replicas };
          const fixed = (changed: RandomSpec): RandomSpec => ({
            ...changed,
            autoscaling: undefined,
            experts: changed.experts && replicas.decode >= 2 ? { ...changed.experts, ranks: replicas.decode } : undefined,
            pools: {
              prefill: { ...changed.pools.prefill, replicas: replicas.prefill },
              decode: { ...changed.pools.decode, replicas: replicas.decode },
            },
          });
          run.change(fixed(first));
          run.settle();
          run.change(fixed(second));
          for (const next of actions) {
            if (["crash", "scale", "change"].includes(next.do)) continue;
            run.act(next);
            for (const pool of poolNames) {
              const ready = run.cluster.pods.filter((pod) => pod.pool === pool && pod.ready && !pod.stopping).length;
              expect(ready).toBeGreaterThanOrEqual(replicas[pool]);
            }
          }
        }),
        runs,
      );
    },
    timeoutMs,
  );

  it(
    "leaves replicas to an external autoscaler from the moment that it is told to, at the number that was",
    () => {
      fc.assert(
        fc.property(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 5 }), (before, external) => {
          const run = new Run();
          const pools = { prefill: pool(before), decode: pool(before) };
          const autoscaling = { policy: "external" as const, prefill: { maxReplicas: 3 }, decode: { minReplicas: 2, maxReplicas: 3 } };
          const experts = undefined;
          run.change({ pools, image: undefined, autoscaling: undefined, experts });
          run.settle();
          run.change({ pools, image: undefined, autoscaling, experts });
          run.settle();
          expect(run.cluster.workload("Deployment/ms-decode")?.replicas).toBe(before);
          run.scale(external, external);
          run.settle();
          run.change({ pools, image: "example.com/pelagic:9", autoscaling, experts });
          run.settle();
          expect(run.cluster.workload("Deployment/ms-decode")?.replicas).toBe(external);
          expect(run.cluster.service.status?.pools?.decode?.desired).toBe(external);
          run.change({ pools, image: undefined, autoscaling: undefined, experts });
          run.settle();
          expect(run.cluster.workload("Deployment/ms-decode")?.replicas).toBe(before);
        }),
        { numRuns: 30 },
      );
    },
    timeoutMs,
  );

  it(
    "drains decode before prefill when it is deleted, and then lets go",
    () => {
      fc.assert(
        fc.property(
          spec,
          fc.array(action, { maxLength: 30, size: "max" }),
          fc.array(action, { maxLength: 60, size: "max" }),
          (first, before, after) => {
            const run = new Run();
            run.change(first);
            for (const next of before) run.act(next);
            run.plan();
            const { cluster } = run;
            cluster.service = structuredClone(cluster.service);
            cluster.service.metadata.deletionTimestamp = new Date(run.nowMs).toISOString();
            const prefillWanted = () => [...cluster.objects.keys()].filter((key) => key.endsWith("prefill") && isWorkloadKey(key));
            const wantedBefore = prefillWanted().map((key) => cluster.workload(key)?.replicas);
            const checked = () => {
              if (!cluster.service.metadata.finalizers.includes(finalizer)) {
                expect(cluster.pods, "gone only when nothing runs").toEqual([]);
              } else if (cluster.pods.some((pod) => pod.pool === "decode")) {
                expect(prefillWanted().map((key) => cluster.workload(key)?.replicas)).toEqual(wantedBefore);
              }
            };
            for (const next of after) {
              if (["change", "scale"].includes(next.do)) continue;
              if (!cluster.service.metadata.finalizers.includes(finalizer)) break;
              if (next.do === "plan") cluster.carryOut(plan(cluster.service, cluster.observe(), config, run.nowMs), finalizer);
              else run.act(next);
              checked();
            }
            for (let round = 0; round < 20 && cluster.service.metadata.finalizers.includes(finalizer); round++) {
              cluster.carryOut(plan(cluster.service, cluster.observe(), config, run.nowMs), finalizer);
              checked();
              for (const key of [...cluster.objects.keys()].filter(isWorkloadKey)) while (cluster.control(key));
              cluster.pods = cluster.pods.filter((pod) => !pod.stopping);
            }
            expect(cluster.service.metadata.finalizers).not.toContain(finalizer);
          },
        ),
        runs,
      );
    },
    timeoutMs,
  );
});

function pool(replicas: number) {
  return { replicas, nodesPerReplica: 1, drainSeconds: 1, threads: undefined };
}
