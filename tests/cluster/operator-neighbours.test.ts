// An operator for all namespaces beside one of a namespace: that namespace is the second one's for as long as it is there, and nobody changes what the other made.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { leaseName } from "../../operators/kube/rights.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { operatorAccount } from "./operator-account.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, deploymentsPath, installCrds, objectWhere } from "./service-objects.ts";

const missing = apiServerMissing();
const leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const image = (name: string) => ["--worker-image", `example.com/${name}:1`, "--worker-nats-url", `${name}:4222`];
let server: TestApiServer;
let everywhere: OperatorProcess;
let local: OperatorProcess;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  await server.call("POST", "/api/v1/namespaces", { body: { metadata: { name: "platform" } } });
  // With the chart's rights: it has a Lease in each of the two namespaces.
  const account = await operatorAccount(server);
  local = await startOperator(account, [...image("local"), "--namespace", "default", "--lease-namespace", "default"]);
  everywhere = await startOperator(server.kubeconfig, [...image("everywhere"), "--lease-namespace", "platform"]);
  for (const operator of [local, everywhere]) await server.until("a leader", async () => ((await operator.leads()) ? true : undefined));
});
afterAll(async () => {
  await local?.end("SIGKILL");
  await everywhere?.end("SIGKILL");
  await server?.stop();
});

const imageOf = (each: { spec: { template: { spec: { containers: { image: string }[] } } } }) =>
  each.spec.template.spec.containers[0]?.image;

describe.skipIf(missing !== undefined)(`two operators of different releases${missing ? ` (${missing})` : ""}`, () => {
  it("leave each other's workers alone", async () => {
    await applyService(server, "one");
    const made = await objectWhere(server, `${deploymentsPath}/one-decode`, () => true);
    expect(imageOf(made)).toBe("example.com/local:1");
    // Both hear of it.
    await applyService(server, "one", { pools: { decode: { threads: 2 } } });
    const changed = await objectWhere(
      server,
      `${deploymentsPath}/one-decode`,
      ({ metadata }) => metadata.generation > made.metadata.generation,
    );
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    const later = (await server.call("GET", `${deploymentsPath}/one-decode`)).body;
    expect([imageOf(later), later.metadata.generation]).toEqual(["example.com/local:1", changed.metadata.generation]);
  });

  it("and the one for all namespaces goes on where the other one went", async () => {
    await local.end();
    expect((await server.call("DELETE", `${leases}/${leaseName}`)).status).toBe(200);
    await objectWhere(server, `${deploymentsPath}/one-decode`, (each) => imageOf(each) === "example.com/everywhere:1");
  });
});
