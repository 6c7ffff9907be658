// Requests for a model that has no worker because nobody asked for long: they wait, can be counted, and are answered when it has one.
import { afterEach, expect, it } from "vitest";
import type { HostedModel } from "../../services/gateway/gateway.ts";
import { type GatewayUnderTest, startGatewayUnderTest, waitFor } from "./gateway-under-test.ts";
import { testModelName } from "./scripted-decode.ts";

let gateway: GatewayUnderTest;
afterEach(() => gateway.close());

async function start(maxWaiting = 10) {
  gateway = await startGatewayUnderTest({ sleeping: { names: [testModelName], maxWaiting } });
}

/** As the scripted worker tells of itself from now on. */
async function workerIs(state: "starting" | "ready"): Promise<void> {
  gateway.decode.state = { state };
  await waitFor(() => gateway.gateway.directory.snapshot().workers.every((worker) => worker.state === state));
}

function ask(model: string, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
  return fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "hi" }], max_tokens: 8 }),
    ...(signal && { signal }),
  });
}

const waiting = async () => {
  const text = await gateway.registry.metrics();
  return Number(new RegExp(`^pelagic_gateway_requests_waiting\\{model_name="${testModelName}"\\} (\\d+)$`, "m").exec(text)?.[1]);
};

async function untilWaiting(count: number): Promise<void> {
  while ((await waiting()) !== count) await new Promise((resolve) => setTimeout(resolve, 10));
}

it("waits, is counted, and is answered once a worker is ready; others are told at once", async () => {
  await start();
  await workerIs("starting");
  const asked = [ask(testModelName), ask(testModelName)];
  await untilWaiting(2);
  expect((await ask("another")).status).toBe(404);
  await workerIs("ready");
  expect((await Promise.all(asked)).map(({ status }) => status)).toEqual([200, 200]);
  expect(await waiting()).toBe(0);
});

it("waits for a model of which this gateway has no files yet", async () => {
  await start();
  const models = gateway.gateway.models as Map<string, HostedModel>;
  const hosted = models.get(testModelName) as HostedModel;
  models.delete(testModelName);
  const asked = ask(testModelName);
  await untilWaiting(1);
  models.set(testModelName, hosted);
  expect((await asked).status).toBe(200);
});

it("ends with the request's deadline, when its client leaves, when it sleeps no more, and with the gateway", async () => {
  await start();
  await workerIs("starting");
  expect((await ask(testModelName, { "x-request-timeout-ms": "100" })).status).toBe(504);
  const leaving = new AbortController();
  const left = ask(testModelName, {}, leaving.signal).catch(() => "left");
  await untilWaiting(1);
  leaving.abort();
  expect(await left).toBe("left");
  await untilWaiting(0);
  const forgotten = ask(testModelName);
  await untilWaiting(1);
  gateway.gateway.wakeQueue?.know([]);
  expect((await forgotten).status).toBe(503);
  gateway.gateway.wakeQueue?.know([testModelName]);
  const stopped = ask(testModelName);
  await untilWaiting(1);
  gateway.gateway.wakeQueue?.close();
  expect((await stopped).status).toBe(503);
});

it("is refused where as many wait as may", async () => {
  await start(2);
  await workerIs("starting");
  const asked: Promise<Response>[] = [];
  let refused: Response | undefined;
  for (let i = 0; i < 3 && refused === undefined; i++) {
    const one = ask(testModelName);
    refused = await Promise.race([one.then((response) => response), untilWaiting(i + 1).then(() => undefined)]);
    if (refused === undefined) asked.push(one);
  }
  expect(refused?.status).toBe(503);
  expect(refused?.headers.get("retry-after")).not.toBeNull();
  await workerIs("ready");
  expect((await Promise.all(asked)).map(({ status }) => status)).toEqual(asked.map(() => 200));
});
