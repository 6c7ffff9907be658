// One request on an engine in this process, without a bus: what the check and bench commands run.
import type { Engine, EngineEnd, EngineRequest } from "./engine.ts";

export interface LocalResult {
  tokens: number[];
  /** Digest of the logits row behind each token, where asked for. */
  digests: bigint[];
  /** Raw logits of rows [logitsFrom, ...), where asked for. */
  logits: Map<number, Float32Array>;
  hitRows: number;
  end: EngineEnd;
}

export type LocalRequest = Pick<EngineRequest, "id" | "tokens" | "maxTokens"> &
  Partial<Pick<EngineRequest, "promptLength" | "sampling" | "digests" | "logitsFrom" | "cacheSalt" | "mode">> & {
    /** Called for each token as it comes. */
    onToken?: (index: number) => void;
  };

/** Resolves with the request's end, error or not; rejects only where the engine refuses it. */
export function runLocal(engine: Engine, request: LocalRequest): Promise<LocalResult> {
  const result: LocalResult = { tokens: [], digests: [], logits: new Map(), hitRows: 0, end: { kind: "rows-done" } };
  return new Promise((resolve, reject) => {
    try {
      engine.submit({
        mode: "local",
        promptLength: request.tokens.length,
        cacheSalt: "",
        stopTokenIds: new Set(),
        sampling: { temperature: 0, seed: 0n, choice: 0 },
        ...request,
        listener: {
          onReserved: (hitRows) => {
            result.hitRows = hitRows;
          },
          onToken: (index, sampled, digest) => {
            result.tokens.push(sampled.token);
            if (digest !== undefined) result.digests.push(digest);
            request.onToken?.(index);
          },
          onLogits: (firstRow, logits) => {
            result.logits.set(firstRow, logits);
          },
          onEnd: (end) => {
            result.end = end;
            resolve(result);
          },
        },
      });
    } catch (error) {
      reject(error);
    }
  });
}
