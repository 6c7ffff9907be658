// A model without a worker, real processes: a gateway that began while it slept lets a request wait, says so in its metrics, and answers it when a
// worker has come; and again, after that one has gone. The operator's part of it is in tests/cluster/autoscale.test.ts.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import type { SleepingModels } from "../../services/lib/contracts/sleeping-models.ts";
import { Fleet, type FleetProcess } from "./fleet.ts";

const name = "sleepy";
let fleet: Fleet;
let gateway: FleetProcess;
let operator: Server;

beforeAll(async () => {
  // What the operator answers on its admin port.
  operator = createServer((_, response) => void response.end(JSON.stringify({ models: [{ name }] } satisfies SleepingModels)));
  await new Promise<void>((resolve) => operator.listen(0, "127.0.0.1", resolve));
  fleet = await Fleet.start();
  const url = `http://127.0.0.1:${(operator.address() as AddressInfo).port}/models`;
  gateway = await fleet.gateway("gateway-0", { PELAGIC_SLEEPING_MODELS_URL: url }).ready();
});
afterAll(async () => {
  await fleet?.close();
  operator?.close();
});

const ask = (model: string) =>
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "What is 127 + 536?" }], max_tokens: 16 }),
  });

async function untilWaiting(count: number): Promise<void> {
  for (;;) {
    const text = await (await fetch(`${gateway.admin}/metrics`)).text();
    if (text.includes(`pelagic_gateway_requests_waiting{model_name="${name}"} ${count}\n`)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("a request waits for it, is counted, and is answered by the worker that comes", { timeout: 120_000 }, async () => {
  for (const round of [0, 1]) {
    const asked = ask(name);
    await untilWaiting(1);
    expect((await ask("no-such-model")).status).toBe(404);
    const worker = await fleet.worker(`decode-${round}`, "decode", { folder: embeddedModel(), name }).ready();
    const answer = await asked;
    expect(answer.status, await answer.text()).toBe(200);
    await untilWaiting(0);
    await worker.stop();
  }
});
