// Chooses the workers of one request: a pure function of a snapshot. Every consideration is a number of seconds, and the smallest sum wins;
// equal sums go to prefill elsewhere, then to the smaller worker id. Only a short prompt does not compete: decode always prefills it.
//
//   prefillSeconds   tokens waiting before ours, and ours that the decode worker does not have, at the measured rate
//   delaySeconds     what our prefill takes from others: those who come after us, and on decode also those who run there
//   transferSeconds  their latents' way to decode, as far as it takes longer than computing them (layers overlap)
//   loadSeconds      each request that runs or waits there makes every step of ours longer
//   memorySeconds    blocks that are neither free nor evictable must be waited for
import { kvBlockTokens, reusableRows } from "../lib/contracts/block-key.ts";
import { isOf } from "./model-workers.ts";
import type { RoutingSnapshot, WorkerView } from "./state-view.ts";

export interface RouteRequest {
  modelName: string;
  /** Set where the model was learned from workers: the prompt is in the tokens of these files, and only decode workers of them take it. */
  filesDigest?: string | null;
  promptTokens: number;
  maxTokens: number;
  /** Set where tokens were generated before: only workers of this cacheIdentityOf continue them with the same bits. */
  identity: string | null;
  /** Short keys of the prompt's full blocks, by cacheIdentityOf the workers that the snapshot has. */
  blockKeys: ReadonlyMap<string, readonly string[]>;
  /** Instances of decode workers that have already refused or lost this request. */
  excluded: ReadonlySet<string>;
  /** Fewer uncached tokens than this are prefilled by decode itself. */
  localPrefillTokens: number;
  /** The prompt's tokens are scored: decode computes all of its rows, cached or not. */
  isScored?: boolean;
}

export interface RouteCost {
  prefillSeconds: number;
  delaySeconds: number;
  transferSeconds: number;
  loadSeconds: number;
  memorySeconds: number;
}

export interface Route {
  decode: { workerId: string; instanceId: string };
  /** cacheIdentityOf the decode worker. */
  identity: string;
  prefill: { workerId: string } | null;
  /** Why prefill is what it is, for a person. */
  reason: string;
  hitTokens: number;
  uncachedTokens: number;
  /** Of prefillSeconds, those for our own tokens. */
  computeSeconds: number;
  cost: RouteCost;
}

/** Rates of a worker that has not measured its own yet: of a small CPU worker, so that it is neither shunned nor flooded. */
const defaultPrefillTokensPerSecond = 2_000;
const defaultDecodeStepSeconds = 0.02;
const defaultTransferBytesPerSecond = 100e6;
/** Output tokens in which a request's load is felt: answers differ, and only the order of magnitude matters. */
export const typicalAnswerTokens = 256;
/**
 * Every second that we compute is taken from whoever comes after us, on any worker: so a cached prefix is worth more than our own time. On a
 * decode worker it is also taken from the steps of the requests that run there. Counted once, however many they are: prefill comes in
 * chunks between their steps, which slows them but stops none.
 */
const prefillDelay = 1;
const localPrefillDelay = 2;

/** Workers with equal identities hold interchangeable blocks. */
export function cacheIdentityOf(worker: { modelDigest: string; numericsId: string; kvDtype: string }): string {
  return `${worker.modelDigest}.${worker.numericsId}.${worker.kvDtype}`;
}

/** null: no decode worker can be asked. */
export function route(snapshot: RoutingSnapshot, request: RouteRequest): Route | null {
  const ready = snapshot.workers.filter((worker) => worker.state === "ready" && worker.modelName === request.modelName);
  let best: Route | null = null;
  for (const decode of ready) {
    if (decode.role !== "decode" || request.excluded.has(decode.instanceId)) continue;
    if (!isOf(decode, { name: request.modelName, filesDigest: request.filesDigest ?? null })) continue;
    if (request.identity !== null && cacheIdentityOf(decode) !== request.identity) continue;
    if (request.promptTokens + request.maxTokens > decode.maxPositions) continue;
    const candidate = routeTo(decode, ready, request);
    if (best === null || total(candidate.cost) < total(best.cost)) best = candidate;
  }
  return best;
}

export function total(cost: RouteCost): number {
  return cost.prefillSeconds + cost.delaySeconds + cost.transferSeconds + cost.loadSeconds + cost.memorySeconds;
}

