// What a model needs in a gateway beside what is known of it: threads that tokenize and compile grammars, and its workers' room.
import type { Log } from "../lib/contracts/bus.ts";
import type { ModelSource } from "../lib/model/folder.ts";
import { Room } from "./admission/room.ts";
import { FormatEncoder } from "./format-encoder.ts";
import type { HostedModel } from "./gateway.ts";
import type { ServedModel } from "./served-model.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

export interface HostConfig {
  tokenizerQueue: number;
  tokenizerJobMs: number;
  grammarJobMs: number;
}

export interface HostedModelWithThreads extends HostedModel {
  close(): Promise<void>;
}

/** Resolves when its threads take prompts; rejects, and leaves none behind, where they cannot. */
export async function hostModel(
  model: ServedModel,
  source: ModelSource,
  threads: number,
  { config, directory, log }: { config: HostConfig; directory: WorkerDirectory; log: Log },
): Promise<HostedModelWithThreads> {
  const room = new Room(directory, model);
  if (model.table === null) return { model, encoder: null, room, close: () => Promise.resolve() };
  const encoder = new FormatEncoder(
    {
      workerUrl: new URL("./tokenizer-worker.js", import.meta.url),
      model: source,
      vocabularySize: model.vocabularySize,
      threads,
      maxWaiting: config.tokenizerQueue,
      jobTimeoutMs: config.tokenizerJobMs,
      log,
    },
    { workerUrl: new URL("./grammar-worker.js", import.meta.url), jobTimeoutMs: config.grammarJobMs },
  );
  try {
    await encoder.ready();
  } catch (error) {
    await encoder.close();
    throw error;
  }
  return { model, encoder, room, close: () => encoder.close() };
}
