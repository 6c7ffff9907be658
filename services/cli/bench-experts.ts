// bench experts: questions of one topic on ranks that share the experts, before and after the ranks have placed them anew by that load. A layer of a step ends
// when the most loaded rank has computed, so evenness gains what the balancedness says, where each rank has cores of its own and steps are mostly experts
// (--expert-width). Where ranks take turns on fewer cores the tokens of a second do not show it; the critical path does: in each layer of each step the processor
// time of the rank whose experts took most of it. Tokens by its seconds are what such ranks would make if experts were all there is to a step.
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { uniform } from "../../loadtest/random.ts";
import { within } from "../lib/runtime/within.ts";
import { type BenchRow, commit, printReport } from "./bench-report.ts";
import { CliError } from "./cli-error.ts";
import { prepareFirst } from "./prepare.ts";
import { embeddedModel } from "./stack/model-folder.ts";
import { type Stack, type StackOptions, startStack } from "./stack/stack.ts";
import { count, maxThreads } from "./up.ts";
import { writeWideExperts } from "./wide-experts.ts";

interface Options {
  model?: string;
  expertWidth?: number;
  ranks: number;
  threads: number;
  redundantExperts: number;
  seconds: number;
  streams: number;
  thinking?: boolean;
  turns: number;
  json?: boolean;
}

/** Until tokens of late are those of the topic. */
const warmSeconds = 10;
/** From the end of the first measurement to the new placement, and for the questions whose answers are compared. */
const marginSeconds = 8;
/** Until the experts that it wants are loaded, and the ranks' next load is heard. */
const settleSeconds = 10;
const pollMs = 100;
const requestMs = 60_000;

export function register(bench: Command): void {
  bench
    .command("experts")
    .description("tokens/s of one topic on ranks that share experts, before and after they are placed anew")
    .option("--model <dir>", "a model folder (default: the one in the box)")
    .option(
      "--expert-width <n>",
      "of that model with its experts made so wide that they are most of a step; answers stay",
      count(256, 65_536),
    )
    .option("--ranks <n>", "decode ranks", count(2, 64), 4)
    .option("--threads <n>", "compute threads of each rank", count(1, maxThreads), 1)
    .option("--redundant-experts <n>", "copies of experts beside one of each", count(0, 8192), 8)
    .option("--seconds <n>", "of each measurement", count(5, 600), 20)
    .option("--streams <n>", "questions at once", count(1, 1024), 32)
    .option("--thinking", "one addition a question, thought about, instead of long lists: most rows of a step are of answers")
    .option("--turns <n>", "times that ranks start anew, on the first plan", count(1, 100), 1)
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nA critical path is the processor time of the busiest rank of each layer and step, as if each rank had its own cores; by the clock evenness shows where each has them.\n\nExamples:\n  ./pelagic bench experts --json\n  ./pelagic bench experts --expert-width 8192 --threads 12 --streams 1024 --thinking --turns 2   # on 64 cores",
    )
    .action(benchExperts);
}

