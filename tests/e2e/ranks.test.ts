// Experts over decode ranks: the answers of one rank, also when a rank is killed, stopped, or comes back.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { z } from "zod";
import { RankStatus, rankStatusPath } from "../../services/lib/contracts/rank-status.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { type Outcome, promptRestarts, stream, waitFor, workersOf } from "./support.ts";

const run = promisify(execFile);
const PoolLoad = z.object({
  role: z.string(),
  workers: z.array(z.string()),
  expertsPerToken: z.number(),
  tokens: z.array(z.array(z.number())),
  balancedness: z.array(z.number()).optional(),
});
const rankCount = 3;
const names = Array.from({ length: rankCount }, (_, rank) => `decode-${rank}`);
const seeds = [0, 1, 2, 3, 4, 5];
const maxTokens = 200;

let stack: Stack;
let right: Outcome[];

const askAll = () => Promise.all(seeds.map((seed) => stream(stack, seed, { maxTokens })));

beforeAll(async () => {
  const whole = await startStack({ prefill: 1, decode: 1 });
  try {
    stack = whole;
    right = await askAll();
  } finally {
    await whole.stop();
  }
  for (const { tokens, end } of right) expect({ tokens: tokens.length, end }).toEqual({ tokens: maxTokens, end: "length" });
}, 180_000);
afterAll(() => stack?.stop());

async function startRanks(redundantExperts: number, rebalanceSeconds: number): Promise<void> {
  await stack?.stop();
  stack = await startStack({
    prefill: 1,
    decodeRanks: rankCount,
    redundantExperts,
    rebalanceSeconds,
    restartPolicy: promptRestarts,
    kind: "service",
  });
}

async function metricsOf(name: string): Promise<Map<string, number>> {
  const port = stack.processes.find((process) => process.name === name)?.metricsPort;
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return new Map(
    [...text.matchAll(/^(pelagic_(?:rank|expert)s?_\S+) (\S+)$/gm)].map(([, series, value]) => [series as string, Number(value)]),
  );
}

async function statusOf(name: string): Promise<RankStatus> {
  const port = stack.processes.find((process) => process.name === name)?.metricsPort;
  return RankStatus.parse(await (await fetch(`http://127.0.0.1:${port}${rankStatusPath}`)).json());
}

const membersAre = (count: number, of: string[]) => async () =>
  (await Promise.all(of.map(async (name) => (await metricsOf(name)).get("pelagic_rank_group_members")))).every((n) => n === count);

test("answers are those of one rank, and every rank takes part", async () => {
  // Each expert on two ranks at least: any one may be lost.
  await startRanks(32, 0);
  expect(await askAll()).toEqual(right);
  for (const name of names) {
    const metrics = await metricsOf(name);
    expect(metrics.get("pelagic_rank_group_members")).toBe(rankCount);
    for (const series of [
      'pelagic_rank_steps_total{rows="some"}',
      'pelagic_rank_copies_total{to="itself"}',
      'pelagic_rank_copies_total{to="node"}',
      'pelagic_rank_nodes_reached_total{nodes="1"}',
      "pelagic_rank_computed_rows_total",
      "pelagic_rank_sent_bytes_total",
      "pelagic_rank_wait_seconds_total",
    ])
      expect(metrics.get(series), `${name} ${series}`).toBeGreaterThan(0);
    expect(metrics.get('pelagic_rank_copies_total{to="far"}')).toBe(0);
  }
}, 90_000);

test("what each expert got is counted once, and the rank that leads knows how even that is", async () => {
  const experts = async (...options: string[]) => {
    const cli = inTree("dist", "services", "cli", "main.js");
    const { stdout } = await run(process.execPath, [cli, "experts", "--json", ...options, "--port", new URL(stack.baseUrl).port]);
    return stdout
      .trim()
      .split("\n")
      .map((line) => PoolLoad.parse(JSON.parse(line)));
  };
  const [decode, prefill] = await experts("--since-start");
  expect(decode).toMatchObject({ role: "decode", workers: names, expertsPerToken: 4 });
  expect(prefill).toMatchObject({ role: "prefill", workers: ["prefill-0"] });
  const totals = (await workersOf(stack)).filter(({ role }) => role === "decode").map(({ totals }) => totals);
  const rows = totals.reduce((sum, each) => sum + (each?.prefilledTokens ?? 0) + (each?.sampledTokens ?? 0), 0);
  // Of the last layer's rows only those that are sampled get to its experts.
  const sums = decode?.tokens.map((layer) => layer.reduce((sum, count) => sum + count, 0));
  expect(sums?.slice(0, 3)).toEqual([4 * rows, 4 * rows, 4 * rows]);
  await waitFor("the rank that leads has heard of the load", async () => {
    const balancedness = (await experts())[0]?.balancedness;
    expect(balancedness).toHaveLength(4);
    return balancedness?.every((each) => each > 1 / rankCount && each < 1) === true;
  });
}, 90_000);

