// check-exact: the row rule, seen. The same requests are answered in every way that must not matter, and the digest of every float32 logits
// row is compared. A request is exact when each of its rows has one digest over all ways.
import { basename } from "node:path";
import { type Command, Option } from "commander";
import { silentLog, systemClock } from "../lib/contracts/bus.ts";
import { Engine, type EngineConfig } from "../lib/engine/engine.ts";
import { runLocal } from "../lib/engine/local.ts";
import { loadNativeRunner, measureNumericsId, type ModelRunner, type NativeRunner } from "../lib/engine/model-runner.ts";
import { type Backend, backends, nativeModule, type Isa, type KvDtype, type WeightDtype, weightDtypes } from "../lib/engine/native.ts";
import { CliError } from "./cli-error.ts";
import { answerOverNats } from "./check-exact-nats.ts";
import { rankWays, withPlanFile } from "./check-exact-ranks.ts";
import { prepareFirst } from "./prepare.ts";
import { checkedModelFolder, embeddedModel } from "./stack/model-folder.ts";

const isas: Isa[] = ["scalar", "avx2", "avx512"];
/** Around block and chunk borders, and one that is prefilled remotely in several chunks. */
const promptLengths = [2, 64, 65, 131, 200, 450];
const newTokens = 16;
/** A resumed request gets this many of its tokens back as rows. */
const resumedTokens = 9;
const batchSize = 16;

export interface ExactRequest {
  id: string;
  tokens: Uint32Array;
  promptLength: number;
  temperature: number;
  seed: bigint;
  maxTokens: number;
}

/** Digests of the logits rows behind the output tokens from `from` on, in order. */
export interface ExactAnswer {
  from: number;
  digests: string[];
  tokens: number[];
}

export interface ExactReport {
  model: string;
  kvDtype: KvDtype;
  /** What a worker measures at its start and a folder's numerics.json may demand. */
  numericsId: string;
  temperatures: number[];
  /** Every way in which all requests were answered. */
  ways: string[];
  skipped: string[];
  requests: { promptTokens: number; temperature: number; rows: number; distinct: number; tokensEqual: boolean }[];
  exact: boolean;
}

export function register(program: Command): void {
  program
    .command("check-exact")
    .description("answer the same requests in every way that must not matter, and compare the digest of every logits row")
    .option("--model <dir>", "model folder (default: the model in the box)")
    .option("--temperature <t...>", "sampling temperatures", ["0", "0.8"])
    .option("--kv-dtype <dtype>", "float32 or bfloat16", "bfloat16")
    .addOption(new Option("--backend <backend>", "cpu, or cuda on a machine with an H100 or H200").choices(backends).default("cpu"))
    .addOption(new Option("--weight-dtype <dtype>", "with --backend cuda: bfloat16 (the default) or fp8").choices(weightDtypes))
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  ./pelagic check-exact --json\n\nExit code 0 only when every row of every request has one digest over all ways: chunk sizes, threads,\ninstruction sets, alone and in a batch, cache hit and miss, preempted, resumed, prefill + NATS + decode as 1x1 and 2x2,\nand with the experts over 2, 4 and 8 decode ranks, one of which\nis killed, also with the only copies of some experts, or which move their experts meanwhile.",
    )
    .action(async (options: CheckExactOptions) => {
      const temperatures = options.temperature.map(Number);
      if (temperatures.some((t) => !(t >= 0))) throw new CliError(`--temperature: ${options.temperature.join(" ")}: numbers of 0 or more`);
      if (options.kvDtype !== "float32" && options.kvDtype !== "bfloat16") throw new CliError("--kv-dtype: float32 or bfloat16");
      const dir = checkedModelFolder(options.model ?? embeddedModel(), { tokenizer: false });
      await prepareFirst();
      const report = await checkExact(dir, computeOf(options), temperatures, options.kvDtype, (way) => process.stderr.write(`  ${way}\n`));
      process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : format(report));
      process.exitCode = report.exact ? 0 : 1;
    });
}

interface CheckExactOptions extends Compute {
  model?: string;
  temperature: string[];
  kvDtype: string;
  json?: boolean;
}

interface Compute {
  backend: Backend;
  weightDtype?: WeightDtype;
}

function computeOf({ backend, weightDtype }: Compute): Compute {
  return { backend, ...(weightDtype === undefined ? {} : { weightDtype }) };
}