function routeTo(decode: WorkerView, ready: readonly WorkerView[], request: RouteRequest): Route {
  const identity = cacheIdentityOf(decode);
  const keys = request.blockKeys.get(identity) ?? [];
  const reusable = reusableRows(request.promptTokens);
  const hitTokens = Math.min(hitBlocks(decode, keys) * kvBlockTokens, reusable);
  const uncachedTokens = request.promptTokens - 1 - hitTokens;
  const shared = {
    decode: { workerId: decode.workerId, instanceId: decode.instanceId },
    identity,
    hitTokens,
    uncachedTokens,
  };
  const loadAndMemory = { loadSeconds: loadSeconds(decode), memorySeconds: memorySeconds(decode, request, hitTokens) };
  const local: Route = {
    ...shared,
    prefill: null,
    reason: "",
    computeSeconds: uncachedTokens / prefillRate(decode),
    cost: {
      prefillSeconds: prefillSeconds(decode, uncachedTokens),
      delaySeconds: (uncachedTokens / prefillRate(decode)) * localPrefillDelay,
      transferSeconds: 0,
      ...loadAndMemory,
    },
  };
  if (request.isScored) return { ...local, reason: "decode scores the prompt" };
  if (uncachedTokens < request.localPrefillTokens) return { ...local, reason: `fewer than ${request.localPrefillTokens} uncached tokens` };

  let remote: Route | null = null;
  for (const prefill of ready) {
    if (prefill.role !== "prefill" || cacheIdentityOf(prefill) !== identity) continue;
    if (request.promptTokens > prefill.maxPositions) continue;
    const prefillHits = Math.min(hitBlocks(prefill, keys) * kvBlockTokens, reusable);
    // What decode has is not sent, but prefill computes on nothing but its own rows.
    const computedTokens = request.promptTokens - 1 - prefillHits;
    const seconds = prefillSeconds(prefill, computedTokens, prefillRate(decode));
    const delaySeconds = (computedTokens / prefillRate(prefill, prefillRate(decode))) * prefillDelay;
    const transferBytes = uncachedTokens * decode.kvBytesPerToken;
    const transfer = transferBytes / (decode.rates.transferBytesPerSecond || defaultTransferBytesPerSecond);
    const candidate: Route = {
      ...shared,
      prefill: { workerId: prefill.workerId },
      reason: "the cheapest prefill worker",
      computeSeconds: computedTokens / prefillRate(prefill, prefillRate(decode)),
      cost: { prefillSeconds: seconds, delaySeconds, transferSeconds: Math.max(0, transfer - seconds), ...loadAndMemory },
    };
    if (remote === null || total(candidate.cost) < total(remote.cost)) remote = candidate;
  }
  if (remote === null) return { ...local, reason: "no prefill worker is ready" };
  // Without transferSeconds: the rate that decode measures holds waits for prefill too, and would count them twice.
  return total(local.cost) < total(remote.cost) - remote.cost.transferSeconds
    ? { ...local, reason: "cheaper than any prefill worker" }
    : remote;
}

function hitBlocks(worker: WorkerView, keys: readonly string[]): number {
  let hits = 0;
  while (hits < keys.length && worker.blockKeys.has(keys[hits] as string)) hits++;
  return hits;
}

/** `otherwise`: the rate of one that has not measured its own; such a prefill worker is taken to be as fast as decode, or it would not be tried. */
function prefillSeconds(worker: WorkerView, tokens: number, otherwise?: number): number {
  const waiting = worker.queuedPrefillTokens + worker.unreported.prefillTokens;
  return (waiting + tokens) / prefillRate(worker, otherwise);
}

function prefillRate(worker: WorkerView, otherwise = defaultPrefillTokensPerSecond): number {
  return worker.rates.prefillTokensPerSecond || otherwise;
}

function loadSeconds(worker: WorkerView): number {
  const requests = worker.requests.running + worker.requests.waiting + worker.unreported.requests;
  const perRequest = (worker.rates.decodeStepSeconds || defaultDecodeStepSeconds) / Math.max(1, worker.requests.running);
  return requests * perRequest * typicalAnswerTokens;
}

/** The blocks missing for our prompt and a typical answer, each freed at the pace at which running requests end. */
function memorySeconds(worker: WorkerView, request: RouteRequest, hitTokens: number): number {
  const tokens = request.promptTokens - hitTokens + Math.min(request.maxTokens, typicalAnswerTokens);
  const available = worker.blocks.free + worker.blocks.cached - worker.unreported.blocks;
  const missing = Math.max(0, Math.ceil(tokens / kvBlockTokens) - available);
  return missing * kvBlockTokens * (worker.rates.decodeStepSeconds || defaultDecodeStepSeconds);
}

/** The value of the x-pelagic-route header. */
export function explainRoute(chosen: Route): string {
  const seconds = (value: number) => Number(value.toFixed(6));
  return JSON.stringify({
    decode: chosen.decode.workerId,
    prefill: chosen.prefill?.workerId ?? null,
    reason: chosen.reason,
    hitTokens: chosen.hitTokens,
    uncachedTokens: chosen.uncachedTokens,
    prefillSeconds: seconds(chosen.cost.prefillSeconds),
    delaySeconds: seconds(chosen.cost.delaySeconds),
    transferSeconds: seconds(chosen.cost.transferSeconds),
    loadSeconds: seconds(chosen.cost.loadSeconds),
    memorySeconds: seconds(chosen.cost.memorySeconds),
  });
}
