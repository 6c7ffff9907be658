// What the autoscaler is told of a served model: rates and times of one interval, and what each worker says of itself. `snapshotOf`
// (scrape.ts) makes one of two scrapes; the simulation makes its scrapes itself.

/** A pod of a pool, and what it measured; null: not known (not scraped, or nothing happened). */
export interface Replica<Sample> {
  name: string;
  state: "ready" | "starting" | "unschedulable";
  /** It has been in this state for so long. */
  stateSeconds: number;
  sample: Sample | null;
}

export interface PrefillSample {
  /** What it computes while it works. */
  tokensPerSecond: number | null;
  /** Prompt tokens that it was asked for and has not computed. */
  queuedTokens: number;
}

export interface DecodeSample {
  /** Sequences in a step, mean of the interval. */
  batch: number | null;
  /** A step without prefill. */
  stepSeconds: number | null;
  /** Share of its KV blocks that one of its requests holds, mean of those that run now. */
  cacheOfRequest: number | null;
}

export interface PoolSnapshot<Sample> {
  /** spec.replicas of the workload as it is. */
  wanted: number;
  /** Pods that are being stopped left out. */
  replicas: readonly Replica<Sample>[];
}

export interface Snapshot {
  atSeconds: number;
  /** Since the snapshot before. */
  intervalSeconds: number;
  /** Requests that came; null: the gateways could not be asked. */
  requestsPerSecond: number | null;
  /** Requests that ended with an answer, and the tokens of those answers. */
  answersPerSecond: number;
  outputTokensPerSecond: number;
  /** Prompt tokens that the prefill pool was given: those of cached prefixes and those that decode computes itself are not among them. */
  inputTokensPerSecond: number;
  /** Requests that hold KV blocks on a decode worker, and those that wait for a worker or for blocks. */
  runningRequests: number;
  waitingRequests: number;
  /** 90th percentiles of answers of this interval; null: none came. */
  ttftSeconds: number | null;
  tpotSeconds: number | null;
  /** Parts of the time to the first token, means of the interval: in prefill's queue; waiting in the gateway or at decode for room there. */
  prefillQueueSeconds: number | null;
  admissionSeconds: number | null;
  /** Gateways that answered now: without any, nobody knows whether a request waits. */
  gatewaysHeard: number;
  /** Ready processes of which nothing is known for this interval: rates are then at least what is said here, and may be more. */
  unheard: readonly string[];
  prefill: PoolSnapshot<PrefillSample>;
  decode: PoolSnapshot<DecodeSample>;
}
