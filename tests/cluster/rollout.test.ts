// The planner with Kubernetes' own controllers: a ModelService is made, changed and deleted, with a loop for the operator and another for the
// kubelet, which here only says that pods are ready and ends those that were told to stop, some rounds later.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { ModelService } from "../../operators/api/model-service.ts";
import type { ConditionType } from "../../operators/api/status.ts";
import type { Pod } from "../../operators/planner/kubernetes.ts";
import { finalizer, poolLabel } from "../../operators/planner/names.ts";
import { plan } from "../../operators/planner/plan.ts";
import type { Plan } from "../../operators/planner/planned.ts";
import { config } from "../../operators/planner/testing/model-services.ts";
import { inTree } from "../../services/cli/tree.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";

const missing = apiServerMissing(true);
const services = "/apis/pelagic.dev/v1alpha1/namespaces/default/modelservices";
const paths = {
  Deployment: "/apis/apps/v1/namespaces/default/deployments",
  PodDisruptionBudget: "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
  pods: "/api/v1/namespaces/default/pods",
};
const mergePatch = "application/merge-patch+json";
/** So many rounds of the loops pass before a pod that was told to stop is gone. */
const drainRounds = 3;

let server: TestApiServer;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer({
    controllers: ["deployment-controller", "replicaset-controller", "garbage-collector-controller", "disruption-controller"],
  });
  const crd = parse(readFileSync(inTree("charts", "pelagic", "crds", "pelagic.dev_modelservices.yaml"), "utf8"));
  await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", { body: crd });
  await server.call("POST", "/api/v1/nodes", { body: { metadata: { name: "node" } } });
  await server.until("the ModelService API", async () => ((await server.call("GET", services)).status === 200 ? true : undefined));
});
afterAll(async () => server?.stop());

async function list<T>(path: string): Promise<T[]> {
  return (await server.call("GET", path)).body.items;
}

async function service(): Promise<ModelService | undefined> {
  const answer = await server.call("GET", `${services}/ms`);
  return answer.status === 404 ? undefined : ModelService.parse(answer.body);
}

/** One round of an operator that does everything that the plan says. */
async function operate(): Promise<Plan | undefined> {
  const current = await service();
  if (current === undefined) return undefined;
  const observed = {
    deployments: await list<never>(paths.Deployment),
    statefulSets: [],
    leaderWorkerSets: [],
    expertPlacements: [],
    podDisruptionBudgets: await list<never>(paths.PodDisruptionBudget),
    pods: await list<Pod>(paths.pods),
    leaderWorkerSetApi: false,
  };
  const planned = plan(current, observed, config, Date.now());
  const finalizers = (names: string[]) =>
    server.call("PATCH", `${services}/ms`, { body: { metadata: { finalizers: names } }, contentType: mergePatch });
  if (planned.finalizer === "add") await finalizers([...current.metadata.finalizers, finalizer]);
  for (const { object, fieldManager } of planned.apply) {
    const answer = await server.apply(`${paths[object.kind as "Deployment"]}/${object.metadata.name}`, object, fieldManager);
    expect(answer.body.message).toBeUndefined();
  }
  expect(planned.prune).toEqual([]);
  if (planned.status) await server.call("PATCH", `${services}/ms/status`, { body: { status: planned.status }, contentType: mergePatch });
  if (planned.finalizer === "remove") await finalizers(current.metadata.finalizers.filter((name) => name !== finalizer));
  return planned;
}

interface NodePod extends Pod {
  spec: { nodeName?: string; containers: { image: string }[] };
}

const stopping = new Map<string, number>();

/** One round of a kubelet: at most one pod gets ready, so that the order can be seen. */
async function kubelet(): Promise<NodePod[]> {
  const pods = await list<NodePod>(paths.pods);
  for (const pod of pods) {
    const path = `${paths.pods}/${pod.metadata.name}`;
    const uid = pod.metadata.uid as string;
    if (pod.spec.nodeName === undefined)
      await server.call("POST", `${path}/binding`, {
        body: { metadata: { name: pod.metadata.name }, target: { kind: "Node", name: "node" } },
      });
    if (pod.metadata.deletionTimestamp === undefined) continue;
    const rounds = (stopping.get(uid) ?? 0) + 1;
    stopping.set(uid, rounds);
    if (rounds > drainRounds) await server.call("DELETE", `${path}?gracePeriodSeconds=0`);
  }
  const next = pods.find((pod) => pod.spec.nodeName !== undefined && !isReady(pod) && pod.metadata.deletionTimestamp === undefined);
  if (next !== undefined) {
    const conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map((type) => ({ type, status: "True" }));
    await server.call("PATCH", `${paths.pods}/${next.metadata.name}/status`, {
      body: { status: { phase: "Running", conditions } },
      contentType: mergePatch,
    });
  }
  return pods;
}

