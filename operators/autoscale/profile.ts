// What is learnt from snapshots: rates, what an answer is like, and how fast workers are. Workers that became ready a moment ago are left out.
import { constants } from "./config.ts";
import type { PoolSnapshot, Replica, Snapshot } from "./snapshot.ts";

/** A mean that forgets: newer values weigh more. */
export interface Average {
  sum: number;
  weight: number;
}

/** Steps beside batches, as sums that forget: enough for a straight line through them. */
export interface StepLine {
  weight: number;
  batch: number;
  seconds: number;
  batchSquared: number;
  batchSeconds: number;
}

export interface Profile {
  requests: Average;
  input: Average;
  output: Average;
  /** The same over a longer time, for what a request is like. */
  longRequests: Average;
  longInput: Average;
  longAnswers: Average;
  longOutput: Average;
  prefillPace: Average;
  steps: StepLine;
  /** Of a decode worker's KV blocks, held by one request. */
  cacheOfRequest: Average;
}

const nothing: Average = { sum: 0, weight: 0 };

export const emptyProfile: Profile = {
  requests: nothing,
  input: nothing,
  output: nothing,
  longRequests: nothing,
  longInput: nothing,
  longAnswers: nothing,
  longOutput: nothing,
  prefillPace: nothing,
  steps: { weight: 0, batch: 0, seconds: 0, batchSquared: 0, batchSeconds: 0 },
  cacheOfRequest: nothing,
};

/** null: nothing was seen. */
export const meanOf = ({ sum, weight }: Average): number | null => (weight > 0 ? sum / weight : null);

function take({ sum, weight }: Average, value: number | null, seconds: number, timeConstant: number): Average {
  if (value === null || !Number.isFinite(value)) return { sum, weight };
  const kept = Math.exp(-seconds / timeConstant);
  return { sum: sum * kept + value * (1 - kept), weight: weight * kept + (1 - kept) };
}

export function isWarm({ state, stateSeconds }: Replica<unknown>): boolean {
  return state === "ready" && stateSeconds >= constants.warmupSeconds;
}

function warmSamples<S>({ replicas }: PoolSnapshot<S>): S[] {
  return replicas.filter(isWarm).flatMap(({ sample }) => (sample === null ? [] : [sample]));
}

function mean(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null && Number.isFinite(value) && value > 1e-9) as number[];
  return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
}

export function learn(profile: Profile, snapshot: Snapshot): Profile {
  const seconds = snapshot.intervalSeconds;
  if (snapshot.requestsPerSecond === null || !(seconds > 0)) return profile;
  const partial = snapshot.unheard.length > 0;
  // Of a part that is less than what was known nothing follows; one that is more is more.
  const soon = (average: Average, value: number | null) =>
    partial && (value ?? 0) <= (meanOf(average) ?? 0) ? average : take(average, value, seconds, constants.rateSeconds);
  const slowly = (average: Average, value: number | null) => take(average, value, seconds, constants.profileSeconds);
  const whole = (average: Average, value: number | null) => (partial ? average : slowly(average, value));
  const decode = warmSamples(snapshot.decode);
  return {
    requests: soon(profile.requests, snapshot.requestsPerSecond),
    input: soon(profile.input, snapshot.inputTokensPerSecond),
    output: soon(profile.output, snapshot.outputTokensPerSecond),
    longRequests: whole(profile.longRequests, snapshot.requestsPerSecond),
    longInput: whole(profile.longInput, snapshot.inputTokensPerSecond),
    longAnswers: whole(profile.longAnswers, snapshot.answersPerSecond),
    longOutput: whole(profile.longOutput, snapshot.outputTokensPerSecond),
    prefillPace: slowly(profile.prefillPace, mean(warmSamples(snapshot.prefill).map(({ tokensPerSecond }) => tokensPerSecond))),
    steps: decode.reduce((line, { batch, stepSeconds }) => takeStep(line, batch, stepSeconds), forgetSteps(profile.steps, seconds)),
    cacheOfRequest: slowly(profile.cacheOfRequest, mean(decode.map(({ cacheOfRequest }) => cacheOfRequest))),
  };
}

function forgetSteps(line: StepLine, seconds: number): StepLine {
  const kept = Math.exp(-seconds / constants.profileSeconds);
  return {
    weight: line.weight * kept,
    batch: line.batch * kept,
    seconds: line.seconds * kept,
    batchSquared: line.batchSquared * kept,
    batchSeconds: line.batchSeconds * kept,
  };
}

/** A step has a sequence at least, and takes a microsecond at least. */
function takeStep(line: StepLine, batch: number | null, seconds: number | null): StepLine {
  if (batch === null || seconds === null || !(batch >= 1) || !(seconds >= 1e-6)) return line;
  if (!Number.isFinite(batch) || !Number.isFinite(seconds)) return line;
  return {
    weight: line.weight + 1,
    batch: line.batch + batch,
    seconds: line.seconds + seconds,
    batchSquared: line.batchSquared + batch * batch,
    batchSeconds: line.batchSeconds + batch * seconds,
  };
}

/** Seconds of a step: `base` and `each` for every sequence in it. */
export interface StepTime {
  base: number;
  each: number;
}

/**
 * The line through what was seen. Where all batches were about equal they say nothing of its slope: then half of a step is taken to be its
 * base, and that belief weighs as much as batches that spread by a fifth.
 */
export function stepTime(line: StepLine): StepTime | null {
  if (!(line.weight > 1e-6)) return null;
  const batch = line.batch / line.weight;
  const seconds = line.seconds / line.weight;
  const spread = Math.max(0, line.batchSquared / line.weight - batch * batch);
  const together = line.batchSeconds / line.weight - batch * seconds;
  const believed = 0.05 * batch * batch;
  const slope = (together + believed * ((0.5 * seconds) / batch)) / (spread + believed);
  const each = Math.min(seconds / batch, Math.max((0.05 * seconds) / batch, slope));
  return { base: seconds - each * batch, each };
}
