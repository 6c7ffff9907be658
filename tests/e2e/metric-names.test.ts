// docs/observability.md and what real processes show are the same: every documented metric has data after a run in which everything happens that they
// count, and nothing is shown that is not documented.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { finishReasons } from "../../services/gateway/answer-format.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { inTree } from "../../services/cli/tree.ts";
import { errorCodes } from "../../services/lib/contracts/errors.ts";
import { openApiDocument } from "../../services/lib/contracts/openapi.ts";
import { priorityClasses } from "../../services/lib/contracts/messages.ts";
import { waitFor, workersOf } from "./support.ts";

const { paths } = openApiDocument() as { paths: object };

const roles = ["gateway", "decode", "prefill"] as const;
type Role = (typeof roles)[number];
interface Documented {
  kind: string;
  labels: string[];
}

/** Of each role, by name. A table belongs to the roles that its heading names. */
function documented(): Record<Role, Map<string, Documented>> {
  const result = { gateway: new Map(), decode: new Map(), prefill: new Map() };
  let named: Role[] = [];
  for (const line of readFileSync(inTree("docs", "observability.md"), "utf8").split("\n")) {
    const heading = /^#+ (.*)/.exec(line)?.[1]?.toLowerCase();
    if (heading !== undefined) named = roles.filter((role) => heading.includes(role));
    const row = /^\| `([a-z0-9_:]+)` \| (\w+) \| ([a-z_, ]*)\|/.exec(line);
    if (row === null) continue;
    const [, name, kind, labels] = row as unknown as [string, string, string, string];
    for (const role of named) result[role].set(name, { kind, labels: labels.split(",").flatMap((label) => label.trim() || []) });
  }
  return result;
}

interface Family {
  kind: string;
  series: { name: string; labels: Record<string, string>; value: number }[];
}

