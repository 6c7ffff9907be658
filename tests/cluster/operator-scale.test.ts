// Many ModelServices on simulated nodes, with the real controllers and scheduler: how long until all are served, what each costs in calls, that
// what is settled costs none, and that the operator's memory does not grow with changes.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { apiServerMissing, startApiServer, type TestApiServer } from "./api-server.ts";
import { type OperatorProcess, startOperator } from "./operator-process.ts";
import { applyService, installCrds, servicesPath } from "./service-objects.ts";
import { simulatedNodesMissing, startSimulatedNodes } from "./simulated-nodes.ts";

const missing = apiServerMissing(true) ?? simulatedNodesMissing();
const count = 200;
const rounds = 5;
/** For 200 models with a prefill and up to two decode workers, and those that go as others come. */
const nodes = 10;
const quietMs = 15_000;
let server: TestApiServer;
let simulated: Awaited<ReturnType<typeof startSimulatedNodes>>;
let operator: OperatorProcess;

beforeAll(async () => {
  if (missing !== undefined) return;
  server = await startApiServer({ controllers: ["deployment-controller", "replicaset-controller", "disruption-controller"] });
  simulated = await startSimulatedNodes(server, nodes);
  await installCrds(server);
  operator = await startOperator(server.kubeconfig);
});
afterAll(async () => {
  await operator?.end();
  await simulated?.stop();
  await server?.stop();
});

const names = Array.from({ length: count }, (_, i) => `many-${i}`);
const total = "pelagic_operator_api_requests_total";

async function calls(): Promise<number> {
  const parts = await Promise.all([
    operator.metric(total),
    operator.metric(total, { verb: "WATCH" }),
    operator.metric(total, { resource: "leases" }),
  ]);
  return (parts[0] as number) - (parts[1] as number) - (parts[2] as number);
}

interface Status {
  observedGeneration: number;
  conditions: { type: string; status: string }[];
  pools: { decode: { ready: number } };
}

/** All are at this generation and serve with so many decode workers, and nobody waits for a round. */
async function converged(generation: number, decode: number): Promise<void> {
  const serves = ({ observedGeneration, conditions, pools }: Status) =>
    observedGeneration === generation &&
    pools.decode.ready === decode &&
    conditions.some(({ type, status }) => type === "Ready" && status === "True") &&
    conditions.some(({ type, status }) => type === "Progressing" && status === "False");
  await poll("all to converge", 400_000, async () => {
    const items = (await server.call("GET", servicesPath)).body.items as { status?: Status }[];
    const done = items.filter(({ status }) => status !== undefined && serves(status)).length;
    return done === count && (await operator.metric("pelagic_operator_queue_depth")) === 0;
  });
}

async function poll(what: string, boundMs: number, holds: () => Promise<boolean>): Promise<void> {
  const endMs = Date.now() + boundMs;
  while (!(await holds())) {
    if (Date.now() > endMs) throw new Error(`${what}: not within ${boundMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function eventsSent(): Promise<void> {
  let before = -1;
  await poll("no more calls", 240_000, async () => {
    const now = await calls();
    const same = now === before;
    before = now;
    if (!same) await new Promise((resolve) => setTimeout(resolve, 1500));
    return same;
  });
}

describe.skipIf(missing !== undefined)(`${count} ModelServices${missing ? ` (${missing})` : ""}`, () => {
  it("converge with few calls each and none afterwards, and 1,000 changes leave no memory behind", { timeout: 2_400_000 }, async () => {
    const begunMs = performance.now();
    for (const name of names) await applyService(server, name);
    await converged(1, 1);
    const seconds = (performance.now() - begunMs) / 1000;
    await eventsSent();
    const settled = await calls();
    const each = settled / count;
    await new Promise((resolve) => setTimeout(resolve, quietMs));
    expect((await calls()) - settled).toBe(0);

    const heaps: number[] = [];
    let changeCalls = 0;
    for (let round = 1; round <= rounds; round++) {
      const before = await calls();
      const replicas = round % 2 === 1 ? 2 : 1;
      for (const name of names) await applyService(server, name, { pools: { decode: { replicas } } });
      await converged(1 + round, replicas);
      await eventsSent();
      changeCalls += (await calls()) - before;
      heaps.push(await operator.metric("nodejs_heap_size_used_bytes"));
    }
    const residents = await operator.metric("process_resident_memory_bytes");
    console.log(
      `${count} ModelServices served in ${seconds.toFixed(0)} s with ${each.toFixed(1)} calls each, 0 in ${quietMs / 1000} s afterwards; ` +
        `${count * rounds} changes: ${(changeCalls / count / rounds).toFixed(1)} calls each, ` +
        `heap ${heaps.map((bytes) => (bytes / 2 ** 20).toFixed(0)).join(", ")} MiB after each ${count}, ${(residents / 2 ** 20).toFixed(0)} MiB resident`,
    );
    expect(each).toBeLessThanOrEqual(24);
    // A collection may be due: what is held grows by less than half from the first change to the last.
    expect(heaps.at(-1)).toBeLessThan(1.5 * (heaps[0] as number) + 16 * 2 ** 20);
    expect(changeCalls / count / rounds).toBeLessThanOrEqual(10);
  });
});
