// A thread of the tokenizer pool: loads the tokenizer of one model folder, then answers one job after another.
import { parentPort, workerData } from "node:worker_threads";
import { toPelagicError } from "../lib/contracts/errors.ts";
import { loadTokenizerFiles } from "../lib/model/folder.ts";
import { type EncodedPrompt, PromptEncoder } from "./prompt-encoder.ts";
import type { TokenizerAnswer, TokenizerJob, TokenizerWorkerData } from "./tokenizer-pool.ts";

const port = parentPort;
if (port === null) throw new Error("tokenizer-worker.js runs as a worker thread only");
const { model, vocabularySize } = workerData as TokenizerWorkerData;
const files = loadTokenizerFiles(model, vocabularySize);
if (files === null) throw new Error("the model has no tokenizer.json");
const encoder = new PromptEncoder(files);

function encode(job: TokenizerJob): EncodedPrompt {
  switch (job.kind) {
    case "text":
      return encoder.encodeText(job.text, job.special);
    case "chat":
      return encoder.encodeChat(job.prompt);
    case "ids":
      return { tokens: new Uint32Array(0), insideThink: false };
    case "grammar":
      throw new Error("a grammar for a tokenizer's thread");
  }
}

function answer(job: TokenizerJob): void {
  try {
    const prompt = encode(job);
    if (job.kind !== "grammar" && job.bannedWords !== undefined) prompt.bannedWords = encoder.encodeWords(job.bannedWords);
    port?.postMessage({ prompt } satisfies TokenizerAnswer, [prompt.tokens.buffer as ArrayBuffer]);
  } catch (error) {
    const { code, message, param } = toPelagicError(error);
    port?.postMessage({ error: { code, message, param } } satisfies TokenizerAnswer);
  }
}

port.on("message", answer);
port.postMessage("ready");
