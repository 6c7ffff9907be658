// A real stack asked what nobody meant: every field, then raw bytes, then messages on its bus; others are served meanwhile, and nothing is held afterwards.
import { startStack, type Stack } from "../stack/stack.ts";
import { type AttackReport, runAttacks } from "./attacks.ts";
import { firstGrowth, furtherGrowth, growth, heldBytes, type Holdings, measureHoldings, openInspectors } from "./baseline.ts";
import { attackBus, type BusReport } from "./bus.ts";
import { Client } from "./client.ts";
import { type FieldsReport, tryFields } from "./fields.ts";
import { anyInspectorPort } from "./inspector.ts";
import { operationsOf } from "./schema.ts";
import { SteadyClient, type SteadyReport } from "./steady.ts";

export interface HostileOptions {
  seed: number;
  /** Values of each field of each operation. */
  times: number;
  onProgress(text: string): void;
  signal?: AbortSignal;
}

export interface HostileReport {
  seed: number;
  fields: FieldsReport;
  attacks: AttackReport;
  bus: BusReport;
  steady: SteadyReport;
  /** Attacks alone, again. */
  again: AttackReport;
  holdings: { before: Holdings; after: Holdings; again: Holdings; growth: string[] };
  seconds: number;
  ok: boolean;
}

const parallel = 8;
/** One context of the model in the box and a little more: all of it is soon touched, and memory has no reason to grow later. */
const kvBlocks = 160;
const times = { headersMs: 3_000, requestMs: 5_000, stallMs: 3_000 };
const env = {
  NODE_OPTIONS: anyInspectorPort,
  // Answers without a length of their own end sooner.
  PELAGIC_DEFAULT_MAX_TOKENS: "200",
  PELAGIC_HEADERS_MS: String(times.headersMs),
  PELAGIC_REQUEST_MS: String(times.requestMs),
  PELAGIC_STALL_MS: String(times.stallMs),
};
const answerBoundMs = 120_000;
/** Of the values of each field that are tried before anything is measured: code is compiled and caches are filled then. */
const warmUpTimes = 2;

export async function runHostile(options: HostileOptions): Promise<HostileReport> {
  const begunMs = performance.now();
  const stack = await startStack({ prefill: 1, decode: 1, observer: true, kvBlocks, signal: options.signal, env });
  const clients: Client[] = [];
  const client = (connections: number) => {
    const one = new Client(stack.baseUrl, connections, answerBoundMs);
    clients.push(one);
    return one;
  };
  try {
    const inspectors = await openInspectors(stack);
    const main = client(parallel);
    const names = { model: stack.modelName };
    const document = JSON.parse((await main.send("GET", "/openapi.json")).text) as unknown;
    const operations = operationsOf(document);
    const fields = { client: main, operations, names, parallel };

    await tryFields({ ...fields, seed: options.seed + 1, times: warmUpTimes, onProgress: () => undefined });
    // Large formats have a thread of their own, which starts with the first and stays.
    const choice = Array.from({ length: 300 }, (_, i) => `${i}`.padStart(100, "x"));
    await main.send("POST", "/v1/completions", JSON.stringify({ ...names, prompt: "x", max_tokens: 4, structured_outputs: { choice } }));
    main.close();
    const before = await measureHoldings(stack, inspectors);

    const steady = new SteadyClient(client(1), stack.modelName);
    const tried = await tryFields({
      ...fields,
      client: client(parallel),
      seed: options.seed,
      times: options.times,
      onProgress: options.onProgress,
    });
    const target = {
      port: Number(new URL(stack.baseUrl).port),
      model: stack.modelName,
      ...times,
      outcomes: () => outcomes(stack),
      heldBytes: () => heldBytes(stack, inspectors, "gateway-0"),
    };
    const attacks = await runAttacks(target, options.onProgress);
    const bus = await attackBus(stack, client(parallel), options);
    const steadyReport = await steady.stop();

    for (const one of clients) one.close();
    const after = await measureHoldings(stack, inspectors);
    const again = await runAttacks(target, options.onProgress);
    const atLast = await measureHoldings(stack, inspectors);
    const grown = [...growth(before, after, firstGrowth), ...growth(after, atLast, furtherGrowth).map((what) => `again: ${what}`)];
    const ok =
      attacks.faults.length === 0 &&
      again.faults.length === 0 &&
      bus.faults.length === 0 &&
      tried.violationCount === 0 &&
      tried.accepted * 3 >= tried.requests &&
      steadyReport.faults.length === 0 &&
      grown.length === 0;
    return {
      seed: options.seed,
      fields: tried,
      attacks,
      bus,
      steady: steadyReport,
      again,
      holdings: { before, after, again: atLast, growth: grown },
      seconds: Math.round((performance.now() - begunMs) / 1000),
      ok,
    };
  } finally {
    for (const one of clients) one.close();
    await stack.stop();
  }
}

async function outcomes(stack: Stack): Promise<Map<string, number>> {
  const text = await (await fetch(`${stack.adminUrl}/metrics`, { signal: AbortSignal.timeout(answerBoundMs) })).text();
  const ended = text.matchAll(/^pelagic_gateway_requests_total\{[^}]*outcome="(\w+)"[^}]*\} (\d+)/gm);
  const counts = new Map<string, number>();
  for (const [, outcome, value] of ended) counts.set(outcome as string, (counts.get(outcome as string) ?? 0) + Number(value));
  return counts;
}
