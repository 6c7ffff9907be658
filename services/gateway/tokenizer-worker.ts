// A thread of the tokenizer pool: loads the tokenizer of one model folder, then answers one job after another.
import { parentPort, workerData } from "node:worker_threads";
import { PelagicError, toPelagicError } from "../lib/contracts/errors.ts";
import { type TextFormat, formatEbnf } from "../lib/grammar/text-format.ts";
import { GrammarCompiler } from "../lib/grammar/matcher.ts";
import { grammarVocabulary } from "../lib/grammar/vocabulary.ts";
import { loadTokenizerFiles } from "../lib/model/folder.ts";
import { type EncodedPrompt, PromptEncoder } from "./prompt-encoder.ts";
import type { TokenizerAnswer, TokenizerJob, TokenizerWorkerData } from "./tokenizer-pool.ts";

const port = parentPort;
if (port === null) throw new Error("tokenizer-worker.js runs as a worker thread only");
const { modelPath, vocabularySize } = workerData as TokenizerWorkerData;
const files = loadTokenizerFiles(modelPath, vocabularySize);
if (files === null) throw new Error(`${modelPath} has no tokenizer.json`);
const encoder = new PromptEncoder(files);

const compiler = new GrammarCompiler(() => grammarVocabulary(modelPath, vocabularySize));

function encode(job: TokenizerJob): EncodedPrompt {
  switch (job.kind) {
    case "text":
      return encoder.encodeText(job.text, job.special);
    case "chat":
      return encoder.encodeChat(job.prompt);
    case "ids":
      return { tokens: new Uint32Array(0), insideThink: false };
  }
}

/** Compiled here first: what takes too long or too much costs a thread of the gateway, and no decode worker. */
async function grammarOf(format: TextFormat, insideThink: boolean): Promise<string> {
  const grammar = formatEbnf(format, insideThink);
  try {
    (await compiler.matcher(grammar, [0])).dispose();
  } catch (error) {
    throw new PelagicError(
      "invalid_request",
      `the format that was asked for cannot be compiled: ${error instanceof Error ? error.message : String(error)}`,
      { param: "response_format" },
    );
  }
  return grammar;
}

const answer = async (job: TokenizerJob): Promise<void> => {
  try {
    const prompt = encode(job);
    if (job.format !== undefined) prompt.grammar = await grammarOf(job.format, prompt.insideThink);
    if (job.bannedWords !== undefined) prompt.bannedWords = encoder.encodeWords(job.bannedWords);
    port.postMessage({ prompt } satisfies TokenizerAnswer, [prompt.tokens.buffer as ArrayBuffer]);
  } catch (error) {
    const { code, message, param } = toPelagicError(error);
    port.postMessage({ error: { code, message, param } } satisfies TokenizerAnswer);
  }
};

let last = Promise.resolve();
port.on("message", (job: TokenizerJob) => {
  last = last.then(() => answer(job));
});
port.postMessage("ready");
