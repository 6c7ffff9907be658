// SIGTERM to the gateway while it answers: what it has begun it ends, who waits is told to come back, and nothing new is taken.
import { once } from "node:events";
import { Agent, request } from "node:http";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { stream, waitFor, workersOf, promptRestarts } from "./support.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({
    prefill: 1,
    decode: 1,
    env: { PELAGIC_MAX_SEQUENCES: "4", PELAGIC_MAX_WAITING: "2", PELAGIC_DRAIN_MS: "60000" },
    restartPolicy: promptRestarts,
  });
}, 120_000);
afterAll(() => stack?.stop());

interface Answer {
  status: number;
  retryAfter: string | undefined;
  body: string;
}

/** On a connection of this agent. */
async function ask(agent: Agent, body: object): Promise<Answer> {
  const sent = request(`${stack.baseUrl}/v1/completions`, { method: "POST", agent, headers: { "content-type": "application/json" } });
  sent.end(JSON.stringify({ model: stack.modelName, prompt: "1+1=", ignore_eos: true, ...body }));
  const [response] = await once(sent, "response");
  let text = "";
  for await (const part of response) text += String(part);
  return { status: response.statusCode, retryAfter: response.headers["retry-after"], body: text };
}

const gatewayStatus = async () =>
  (await (await fetch(`${stack.adminUrl}/status`)).json()) as { gateway: { requests: { running: number; waiting: number } } };

test("SIGTERM in mid-stream: streams end rightly, who waits gets 503, connections are refused, and the next gateway serves", async () => {
  const seeds = [1, 2, 3, 4];
  const length = { maxTokens: 1_000 };
  const right = await Promise.all(seeds.map((seed) => stream(stack, seed, length)));
  const gateway = stack.processes.find(({ name }) => name === "gateway-0");
  const pid = gateway?.pid;
  expect(pid).toBeGreaterThan(0);
  const agent = new Agent({ keepAlive: true });

  const running = seeds.map((seed) => stream(stack, seed, length));
  await waitFor("all run", async () => (await workersOf(stack)).some(({ requests }) => requests.running === seeds.length));
  const atWorker = [ask(agent, { max_tokens: 3 }), ask(agent, { max_tokens: 3 })];
  await waitFor("the worker's queue is full", async () => (await workersOf(stack)).some(({ requests }) => requests.waiting === 2));
  const inQueue = [ask(agent, { max_tokens: 3 }), ask(agent, { max_tokens: 3, stream: true })];
  await waitFor("two wait at the gateway", async () => (await gatewayStatus()).gateway.requests.waiting === 2);
  gateway?.kill("SIGTERM");
  for (const answer of inQueue) {
    expect(await answer).toMatchObject({ status: 503, retryAfter: "1", body: expect.stringContaining('"code":"shutting_down"') });
  }
  const late = await stream(stack, 9);
  expect(["connection refused", "shutting_down", "length"]).toContain(late.end);
  // Taken only by the gateway that came after it.
  if (late.end === "length") expect(stack.processes.find(({ name }) => name === "gateway-0")?.pid).not.toBe(pid);
  expect(await Promise.all(running)).toEqual(right);
  expect((await Promise.all(atWorker)).map(({ status }) => status)).toEqual([200, 200]);
  agent.destroy();

  await waitFor("another gateway serves at the same place", async () => {
    const now = stack.processes.find(({ name }) => name === "gateway-0")?.pid;
    return now !== undefined && now !== pid && (await fetch(`${stack.baseUrl}/ready`)).ok;
  });
  expect(await stream(stack, 1, length)).toEqual(right[0]);
  await waitFor("nothing is left of them", async () =>
    (await workersOf(stack)).every(
      ({ requests, blocks }) => requests.running + requests.waiting === 0 && blocks.free + blocks.cached === blocks.total,
    ),
  );
}, 240_000);
