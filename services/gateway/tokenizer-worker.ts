// A thread of the tokenizer pool: loads the tokenizer of one model folder, then answers one job after another.
import { parentPort, workerData } from "node:worker_threads";
import { toPelagicError } from "../lib/contracts/errors.ts";
import { loadTokenizerFiles } from "./model-folder.ts";
import { PromptEncoder } from "./prompt-encoder.ts";
import type { TokenizerAnswer, TokenizerJob, TokenizerWorkerData } from "./tokenizer-pool.ts";

const port = parentPort;
if (port === null) throw new Error("tokenizer-worker.js runs as a worker thread only");
const { modelPath } = workerData as TokenizerWorkerData;
const files = loadTokenizerFiles(modelPath);
if (files === null) throw new Error(`${modelPath} has no tokenizer.json`);
const encoder = new PromptEncoder(files);

port.on("message", (job: TokenizerJob) => {
  try {
    const prompt = job.kind === "text" ? encoder.encodeText(job.text) : encoder.encodeChat(job.prompt);
    port.postMessage({ prompt } satisfies TokenizerAnswer, [prompt.tokens.buffer as ArrayBuffer]);
  } catch (error) {
    const { code, message, param } = toPelagicError(error);
    port.postMessage({ error: { code, message, param } } satisfies TokenizerAnswer);
  }
});
port.postMessage("ready");
