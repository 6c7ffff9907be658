// bench experts: questions of one topic on ranks that share the experts, before and after the ranks have placed them anew by that load. A layer of a step ends
// when the most loaded rank has computed, so evenness gains what the balancedness says, where each rank has a core. Where ranks take turns on fewer cores the
// tokens of a second do not show it; the critical path does: in each layer of each step the processor time of the rank whose experts took most of it. Tokens by
// its seconds are what such ranks would make if experts were all there is to a step.
import { cpus } from "node:os";
import type { Command } from "commander";
import { uniform } from "../../loadtest/random.ts";
import { within } from "../lib/runtime/within.ts";
import { type BenchRow, commit, printReport } from "./bench-report.ts";
import { CliError } from "./cli-error.ts";
import { prepareFirst } from "./prepare.ts";
import { type Stack, startStack } from "./stack/stack.ts";
import { count } from "./up.ts";

interface Options {
  model?: string;
  ranks: number;
  redundantExperts: number;
  seconds: number;
  streams: number;
  json?: boolean;
}

/** Until tokens of late are those of the topic. */
const warmSeconds = 10;
/** From the end of the first measurement to the new placement. */
const marginSeconds = 3;
/** Until the experts that it wants are loaded, and the ranks' next load is heard. */
const settleSeconds = 10;
const pollMs = 100;
const requestMs = 60_000;

export function register(bench: Command): void {
  bench
    .command("experts")
    .description("tokens/s of one topic on ranks that share experts, before and after they are placed anew")
    .option("--model <dir>", "a model folder (default: the one in the box)")
    .option("--ranks <n>", "decode ranks, one compute thread each", count(2, 64), 4)
    .option("--redundant-experts <n>", "copies of experts beside one of each", count(0, 8192), 8)
    .option("--seconds <n>", "of each measurement", count(5, 600), 20)
    .option("--streams <n>", "questions at once", count(1, 1024), 32)
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nA critical path is the processor time of the busiest rank of each layer and step, as if each rank had a core; by the clock evenness shows where each has one.\n\nExample:\n  ./pelagic bench experts --json",
    )
    .action(benchExperts);
}

