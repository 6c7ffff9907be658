// bench engine: prefill and decode through the serving scheduler, beside what this machine's memory and arithmetic allow, measured in the
// same run with the same threads.
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { silentLog, systemClock } from "../lib/contracts/bus.ts";
import { Engine } from "../lib/engine/engine.ts";
import { runLocal } from "../lib/engine/local.ts";
import { loadNativeRunner, type NativeRunner } from "../lib/engine/model-runner.ts";
import type { KvDtype } from "../lib/contracts/frame.ts";
import { nativeModule } from "../lib/engine/native.ts";
import { stepMs } from "../lib/engine/step-work.ts";
import { type BenchReport, type BenchRow, commit, printReport } from "./bench-report.ts";
import { prepareFirst } from "./prepare.ts";
import { embeddedModel } from "./stack/model-folder.ts";
import { count, maxThreads } from "./up.ts";

const repeats = 5;
const contextTokens = 128;
const decodeTokens = 64;

export function register(bench: Command): void {
  bench
    .command("engine")
    .description("prefill and decode speed of the native engine, beside ceilings measured in the same run")
    .option("--model <dir>", "model folder (default: the model in the box)")
    .option("--threads <n>", "compute threads", count(1, maxThreads), cpus().length)
    .option("--kv-dtype <dtype>", "float32 or bfloat16", "bfloat16")
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic bench engine --json")
    .action(async (options: { model?: string; threads: number; kvDtype: KvDtype; json?: boolean }) => {
      await prepareFirst();
      printReport(await benchEngine(options.model ?? embeddedModel(), options.threads, options.kvDtype), options.json);
    });
}

export async function benchEngine(dir: string, threads: number, kvDtype: KvDtype): Promise<BenchReport> {
  const native = nativeModule();
  const runner = await loadNativeRunner({ dir, kvDtype, threads, isa: "auto", kvBlocks: 256 });
  try {
    const { gemmFlopsPerRow, attentionFlopsPerPair, layerCount } = runner.info;
    const prefillRow = prefillRowFlops(dir, gemmFlopsPerRow);
    const fmaRate = await native.measureFmaRate(threads);
    const rows: BenchRow[] = [];
    for (const length of [512, 2048]) {
      const seconds = await prefillSeconds(runner, length);
      // Rows of the last layer end when their latents are written: nobody reads their output.
      const work = length * prefillRow + (((length * (length + 1)) / 2) * attentionFlopsPerPair * (layerCount - 1)) / layerCount;
      rows.push(row(`prefill ${length}`, length / seconds, "tokens/s", (fmaRate / work) * length));
    }
    for (const batch of [1, 8, 32]) {
      const { seconds, readSeconds } = await decodeStep(runner, batch);
      const pairs = batch * (contextTokens + decodeTokens / 2);
      const fmaSeconds = (batch * gemmFlopsPerRow + pairs * attentionFlopsPerPair) / fmaRate;
      rows.push(row(`decode batch ${batch}`, batch / seconds, "tokens/s", batch / Math.max(readSeconds, batch === 1 ? 0 : fmaSeconds)));
    }
    const readRate = await native.measureReadBandwidth(runner.info.weightBytes, threads);
    return { bench: "engine", machine: machine(threads, fmaRate, readRate), commit: commit(), rows, targets: [] };
  } finally {
    await runner.close();
  }
}

function row(what: string, value: number, unit: string, ceiling: number): BenchRow {
  return { what, value: round(value), unit, ceiling: round(ceiling), ratio: round(value / ceiling) };
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

function engineFor(runner: NativeRunner, prefill: boolean): Engine {
  const config = {
    kvBlocks: 256,
    tokenBudget: prefill ? 512 : 4096,
    chunkTokens: prefill ? 512 : 4096,
    chunkAlignTokens: 64 as const,
    maxSequences: 32,
    maxWaiting: 64,
    ...(prefill && { stepMs }),
  };
  return new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "" }, config, systemClock, silentLog);
}

const prompt = (runner: NativeRunner, length: number, salt: number) =>
  Uint32Array.from({ length }, (_, i) => (i * 7919 + salt * 104729 + 13) % runner.info.vocabSize);

/** Rows of a prompt as a prefill worker computes them; the best of some runs. */
async function prefillSeconds(runner: NativeRunner, length: number): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run <= repeats; run++) {
    const engine = engineFor(runner, true);
    const started = performance.now();
    const result = await runLocal(engine, { id: "p", tokens: prompt(runner, length, run), maxTokens: 0, mode: "rows", sampling: null });
    if (result.end.kind === "error") throw result.end.error;
    if (run > 0) best = Math.min(best, (performance.now() - started) / 1000);
  }
  return best;
}

/** Seconds a step of `batch` requests that all decode, the median of some runs; and of read passes over the weights that those very steps read. */
async function decodeStep(runner: NativeRunner, batch: number): Promise<{ seconds: number; readSeconds: number }> {
  const runs: number[] = [];
  const passes: number[] = [];
  for (let run = 0; run < repeats; run++) {
    const engine = engineFor(runner, false);
    const steps: { atMs: number; counts: Uint32Array }[] = [];
    engine.onStep = ({ expertCounts: counts }) => steps.push({ atMs: performance.now(), counts });
    const results = await Promise.all(
      Array.from({ length: batch }, (_, i) =>
        runLocal(engine, { id: `d${i}`, tokens: prompt(runner, contextTokens, i + 1), maxTokens: decodeTokens }),
      ),
    );
    for (const { end } of results) if (end.kind === "error") throw end.error;
    // The prompts' step is over when its counts come; all that follow decode, several of them in one call.
    const [prefill, ...decode] = steps;
    runs.push(((decode.at(-1)?.atMs ?? Number.NaN) - (prefill?.atMs ?? Number.NaN)) / decode.length);
    for (const { counts } of decode) passes.push((await runner.readWeights(counts)).seconds);
  }
  return { seconds: median(runs) / 1000, readSeconds: median(passes) };
}

/**
 * FLOPs of a prefill row's GEMMs, from the shapes in config.json: a row without logits stops at the last layer's latents, so that layer's other
 * products and the head are taken off the engine's own count.
 */
function prefillRowFlops(dir: string, gemmFlopsPerRow: number): number {
  const c = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as Record<string, number>;
  const n = (name: string) => c[name] ?? 0;
  const heads = n("num_attention_heads");
  const [dn, dr, dv, rank, hidden] = [n("qk_nope_head_dim"), n("qk_rope_head_dim"), n("v_head_dim"), n("kv_lora_rank"), n("hidden_size")];
  const queryRank = n("q_lora_rank");
  const query = queryRank > 0 ? hidden * queryRank + queryRank * heads * (dn + dr) : hidden * heads * (dn + dr);
  const absorbed = heads * rank * (dn + dv) + heads * dv * hidden;
  const dense = 3 * hidden * n("intermediate_size");
  const moe = 3 * hidden * n("moe_intermediate_size") * (n("num_experts_per_tok") + n("n_shared_experts")) + hidden * n("n_routed_experts");
  const feedForward = n("first_k_dense_replace") >= n("num_hidden_layers") ? dense : moe;
  return gemmFlopsPerRow - 2 * (query + absorbed + feedForward + hidden * n("vocab_size"));
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function machine(threads: number, fmaRate: number, readRate: number): string {
  const model = cpus()[0]?.model ?? "unknown processor";
  return `${model}, ${threads} threads, ${nativeModule().bestIsa()}, ${(fmaRate / 1e9).toFixed(0)} GFLOP/s FMA, ${(readRate / 1e9).toFixed(1)} GB/s read`;
}
