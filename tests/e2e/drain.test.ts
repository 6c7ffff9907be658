// A drained decode worker: its requests move to the peer with their blocks, and nobody notices but by a pause.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { type Outcome, stream, waitFor, workersOf } from "./support.ts";

let stack: Stack;
beforeAll(async () => {
  // Of a kind that the command finds.
  stack = await startStack({ prefill: 1, decode: 2, kind: "service" });
}, 120_000);
afterAll(() => stack?.stop());

async function metric(process: string, line: string): Promise<number> {
  const port = stack.processes.find(({ name }) => name === process)?.metricsPort;
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(
    text
      .split("\n")
      .find((one) => one.startsWith(`${line} `))
      ?.slice(line.length) ?? 0,
  );
}

/** They differ, so that some are in the middle at any time. */
const lengthOf = (seed: number) => 300 + 40 * (seed % 6);

test("drain: every request ends as if nothing had happened, with blocks from the draining worker, and it gets no more", async () => {
  const asked = new Map<number, Promise<Outcome>>();
  let isDrained = false;
  // However long the command takes to start, it finds requests in mid-answer; each with a prompt of its own, whose blocks only its worker has.
  const askers = Array.from({ length: 6 }, async () => {
    while (!isDrained) {
      const seed = asked.size + 1;
      const outcome = stream(stack, seed, { maxTokens: lengthOf(seed) });
      asked.set(seed, outcome);
      await outcome;
    }
  });
  await waitFor("both decode workers run some", async () =>
    (await workersOf(stack)).filter(({ workerId }) => workerId.startsWith("decode")).every(({ requests }) => requests.running > 0),
  );
  const { stdout } = await promisify(execFile)(process.execPath, [
    inTree("dist", "services", "cli", "main.js"),
    ...["drain", "decode-0", "--port", new URL(stack.baseUrl).port, "--json"],
  ]).finally(() => {
    isDrained = true;
  });
  expect(JSON.parse(stdout)).toMatchObject({ worker: "decode-0", drained: true });
  await Promise.all(askers);
  const drained = (await workersOf(stack)).find(({ workerId }) => workerId === "decode-0");
  expect(drained).toMatchObject({ state: "draining", requests: { running: 0, waiting: 0 } });
  expect(await metric("decode-0", 'pelagic_kv_transfer_bytes_total{direction="sent"}')).toBeGreaterThan(0);
  const undisturbed = await Promise.all(
    [...asked.keys()].map(async (seed) => [seed, await stream(stack, seed, { maxTokens: lengthOf(seed) })] as const),
  );
  for (const [seed, right] of undisturbed) {
    expect({ tokens: right.tokens.length, end: right.end }).toEqual({ tokens: lengthOf(seed), end: "length" });
    expect(await asked.get(seed)).toEqual(right);
  }
}, 180_000);
