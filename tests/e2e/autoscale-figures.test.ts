// The autoscaler's figures from real processes: whatever it is told of in the simulation, /metrics of gateway and workers have it, too.
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseMetrics, type Series } from "../../operators/autoscale/metrics-text.ts";
import { planAutoscale } from "../../operators/autoscale/plan.ts";
import { type Scrape, snapshotOf } from "../../operators/autoscale/scrape.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({ prefill: 1, decode: 1 });
}, 120_000);
afterAll(() => stack?.stop());

async function scrape(): Promise<Scrape> {
  const group = async (role: string): Promise<Map<string, Series>> => {
    const processes = stack.processes.filter(({ name }) => name.startsWith(role));
    expect(processes.length).toBeGreaterThan(0);
    const texts = processes.map(async ({ name, metricsPort }) => {
      const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
      return [name, parseMetrics(await response.text())] as const;
    });
    return new Map(await Promise.all(texts));
  };
  const [gateways, prefill, decode] = await Promise.all([group("gateway"), group("prefill"), group("decode")]);
  return { atSeconds: performance.now() / 1000, gateways, prefill, decode };
}

test("two scrapes of a real run leave nothing unknown, and the planner has numbers and reasons from them", async () => {
  const before = await scrape();
  const requests = 6;
  const answers = Array.from({ length: requests }, async (_, i) => {
    const response = await fetch(`${stack.baseUrl}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: stack.modelName, prompt: `${i} and ${"so on ".repeat(300)}`, max_tokens: 24, ignore_eos: true }),
    });
    expect(response.status).toBe(200);
    await response.text();
  });
  await Promise.all(answers);
  // A worker counts its end of a transfer after the answer's last token may have been read.
  const pods = (name: string) => ({ wanted: 1, replicas: [{ name, state: "ready" as const, stateSeconds: 1000, processes: [name] }] });
  const look = async () => {
    const pools = { gateways: [], prefill: pods("prefill-0"), decode: pods("decode-0") };
    return snapshotOf({ modelName: stack.modelName, before, now: await scrape(), ...pools });
  };
  let snapshot = await look();
  for (let i = 0; i < 100 && snapshot.answersPerSecond * snapshot.intervalSeconds < requests - 0.5; i++) {
    await sleep(50);
    snapshot = await look();
  }
  // Nothing runs any more, which holds no cache.
  expect(unknown(snapshot).filter((path) => path !== ".decode.replicas.0.sample.cacheOfRequest")).toEqual([]);
  const { intervalSeconds } = snapshot;
  expect((snapshot.requestsPerSecond ?? 0) * intervalSeconds).toBeCloseTo(requests);
  expect(snapshot.outputTokensPerSecond * intervalSeconds).toBeCloseTo(requests * 24);
  expect(snapshot.inputTokensPerSecond * intervalSeconds).toBeGreaterThan(requests * 256);
  const range = { minReplicas: 1, maxReplicas: 4 };
  const config = {
    prefill: range,
    decode: range,
    ttftSeconds: 60,
    tpotSeconds: 10,
    stabilizationSeconds: 300,
    scaleToZeroAfterSeconds: null,
  };
  const { prefill, decode, state } = planAutoscale(snapshot, config, null);
  expect(state.profile.prefillPace.sum).toBeGreaterThan(0);
  expect(state.profile.steps.weight).toBeGreaterThan(0);
  expect([prefill.reason, decode.reason]).not.toContain("");
}, 120_000);

/** Paths of what is null in it. */
function unknown(value: unknown, path = ""): string[] {
  if (value === null) return [path];
  return typeof value === "object" ? Object.entries(value as object).flatMap(([key, inner]) => unknown(inner, `${path}.${key}`)) : [];
}
