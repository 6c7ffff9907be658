// A drained decode worker: its requests move to the peer with their blocks, and nobody notices but by a pause.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { stream, waitFor, workersOf } from "./support.ts";

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

test("drain: every request ends as if nothing had happened, with blocks from the draining worker, and it gets no more", async () => {
  const seeds = [1, 2, 3, 4, 5, 6];
  const right = await Promise.all(seeds.map((seed) => stream(stack, seed)));
  for (const { tokens, end } of right) expect({ tokens: tokens.length, end }).toEqual({ tokens: 400, end: "length" });
  const running = seeds.map((seed) => stream(stack, seed));
  await waitFor("both decode workers run some", async () =>
    (await workersOf(stack)).filter(({ workerId }) => workerId.startsWith("decode")).every(({ requests }) => requests.running > 0),
  );
  const { stdout } = await promisify(execFile)(process.execPath, [
    inTree("dist", "services", "cli", "main.js"),
    ...["drain", "decode-0", "--port", new URL(stack.baseUrl).port, "--json"],
  ]);
  expect(JSON.parse(stdout)).toMatchObject({ worker: "decode-0", drained: true });
  expect(await Promise.all(running)).toEqual(right);
  const drained = (await workersOf(stack)).find(({ workerId }) => workerId === "decode-0");
  expect(drained).toMatchObject({ state: "draining", requests: { running: 0, waiting: 0 } });
  expect(await metric("decode-0", 'pelagic_kv_transfer_bytes_total{direction="sent"}')).toBeGreaterThan(0);
  expect(await stream(stack, 1)).toEqual(right[0]);
}, 90_000);
