// SIGKILL of any process while requests run: whoever still has its gateway gets the undisturbed answer. Afterwards the stack is whole again.
import { afterAll, beforeAll, expect, test } from "vitest";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { type Outcome, stream, waitFor, workersOf, promptRestarts } from "./support.ts";

let stack: Stack;

beforeAll(async () => {
  stack = await startStack({
    prefill: 1,
    decode: 2,
    restartPolicy: promptRestarts,
  });
}, 120_000);
afterAll(() => stack?.stop());

async function killDuring(name: string): Promise<Outcome[]> {
  const running = Array.from({ length: 8 }, (_, i) => stream(stack, i));
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
  return outcomes;
}

/** The undisturbed answers. */
let right: Outcome[];
beforeAll(async () => {
  right = await Promise.all(Array.from({ length: 8 }, (_, i) => stream(stack, i)));
  for (const { tokens, end } of right) expect({ tokens: tokens.length, end }).toEqual({ tokens: 400, end: "length" });
});

test.each(["prefill-0", "decode-0", "nats"])(
  "%s killed: every request ends as if nothing had happened",
  async (name) => {
    expect(await killDuring(name)).toEqual(right);
  },
  90_000,
);

test("the gateway killed: its connections close, and its requests are freed", async () => {
  for (const { end } of await killDuring("gateway-0")) expect(["connection closed", "connection refused", "length"]).toContain(end);
  expect(await Promise.all(right.map((_, i) => stream(stack, i)))).toEqual(right);
}, 90_000);