async function benchExperts(options: Options): Promise<void> {
  await prepareFirst();
  const { ranks, seconds, redundantExperts } = options;
  if (cpus().length < ranks)
    process.stderr.write(
      `${cpus().length} cores for ${ranks} ranks, which take turns: evenness shows in the critical paths, not by the clock\n`,
    );
  const rebalanceSeconds = warmSeconds + seconds + marginSeconds;
  const stack = await startStack({
    prefill: 0,
    decodeRanks: ranks,
    redundantExperts,
    rebalanceSeconds,
    threads: 1,
    ...(options.model === undefined ? {} : { model: options.model }),
  });
  const asking = Array.from({ length: options.streams }, (_, n) => keepAsking(stack, n));
  try {
    await pause(warmSeconds);
    const before = await measure(stack, seconds);
    await newPlan(stack, before.planVersion, rebalanceSeconds);
    await pause(Math.min(settleSeconds, rebalanceSeconds - seconds - 1));
    const after = await measure(stack, seconds);
    const rows: BenchRow[] = [
      row("first plan: balancedness", before.balancedness, "", 1),
      row("placed anew: balancedness", after.balancedness, "", 1),
      row("first plan: rows computed, mean over largest rank", before.rowBalance, "", 1),
      row("placed anew: rows computed, mean over largest rank", after.rowBalance, "", 1),
      row("first plan: experts' processor time, mean over the busiest rank of each layer and step", before.timeBalance, "", 1),
      row("placed anew: experts' processor time, mean over the busiest rank of each layer and step", after.timeBalance, "", 1),
      ...tokenRows("tokens by thousands of rows on the experts' critical path", before, after, (of) => of.tokensPerThousandRows),
      ...tokenRows("tokens by seconds of the experts' critical path", before, after, (of) => of.tokensPerExpertSecond),
      ...tokenRows("tokens by seconds of the steps' critical path", before, after, (of) => of.tokensPerStepSecond),
      ...tokenRows("tokens by seconds of the clock", before, after, (of) => of.tokensPerSecond),
    ];
    const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores, ${ranks} ranks`;
    printReport({ bench: "experts", machine, commit: commit(), rows, targets: [] }, options.json);
  } finally {
    for (const each of asking) each.stop();
    await stack.stop();
  }
}

/** What an even placement would make, what the balancedness predicts, and the gain beside the one that it predicts. */
function tokenRows(what: string, before: Measured, after: Measured, of: (measured: Measured) => number): BenchRow[] {
  const predicted = after.balancedness / before.balancedness;
  return [
    row(`first plan: ${what}`, of(before), "tokens", of(before) / before.balancedness),
    row(`placed anew: ${what}`, of(after), "tokens", of(before) * predicted),
    row(`gain: ${what}`, of(after) / of(before), "x", predicted),
  ];
}

function row(what: string, value: number, unit: string, ceiling: number): BenchRow {
  const rounded = (number: number) => Number(number.toPrecision(4));
  return { what, value: rounded(value), unit, ceiling: rounded(ceiling), ratio: rounded(value / ceiling) };
}

interface Measured {
  tokensPerSecond: number;
  tokensPerThousandRows: number;
  tokensPerExpertSecond: number;
  tokensPerStepSecond: number;
  timeBalance: number;
  balancedness: number;
  /** Of the rows that each rank's experts computed, all layers together: mean over largest. */
  rowBalance: number;
  planVersion: number;
}

interface Look {
  tokens: number;
  /** By rank. */
  computedRows: number[];
  expertSeconds: number[];
  criticalExpertSeconds: number[];
  criticalRows: number[];
  criticalStepSeconds: number[];
  atMs: number;
  /** Mean over layers, of the rank that leads. */
  balancedness: number;
  /** The oldest that a rank goes by. */
  planVersion: number;
}

async function measure(stack: Stack, seconds: number): Promise<Measured> {
  const begin = await look(stack);
  await pause(seconds);
  const end = await look(stack);
  if (end.planVersion !== begin.planVersion)
    throw new CliError(`the experts were placed anew in the midst of a measurement: try other --seconds`);
  const grown = (of: (each: Look) => number[]) => of(end).map((total, rank) => total - (of(begin)[rank] as number));
  const rows = grown((each) => each.computedRows);
  const tokens = end.tokens - begin.tokens;
  // Every rank counts the same, a look is not at the same moment for all.
  const critical = mean(grown((each) => each.criticalExpertSeconds));
  return {
    ...end,
    tokensPerSecond: tokens / ((end.atMs - begin.atMs) / 1000),
    tokensPerThousandRows: (1000 * tokens) / mean(grown((each) => each.criticalRows)),
    tokensPerExpertSecond: tokens / critical,
    tokensPerStepSecond: tokens / mean(grown((each) => each.criticalStepSeconds)),
    timeBalance: mean(grown((each) => each.expertSeconds)) / critical,
    rowBalance: mean(rows) / Math.max(...rows),
  };
}

async function newPlan(stack: Stack, than: number, rebalanceSeconds: number): Promise<void> {
  const endMs = performance.now() + 2 * rebalanceSeconds * 1000;
  while ((await look(stack)).planVersion <= than) {
    if (performance.now() > endMs) throw new CliError(`the ranks found no better plan within ${2 * rebalanceSeconds} s`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

/** What all ranks say now. */
async function look(stack: Stack): Promise<Look> {
  const ports = stack.processes.flatMap(({ name, metricsPort }) => (name.startsWith("decode-") && metricsPort ? [metricsPort] : []));
  const texts = await Promise.all(
    ports.map(async (port) => (await fetch(`http://127.0.0.1:${port}/metrics`, { signal: AbortSignal.timeout(10_000) })).text()),
  );
  const values = (name: string) =>
    texts.flatMap((text) => [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"))].map(([, value]) => Number(value)));
  const balancedness = values("pelagic_expert_balancedness");
  if (balancedness.length === 0) throw new CliError("no rank leads: the group does not stand");
  return {
    tokens: sum(values("vllm:generation_tokens_total")) + sum(values("pelagic_prefilled_tokens_total")),
    computedRows: values("pelagic_rank_computed_rows_total"),
    expertSeconds: values("pelagic_rank_expert_seconds_total"),
    criticalRows: values("pelagic_rank_critical_computed_rows_total"),
    criticalExpertSeconds: values("pelagic_rank_critical_expert_seconds_total"),
    criticalStepSeconds: values("pelagic_rank_critical_step_seconds_total"),
    atMs: performance.now(),
    balancedness: mean(balancedness),
    planVersion: Math.min(...values("pelagic_expert_plan_version")),
  };
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0);

const mean = (numbers: readonly number[]) => sum(numbers) / numbers.length;

/** With few rows for each, experts take the time in which their weights are read, however many rows they are: steps of one short question after another would
 * say nothing of evenness. */
const sumsInQuestion = 60;
const answerTokens = 8;

/** One list of additions after another. */
function keepAsking(stack: Stack, index: number): { stop(): void } {
  const stopping = new AbortController();
  const random = uniform(index);
  const number = () => 100 + Math.floor(random() * 900);
  const ask = async () => {
    while (!stopping.signal.aborted) {
      const content = Array.from({ length: sumsInQuestion }, () => `What is ${number()} + ${number()}?`).join(" ");
      try {
        const body = JSON.stringify({ model: stack.modelName, messages: [{ role: "user", content }], max_tokens: answerTokens });
        const headers = { "content-type": "application/json" };
        await within(requestMs, stopping.signal, async (signal) =>
          (await fetch(`${stack.baseUrl}/v1/chat/completions`, { method: "POST", headers, body, signal })).text(),
        );
      } catch {
        // Stopped, or refused while experts are loaded: asked again.
        await pause(0.1);
      }
    }
  };
  void ask();
  return { stop: () => stopping.abort() };
}

const pause = (seconds: number) => new Promise<void>((resolve) => setTimeout(resolve, seconds * 1000));