export async function checkExact(
  dir: string,
  compute: Compute,
  temperatures: number[],
  kvDtype: KvDtype,
  progress: (way: string) => void,
): Promise<ExactReport> {
  const { backend } = compute;
  const loaded = new Map<string, NativeRunner>();
  const runnerFor = async (isa: Isa, threads: number): Promise<NativeRunner> => {
    const key = `${isa} ${threads}`;
    const runner = loaded.get(key) ?? (await loadNativeRunner({ dir, ...compute, kvDtype, threads, isa, kvBlocks: 192 }));
    loaded.set(key, runner);
    return runner;
  };
  const best = nativeModule().bestIsa();
  const available = isas.slice(0, isas.indexOf(best) + 1);
  const first = await runnerFor(best, 2);
  const numericsId = await measureNumericsId(first);
  const requests = temperatures.flatMap((temperature) => makeRequests(first.info.vocabSize, first.info.maxPositionEmbeddings, temperature));
  const answers: { way: string; answers: Map<string, ExactAnswer> }[] = [];
  const answer = async (way: string, run: () => Promise<Map<string, ExactAnswer>>) => {
    progress(way);
    answers.push({ way, answers: await run() });
  };
  try {
    // The reference: one request at a time on a cold cache.
    await answer(backend === "cpu" ? `alone, chunks of 128, ${best}, 2 threads` : `alone, chunks of 128, ${backend}`, () =>
      alone(first, 128, requests),
    );
    for (const chunk of [64, 512]) await answer(`chunks of ${chunk}`, () => alone(first, chunk, requests));
    // Of the processor; on a GPU threads and instruction sets only load the weights.
    for (const isa of backend === "cpu" ? available : []) {
      for (const threads of [1, 2]) {
        if (isa === best && threads === 2) continue;
        const runner = await runnerFor(isa, threads);
        await answer(`${isa}, ${threads} threads`, () => alone(runner, 128, requests));
      }
    }
    await answer("one decode step a call", () => alone(oneStepACall(first), 128, requests));
    await answer(`in a batch of ${batchSize}`, () => batched(first, requests));
    await answer("after a cache hit", () => twice(first, requests));
    await answer("preempted", () => preempted(first, requests));
    await answer(`resumed after ${resumedTokens} tokens`, () => resumed(first, requests, answers[0]?.answers as Map<string, ExactAnswer>));
  } finally {
    for (const runner of loaded.values()) await runner.close();
  }
  for (const pools of [
    { prefill: 1, decode: 1 },
    { prefill: 2, decode: 2 },
  ]) {
    await answer(`prefill + NATS + decode, ${pools.prefill}x${pools.decode}`, () => answerOverNats(dir, compute, kvDtype, pools, requests));
  }
  const shape = { moeLayers: first.info.moeLayerCount, logicalExperts: first.info.logicalExpertCount };
  for (const { way, plan, killLast, moves = [] } of shape.moeLayers > 0 ? rankWays(shape) : []) {
    await answer(way, () =>
      withPlanFile(plan, (planFile) =>
        answerOverNats(dir, compute, kvDtype, { prefill: 1, decode: plan.rankCount, planFile, killLast, moves }, requests),
      ),
    );
  }
  const skipped = backend === "cpu" ? isas.filter((isa) => !available.includes(isa)) : [];
  return { model: basename(dir), kvDtype, numericsId, temperatures, ...compare(requests, answers, skipped) };
}

function makeRequests(vocabSize: number, maxPositions: number, temperature: number): ExactRequest[] {
  return promptLengths
    .filter((length) => length + newTokens <= maxPositions)
    .map((length, i) => ({
      id: `t${temperature}-p${length}`.replace(".", "_"),
      tokens: Uint32Array.from({ length }, (_, j) => (j * 7919 + i * 104_729 + 17) % vocabSize),
      promptLength: length,
      temperature,
      seed: BigInt(1000 + i),
      maxTokens: newTokens,
    }));
}

/** The same runner: the scheduler lets an answer of one request take several steps a call, and this one takes one. */
function oneStepACall(runner: ModelRunner): ModelRunner {
  const run: ModelRunner["run"] = (work, options) => runner.run(work, { ...options, steps: 1 });
  return Object.assign(Object.create(runner) as ModelRunner, { run });
}

function engineFor(runner: ModelRunner, chunkTokens: number): Engine {
  const config: EngineConfig = {
    kvBlocks: 192,
    tokenBudget: 512,
    chunkTokens,
    chunkAlignTokens: 64,
    maxSequences: batchSize,
    maxWaiting: 64,
  };
  return new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "" }, config, systemClock, silentLog);
}

async function one(engine: Engine, request: ExactRequest, id = request.id): Promise<ExactAnswer & { hitRows: number }> {
  const result = await runLocal(engine, {
    id,
    tokens: request.tokens,
    promptLength: request.promptLength,
    maxTokens: request.maxTokens,
    sampling: { temperature: request.temperature, seed: request.seed, choice: 0 },
    digests: true,
  });
  if (result.end.kind === "error") throw result.end.error;
  return {
    from: request.tokens.length - request.promptLength,
    digests: result.digests.map((digest) => digest.toString(16).padStart(16, "0")),
    tokens: result.tokens,
    hitRows: result.hitRows,
  };
}

async function alone(runner: ModelRunner, chunk: number, requests: ExactRequest[]): Promise<Map<string, ExactAnswer>> {
  const out = new Map<string, ExactAnswer>();
  // A new engine each: nothing is cached.
  for (const request of requests) out.set(request.id, await one(engineFor(runner, chunk), request));
  return out;
}