/** Without what Node says of itself. */
async function familiesAt(base: string): Promise<Map<string, Family>> {
  const families = new Map<string, Family>();
  let family: Family | undefined;
  for (const line of (await (await fetch(`${base}/metrics`)).text()).split("\n")) {
    const [, typed, kind] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? [];
    if (typed !== undefined && kind !== undefined) {
      family = { kind, series: [] };
      if (!/^(nodejs|process)_/.test(typed)) families.set(typed, family);
    }
    const [, name, labels, value] = /^([a-zA-Z0-9_:]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (name === undefined) continue;
    const pairs = [...(labels ?? "").matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map((match) => [match[1], match[2]]);
    family?.series.push({ name, labels: Object.fromEntries(pairs), value: Number(value) });
  }
  return families;
}

const faults = ["pelagic_kv_resent_frames_total", "pelagic_bus_dropped_messages_total"];
/** Of faults, and of moments too short to look at: that they are shown is all that is asked. */
const mayBeZero: Record<Role, Set<string>> = {
  gateway: new Set([
    ...faults,
    "pelagic_gateway_cancellations_pending",
    "pelagic_gateway_body_bytes",
    "pelagic_gateway_keys_unread",
    "pelagic_gateway_models_missing",
    "pelagic_gateway_model_faults_total",
  ]),
  decode: new Set([...faults, "pelagic_kv_receive_credit_bytes"]),
  // It samples nothing, and has room for all that is asked of it here.
  prefill: new Set([
    ...[...faults, "vllm:generation_tokens_total", "vllm:num_preemptions_total", "pelagic_decode_step_seconds"],
    ...["vllm:num_requests_waiting"],
  ]),
};

let stack: Stack;
beforeAll(async () => {
  // So few blocks that three long answers need more than a worker has; of a kind that `drain` finds.
  // Not all of eight requests are let into the gateway at once, and whoever waits does so until it is served, however slow this machine is.
  const env = { PELAGIC_MAX_RUNNING: "5", PELAGIC_QUEUE_MS: "150000" };
  stack = await startStack({ prefill: 1, decode: 2, kvBlocks: 24, kind: "service", env });
  await everythingHappens();
}, 240_000);
afterAll(() => stack?.stop());

const post = (path: string, body: object, more: { headers?: Record<string, string>; signal?: AbortSignal } = {}) =>
  fetch(`${stack.baseUrl}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...more.headers },
    body: JSON.stringify({ model: stack.modelName, ...body }),
    ...(more.signal && { signal: more.signal }),
  });
const complete = async (seed: number, promptTokens: number, maxTokens: number, more: object = {}) => {
  const prompt = Array.from({ length: promptTokens }, (_, i) => (i * 31 + seed * 7) % 256);
  const response = await post("/v1/completions", { prompt, max_tokens: maxTokens, ignore_eos: true, ...more });
  expect(response.status, await response.clone().text()).toBe(200);
  return await response.text();
};
const adminOf = (role: Role) =>
  stack.processes.filter(({ name }) => name.startsWith(role)).map(({ metricsPort }) => `http://127.0.0.1:${metricsPort}`);
const runningDecode = async () =>
  (await workersOf(stack)).find(({ workerId, requests }) => workerId.startsWith("decode") && requests.running > 0)?.workerId;

async function everythingHappens(): Promise<void> {
  // Prefilled elsewhere, then found in a cache.
  for (let i = 0; i < 2; i++) await complete(0, 600, 8);
  // Two of them fit into a worker and grow, until one must give its blocks up; others wait there, and in the gateway.
  await lookWhile(Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((seed) => complete(seed, 500, 600))));
  // Reasoning, an objective, a field that nobody knows.
  const messages = [{ role: "user", content: "What is 127 + 536?" }];
  await (await post("/v1/chat/completions", { messages, nonsense: 1 }, { headers: { "x-slo-ttft-ms": "60000" } })).text();
  // Refused.
  expect((await post("/v1/chat/completions", { messages, n: 0 })).status).toBe(400);
  // The client leaves.
  const leaving = new AbortController();
  const left = await post(
    "/v1/completions",
    { prompt: [1, 2, 3], max_tokens: 1_000, ignore_eos: true, stream: true },
    { signal: leaving.signal },
  );
  await left.body?.getReader().read();
  leaving.abort();
  await waitFor("nothing runs", async () => (await runningDecode()) === undefined);
  // Moved in mid-answer, with its blocks. A drain that finds both answers near their end lets them end: then the worker begins anew, and drains again.
  for (let round = 1; round <= 8 && !(await hasMoved()); round++) {
    if (round > 1) await beginAnew("decode-0");
    await drainUnderLoad();
  }
}

const hasMoved = async () => ((await shownBy("gateway")).get("pelagic_gateway_resumes_total")?.series ?? []).some(({ value }) => value > 0);

/** Answers follow one another on both workers for as long as the command takes to start. */
async function drainUnderLoad(): Promise<void> {
  const cli = inTree("dist", "services", "cli", "main.js");
  const drained = promisify(execFile)(process.execPath, [cli, "drain", "decode-0", "--port", new URL(stack.baseUrl).port]);
  let isOver = false;
  const over = drained.finally(() => {
    isOver = true;
  });
  // Each in its own time: not all are between two answers when the drain begins.
  const client = async (first: number, tokens: number) => {
    for (let seed = first; !isOver; seed += 2) await complete(seed, 300, tokens);
  };
  await Promise.all([client(9, 1_100), client(10, 800), over]);
}

async function beginAnew(id: string): Promise<void> {
  const find = async () => (await workersOf(stack)).find(({ workerId }) => workerId === id);
  const before = await find();
  process.kill(stack.processes.find(({ name }) => name === id)?.pid ?? 0, "SIGTERM");
  await waitFor(`${id} is ready again`, async () => {
    const now = await find();
    return now !== undefined && now.instanceId !== before?.instanceId && now.state === "ready";
  });
}

/** What gauges said while there was work: their highest values. */
const highest: Record<Role, Map<string, number>> = { gateway: new Map(), decode: new Map(), prefill: new Map() };

async function lookWhile(work: Promise<unknown>): Promise<void> {
  let isOver = false;
  const over = work.finally(() => {
    isOver = true;
  });
  while (!isOver) {
    for (const role of roles) {
      for (const [name, { kind, series }] of await shownBy(role)) {
        if (kind === "gauge") highest[role].set(name, Math.max(highest[role].get(name) ?? 0, ...series.map(({ value }) => value)));
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await over;
}

/** Of all processes of a role. */
async function shownBy(role: Role): Promise<Map<string, Family>> {
  const all = new Map<string, Family>();
  for (const base of adminOf(role)) {
    for (const [name, { kind, series }] of await familiesAt(base))
      all.set(name, { kind, series: [...(all.get(name)?.series ?? []), ...series] });
  }
  return all;
}

/** Whatever clients do, a label has one of these values. */
const allowed: Record<string, (value: string) => boolean> = {
  // None: of a request that named no model which is served.
  model_name: (value) => value === "" || value === stack.modelName,
  endpoint: oneOf("chat", "completions", "responses", "messages"),
  phase: oneOf("read body", "admit", "queue", "tokenize", "route", "first token", "stream", ...finishReasons),
  outcome: oneOf("attained", "missed", "complete", "aborted", "failed", ...finishReasons, ...errorCodes),
  kind: oneOf("prompt", "cached", "completion", "reasoning"),
  slo: oneOf("ttft", "tpot", "deadline"),
  priority: oneOf(...priorityClasses),
  route: (value) => value === "none" || Object.hasOwn(paths, value.replace("*id", "{model}")),
  status: (value) => /^[2-5]\d\d$/.test(value),
  finished_reason: oneOf("stop", "length", "abort", "error"),
  layer: oneOf("1", "2", "3", "4"),
  block_size: oneOf("64"),
  num_gpu_blocks: oneOf("24", "48"),
  direction: oneOf("received", "sent"),
  fault: oneOf("sender", "content", "unavailable"),
};

function oneOf(...values: string[]): (value: string) => boolean {
  return (value) => values.includes(value);
}

describe.each(roles)("%s", (role) => {
  const expected = documented()[role];
  let shown: Map<string, Family>;
  beforeAll(async () => {
    // Each adds the client's leaving to its account when its turn comes.
    await waitFor("all is counted", async () => (await runningDecode()) === undefined);
    shown = await shownBy(role);
  });

  test("shows what is documented, by that kind, and nothing else", () => {
    expect(expected.size).toBeGreaterThan(10);
    const kinds = (all: Map<string, { kind: string }>) => [...all].map(([name, { kind }]) => `${name} ${kind}`).sort();
    expect(kinds(shown)).toEqual(kinds(expected));
  });

  test("has data in each", () => {
    for (const [name, { kind }] of expected) {
      const series = shown.get(name)?.series ?? [];
      const values = series.filter((one) => one.name === (kind === "histogram" ? `${name}_count` : name)).map(({ value }) => value);
      expect(values.length, name).toBeGreaterThan(0);
      const total = values.reduce((sum, value) => sum + value, 0) + (highest[role].get(name) ?? 0);
      if (mayBeZero[role].has(name)) expect(total, name).toBeGreaterThanOrEqual(0);
      else expect(total, name).toBeGreaterThan(0);
    }
  });

  test("has the documented labels, with values that no client chose", () => {
    for (const [name, { labels }] of expected) {
      for (const series of shown.get(name)?.series ?? []) {
        const { le: _, ...own } = series.labels;
        expect(Object.keys(own).sort(), name).toEqual([...labels].sort());
        for (const [label, value] of Object.entries(own)) expect(allowed[label]?.(value), `${name}: ${label}="${value}"`).toBe(true);
      }
    }
  });
});
