// The operator behind a proxy that misbehaves: it converges each time, and asks no more than it should meanwhile.
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { type Fault, type FaultProxy, type SeenRequest, startFaultProxy } from "./fault-proxy.ts";
import { leaderWorkerSetCrd } from "./leader-worker-set-crd.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, condition, deploymentsPath, gone, installCrds, objectWhere, servicesPath } from "./service-objects.ts";

const missing = apiServerMissing();
let server: TestApiServer;
let proxy: FaultProxy;
let operator: OperatorProcess;
const inactivityMs = 3000;
/** As long as a leader may go without a renewal. */
const faultMs = 7000;
/** Nine watches, the queue, events: each alone asks about six times in seven seconds, twice as long between each time. */
const mostCalls = 60;
/** ModelServices, Deployments, StatefulSets, ExpertPlacements, budgets, pods, gateways' pods, definitions, Leases. */
const informers = 9;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  proxy = await startFaultProxy(server);
  operator = await startOperator(proxy.kubeconfig, ["--watch-inactivity-ms", String(inactivityMs)]);
  await server.until("a leader", async () => ((await operator.leads()) ? true : undefined));
});
afterEach(() => proxy?.fault());
afterAll(async () => {
  await operator?.end();
  await proxy?.stop();
  await server?.stop();
});

const work = (from: number) => proxy.seen.slice(from).filter(({ lease }) => !lease);
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A ModelService is made and another one changed while the fault lasts; both must be as wanted in the end. */
async function through(name: string, begin: () => void, end: () => void): Promise<SeenRequest[]> {
  // After the fault before, some may be waiting yet.
  await server.until("all watches", async () => (proxy.watching() === informers ? true : undefined));
  await applyService(server, `${name}-old`);
  await objectWhere(server, `${servicesPath}/${name}-old`, (each) => condition(each, "Ready") !== undefined);
  const from = proxy.seen.length;
  begin();
  await applyService(server, `${name}-new`);
  await applyService(server, `${name}-old`, { pools: { decode: { replicas: 4 } } });
  await sleep(faultMs);
  const during = work(from);
  end();
  for (const each of ["old", "new"]) {
    const generation = each === "old" ? 2 : 1;
    await objectWhere(server, `${deploymentsPath}/${name}-${each}-decode`, ({ spec }) => spec.replicas === (each === "old" ? 4 : 1));
    await objectWhere(server, `${servicesPath}/${name}-${each}`, ({ status }) => status?.observedGeneration === generation);
    await server.call("DELETE", `${servicesPath}/${name}-${each}`);
    await gone(server, `${servicesPath}/${name}-${each}`);
  }
  console.log(`${name}: ${during.length} calls in ${faultMs} ms, ${during.filter(({ watch }) => watch).length} of them watches`);
  return during;
}

const tooMany = { status: 429, retryAfterSeconds: 2 };
const everything: Record<string, Fault> = {
  drop: "drop",
  hang: "hang",
  delay: { delayMs: 1500 },
  "answer-410": { status: 410 },
  "answer-429": tooMany,
  "answer-500": { status: 500 },
};