function isReady(pod: Pod): boolean {
  return pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
}

function inPool(pods: NodePod[], pool: string): NodePod[] {
  return pods.filter(({ metadata }) => metadata.labels?.[poolLabel] === pool);
}

function serving(pods: NodePod[]): NodePod[] {
  return pods.filter((pod) => isReady(pod) && pod.metadata.deletionTimestamp === undefined);
}

function holds(current: ModelService | undefined, type: ConditionType, status: string): boolean {
  const condition = current?.status?.conditions?.find((each) => each.type === type);
  return condition?.status === status && condition.observedGeneration === current?.metadata.generation;
}

/** Both loops, with `look` at the pods of each round, until the ModelService is as `done` says. */
async function loops(what: string, done: (current: ModelService | undefined) => boolean, look: (pods: NodePod[]) => void = () => {}) {
  return server.until(what, async () => {
    await operate();
    look(await kubelet());
    const current = await service();
    return done(current) ? { current } : undefined;
  });
}

const settled = (current: ModelService | undefined) => holds(current, "Ready", "True") && holds(current, "Progressing", "False");

describe.skipIf(missing !== undefined)(`a ModelService under real controllers${missing === undefined ? "" : ` (${missing})`}`, () => {
  it("becomes ready, and then costs no write", async () => {
    const object = {
      apiVersion: "pelagic.dev/v1alpha1",
      kind: "ModelService",
      metadata: { name: "ms" },
      spec: { model: { embedded: {} }, pools: { prefill: { replicas: 2 }, decode: { replicas: 3 } } },
    };
    expect((await server.call("POST", services, { body: object })).body.message).toBeUndefined();
    const { current } = await loops("ready", settled);
    expect(current?.status?.pools?.decode?.workers).toBe("3/3");
    for (let i = 0; i < 3; i++)
      expect(await operate()).toEqual({
        finalizer: "keep",
        apply: [],
        prune: [],
        status: undefined,
        events: [],
        requeueAfterMs: undefined,
      });
  });

  it("is changed with as many workers ready at every moment as it wants", async () => {
    const change = { spec: { image: "example.com/pelagic:2" } };
    await server.call("PATCH", `${services}/ms`, { body: change, contentType: mergePatch });
    const least = { prefill: 99, decode: 99 };
    let most = 0;
    await loops("changed", settled, (pods) => {
      for (const pool of ["prefill", "decode"] as const) least[pool] = Math.min(least[pool], serving(inPool(pods, pool)).length);
      most = Math.max(most, inPool(pods, "decode").filter(({ metadata }) => metadata.deletionTimestamp === undefined).length);
    });
    expect(least).toEqual({ prefill: 2, decode: 3 });
    expect(most).toBe(4);
    const pods = await list<NodePod>(paths.pods);
    expect(pods.map(({ spec }) => spec.containers[0]?.image)).toEqual(Array(5).fill("example.com/pelagic:2"));
  });

  it("may lose one worker at a time to a node's maintenance", async () => {
    const evict = async ({ metadata: { name, namespace } }: NodePod) =>
      (
        await server.call("POST", `${paths.pods}/${name}/eviction`, {
          body: { apiVersion: "policy/v1", kind: "Eviction", metadata: { name, namespace } },
        })
      ).status;
    const decode = inPool(await list<NodePod>(paths.pods), "decode");
    const allowed = async () =>
      (await server.call("GET", `${paths.PodDisruptionBudget}/ms-decode`)).body.status?.disruptionsAllowed === 1 ? true : undefined;
    await server.until("the budget", allowed);
    expect(await evict(decode[0] as NodePod)).toBe(201);
    expect(await evict(decode[1] as NodePod)).toBe(429);
    await loops("whole again", settled);
  });

  it("drains decode before prefill when it is deleted, and leaves nothing", async () => {
    await server.call("DELETE", `${services}/ms`);
    const order: string[] = [];
    await loops(
      "gone",
      (current) => current === undefined,
      (pods) => {
        const decode = inPool(pods, "decode").length;
        const prefill = serving(inPool(pods, "prefill")).length;
        order.push(`${decode > 0 ? "decode" : "-"} ${prefill > 0 ? "prefill" : "-"}`);
        if (decode > 0) expect(prefill).toBe(2);
      },
    );
    expect(order).toContain("decode prefill");
    await server.until("an empty namespace", async () => {
      const left = await Promise.all([paths.Deployment, paths.PodDisruptionBudget, paths.pods].map((path) => list<Pod>(path)));
      return left.flat().length === 0 ? true : undefined;
    });
  });
});
