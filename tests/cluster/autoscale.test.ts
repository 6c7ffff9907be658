// The operator process as it scales: against a real API server, and HTTP servers that say what gateways and workers would.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { poolLabel, serviceLabel } from "../../operators/planner/names.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { CountedModel, type Endpoint, idle, type Load, makePod, startEndpoint } from "./metrics-endpoints.ts";
import { operatorAccount } from "./operator-account.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, condition, deploymentsPath, installCrds, objectWhere, servicesPath } from "./service-objects.ts";

const missing = apiServerMissing();
const pools = ["prefill", "decode"] as const;
let server: TestApiServer;
let operator: OperatorProcess;
let kubeconfig: string;
const models: CountedModel[] = [];
const endpoints = new Map<string, Endpoint>();
const gatewayText = () => models.map((model) => model.gateway()).join("\n");

async function endpoint(name: string, text: () => string): Promise<Endpoint> {
  const started = await startEndpoint(text, endpoints.get(name)?.port);
  endpoints.set(name, started);
  return started;
}

const start = () => startOperator(kubeconfig, ["--scrape-ms", "250"]);

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  kubeconfig = await operatorAccount(server);
  operator = await start();
  const labels = { "app.kubernetes.io/name": "pelagic", "app.kubernetes.io/component": "gateway" };
  await makePod(server, "gateway-0", labels, await endpoint("gateway-0", gatewayText));
});
afterAll(async () => {
  await operator?.end();
  for (const each of endpoints.values()) await each.stop();
  await server?.stop();
});

const slo = { ttftSeconds: 2, tpotSeconds: 0.05 };
/** What three replicas of either pool are needed for: a prefill replica is planned to 750 tokens a second, one of decode to 661. */
const burst = { requestsPerSecond: 12, promptTokens: 200, answerTokens: 175 };

const podLabels = (name: string, pool: string) => ({ [serviceLabel]: name, [poolLabel]: pool });

/**
 * A ModelService with a ready worker in each pool. The workers and the load are there first: a rate is a mean since the first look, and on a busy
 * machine as much idle time before them as their making takes would count for minutes.
 */
async function served(name: string, autoscaling: object, load: Partial<Load> = burst): Promise<CountedModel> {
  const model = new CountedModel(name);
  model.set(load);
  models.push(model);
  const range = { minReplicas: 1, maxReplicas: 3 };
  for (const pool of pools)
    await makePod(server, `${name}-${pool}-0`, podLabels(name, pool), await endpoint(`${name}-${pool}-0`, () => model[pool]()));
  await applyService(server, name, { slo, autoscaling: { prefill: range, decode: range, stabilizationSeconds: 0, ...autoscaling } });
  for (const pool of pools) await objectWhere(server, `${deploymentsPath}/${name}-${pool}`, () => true);
  return model;
}

/** Until both pools are wanted at so many. */
async function scaledTo(name: string, replicas: number): Promise<void> {
  for (const pool of pools) await objectWhere(server, `${deploymentsPath}/${name}-${pool}`, ({ spec }) => spec.replicas === replicas);
}

// biome-ignore lint/suspicious/noExplicitAny: any object's fields
const serviceWhere = (name: string, holds: (object: any) => boolean) => objectWhere(server, `${servicesPath}/${name}`, holds);

async function notes(name: string): Promise<string[]> {
  const { body } = await server.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events");
  return body.items
    .filter((event: { regarding: { name: string } }) => event.regarding.name === name)
    .map(({ note }: { note: string }) => note);
}

/** For as long as the operator looks so often at whatever it looks at. */
async function looks(times: number): Promise<void> {
  const sum = () => operator.metric("pelagic_operator_scrapes_total");
  const until = (await sum()) + times * endpoints.size;
  await server.until("more scrapes", async () => ((await sum()) >= until ? true : undefined));
}

const desired = (modelservice: string, pool: string) => operator.metric("pelagic_operator_desired_replicas", { modelservice, pool });

