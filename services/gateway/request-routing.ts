// The router's view of one request, kept over its re-routes: derives the block keys, asks the router, counts what was sent where.
import { blockKeys, kvBlockTokens, reusableRows, rootKey, shortKey } from "../lib/contracts/block-key.ts";
import type { Routing } from "./dispatch-client.ts";
import { cacheIdentityOf, type Route, route } from "./router.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

export interface RoutedRequest {
  modelName: string;
  tokens: Uint32Array;
  maxTokens: number;
  cacheSalt: string;
  /** Fewer uncached prompt tokens than this are prefilled by decode itself. */
  localPrefillTokens: number;
}

export class RequestRouting {
  chosen: Route | null = null;
  private readonly directory: WorkerDirectory;
  private readonly request: RoutedRequest;
  private readonly keys = new Map<string, string[]>();

  constructor(directory: WorkerDirectory, request: RoutedRequest) {
    this.directory = directory;
    this.request = request;
  }

  readonly choose: Routing = (excluded) => {
    const { modelName, tokens, maxTokens, cacheSalt, localPrefillTokens } = this.request;
    const snapshot = this.directory.snapshot();
    for (const worker of snapshot.workers) {
      const identity = cacheIdentityOf(worker);
      if (this.keys.has(identity)) continue;
      this.keys.set(identity, blockKeys(rootKey(worker, cacheSalt), tokens, reusableRows(tokens.length)).map(shortKey));
    }
    this.chosen = route(snapshot, {
      modelName,
      promptTokens: tokens.length,
      maxTokens,
      blockKeys: this.keys,
      excluded,
      localPrefillTokens,
    });
    if (this.chosen === null) return null;
    const { decode, prefill, hitTokens, uncachedTokens } = this.chosen;
    const { view } = this.directory;
    const blocks = Math.ceil((tokens.length - hitTokens) / kvBlockTokens);
    view.noteDispatched(decode.workerId, { requests: 1, blocks, prefillTokens: prefill === null ? uncachedTokens : 0 });
    if (prefill !== null) view.noteDispatched(prefill.workerId, { requests: 1, blocks, prefillTokens: uncachedTokens });
    return { workerId: decode.workerId, prefillWorkerId: prefill?.workerId ?? null };
  };
}
