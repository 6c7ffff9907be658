// A thread of format-encoder.ts: formats as grammars, each compiled once to see that it can be and what it takes.
import { parentPort, workerData } from "node:worker_threads";
import { PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import { GrammarCompiler } from "../lib/grammar/matcher.ts";
import { type FormatEbnf, formatEbnf, paramOf, type TextFormat } from "../lib/grammar/text-format.ts";
import { grammarVocabulary } from "../lib/grammar/vocabulary.ts";
import type { TokenizerAnswer, TokenizerJob, TokenizerWorkerData } from "./tokenizer-pool.ts";

const port = parentPort;
if (port === null) throw new Error("grammar-worker.js runs as a worker thread only");
const { model, vocabularySize } = workerData as TokenizerWorkerData;
const compiler = new GrammarCompiler(() => grammarVocabulary(model, vocabularySize));

async function grammarOf(format: TextFormat, behindThought: boolean): Promise<FormatEbnf> {
  const grammar = formatEbnf(format, behindThought);
  try {
    (await compiler.matcher(grammar.ebnf, [0])).dispose();
  } catch (error) {
    throw new PelagicError(
      "invalid_request",
      `${paramOf(format)}: no grammar can be compiled of it: ${error instanceof Error ? error.message : String(error)}`,
      { param: paramOf(format) },
    );
  }
  return grammar;
}

const answer = async (job: TokenizerJob): Promise<void> => {
  try {
    if (job.kind !== "grammar") throw new Error(`a job of kind ${job.kind} for a grammar's thread`);
    const { ebnf: grammar, notKept } = await grammarOf(job.format, job.behindThought);
    const tokens = new Uint32Array(0);
    port.postMessage({ prompt: { tokens, insideThink: false, grammar, ...(notKept.length > 0 && { notKept }) } } satisfies TokenizerAnswer);
  } catch (error) {
    const { code, message, param } = toPelagicError(error);
    port.postMessage({ error: { code, message, param } } satisfies TokenizerAnswer);
  }
};

// The library and the vocabulary are no part of the first format's time.
(await compiler.matcher('root ::= "a"', [0])).dispose();
let last = Promise.resolve();
port.on("message", (job: TokenizerJob) => {
  last = last.then(() => answer(job));
});
port.postMessage("ready");
