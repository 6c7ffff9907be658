// Small files that came over the bus, as a model to serve: read in a thread of their own (model-thread.ts), within bounds of time and memory.
import { Worker } from "node:worker_threads";
import type { ModelFiles } from "../lib/model/folder.ts";
import { TokenTable } from "../lib/model/token-table.ts";
import { LearningError } from "./model-fetch.ts";
import type { ModelThreadAnswer, ModelThreadData } from "./model-thread.ts";
import type { ModelBuild } from "./model-workers.ts";
import type { ServedModel } from "./served-model.ts";

/** The 64 MiB that files may take, as text, as objects and as tables. */
const heapMib = 1_024;

/** Throws LearningError. */
export async function loadServedModel(files: ModelFiles, build: ModelBuild, signal: AbortSignal): Promise<ServedModel> {
  const thread = new Worker(new URL("./model-thread.js", import.meta.url), {
    workerData: { files, build } satisfies ModelThreadData,
    resourceLimits: { maxOldGenerationSizeMb: heapMib },
  });
  try {
    const answer = await new Promise<ModelThreadAnswer>((resolve, reject) => {
      const late = () => reject(new LearningError("unavailable", `${files.origin}: not read in time`));
      if (signal.aborted) late();
      signal.addEventListener("abort", late, { once: true });
      thread.once("message", resolve);
      thread.once("error", (error) => reject(new LearningError("content", `${files.origin}: ${error.message}`)));
      thread.once("exit", () => reject(new LearningError("unavailable", `${files.origin}: the thread that read it ended`)));
    });
    if ("error" in answer) throw new LearningError("content", answer.error);
    const { model } = answer;
    return { ...model, table: model.table === null ? null : TokenTable.revived(model.table) };
  } finally {
    await thread.terminate();
  }
}
