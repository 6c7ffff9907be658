// Two operator processes: who leads, who takes over and how soon, and that nobody writes who does not lead.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { leaseName } from "../../operators/kube/rights.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, deploymentsPath, gone, installCrds, objectWhere, servicesPath } from "./service-objects.ts";

const missing = apiServerMissing();
const failoverMs = 20_000;
let server: TestApiServer;

interface Replica {
  operator: OperatorProcess;
  /** Of its own: what it asks is known, and when. */
  proxy: FaultProxy;
}
let replicas: [Replica, Replica];

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
});
afterAll(async () => server?.stop());

async function startReplica(): Promise<Replica> {
  const proxy = await startFaultProxy(server);
  return { proxy, operator: await startOperator(proxy.kubeconfig, ["--watch-inactivity-ms", "5000"]) };
}

beforeEach(async () => {
  if (missing !== undefined) return;
  const first = await startReplica();
  await server.until("a leader", async () => ((await first.operator.leads()) ? true : undefined));
  replicas = [first, await startReplica()];
  await server.until("a follower", async () => ((await replicas[1].operator.get("/ready")).status === 200 ? true : undefined));
});
afterEach(async () => {
  for (const { operator, proxy } of replicas ?? []) {
    await operator.end("SIGKILL");
    await proxy.stop();
  }
});

async function leadsWithin(replica: Replica, boundMs: number): Promise<number> {
  const begunMs = performance.now();
  await server.until("the other one to lead", async () => ((await replica.operator.leads()) ? true : undefined));
  const tookMs = performance.now() - begunMs;
  expect(tookMs).toBeLessThan(boundMs);
  return tookMs;
}

const writes = ({ proxy }: Replica) => proxy.seen.filter(({ method, lease }) => method !== "GET" && !lease);
const madeBy = async (name: string) => {
  await applyService(server, name);
  await objectWhere(server, `${deploymentsPath}/${name}-decode`, () => true);
};

describe.skipIf(missing !== undefined)(`two operators${missing ? ` (${missing})` : ""}`, () => {
  it("one works, and the other one goes on soon after its death", async () => {
    const [leader, follower] = replicas;
    await madeBy("before");
    expect(writes(follower)).toEqual([]);
    await leader.operator.end("SIGKILL");
    await applyService(server, "after");
    const tookMs = await leadsWithin(follower, failoverMs);
    await objectWhere(server, `${deploymentsPath}/after-decode`, () => true);
    console.log(`killed: the next one led after ${(tookMs / 1000).toFixed(1)} s`);
  });

  it("hands over at once on SIGTERM", async () => {
    const [leader, follower] = replicas;
    expect(await leader.operator.end()).toBe(0);
    const tookMs = await leadsWithin(follower, 5_000);
    await madeBy("handed");
    console.log(`ended: the next one led after ${(tookMs / 1000).toFixed(1)} s`);
  });

  it("one goes on leading where helm upgrade --force writes the Lease without its holder", async () => {
    const [leader, follower] = replicas;
    const path = `/apis/coordination.k8s.io/v1/namespaces/default/leases/${leaseName}`;
    const holder = async () => (await server.call("GET", path)).body.spec?.holderIdentity;
    const before = await holder();
    expect(before).toBeTruthy();
    for (let times = 0; times < 5; times++) {
      await server.until("it to be wiped", async () => {
        const { apiVersion, kind, metadata } = (await server.call("GET", path)).body;
        const { name, namespace, resourceVersion } = metadata;
        const { status } = await server.call("PUT", path, { body: { apiVersion, kind, metadata: { name, namespace, resourceVersion } } });
        return status === 200 ? true : undefined;
      });
      const after = await server.until("a holder", async () => (await holder()) || undefined);
      expect([after, await leader.operator.leads(), await follower.operator.leads()]).toEqual([before, true, false]);
    }
    expect(writes(follower)).toEqual([]);
  });

  it("a leader that stood still writes nothing when it wakes", async () => {
    const [former, next] = replicas;
    await madeBy("still");
    former.operator.child.kill("SIGSTOP");
    await leadsWithin(next, failoverMs);
    // Work that the former sees as soon as it wakes.
    await applyService(server, "still", { pools: { decode: { replicas: 5 } } });
    await objectWhere(server, `${deploymentsPath}/still-decode`, ({ spec }) => spec.replicas === 5);
    const before = writes(former).length;
    former.operator.child.kill("SIGCONT");
    await server.until("the former to see who leads", async () =>
      (JSON.parse((await former.operator.get("/leader")).text).holder ?? "") !== "" && !(await former.operator.leads()) ? true : undefined,
    );
    await madeBy("still-next");
    await server.call("DELETE", `${servicesPath}/still`);
    await gone(server, `${servicesPath}/still`);
    expect(writes(former).length).toBe(before);
    expect(await next.operator.leads()).toBe(true);
  });

  it("a leader that is cut off stops before another one begins", async () => {
    const [former, next] = replicas;
    await madeBy("cut-off");
    const leading: [number, boolean, boolean][] = [];
    let watching = true;
    const watch = (async () => {
      while (watching) {
        const [a, b] = await Promise.all([former.operator.leads(), next.operator.leads()]);
        leading.push([performance.now(), a, b]);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    })();
    former.proxy.fault(({ lease }) => (lease ? "hang" : undefined));
    await leadsWithin(next, failoverMs);
    await applyService(server, "cut-off", { pools: { decode: { replicas: 6 } } });
    await objectWhere(server, `${deploymentsPath}/cut-off-decode`, ({ spec }) => spec.replicas === 6);
    watching = false;
    await watch;
    expect(leading.filter(([, a, b]) => a && b)).toEqual([]);
    // Its watches still worked: it saw the change, and left it to the other one.
    const began = leading.find(([, , b]) => b)?.[0] as number;
    expect(writes(former).filter(({ atMs }) => atMs > began)).toEqual([]);
    former.proxy.fault();
  });
});
