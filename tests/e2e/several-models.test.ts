// Two models behind one gateway, with workers of their own: whatever happens to the workers of one, both answer as if nothing had happened, and
// nothing of one is ever computed by a worker of the other.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import type { RequestTimeline } from "../../services/lib/contracts/timeline.ts";
import { writeOtherModel } from "../support/other-model.ts";
import { type Outcome, stream, waitFor, workersOf, promptRestarts } from "./support.ts";

const requests = 4;
const names = ["first", "second"] as const;
let stack: Stack;
let dir: string;
/** The undisturbed answers of each. */
const right = new Map<string, Outcome[]>();

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "pelagic-model-"));
  writeOtherModel(dir);
  stack = await startStack({
    model: [`first=${embeddedModel()}`, `second=${dir}`],
    decode: 2,
    threads: 1,
    kvBlocks: 256,
    restartPolicy: promptRestarts,
  });
  for (const name of names) right.set(name, await ask(name));
}, 180_000);
afterAll(async () => {
  await stack?.stop();
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
});

function ask(name: string): Promise<Outcome[]> {
  return Promise.all(Array.from({ length: requests }, (_, seed) => stream(stack, seed, { model: name })));
}

function kill(name: string, signal: NodeJS.Signals): void {
  stack.processes.find((process) => process.name === name)?.kill(signal);
}

const workersOfModel = (name: string) => stack.models.find((model) => model.name === name)?.workerIds ?? [];

async function isWhole(): Promise<boolean> {
  const workers = await workersOf(stack);
  return (
    stack.models.every(({ name, workerIds }) =>
      workerIds.every((id) => workers.some(({ workerId, modelName, state }) => workerId === id && modelName === name && state === "ready")),
    ) &&
    workers.every(({ requests: { running, waiting }, blocks }) => running + waiting === 0 && blocks.free + blocks.cached === blocks.total)
  );
}

test("each has workers of its own, and other answers to the same questions", () => {
  expect(stack.models.map(({ name, workerIds }) => [name, workerIds])).toEqual([
    ["first", ["prefill-0", "decode-0", "decode-1"]],
    ["second", ["prefill-1", "decode-2", "decode-3"]],
  ]);
  for (let seed = 0; seed < requests; seed++) {
    const [first, second] = names.map((name) => right.get(name)?.[seed]);
    for (const outcome of [first, second]) expect([outcome?.tokens.length, outcome?.end]).toEqual([400, "length"]);
    expect(second?.tokens).not.toEqual(first?.tokens);
  }
});

test.each(["decode-2", "prefill-1", "decode-3", "decode-0"])(
  "%s killed: every request to both models ends as if nothing had happened",
  async (victim) => {
    const running = names.map(ask);
    await waitFor("its requests run", async () =>
      (await workersOf(stack)).some(({ workerId, requests: { running } }) => workersOfModel("second").includes(workerId) && running > 0),
    );
    kill(victim, "SIGKILL");
    for (const [at, name] of names.entries()) expect(await running[at], name).toEqual(right.get(name));
    await waitFor("the stack is whole again", isWhole);
  },
  120_000,
);

test("one whose workers are all silent is refused with a time to come back, and the other answers", async () => {
  const silent = ["decode-2", "decode-3"];
  for (const name of silent) kill(name, "SIGSTOP");
  try {
    await waitFor("they are missed", async () =>
      (await workersOf(stack)).every(({ workerId, state }) => !silent.includes(workerId) || state === "silent"),
    );
    const refused = await fetch(`${stack.baseUrl}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "second", prompt: "1", max_tokens: 1 }),
    });
    expect(refused.status).toBe(503);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(await refused.json()).toMatchObject({ error: { code: "no_workers", message: expect.stringContaining("second") } });
    expect(await ask("first")).toEqual(right.get("first"));
    expect((await fetch(`${stack.baseUrl}/ready`)).status).toBe(200);
  } finally {
    for (const name of silent) kill(name, "SIGCONT");
  }
  await waitFor("the stack is whole again", isWhole);
  expect(await ask("second")).toEqual(right.get("second"));
}, 120_000);

test("no request was ever at a worker of another model", async () => {
  const { requests: ended } = (await (await fetch(`${stack.adminUrl}/requests`)).json()) as { requests: RequestTimeline[] };
  const answered = ended.filter(({ decodeWorkerId }) => decodeWorkerId !== null);
  expect(new Set(answered.map(({ model }) => model))).toEqual(new Set(names));
  for (const { model, phases, decodeWorkerId, prefillWorkerId } of answered) {
    const visited = [decodeWorkerId, prefillWorkerId, ...phases.map(({ workerId }) => workerId)].filter((id) => typeof id === "string");
    expect(workersOfModel(model as string)).toEqual(expect.arrayContaining([...new Set(visited)]));
  }
});