test("an idle rank takes part in steps of others", async () => {
  const before = await Promise.all(names.map(metricsOf));
  await stream(stack, 7, { maxTokens });
  const after = await Promise.all(names.map(metricsOf));
  const series = 'pelagic_rank_steps_total{rows="none"}';
  const idle = after.filter((metrics, i) => (metrics.get(series) ?? 0) - (before[i]?.get(series) ?? 0) >= maxTokens / 2);
  expect(idle.length).toBe(rankCount - 1);
}, 90_000);

test("a rank killed: every request ends as if nothing had happened, and the rank comes back", async () => {
  const running = askAll();
  await waitFor("requests run", async () => (await workersOf(stack)).some(({ requests }) => requests.running > 0));
  stack.processes.find(({ name }) => name === "decode-1")?.kill("SIGKILL");
  expect(await running).toEqual(right);
  await waitFor("all ranks are in one group", membersAre(rankCount, names));
  expect(await askAll()).toEqual(right);
  // What it was like is told by those that stayed.
  const told = await statusOf("decode-0");
  expect(told).toMatchObject({ rank: 0, rankCount, members: [0, 1, 2], reason: null, plan: { version: 1 }, indispensable: [] });
  // Of two that stay, one may have followed the other's word before it saw the loss itself.
  const losses = [told, await statusOf("decode-2")].flatMap(({ history }) => history.filter(({ loss }) => loss !== null));
  expect(losses).toContainEqual(expect.objectContaining({ members: [0, 2], loss: expect.stringContaining("rank 1") }));
  expect(told.history.at(-1)).toMatchObject({ members: [0, 1, 2], loss: null });
  expect(told.plan).toEqual((await statusOf("decode-1")).plan);
}, 120_000);

test("a rank ended as a roll-out ends it says so: requests go on, it is no loss to the others, and the next process takes its place", async () => {
  const since = (await statusOf("decode-0")).history.at(-1)?.round as number;
  const later = async () => (await statusOf("decode-0")).history.filter(({ round }) => round > since);
  const running = askAll();
  stack.processes.find(({ name }) => name === "decode-1")?.kill("SIGTERM");
  await waitFor("the others have a group", async () => (await later()).length > 0);
  expect(await running).toEqual(right);
  await waitFor("all ranks are in one group", membersAre(rankCount, names));
  expect(await later()).toMatchObject([
    { members: [0, 2], loss: null, stopped: [1] },
    { members: [0, 1, 2], loss: null, stopped: [] },
  ]);
}, 120_000);

test("a rank that is stopped is lost to the others within seconds, and finds them again when it goes on", async () => {
  const stopped = stack.processes.find(({ name }) => name === "decode-2");
  stopped?.kill("SIGSTOP");
  try {
    await waitFor("the others have a group", membersAre(rankCount - 1, ["decode-0", "decode-1"]));
  } finally {
    stopped?.kill("SIGCONT");
  }
  await waitFor("all ranks are in one group", membersAre(rankCount, names));
  expect(await askAll()).toEqual(right);
}, 120_000);

const metric = async (series: string) => (await Promise.all(names.map(metricsOf))).map((metrics) => metrics.get(series) ?? 0);

test("experts are placed anew by their load while requests run, and no answer changes", async () => {
  await startRanks(6, 1);
  let rounds = 0;
  while (rounds++ < 20 && Math.min(...(await metric("pelagic_expert_plan_version"))) < 2) expect(await askAll()).toEqual(right);
  expect(Math.min(...(await metric("pelagic_expert_plan_version")))).toBeGreaterThan(1);
  expect((await metric("pelagic_experts_loaded_total")).reduce((a, b) => a + b)).toBeGreaterThan(0);
  expect(await askAll()).toEqual(right);
}, 180_000);

test("the only copies of experts are lost: the others load them and go on, and who comes back is taken in with the new plan", async () => {
  await startRanks(0, 0);
  const running = askAll();
  await waitFor("requests run", async () => (await workersOf(stack)).some(({ requests }) => requests.running > 0));
  const stopped = stack.processes.find(({ name }) => name === "decode-2");
  stopped?.kill("SIGSTOP");
  const left = ["decode-0", "decode-1"];
  try {
    await waitFor("the others have a group", membersAre(rankCount - 1, left));
    for (const name of left) expect((await metricsOf(name)).get("pelagic_experts_loaded_total")).toBeGreaterThan(0);
    expect(await running).toEqual(right);
  } finally {
    stopped?.kill("SIGCONT");
  }
  await waitFor("all ranks are in one group", membersAre(rankCount, names));
  expect(await metric("pelagic_expert_plan_version")).toEqual([2, 2, 2]);
  expect(await askAll()).toEqual(right);
  stack.processes.find(({ name }) => name === "decode-0")?.kill("SIGKILL");
  await waitFor("the killed rank is back", membersAre(rankCount, names));
  expect(await askAll()).toEqual(right);
}, 180_000);
