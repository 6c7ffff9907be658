// The operator's dashboard and rules against a real Prometheus that scrapes two real operators, of which one leads and scales: each query gives data.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { dashboards } from "../../operators/dashboards/generated.ts";
import { inTree } from "../../services/cli/tree.ts";
import { type Prometheus, prometheusTools, startPrometheus } from "../support/prometheus.ts";
import { filledIn, panelQueries, type Query, ruleQueries, withoutData } from "../support/queries.ts";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { poolLabel, serviceLabel } from "../../operators/planner/names.ts";
import { CountedModel, type Endpoint, makePod, startEndpoint } from "./metrics-endpoints.ts";
import { operatorAccount } from "./operator-account.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, condition, deploymentsPath, installCrds, objectWhere, servicesPath } from "./service-objects.ts";

const tools = await prometheusTools();
const missing = apiServerMissing() ?? tools.missing;
const ofOperator = ({ expression }: Query) => /pelagic_operator_/.test(expression);
let [begunMs, endedMs] = [0, 0];
let server: TestApiServer;
const operators: OperatorProcess[] = [];
const endpoints: Endpoint[] = [];
let prometheus: Prometheus;

/** A ModelService under load, with a worker in each pool and a gateway, that the leader scales. */
async function scaled(name: string): Promise<void> {
  const model = new CountedModel(name);
  model.set({ requestsPerSecond: 10, promptTokens: 200, answerTokens: 175 });
  const range = { minReplicas: 1, maxReplicas: 3 };
  const autoscaling = { policy: "slo", prefill: range, decode: range };
  await applyService(server, name, { slo: { ttftSeconds: 2, tpotSeconds: 0.05 }, autoscaling });
  const pod = async (component: "gateway" | "prefill" | "decode", labels: Record<string, string>) => {
    const endpoint = await startEndpoint(() => model[component]());
    endpoints.push(endpoint);
    await makePod(server, `${name}-${component}-0`, labels, endpoint);
  };
  await pod("gateway", { "app.kubernetes.io/name": "pelagic", "app.kubernetes.io/component": "gateway" });
  for (const pool of ["prefill", "decode"] as const) {
    await objectWhere(server, `${deploymentsPath}/${name}-${pool}`, () => true);
    await pod(pool, { [serviceLabel]: name, [poolLabel]: pool });
  }
  await objectWhere(server, `${servicesPath}/${name}`, (each) => condition(each, "Autoscaled")?.reason === "Decided");
}

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer();
  await installCrds(server);
  const account = await operatorAccount(server);
  // Watches end for silence, so that there is something to count.
  for (let each = 0; each < 2; each++)
    operators.push(await startOperator(account, ["--watch-inactivity-ms", "2000", "--scrape-ms", "500"]));
  const targets = operators.map(({ port }, at) => ({
    port,
    labels: { namespace: "here", component: "operator", pod: `operator-${at}` },
  }));
  prometheus = await startPrometheus(
    tools.prometheus,
    targets,
    readFileSync(inTree("charts", "pelagic", "rules", "pelagic.rules.yaml"), "utf8"),
  );
  begunMs = Date.now();
  await scaled("busy");
  // A rate needs two looks at a counter.
  for (const name of ["one", "two", "three"]) {
    await applyService(server, name);
    await objectWhere(server, `${servicesPath}/${name}`, (each) => condition(each, "Ready") !== undefined);
    await new Promise((resolve) => setTimeout(resolve, 3_000));
  }
  endedMs = Date.now();
});
afterAll(async () => {
  await prometheus?.stop();
  for (const endpoint of endpoints) await endpoint.stop();
  for (const operator of operators) await operator.end();
  await server?.stop();
});

describe.skipIf(missing !== undefined)(`the operator's dashboard and rules${missing ? ` (${missing})` : ""}`, () => {
  it("have data in every query", async () => {
    const panels = panelQueries(dashboards.operator as NonNullable<(typeof dashboards)["operator"]>);
    for (const namespace of ["here", ".*"]) {
      const filled = panels.map(({ where, expression }) => ({ where, expression: filledIn(expression, { namespace }) }));
      expect(await withoutData(prometheus, filled, begunMs, endedMs)).toEqual([]);
    }
    expect(await withoutData(prometheus, ruleQueries().filter(ofOperator), begunMs, endedMs)).toEqual([]);
  });
});
