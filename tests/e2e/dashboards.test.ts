// Dashboards and rules against a real Prometheus that scrapes a real system at work: each query gives data. The operator's are tests/cluster's.
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { dashboards } from "../../operators/dashboards/generated.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { type Prometheus, prometheusTools, startPrometheus } from "../support/prometheus.ts";
import { filledIn, offered, panelQueries, type Query, ruleQueries, withoutData } from "../support/queries.ts";
import { stream, waitFor, workersOf } from "./support.ts";

const { missing, prometheus: binary } = await prometheusTools();
const scope = { namespace: "here", modelservice: "first" };
const ofOperator = ({ expression }: Query) => /pelagic_operator_/.test(expression);
let [begunMs, endedMs] = [0, 0];
let stack: Stack;
let prometheus: Prometheus;

beforeAll(async () => {
  if (missing !== undefined) return;
  stack = await startStack({ prefill: 1, decodeRanks: 2, redundantExperts: 8, env: { PELAGIC_CONSOLE: "off" } });
  const targets = stack.processes.flatMap(({ name, metricsPort }) => {
    if (metricsPort === undefined) return [];
    const component = name.split("-")[0] as string;
    const labels = { namespace: scope.namespace, component, pod: name };
    return [{ port: metricsPort, labels: component === "gateway" ? labels : { ...labels, modelservice: scope.modelservice } }];
  });
  expect(targets).toHaveLength(4);
  prometheus = await startPrometheus(binary, targets, readFileSync(inTree("charts", "pelagic", "rules", "pelagic.rules.yaml"), "utf8"));
  begunMs = Date.now();
  await everythingIsShown();
  endedMs = Date.now();
}, 240_000);
afterAll(async () => {
  await prometheus?.stop();
  await stack?.stop();
});

/** Answers that are prefilled elsewhere and found in caches, objectives, a client that leaves. Nothing is moved: what counts that is there from the start. */
async function everythingIsShown(): Promise<void> {
  await work(0);
  // A counter has a rate from the second look at it on.
  await secondsPass(3);
  for (let round = 1; round <= 3; round++) {
    await work(round);
    await secondsPass(2);
  }
}

async function work(round: number): Promise<void> {
  const answers = [0, 1, 2, 3].map((each) => stream(stack, round * 10 + each, { maxTokens: 120 }));
  const headers = { "content-type": "application/json", "x-slo-ttft-ms": "60000", "x-slo-tpot-ms": "60000" };
  const messages = [{ role: "user", content: "What is 127 + 536?" }];
  const chat = await fetch(`${stack.baseUrl}/v1/chat/completions`, {
    method: "POST",
    headers,
    body: JSON.stringify({ model: stack.modelName, messages }),
  });
  expect(chat.status).toBe(200);
  await chat.text();
  const leaving = new AbortController();
  const left = await fetch(`${stack.baseUrl}/v1/completions`, {
    method: "POST",
    headers,
    body: JSON.stringify({ model: stack.modelName, prompt: [1, 2, 3], max_tokens: 1_000, ignore_eos: true, stream: true }),
    signal: leaving.signal,
  });
  await left.body?.getReader().read();
  leaving.abort();
  for (const { end } of await Promise.all(answers)) expect(end).toBe("length");
  await waitFor("nothing runs", async () => (await workersOf(stack)).every(({ requests }) => requests.running === 0));
}

const secondsPass = (seconds: number) => new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
const filled = (queries: Query[], variables: Record<string, string>) =>
  queries.map(({ where, expression }) => ({ where, expression: filledIn(expression, variables) }));

describe.skipIf(missing !== undefined)(`dashboards and rules on a running system${missing ? ` (${missing})` : ""}`, () => {
  it("offers the variables' values", async () => {
    const { namespace } = scope;
    expect(await offered(prometheus, "namespace", {})).toEqual([namespace]);
    expect(await offered(prometheus, "model", { namespace })).toEqual([stack.modelName]);
    expect(await offered(prometheus, "modelservice", { namespace })).toEqual([scope.modelservice]);
    expect(await offered(prometheus, "pool", { namespace })).toEqual(["decode", "prefill"]);
  });

  it.each(Object.entries(dashboards).filter(([name]) => name !== "operator"))("has data in every query of %s", async (_, dashboard) => {
    const chosen = { ...scope, model: stack.modelName, pool: "prefill|decode" };
    expect(await withoutData(prometheus, filled(panelQueries(dashboard), chosen), begunMs, endedMs)).toEqual([]);
    // All of them, as the dashboards open.
    const all = { namespace: ".*", modelservice: ".*", model: ".*", pool: ".*" };
    expect(await withoutData(prometheus, filled(panelQueries(dashboard), all), begunMs, endedMs)).toEqual([]);
  });

  it("has data in every rule, and none fails", async () => {
    const queries = ruleQueries().filter((query) => !ofOperator(query));
    expect(await withoutData(prometheus, queries, begunMs, endedMs)).toEqual([]);
    const { groups } = await prometheus.get<{ groups: { rules: { name: string; health: string; lastError?: string }[] }[] }>("rules", {});
    const unwell = groups.flatMap(({ rules }) => rules.filter(({ health }) => health !== "ok"));
    expect(unwell).toEqual([]);
  });

  it("holds no blocks for nobody once all is over", async () => {
    const [held] = ruleQueries().filter(({ where }) => where === "alert PelagicBlocksLeaked") as [Query];
    const { result } = await prometheus.get<{ result: { value: [number, string] }[] }>("query", { query: held.expression });
    expect(result.map(({ value }) => Number(value[1]))).toEqual([0, 0, 0]);
  });
});
