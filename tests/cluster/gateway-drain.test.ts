// The chart's gateway on its way out: a node's drain is not held up by one that is not ready, and a stop has the time that it is promised.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { helmMissing, type Manifest, manifests, template } from "./helm.ts";

const missing = apiServerMissing(true) ?? helmMissing();
const pods = "/api/v1/namespaces/default/pods";
const paths: Record<string, string> = {
  PodDisruptionBudget: "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
  Deployment: "/apis/apps/v1/namespaces/default/deployments",
};
let server: TestApiServer;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer({ controllers: ["deployment-controller", "replicaset-controller", "disruption-controller"] });
});
afterAll(async () => server?.stop());

async function gatewayObjects(values: object = {}): Promise<Manifest[]> {
  const all = manifests(await template(values, "pelagic", "default"));
  return all.filter(({ kind, metadata }) => metadata.name === "pelagic-gateway" && paths[kind] !== undefined);
}

describe.skipIf(missing !== undefined)(`a gateway that is stopped${missing === undefined ? "" : ` (${missing})`}`, () => {
  it("may be evicted while it is not ready, which it may be for long without the bus", async () => {
    for (const object of await gatewayObjects())
      expect((await server.call("POST", paths[object.kind] as string, { body: object })).status).toBe(201);
    const { name } = (await server.until("its pod", async () => (await server.call("GET", pods)).body.items[0])).metadata;
    // As its scheduler and its kubelet would say.
    const target = { kind: "Node", name: "node" };
    await server.call("POST", `${pods}/${name}/binding`, { body: { metadata: { name }, target } });
    const status = { phase: "Running", conditions: [{ type: "Ready", status: "False" }] };
    await server.call("PATCH", `${pods}/${name}/status`, { body: { status }, contentType: "application/merge-patch+json" });
    await server.until("its budget to be counted", async () =>
      (await server.call("GET", `${paths.PodDisruptionBudget}/pelagic-gateway`)).body.status?.expectedPods === 1 ? true : undefined,
    );
    const evicted = await server.call("POST", `${pods}/${name}/eviction`, { body: { metadata: { name } } });
    expect([evicted.status, evicted.body.message]).toEqual([201, undefined]);
  });

  it.each([1, 30, 3600])("has %d s for its requests besides the wait before, and is not killed in them", async (drainSeconds) => {
    const deployment = (await gatewayObjects({ "gateway.drainSeconds": drainSeconds })).find(({ kind }) => kind === "Deployment");
    const { containers, terminationGracePeriodSeconds } = deployment.spec.template.spec;
    const [{ env, lifecycle }] = containers;
    const ms = (name: string) => Number(env.find((each: { name: string }) => each.name === name).value);
    expect(ms("PELAGIC_DRAIN_MS") - ms("PELAGIC_LINGER_MS")).toBeGreaterThanOrEqual(drainSeconds * 1000);
    expect(terminationGracePeriodSeconds - lifecycle.preStop.sleep.seconds).toBeGreaterThan(ms("PELAGIC_DRAIN_MS") / 1000);
  });
});
