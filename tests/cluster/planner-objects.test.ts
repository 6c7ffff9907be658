// What the planner wants, in a real API server: accepted without a complaint, and equal to what comes back with everybody's defaults in it.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { type ModelService, poolNames } from "../../operators/api/model-service.ts";
import { examples } from "../../operators/api/reference.ts";
import type { KubernetesObject, Workload } from "../../operators/planner/kubernetes.ts";
import { finalizer } from "../../operators/planner/names.ts";
import type { Observed } from "../../operators/planner/observed.ts";
import { plan } from "../../operators/planner/plan.ts";
import { podTemplate } from "../../operators/planner/pod-template.ts";
import { config, modelService } from "../../operators/planner/testing/model-services.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { leaderWorkerSetCrd } from "./leader-worker-set-crd.ts";
import { installCrds } from "./service-objects.ts";

const missing = apiServerMissing();
const plurals: Record<string, string> = {
  Deployment: "deployments",
  StatefulSet: "statefulsets",
  LeaderWorkerSet: "leaderworkersets",
  ExpertPlacement: "expertplacements",
  PodDisruptionBudget: "poddisruptionbudgets",
};
let server: TestApiServer;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await server.call("POST", "/api/v1/namespaces", { body: { metadata: { name: "test" } } });
  const labels = { "pod-security.kubernetes.io/enforce": "restricted" };
  await server.call("POST", "/api/v1/namespaces", { body: { metadata: { name: "restricted", labels } } });
  await server.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", { body: { metadata: { name: "high" }, value: 1 } });
  await installCrds(server);
  await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", { body: leaderWorkerSetCrd() });
  await server.until("LeaderWorkerSets", async () =>
    (await server.call("GET", pathOf({ apiVersion: "leaderworkerset.x-k8s.io/v1", kind: "LeaderWorkerSet" }))).status === 200
      ? true
      : undefined,
  );
});
afterAll(async () => server?.stop());

function pathOf({ apiVersion, kind }: { apiVersion: string; kind: string }): string {
  return `/apis/${apiVersion}/namespaces/test/${plurals[kind]}`;
}

