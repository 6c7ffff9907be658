// SIGKILL of any process while requests run: no hang, and each request ends right or with one named error. Afterwards the stack answers again.
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { errorCodes } from "../../services/lib/contracts/errors.ts";
import { waitFor, workersOf } from "./support.ts";

let stack: Stack;

beforeAll(async () => {
  stack = await startStack({
    prefill: 1,
    decode: 2,
    restartPolicy: { deaths: 50, windowMs: 60_000, firstPauseMs: 100, longestPauseMs: 200 },
  });
}, 120_000);
afterAll(() => stack?.stop());

type Outcome = { tokens: number; end: string };

/** One streamed request, from the first byte to the end of the body. */
async function stream(seed: number): Promise<Outcome> {
  let response: Response;
  try {
    response = await fetch(`${stack.baseUrl}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: stack.modelName,
        prompt: Array.from({ length: 300 }, (_, i) => (i * 31 + seed) % 256),
        max_tokens: 400,
        ignore_eos: true,
        temperature: 0,
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
  } catch {
    return { tokens: 0, end: "connection refused" };
  }
  if (!response.ok) return { tokens: 0, end: ((await response.json()) as { error: { code: string } }).error.code };
  let text = "";
  try {
    for await (const part of response.body as unknown as AsyncIterable<Uint8Array>) text += Buffer.from(part).toString("utf8");
  } catch {
    return { tokens: 0, end: "connection closed" };
  }
  const events = text.split("\n\n").flatMap((event) => (event.startsWith("data: {") ? [JSON.parse(event.slice(6))] : []));
  const error = events.find((event) => event.error)?.error.code;
  const finish = events.flatMap((event) => event.choices ?? []).find((choice) => choice.finish_reason)?.finish_reason;
  const tokens = events.find((event) => event.usage)?.usage.completion_tokens ?? 0;
  expect(text).toContain("data: [DONE]");
  return { tokens, end: error ?? finish ?? "none" };
}

async function killDuring(name: string): Promise<Outcome[]> {
  const running = Array.from({ length: 8 }, (_, i) => stream(i));
  await waitFor("requests run", async () => (await workersOf(stack)).some(({ requests }) => requests.running > 0));
  stack.processes.find((process) => process.name === name)?.kill("SIGKILL");
  const outcomes = await Promise.all(running);
  await waitFor("the stack is whole again", async () => {
    const workers = await workersOf(stack);
    return (
      (await fetch(`${stack.baseUrl}/ready`)).ok &&
      ["prefill-0", "decode-0", "decode-1"].every((id) => workers.some((worker) => worker.workerId === id && worker.state === "ready")) &&
      workers.every(({ requests, blocks }) => requests.running + requests.waiting === 0 && blocks.free + blocks.cached === blocks.total)
    );
  });
  expect(await stream(99)).toEqual({ tokens: 400, end: "length" });
  return outcomes;
}

const right = { tokens: 400, end: "length" };

test("prefill killed: every request ends right", async () => {
  for (const outcome of await killDuring("prefill-0")) expect(outcome).toEqual(right);
}, 90_000);

test("a decode worker killed: each request ends right or with worker_lost", async () => {
  const outcomes = await killDuring("decode-0");
  for (const outcome of outcomes) if (outcome.end !== "length") expect(outcome.end).toBe("worker_lost");
  expect(outcomes.filter(({ end }) => end === "length")).not.toEqual([]);
}, 90_000);

test("NATS killed and restarted: each request ends right or with one named error", async () => {
  for (const outcome of await killDuring("nats")) {
    if (outcome.end !== "length") expect(errorCodes).toContain(outcome.end);
    else expect(outcome.tokens).toBe(400);
  }
}, 90_000);

test("the gateway killed: its connections close, and its requests are freed", async () => {
  for (const { end } of await killDuring("gateway-0")) expect(["connection closed", "connection refused", "length"]).toContain(end);
}, 90_000);