describe.skipIf(missing !== undefined)(`the operator scales${missing ? ` (${missing})` : ""}`, () => {
  it("both pools up with the load and down after it, and says why in status, events and the metric", async () => {
    const model = await served("busy", { policy: "slo" });
    await scaledTo("busy", 3);
    // Where a look comes to nothing on a busy machine, other words stand there until the next one.
    const { status } = await serviceWhere(
      "busy",
      ({ status }) =>
        /prompt tokens\/s arrive .* a replica computes 1,000 a second/.test(status?.pools?.prefill?.reason) &&
        /output tokens\/s are asked for/.test(status.pools.decode.reason),
    );
    expect([status.pools.prefill.desired, status.pools.decode.desired]).toEqual([3, 3]);
    expect(condition({ status }, "Autoscaled")).toMatchObject({ status: "True", reason: "Decided" });
    for (const pool of pools) {
      expect(await desired("busy", pool)).toBe(3);
      await server.until("an event", async () =>
        // Over two where a look fell into the beginning of the load.
        (await notes("busy")).some((note) => new RegExp(`^${pool}: [12] to 3 workers, as `).test(note)) ? true : undefined,
      );
    }
    model.set(idle);
    await scaledTo("busy", 1);
    await server.until("an event", async () =>
      (await notes("busy")).some((note) => /^decode: [23] to 1 workers, as /.test(note)) ? true : undefined,
    );
  });

  it("nothing down where figures are missing, and says which", async () => {
    const model = await served("unheard", { policy: "slo" });
    await scaledTo("unheard", 3);
    await endpoints.get("unheard-decode-0")?.stop();
    model.set(idle);
    await looks(12);
    await scaledTo("unheard", 3);
    await endpoint("unheard-decode-0", () => model.decode());
    model.set(burst);
    await endpoints.get("gateway-0")?.stop();
    // A look that was under way when it stopped says ECONNRESET.
    const blind = await serviceWhere("unheard", (each) => condition(each, "Autoscaled")?.message.includes("gateway-0: ECONNREFUSED"));
    expect(condition(blind, "Autoscaled")).toMatchObject({ status: "False", reason: "NoFigures" });
    await looks(12);
    await scaledTo("unheard", 3);
    model.set(idle);
    await endpoint("gateway-0", gatewayText);
    await scaledTo("unheard", 1);
  });

  it("as before when another one leads: the numbers stay, and the words until there are new ones", async () => {
    const model = await served("handed", { policy: "slo", stabilizationSeconds: 3600 });
    await scaledTo("handed", 3);
    const { status } = await serviceWhere(
      "handed",
      (each) => each.status?.pools?.prefill?.desired === 3 && each.status.pools.decode.desired === 3,
    );
    const generations = () =>
      Promise.all(pools.map(async (pool) => (await server.call("GET", `${deploymentsPath}/handed-${pool}`)).body.metadata.generation));
    const before = await generations();
    await endpoints.get("gateway-0")?.stop();
    await operator.end("SIGKILL");
    // Without figures it knows nothing but what is there.
    operator = await start();
    await serviceWhere("handed", (each) => condition(each, "Autoscaled")?.reason === "NoFigures");
    await endpoint("gateway-0", gatewayText);
    model.set(idle);
    await serviceWhere("handed", (each) => condition(each, "Autoscaled")?.reason === "Decided");
    await looks(8);
    expect(await generations()).toEqual(before);
    await operator.end("SIGKILL");
    operator = await start();
    const kept = await serviceWhere("handed", (each) => each.status.pools.prefill.desired === 3);
    expect(kept.status.pools.decode.desired).toBe(status.pools.decode.desired);
    await looks(8);
    expect(await generations()).toEqual(before);
    expect(await desired("handed", "decode")).toBe(3);
  });

  it("not beyond what finds a node: pods that wait too long are cancelled", async () => {
    await served("crowded", { policy: "slo" });
    await scaledTo("crowded", 3);
    for (const pool of pools)
      for (const i of [1, 2]) await makePod(server, `crowded-${pool}-${i}`, podLabels("crowded", pool), "unschedulable");
    await scaledTo("crowded", 1);
    const { status } = await serviceWhere("crowded", (each) => each.status.pools.decode.reason?.includes("only 1 found a node"));
    expect(status.pools.decode.desired).toBe(1);
  });

  it("by a metric alone with policy external, and leaves replicas to whoever reads it", async () => {
    await served("external", { policy: "external" });
    const path = `${deploymentsPath}/external-decode`;
    await server.until("the metric", async () => ((await desired("external", "decode")) === 3 ? true : undefined));
    const { status } = await serviceWhere("external", (each) => each.status?.pools?.decode?.recommended === 3);
    expect(status.pools.decode).toMatchObject({ desired: 1, reason: expect.stringContaining("an external autoscaler is told 3: ") });
    expect(condition({ status }, "Autoscaled")).toMatchObject({ status: "True", reason: "Recommended" });
    expect((await server.call("GET", path)).body.spec.replicas).toBe(1);
    const scaled = await server.call("PUT", `${path}/scale`, {
      body: {
        apiVersion: "autoscaling/v1",
        kind: "Scale",
        metadata: { name: "external-decode", namespace: "default" },
        spec: { replicas: 2 },
      },
    });
    expect(scaled.status).toBe(200);
    await serviceWhere("external", (each) => each.status.pools.decode.desired === 2);
    await looks(4);
    expect((await server.call("GET", path)).body.spec.replicas).toBe(2);
    await server.until("an event", async () =>
      (await notes("external")).some((note) => /^decode: an external autoscaler is told 3: /.test(note)) ? true : undefined,
    );
  });

  it("not at all without SLOs with policy external, which is said", async () => {
    await applyService(server, "no-slo", { autoscaling: { policy: "external", prefill: { maxReplicas: 2 }, decode: { maxReplicas: 2 } } });
    const object = await serviceWhere("no-slo", (each) => condition(each, "Autoscaled")?.reason === "NoSlo");
    expect(condition(object, "Autoscaled").message).toContain("spec.slo (ttftSeconds, tpotSeconds)");
    expect(await operator.metric("pelagic_operator_desired_replicas", { modelservice: "no-slo" })).toBe(0);
  });

  it("to zero after so long without a request, and back for one that waits", async () => {
    const model = await served("sleepy", { policy: "slo", scaleToZeroAfterSeconds: 60 }, idle);
    // A minute, and as much again for each look that a busy machine has failed.
    await scaledTo("sleepy", 0);
    const asleep = await serviceWhere("sleepy", (each) => condition(each, "DecodeReady")?.reason === "ScaledToZero");
    expect(asleep.status.pools.prefill).toMatchObject({ desired: 0, reason: expect.stringContaining("scaleToZeroAfterSeconds (60)") });
    // Gateways are told that requests for it may wait.
    expect(JSON.parse((await operator.get("/models")).text)).toEqual({ models: [{ name: "sleepy" }] });
    model.set({ waiting: 1 });
    await scaledTo("sleepy", 1);
    await serviceWhere("sleepy", (each) => each.status.pools.decode.reason === "a request waits");
  });
});