async function observe(): Promise<Observed> {
  const list = async <T extends KubernetesObject>(apiVersion: string, kind: string) =>
    (await server.call("GET", pathOf({ apiVersion, kind }))).body.items as T[];
  return {
    deployments: await list<Workload>("apps/v1", "Deployment"),
    statefulSets: await list<Workload>("apps/v1", "StatefulSet"),
    expertPlacements: await list("pelagic.dev/v1alpha1", "ExpertPlacement"),
    leaderWorkerSets: await list<Workload>("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    podDisruptionBudgets: await list("policy/v1", "PodDisruptionBudget"),
    pods: [],
    leaderWorkerSetApi: true,
  };
}

async function round(service: ModelService) {
  const planned = plan(service, await observe(), config, 0);
  for (const { object, fieldManager } of planned.apply) {
    const answer = await server.apply(`${pathOf(object)}/${object.metadata.name}`, object, fieldManager);
    expect(answer.body.message).toBeUndefined();
    expect(answer.status).toBeLessThan(300);
  }
  for (const { name, uid, ...reference } of planned.prune)
    expect(
      (
        await server.call("DELETE", `${pathOf(reference)}/${name}`, {
          body: { apiVersion: "v1", kind: "DeleteOptions", preconditions: { uid } },
        })
      ).status,
    ).toBe(200);
  return planned;
}

const everything = {
  model: { image: { reference: "example.com/model:1", path: "deepseek" } },
  imagePullPolicy: "Always" as const,
  pools: Object.fromEntries(
    poolNames.map((pool) => [
      pool,
      {
        backend: "cuda" as const,
        gpus: 2,
        cacheMemoryMib: 4096,
        resources: { requests: { cpu: "1500m", memory: "0.5Gi" }, limits: { cpu: 2, memory: "1024Mi", "example.com/nic": "1000m" } },
        nodeSelector: { "example.com/pool": "gpu" },
        tolerations: [{ operator: "Exists" as const }, { key: "a", effect: "NoExecute" as const, tolerationSeconds: 30 }],
        priorityClassName: "high",
        topologySpread: pool === "decode",
        podTemplate: {
          labels: { team: "a" },
          annotations: { "example.com/note": "x" },
          env: [{ name: "EMPTY" }, { name: "PELAGIC_LOG_LEVEL", value: "debug" }],
        },
      },
    ]),
  ),
};

const specs: Record<string, Parameters<typeof modelService>[0]> = {
  "the smallest": {},
  "the page's larger one": parse(examples.larger).spec,
  "one with every field": everything,
  "one on a node's folder": { model: { hostPath: { path: "/models" } }, pools: { decode: { replicas: 0 } } },
  "one whose experts are shared": parse(examples.spread).spec,
  "one whose replicas span nodes": { ...everything, pools: { ...everything.pools, decode: { backend: "cuda", nodesPerReplica: 2 } } },
};

describe.skipIf(missing !== undefined)(`planned objects in an API server${missing === undefined ? "" : ` (${missing})`}`, () => {
  it.each(Object.entries(specs))("%s is taken, and nothing is left to apply", async (what, spec) => {
    const name = `ms-${Object.keys(specs).indexOf(what)}`;
    const service = modelService(spec, { name, uid: `uid-${name}`, finalizers: [finalizer] });
    expect((await round(service)).apply.length).toBe(spec?.experts === undefined ? 4 : 5);
    const again = await round(service);
    expect(again.apply).toEqual([]);
    expect(again.prune).toEqual([]);
  });

  it.each(Object.entries(specs))("%s runs under the restricted Pod Security level, unless it is a node's folder", async (_, spec) => {
    const service = modelService(spec);
    for (const pool of poolNames) {
      const group = pool === "decode" && spec?.experts !== undefined ? "ms-decode-1a2b" : undefined;
      const { metadata, spec: podSpec } = podTemplate(service, pool, config, group);
      const pod = { metadata: { ...metadata, name: `p-${pool}` }, spec: podSpec };
      const answer = await server.call("POST", "/api/v1/namespaces/restricted/pods?dryRun=All&fieldValidation=Strict", { body: pod });
      if (spec?.model?.hostPath === undefined) expect(answer.body.message).toBeUndefined();
      else expect(answer.body.message).toContain("hostPath");
    }
  });

  it("a change by hand is undone, a change of the spec reaches the object, and a field that goes is gone", async () => {
    const service = (image?: string, env: { name: string; value: string }[] = []) =>
      modelService({ ...(image && { image }), pools: { decode: { podTemplate: { env } } } }, { name: "drift", uid: "uid-drift" });
    const path = `${pathOf({ apiVersion: "apps/v1", kind: "Deployment" })}/drift-decode`;
    const container = async () => (await server.call("GET", path)).body.spec.template.spec.containers[0];
    await round(service(undefined, [{ name: "EXTRA", value: "1" }]));
    const drifted = { spec: { replicas: 7 } };
    await server.call("PATCH", path, { body: drifted, contentType: "application/merge-patch+json" });
    expect((await round(service(undefined, [{ name: "EXTRA", value: "1" }]))).apply.map(({ object }) => object.metadata.name)).toEqual([
      "drift-decode",
    ]);
    expect((await server.call("GET", path)).body.spec.replicas).toBe(1);
    await round(service("example.com/pelagic:2", [{ name: "EXTRA", value: "1" }]));
    expect((await container()).image).toBe("example.com/pelagic:2");
    await round(service("example.com/pelagic:2"));
    expect((await container()).env.map((each: { name: string }) => each.name)).not.toContain("EXTRA");
    expect((await round(service("example.com/pelagic:2"))).apply).toEqual([]);
  });

  it("hands replicas over to an external autoscaler without a moment at 1, and takes them back", async () => {
    const pools = { prefill: { replicas: 3 }, decode: { replicas: 3 } };
    const metadata = { name: "handover", uid: "uid-handover" };
    const own = modelService({ pools }, metadata);
    const autoscaling = { policy: "external" as const, prefill: { maxReplicas: 9 }, decode: { maxReplicas: 9 } };
    const external = modelService({ pools, autoscaling }, metadata);
    const path = `${pathOf({ apiVersion: "apps/v1", kind: "Deployment" })}/handover-decode`;
    const replicas = async () => (await server.call("GET", path)).body.spec.replicas;
    await round(own);
    const planned = plan(external, await observe(), config, 0);
    for (const { object, fieldManager } of planned.apply) {
      await server.apply(`${pathOf(object)}/${object.metadata.name}`, object, fieldManager);
      expect(await replicas()).toBe(3);
    }
    await server.call("PATCH", `${path}/scale`, { body: { spec: { replicas: 5 } }, contentType: "application/merge-patch+json" });
    expect((await round(external)).apply).toEqual([]);
    await round(modelService({ pools, autoscaling, image: "example.com/pelagic:3" }, metadata));
    expect(await replicas()).toBe(5);
    await round(own);
    expect(await replicas()).toBe(3);
  });

  it("scales to zero for a deletion, and touches nothing else", async () => {
    const service = modelService({}, { name: "leaving", uid: "uid-leaving", finalizers: [finalizer] });
    await round(service);
    const deleted = modelService({}, { ...service.metadata, deletionTimestamp: new Date(0).toISOString() });
    const path = pathOf({ apiVersion: "apps/v1", kind: "Deployment" });
    const template = async () => (await server.call("GET", `${path}/leaving-decode`)).body.spec.template;
    const before = await template();
    expect((await round(deleted)).apply.map(({ object }) => object.metadata.name)).toEqual(["leaving-decode"]);
    expect((await round(deleted)).apply.map(({ object }) => object.metadata.name)).toEqual(["leaving-prefill"]);
    expect(await template()).toEqual(before);
    const last = await round(deleted);
    expect([last.finalizer, last.apply]).toEqual(["remove", []]);
  });
});