/** All at once, with fillers that make sixteen: prefill chunks of some share steps with decode rows of others. */
async function batched(runner: NativeRunner, requests: ExactRequest[]): Promise<Map<string, ExactAnswer>> {
  const engine = engineFor(runner, 96);
  const fillers = Array.from({ length: Math.max(0, batchSize - requests.length) }, (_, i) => {
    const like = requests[i % requests.length] as ExactRequest;
    return { ...like, id: `filler${i}`, tokens: like.tokens.map((token) => Math.max(0, token - 1 - i)), maxTokens: newTokens + i };
  });
  const others = fillers.map((filler) => one(engine, filler));
  const answers = await Promise.all(requests.map(async (request) => [request.id, await one(engine, request)] as const));
  await Promise.all(others);
  return new Map(answers);
}

/** The second answer of an engine that has the prompt's blocks, and the answer's, in its cache. */
async function twice(runner: NativeRunner, requests: ExactRequest[]): Promise<Map<string, ExactAnswer>> {
  const out = new Map<string, ExactAnswer>();
  for (const request of requests) {
    const engine = engineFor(runner, 128);
    await one(engine, request);
    const again = await one(engine, request, `${request.id}-again`);
    const reusable = Math.floor((request.promptLength - 1) / 64) * 64;
    if (again.hitRows !== reusable) throw new Error(`${request.id}: ${again.hitRows} rows were hit, ${reusable} expected`);
    out.set(request.id, again);
  }
  return out;
}

/** In a cache too small for all at once, behind others that grow: requests lose their blocks in mid-answer and start over. */
async function preempted(runner: NativeRunner, requests: ExactRequest[]): Promise<Map<string, ExactAnswer>> {
  const kvBlocks = Math.max(...requests.map((request) => Math.ceil((request.promptLength + request.maxTokens) / 64))) + 2;
  const config: EngineConfig = {
    kvBlocks,
    tokenBudget: 512,
    chunkTokens: 128,
    chunkAlignTokens: 64,
    maxSequences: batchSize,
    maxWaiting: 64,
  };
  const engine = new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "" }, config, systemClock, silentLog);
  const like = requests[0] as ExactRequest;
  // Each grows from one block to four while the requests decode.
  const growers = Array.from({ length: 3 }, (_, i) =>
    one(engine, { ...like, id: `grower${i}`, tokens: Uint32Array.of(1, 2, 3 + i), promptLength: 3, maxTokens: 200 }),
  );
  const answers = await Promise.all(requests.map(async (request) => [request.id, await one(engine, request)] as const));
  await Promise.all(growers);
  if (engine.stats().preemptions === 0) throw new Error("nothing was preempted: this way would prove nothing");
  return new Map(answers);
}

async function resumed(runner: NativeRunner, requests: ExactRequest[], whole: Map<string, ExactAnswer>): Promise<Map<string, ExactAnswer>> {
  const out = new Map<string, ExactAnswer>();
  for (const request of requests) {
    const before = whole.get(request.id)?.tokens.slice(0, resumedTokens) ?? [];
    out.set(request.id, await one(engineFor(runner, 128), { ...request, tokens: Uint32Array.from([...request.tokens, ...before]) }));
  }
  return out;
}

function compare(
  requests: ExactRequest[],
  ways: { way: string; answers: Map<string, ExactAnswer> }[],
  skipped: string[],
): Pick<ExactReport, "ways" | "skipped" | "requests" | "exact"> {
  const rows = requests.map((request) => {
    const digests = Array.from({ length: request.maxTokens }, () => new Set<string>());
    const reference = ways[0]?.answers.get(request.id);
    let complete = true;
    let tokensEqual = true;
    for (const { answers } of ways) {
      const answer = answers.get(request.id);
      // A row that a way did not report is as bad as one that differs.
      complete &&= answer !== undefined && answer.from + answer.digests.length === request.maxTokens;
      for (const [i, digest] of answer?.digests.entries() ?? []) digests[(answer?.from ?? 0) + i]?.add(digest);
      tokensEqual &&= answer?.tokens.join() === reference?.tokens.slice(answer?.from ?? 0).join();
    }
    const distinct = complete ? Math.max(...digests.map((set) => set.size)) : 0;
    return { promptTokens: request.promptLength, temperature: request.temperature, rows: request.maxTokens, distinct, tokensEqual };
  });
  return {
    ways: ways.map(({ way }) => way),
    skipped: skipped.map((isa) => `${isa}: this processor does not have it`),
    requests: rows,
    exact: rows.length > 0 && rows.every((row) => row.distinct === 1 && row.tokensEqual),
  };
}

function format(report: ExactReport): string {
  const lines = report.requests.map(
    (r) =>
      `prompt ${String(r.promptTokens).padStart(4)}, temperature ${r.temperature}: ${r.rows} rows, ${r.distinct} distinct digest${r.distinct === 1 ? "" : "s"} a row`,
  );
  const skipped = report.skipped.map((line) => `skipped: ${line}\n`).join("");
  return `${report.model}, ${report.kvDtype} cache, ${report.ways.length} ways\n${lines.join("\n")}\n${skipped}numerics id ${report.numericsId}\n${report.exact ? "exact" : "NOT EXACT"}\n`;
}