async function benchExperts(options: Options): Promise<void> {
  await prepareFirst();
  const { ranks, threads, turns, expertWidth } = options;
  if (cpus().length < ranks * threads)
    process.stderr.write(
      `${cpus().length} cores for ${ranks} ranks of ${threads} threads, which take turns: evenness shows in the critical paths, not by the clock\n`,
    );
  const folder = mkdtempSync(join(tmpdir(), "pelagic-bench-"));
  try {
    const model = expertWidth === undefined ? options.model : folder;
    if (expertWidth !== undefined) writeWideExperts(options.model ?? embeddedModel(), folder, expertWidth);
    const measured: Turn[] = [];
    while (measured.length < turns) measured.push(await oneTurn(model, options));
    const [first] = measured as [Turn];
    if (measured.some(({ before, after }) => before.answers !== first.before.answers || after.answers !== first.before.answers))
      throw new CliError("questions had other answers, or other logprobs, on another placement of the experts");
    const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores, ${ranks} ranks of ${threads} threads`;
    printReport({ bench: "experts", machine, commit: commit(), rows: rowsOf(measured), targets: [] }, options.json);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Turn {
  before: Measured;
  after: Measured;
}

async function oneTurn(model: string | undefined, options: Options): Promise<Turn> {
  const { ranks, threads, seconds, redundantExperts, streams } = options;
  const topic = options.thinking === true ? thoughtAbout : lists;
  const rebalanceSeconds = warmSeconds + seconds + marginSeconds;
  const stack = await startStack({
    prefill: 0,
    decodeRanks: ranks,
    redundantExperts,
    rebalanceSeconds,
    threads,
    ...roomFor(Math.ceil((roomToSpare * streams) / ranks)),
    ...(model === undefined ? {} : { model }),
  });
  let asking: { stop(): void }[] = [];
  try {
    const answersBefore = await answers(stack, topic, "before");
    asking = Array.from({ length: streams }, (_, n) => keepAsking(stack, topic, n));
    await pause(warmSeconds);
    const before = await measure(stack, seconds, answersBefore);
    await newPlan(stack, before.planVersion, rebalanceSeconds);
    await pause(Math.min(settleSeconds, rebalanceSeconds - seconds - 1));
    const after = await measure(stack, seconds, "");
    return { before, after: { ...after, answers: await answers(stack, topic, "after") } };
  } finally {
    for (const each of asking) each.stop();
    await stack.stop();
  }
}

function rowsOf(turns: Turn[]): BenchRow[] {
  const before = together(turns.map((turn) => turn.before));
  const after = together(turns.map((turn) => turn.after));
  const perClock = ({ tokens, seconds }: Measured) => tokens / seconds;
  /** Of what goes by the evenness of experts: all, or as much as they are of the time before. */
  const gainOf = (share: number) => 1 / (1 - share + (share * before.balancedness) / after.balancedness);
  const ofSteps = (of: Measured) => of.criticalExpertSeconds / of.criticalStepSeconds;
  const ofClock = (of: Measured) => of.criticalExpertSeconds / of.seconds;
  const timeBalance = ({ expertSeconds, criticalExpertSeconds }: Measured) => expertSeconds / criticalExpertSeconds;
  return [
    row("first plan: balancedness", before.balancedness, "", 1),
    row("placed anew: balancedness", after.balancedness, "", 1),
    row("first plan: rows computed, mean over largest rank", before.rowBalance, "", 1),
    row("placed anew: rows computed, mean over largest rank", after.rowBalance, "", 1),
    row("first plan: experts' processor time, mean over largest rank", before.expertBalance, "", 1),
    row("placed anew: experts' processor time, mean over largest rank", after.expertBalance, "", 1),
    row("first plan: experts' processor time, mean over the busiest rank of each layer and step", timeBalance(before), "", 1),
    row("placed anew: experts' processor time, mean over the busiest rank of each layer and step", timeBalance(after), "", 1),
    row("first plan: experts' part of the steps' critical path", ofSteps(before), "", 1),
    row("placed anew: experts' part of the steps' critical path", ofSteps(after), "", 1),
    row("first plan: experts' critical path, of the clock", ofClock(before), "", 1),
    row("placed anew: experts' critical path, of the clock", ofClock(after), "", 1),
    row("first plan: steps' critical path, of the clock", before.criticalStepSeconds / before.seconds, "", 1),
    row("placed anew: steps' critical path, of the clock", after.criticalStepSeconds / after.seconds, "", 1),
    row("first plan: steps a second", before.steps / before.seconds, "steps", before.steps / before.seconds),
    row("placed anew: steps a second", after.steps / after.seconds, "steps", after.steps / after.seconds),
    ...tokenRows("tokens by thousands of rows on the experts' critical path", (of) => (1000 * of.tokens) / of.criticalRows, 1),
    ...tokenRows("tokens by seconds of the experts' critical path", (of) => of.tokens / of.criticalExpertSeconds, 1),
    ...tokenRows("tokens by seconds of the steps' critical path", (of) => of.tokens / of.criticalStepSeconds, ofSteps(before)),
    ...tokenRows("tokens by seconds of the clock", perClock, ofClock(before)),
    ...(turns.length === 1 ? [] : turns.flatMap(clockRows)),
  ];

  /** What an even placement would make, what the balancedness predicts, and the gain beside the one that it predicts. */
  function tokenRows(what: string, of: (measured: Measured) => number, share: number): BenchRow[] {
    const even = 1 / (1 - share + share * before.balancedness);
    return [
      row(`first plan: ${what}`, of(before), "tokens", of(before) * even),
      row(`placed anew: ${what}`, of(after), "tokens", of(before) * gainOf(share)),
      row(`gain: ${what}`, of(after) / of(before), "x", gainOf(share)),
    ];
  }

  function clockRows(turn: Turn, index: number): BenchRow[] {
    const name = `turn ${index + 1}: tokens by seconds of the clock`;
    return [
      row(`first plan, ${name}`, perClock(turn.before), "tokens", perClock(before)),
      row(`placed anew, ${name}`, perClock(turn.after), "tokens", perClock(after)),
    ];
  }
}

function row(what: string, value: number, unit: string, ceiling: number): BenchRow {
  const rounded = (number: number) => Number(number.toPrecision(4));
  return { what, value: rounded(value), unit, ceiling: rounded(ceiling), ratio: rounded(value / ceiling) };
}

/** Of a measurement; figures of ranks are means over them. */
interface Measured {
  seconds: number;
  tokens: number;
  steps: number;
  criticalRows: number;
  expertSeconds: number;
  criticalExpertSeconds: number;
  criticalStepSeconds: number;
  balancedness: number;
  /** Of the rows that each rank's experts computed, all layers together: mean over largest. */
  rowBalance: number;
  /** The same of the experts' processor time. */
  expertBalance: number;
  planVersion: number;
  /** To the same questions, with their logprobs. */
  answers: string;
}

function together(all: Measured[]): Measured {
  const total = (of: (each: Measured) => number) => sum(all.map(of));
  return {
    ...(all[0] as Measured),
    seconds: total((each) => each.seconds),
    tokens: total((each) => each.tokens),
    steps: total((each) => each.steps),
    criticalRows: total((each) => each.criticalRows),
    expertSeconds: total((each) => each.expertSeconds),
    criticalExpertSeconds: total((each) => each.criticalExpertSeconds),
    criticalStepSeconds: total((each) => each.criticalStepSeconds),
    balancedness: total((each) => each.balancedness) / all.length,
    rowBalance: total((each) => each.rowBalance) / all.length,
    expertBalance: total((each) => each.expertBalance) / all.length,
  };
}

interface Look {
  tokens: number;
  /** By rank. */
  steps: number[];
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

async function measure(stack: Stack, seconds: number, answers: string): Promise<Measured> {
  const begin = await look(stack);
  await pause(seconds);
  const end = await look(stack);
  if (end.planVersion !== begin.planVersion)
    throw new CliError(`the experts were placed anew in the midst of a measurement: try other --seconds`);
  const grown = (of: (each: Look) => number[]) => of(end).map((total, rank) => total - (of(begin)[rank] as number));
  const rows = grown((each) => each.computedRows);
  const busy = grown((each) => each.expertSeconds);
  return {
    seconds: (end.atMs - begin.atMs) / 1000,
    tokens: end.tokens - begin.tokens,
    // Every rank counts the same, a look is not at the same moment for all.
    steps: mean(grown((each) => each.steps)),
    criticalRows: mean(grown((each) => each.criticalRows)),
    expertSeconds: mean(busy),
    expertBalance: mean(busy) / Math.max(...busy),
    criticalExpertSeconds: mean(grown((each) => each.criticalExpertSeconds)),
    criticalStepSeconds: mean(grown((each) => each.criticalStepSeconds)),
    balancedness: end.balancedness,
    rowBalance: mean(rows) / Math.max(...rows),
    planVersion: end.planVersion,
    answers,
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
    steps: texts.map((text) => sum([...text.matchAll(/^pelagic_rank_steps_total\{[^}]*\} (\S+)$/gm)].map(([, value]) => Number(value)))),
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

interface Topic {
  sums: number;
  body: Record<string, unknown>;
}

/** With few rows for each, experts take the time in which their weights are read, however many rows they are: steps of one short question after another would
 * say nothing of evenness. */
const lists: Topic = { sums: 60, body: { max_tokens: 8 } };
/** Nor would those of few answers: this one is for many streams. */
const thoughtAbout: Topic = { sums: 1, body: { max_tokens: 256, thinking: { type: "enabled" } } };

/** What a rank takes unless it is told, and of blocks for each: lists need a tenth more than eight. */
const usualSequences = 32;
const blocksOfSequence = 10;
/** Requests are not shared out evenly at every moment. */
const roomToSpare = 1.25;

function roomFor(sequences: number): Pick<StackOptions, "kvBlocks" | "env"> {
  if (sequences <= usualSequences) return {};
  return { kvBlocks: sequences * blocksOfSequence, env: { PELAGIC_MAX_SEQUENCES: String(sequences) } };
}

const checkedQuestions = 8;

/** One list of additions after another. */
function keepAsking(stack: Stack, topic: Topic, index: number): { stop(): void } {
  const stopping = new AbortController();
  const next = questions(topic, index);
  const ask = async () => {
    while (!stopping.signal.aborted) {
      try {
        await askOne(stack, next(), topic.body, stopping.signal);
      } catch {
        // Stopped, or refused while experts are loaded: asked again.
        await pause(0.1);
      }
    }
  };
  void ask();
  return { stop: () => stopping.abort() };
}

/** The same questions, computed anew: before others are asked, and beside them. */
async function answers(stack: Stack, topic: Topic, salt: string): Promise<string> {
  const next = questions(topic, -1);
  const asked = Array.from({ length: checkedQuestions }, () =>
    askOne(stack, next(), { ...topic.body, temperature: 0, logprobs: true, top_logprobs: 5, cache_salt: salt }),
  );
  const given = (await Promise.all(asked)).map((text) => JSON.parse(text) as { choices?: unknown[] });
  if (given.some(({ choices }) => choices?.length !== 1)) throw new CliError(`a question got no answer: ${JSON.stringify(given)}`);
  return JSON.stringify(given.map(({ choices }) => choices));
}

function questions({ sums }: Topic, seed: number): () => string {
  const random = uniform(seed);
  const number = () => 100 + Math.floor(random() * 900);
  return () => Array.from({ length: sums }, () => `What is ${number()} + ${number()}?`).join(" ");
}

async function askOne(
  stack: Stack,
  content: string,
  more: Record<string, unknown>,
  stopping: AbortSignal = new AbortController().signal,
): Promise<string> {
  const body = JSON.stringify({ model: stack.modelName, messages: [{ role: "user", content }], ...more });
  const headers = { "content-type": "application/json" };
  return within(requestMs, stopping, async (signal) =>
    (await fetch(`${stack.baseUrl}/v1/chat/completions`, { method: "POST", headers, body, signal })).text(),
  );
}

const pause = (seconds: number) => new Promise<void>((resolve) => setTimeout(resolve, seconds * 1000));
