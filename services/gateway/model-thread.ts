// A thread that reads one model's small files as another process sent them: what they do to it they do not do to the gateway's main loop.
import { parentPort, workerData } from "node:worker_threads";
import { loadModelFolder, type ModelFiles } from "../lib/model/folder.ts";
import type { ModelBuild } from "./model-workers.ts";
import { servedModel, type ServedModel } from "./served-model.ts";

export interface ModelThreadData {
  files: ModelFiles;
  build: ModelBuild;
}
export type ModelThreadAnswer = { model: ServedModel } | { error: string };

const port = parentPort;
if (port === null) throw new Error("model-thread.js runs as a worker thread only");
const { files, build } = workerData as ModelThreadData;

function answer(): ModelThreadAnswer {
  try {
    return { model: servedModel(loadModelFolder(files), build) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

port.postMessage(answer());
