// The router's view of one request, kept over its re-routes and moves: derives the block keys, asks the router, counts what was sent where.
import { blockKeys, kvBlockTokens, reusableRows, rootKey, shortKey } from "../lib/contracts/block-key.ts";
import type { DispatchTarget, Routing } from "./generation.ts";
import { quickerToMove, takesOneMore } from "./move.ts";
import { cacheIdentityOf, type Route, route } from "./router.ts";
import type { WorkerDirectory } from "./worker-directory.ts";

export interface RoutedRequest {
  modelName: string;
  filesDigest?: string | null;
  promptLength: number;
  maxTokens: number;
  cacheSalt: string;
  /** Fewer uncached prompt tokens than this are prefilled by decode itself. */
  localPrefillTokens: number;
  /** The prompt's tokens are scored, before any answer. */
  isScored?: boolean;
}

export class RequestRouting implements Routing {
  chosen: Route | null = null;
  private readonly directory: WorkerDirectory;
  private readonly request: RoutedRequest;
  /** Of the worker that gave the first token: only its equals go on with the same bits. */
  private identity: string | null = null;
  /** By cache identity: whole keys, which grow with the answer. */
  private readonly keys = new Map<string, { root: string; keys: string[] }>();

  constructor(directory: WorkerDirectory, request: RoutedRequest) {
    this.directory = directory;
    this.request = request;
  }

  /** Where it would go now. */
  foresee(tokens: Uint32Array): Route | null {
    return this.route(tokens, new Set(), null);
  }

  choose(tokens: Uint32Array, excluded: ReadonlySet<string>): DispatchTarget | null {
    const chosen = this.route(tokens, excluded, tokens.length > this.request.promptLength ? this.identity : null);
    if (chosen === null) return null;
    this.chosen = chosen;
    if (tokens.length === this.request.promptLength) this.identity = chosen.identity;
    const { decode, prefill, hitTokens, uncachedTokens } = chosen;
    const { view } = this.directory;
    const blocks = Math.ceil((tokens.length - hitTokens) / kvBlockTokens);
    view.noteDispatched(decode.workerId, { requests: 1, blocks, prefillTokens: prefill === null ? uncachedTokens : 0 });
    if (prefill !== null) view.noteDispatched(prefill.workerId, { requests: 1, blocks, prefillTokens: uncachedTokens });
    return { ...decode, prefillWorkerId: prefill?.workerId ?? null };
  }

  shouldMove(workerId: string, tokens: Uint32Array): boolean {
    const { workers } = this.directory.snapshot();
    const from = workers.find((worker) => worker.workerId === workerId);
    if (from === undefined) return false;
    // It is stopped here before it is asked for there: so only where it will be taken.
    const peers = workers.filter((worker) => worker !== from && takesOneMore(worker));
    const others = workers.filter((worker) => !peers.includes(worker)).map(({ instanceId }) => instanceId);
    // Its first token may come before it has stopped here: then only equals go on with it.
    const to = this.route(tokens, new Set(others), this.identity);
    if (to === null) return false;
    const { promptLength, maxTokens } = this.request;
    if (!quickerToMove(from, { uncachedTokens: to.uncachedTokens, remainingTokens: promptLength + maxTokens - tokens.length }))
      return false;
    // The place is taken from here on: all requests of a draining worker look for one at once.
    this.directory.view.noteDispatched(to.decode.workerId, { requests: 1, blocks: 0, prefillTokens: 0 });
    return true;
  }

  private route(tokens: Uint32Array, excluded: ReadonlySet<string>, identity: string | null): Route | null {
    const { modelName, filesDigest, promptLength, maxTokens, cacheSalt, localPrefillTokens } = this.request;
    // Where tokens were given to the client, the scores were too.
    const isScored = this.request.isScored === true && tokens.length === promptLength;
    const snapshot = this.directory.snapshot();
    const short = new Map<string, string[]>();
    for (const worker of snapshot.workers) {
      const cacheIdentity = cacheIdentityOf(worker);
      if (short.has(cacheIdentity)) continue;
      const known = this.keys.get(cacheIdentity);
      const root = known?.root ?? rootKey(worker, cacheSalt);
      const keys = blockKeys(root, tokens, reusableRows(tokens.length), known?.keys);
      this.keys.set(cacheIdentity, { root, keys });
      // What is cached has no logits.
      short.set(cacheIdentity, isScored ? [] : keys.map(shortKey));
    }
    return route(snapshot, {
      modelName,
      filesDigest,
      promptTokens: tokens.length,
      maxTokens: maxTokens - (tokens.length - promptLength),
      identity,
      blockKeys: short,
      excluded,
      localPrefillTokens,
      isScored,
    });
  }
}
