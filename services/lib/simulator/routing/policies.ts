// The router, and what it is compared with. The others are given every worker's exact state at the moment of their choice; ours has only what
// workers reported.
import { route } from "../../../gateway/router.ts";
import { kvBlockTokens } from "../../contracts/block-key.ts";
import { Random } from "../random.ts";
import type { RoutingSnapshot, WorkerView } from "../../../gateway/state-view.ts";
import type { Choice, Cluster, DecodeQueue, Policy, PrefillQueue } from "./cluster.ts";
import type { TraceRequest } from "./trace.ts";

/** No answer is promised to be shorter. */
const maxTokens = 2_048;

export const policies: Record<string, () => Policy> = {
  ours: () => (request, cluster) => ours(request, cluster, cluster.view.snapshot(cluster.nowMs)),

  /** What of it is choice of workers, and what is that decode may prefill, too. */
  "ours, prefill apart": () => (request, cluster) => {
    const { workers } = cluster.view.snapshot(cluster.nowMs);
    const never = (worker: WorkerView) => ({ ...worker, rates: { ...worker.rates, prefillTokensPerSecond: 1 } });
    return ours(request, cluster, { workers: workers.map((worker) => (worker.role === "decode" ? never(worker) : worker)) });
  },

  "round robin": () => {
    let turn = 0;
    return (_, { decodeWorkers, prefillWorkers }) => {
      const decode = decodeWorkers[turn % decodeWorkers.length] as DecodeQueue;
      const prefill = prefillWorkers[turn++ % prefillWorkers.length] as PrefillQueue;
      return { decodeId: decode.id, prefillId: prefill.id };
    };
  },

  "least load": () => (_, cluster) => ({
    decodeId: least(cluster.decodeWorkers, decodeLoad).id,
    prefillId: least(cluster.prefillWorkers, prefillLoad).id,
  }),

  "power of two": () => {
    const random = new Random(1);
    const two = <T>(workers: readonly T[]) => [random.pick(workers), random.pick(workers)];
    return (_, cluster) => ({
      decodeId: least(two(cluster.decodeWorkers), decodeLoad).id,
      prefillId: least(two(cluster.prefillWorkers), prefillLoad).id,
    });
  },

  /** The longest cached prefix; of equal ones the least loaded. */
  "prefix only": () => (request, cluster) => ({
    decodeId: longestPrefix(cluster.decodeWorkers, request.blockKeys, decodeLoad).id,
    prefillId: longestPrefix(cluster.prefillWorkers, request.blockKeys, prefillLoad).id,
  }),
};

function ours(request: TraceRequest, { view, config }: Cluster, snapshot: RoutingSnapshot): Choice {
  const chosen = route(snapshot, {
    modelName: "model",
    promptTokens: request.promptTokens,
    maxTokens,
    identity: null,
    blockKeys: new Map([["..bfloat16", request.blockKeys]]),
    excluded: new Set(),
    localPrefillTokens: config.localPrefillTokens,
  });
  if (chosen === null) throw new Error("no worker is ready");
  const { decode, prefill, hitTokens, uncachedTokens } = chosen;
  const blocks = Math.ceil((request.promptTokens - hitTokens) / kvBlockTokens);
  view.noteDispatched(decode.workerId, { requests: 1, blocks, prefillTokens: prefill === null ? uncachedTokens : 0 });
  if (prefill !== null) view.noteDispatched(prefill.workerId, { requests: 1, blocks, prefillTokens: uncachedTokens });
  return { decodeId: decode.workerId, prefillId: prefill?.workerId ?? null };
}

const decodeLoad = (worker: DecodeQueue) => worker.requests;
const prefillLoad = (worker: PrefillQueue) => worker.queuedTokens;

function least<T>(workers: readonly T[], load: (worker: T) => number): T {
  return workers.reduce((best, worker) => (load(worker) < load(best) ? worker : best));
}

function longestPrefix<T extends Pick<Cluster["prefillWorkers"][number], "blocks">>(
  workers: readonly T[],
  keys: readonly string[],
  load: (worker: T) => number,
): T {
  const longest = Math.max(...workers.map(({ blocks }) => blocks.lookup(keys).hitBlocks));
  return least(
    workers.filter(({ blocks }) => blocks.lookup(keys).hitBlocks === longest),
    load,
  );
}