describe.skipIf(missing !== undefined)(`the operator behind a bad network${missing ? ` (${missing})` : ""}`, () => {
  for (const [name, fault] of Object.entries(everything)) {
    it(`converges after the API server was of no use for a while: ${name}`, async () => {
      const during = await through(
        name,
        () => {
          proxy.watches("cut");
          proxy.fault(() => fault);
        },
        () => proxy.fault(),
      );
      expect(during.length).toBeLessThan(mostCalls);
    });
  }

  it("waits as long as an overloaded API server asks it to", async () => {
    const from = proxy.seen.length;
    proxy.watches("cut");
    // It may go on leading meanwhile.
    proxy.fault(({ lease }) => (lease ? undefined : tooMany));
    const timesByAsker = () => {
      const askers = new Map<string, number[]>();
      for (const { path, atMs } of work(from).filter(({ path }) => path.includes("/pods?"))) {
        // Workers' pods, and gateways'.
        const asker = new URL(path, "https://server").searchParams.get("labelSelector") ?? "";
        askers.set(asker, [...(askers.get(asker) ?? []), atMs]);
      }
      return [...askers.values()];
    };
    const asked = await server.until("both to have asked again", async () => {
      const times = timesByAsker();
      return times.length === 2 && times.every(({ length }) => length > 1) ? times : undefined;
    });
    for (const times of asked) for (const [i, atMs] of times.entries()) expect(atMs - (times[i - 1] ?? 0)).toBeGreaterThan(1990);
  });

  it("does not wait for a watch that hangs for ever", async () => {
    // Nothing ends the fault: the watches that are frozen stay so.
    const during = await through(
      "frozen",
      () => proxy.watches("freeze"),
      () => undefined,
    );
    expect(during.length).toBeLessThan(mostCalls);
    expect(await operator.metric("pelagic_operator_informer_ends_total", { why: "silent" })).toBeGreaterThan(0);
  });

  it("goes on where its watches are cut again and again", async () => {
    let timer: NodeJS.Timeout | undefined;
    const during = await through(
      "cut",
      () => {
        timer = setInterval(() => proxy.watches("cut"), 200);
      },
      () => clearInterval(timer),
    );
    expect(during.length).toBeLessThan(2 * mostCalls);
  });

  it("lists anew where each watch is answered 410, and less and less often", async () => {
    const during = await through(
      "expired",
      () => {
        proxy.watches("expire");
        proxy.fault(({ watch }) => (watch ? { status: 410 } : undefined));
      },
      () => proxy.fault(),
    );
    expect(during.length).toBeLessThan(2 * mostCalls);
    expect(await operator.metric("pelagic_operator_informer_ends_total", { why: "gone" })).toBeGreaterThan(0);
  });

  it("goes on with what needs no LeaderWorkerSets where these are known and cannot be listed", async () => {
    const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    const crd = leaderWorkerSetCrd();
    proxy.fault(({ path }) => (path.includes("/leaderworkersets") ? { status: 500 } : undefined));
    const before = await operator.metric("pelagic_operator_informer_ends_total", { resource: "leaderworkersets" });
    await server.call("POST", crds, { body: crd });
    await server.until("the first try", async () =>
      (await operator.metric("pelagic_operator_informer_ends_total", { resource: "leaderworkersets" })) > before ? true : undefined,
    );
    await applyService(server, "narrow");
    await applyService(server, "wide", { pools: { decode: { nodesPerReplica: 2 } } });
    await objectWhere(server, `${deploymentsPath}/narrow-decode`, () => true);
    const wide = await objectWhere(server, `${servicesPath}/wide`, (each) => condition(each, "Accepted")?.status === "False");
    expect(condition(wide, "Accepted")).toMatchObject({
      reason: "LeaderWorkerSetMissing",
      message: expect.stringContaining("cannot be listed"),
    });
    proxy.fault();
    await objectWhere(server, `${servicesPath}/wide`, (each) => condition(each, "Accepted")?.status === "True");
    for (const name of ["narrow", "wide"]) {
      await server.call("DELETE", `${servicesPath}/${name}`);
      await gone(server, `${servicesPath}/${name}`);
    }
    await server.call("DELETE", `${crds}/${crd.metadata.name}`);
  });

  it("tries writes that fail again, less and less often, each object for itself", async () => {
    const during = await through(
      "unwritable",
      () => proxy.fault(({ method, path }) => (method === "PATCH" && path.includes("/deployments/") ? { status: 500 } : undefined)),
      () => proxy.fault(),
    );
    const tries = during.filter(({ method, path }) => method === "PATCH" && path.includes("/deployments/"));
    expect(tries.length).toBeGreaterThanOrEqual(4);
    expect(tries.length).toBeLessThanOrEqual(12);
    expect(await operator.metric("pelagic_operator_queue_failing")).toBe(0);
  });

  it("says that it is not ready while it hears nothing, and is again afterwards", async () => {
    proxy.watches("freeze");
    proxy.fault(() => "hang");
    const { reason } = await server.until("not ready", async () => {
      const { status, text } = await operator.get("/ready");
      return status === 503 ? (JSON.parse(text) as { reason: string }) : undefined;
    });
    // Those that it names, and each of them for so long.
    const silent = [...reason.matchAll(/(\w+) for \d+ s/g)].map(([, resource]) => resource as string);
    expect([reason.startsWith("the API server says nothing about "), silent.length > 0]).toEqual([true, true]);
    for (const resource of silent)
      expect(await operator.metric("pelagic_operator_informer_silent_seconds", { resource })).toBeGreaterThan(2 * (inactivityMs / 1000));
    expect((await operator.get("/health")).status).toBe(200);
    proxy.fault();
    await server.until("ready", async () => ((await operator.get("/ready")).status === 200 ? true : undefined));
  });
});
