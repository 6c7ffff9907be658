// check-model: the engine beside the Hugging Face classes. It goes the way that requests go, through the scheduler and the paged cache,
// first in chunks that fit neither the prompt nor the blocks, then row by row as decode does.
import { basename } from "node:path";
import type { Command } from "commander";
import { silentLog, systemClock } from "../lib/contracts/bus.ts";
import { Engine, type EngineConfig } from "../lib/engine/engine.ts";
import { runLocal } from "../lib/engine/local.ts";
import { loadNativeRunner, type NativeRunner } from "../lib/engine/model-runner.ts";
import { readGolden } from "./golden.ts";
import { prepareFirst } from "./prepare.ts";

const tolerance = 1e-4;
const kvBlocks = 32;

export interface ModelCheck {
  model: string;
  path: string;
  maxAbsLogitError: number;
  greedyEqual: boolean;
}

export function register(program: Command): void {
  program
    .command("check-model")
    .argument("<dir>", "a model folder with golden.safetensors")
    .description("compare the engine with the outputs of the Hugging Face classes stored in the folder")
    .option("--json", "print one line of JSON")
    .addHelpText(
      "after",
      "\nExample:\n  ./pelagic check-model build/native-cmake/goldens/deepseek-v2-lite --json\n\nExit code 0 only at a largest logit error of 1e-4 or less and equal greedy tokens.",
    )
    .action(async (dir: string, options: { json?: boolean }) => {
      await prepareFirst();
      const check = await checkModel(dir);
      const good = check.maxAbsLogitError <= tolerance && check.greedyEqual;
      if (options.json) process.stdout.write(`${JSON.stringify(check)}\n`);
      else {
        process.stdout.write(
          `${check.model}: largest logit error ${check.maxAbsLogitError.toExponential(2)}, greedy tokens ${check.greedyEqual ? "equal" : "DIFFER"}: ${good ? "ok" : "FAILED"}\n`,
        );
      }
      process.exitCode = good ? 0 : 1;
    });
}

export async function checkModel(dir: string): Promise<ModelCheck> {
  // The model first: whether it is supported at all matters more than whether a golden lies beside it.
  const runner = await loadNativeRunner({ dir, kvDtype: "float32", threads: 2, isa: "auto", kvBlocks });
  try {
    const golden = readGolden(dir);
    const errors = [
      await logitError(runner, golden.inputIds, golden.logits, 37),
      await logitError(runner, golden.inputIds, golden.logits, 1),
    ];
    return {
      model: basename(dir),
      path: dir,
      maxAbsLogitError: Math.max(...errors),
      greedyEqual: await greedyEqual(runner, golden.greedyPrompt, golden.greedyTokens),
    };
  } finally {
    await runner.close();
  }
}

function engineFor(runner: NativeRunner, chunkTokens: number): Engine {
  const config: EngineConfig = { kvBlocks, tokenBudget: 50, chunkTokens, chunkAlignTokens: 1, maxSequences: 8, maxWaiting: 8 };
  return new Engine(runner, { modelDigest: "", numericsId: "", kvDtype: "float32" }, config, systemClock, silentLog);
}

/** The largest difference over all positions of all sequences; NaN counts as infinite. */
async function logitError(runner: NativeRunner, inputs: Uint32Array[], expected: Float32Array[], chunkTokens: number): Promise<number> {
  const engine = engineFor(runner, chunkTokens);
  const vocab = runner.info.vocabSize;
  let worst = 0;
  const results = await Promise.all(inputs.map((tokens, i) => runLocal(engine, { id: `s${i}`, tokens, maxTokens: 1, logitsFrom: 0 })));
  results.forEach((result, i) => {
    const want = expected[i] as Float32Array;
    if (result.end.kind === "error") throw result.end.error;
    let compared = 0;
    for (const [firstRow, logits] of result.logits) {
      for (let j = 0; j < logits.length; j++) {
        const difference = Math.abs((logits[j] as number) - (want[firstRow * vocab + j] as number));
        if (!(difference <= worst)) worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
      }
      compared += logits.length;
    }
    if (compared !== want.length) throw new Error(`${compared} logits where the golden has ${want.length}: another vocabulary or length`);
  });
  return worst;
}

async function greedyEqual(runner: NativeRunner, prompts: Uint32Array[], expected: Uint32Array[]): Promise<boolean> {
  const engine = engineFor(runner, 37);
  const results = await Promise.all(
    prompts.map((tokens, i) => runLocal(engine, { id: `g${i}`, tokens, maxTokens: (expected[i] as Uint32Array).length })),
  );
  return results.every((result, i) => result.tokens.join() === (expected[i] as Uint32Array).join());
}
