// What a served model is held to, and which of its requests count against it. Whoever wants other figures changes them here.
import { errorCatalogue } from "../../services/lib/contracts/errors.ts";
import { latencyBucketsSeconds, tokenBucketsSeconds } from "../../services/lib/runtime/metrics.ts";

/** The share of requests that must be good, over 30 days. */
export const objectives = { availability: 0.999, ttft: 0.99, tpot: 0.99 } as const;
export type Objective = keyof typeof objectives;

/** A request is good below it. One of the histogram's bounds, and no integer: those are written differently by different Prometheus versions. */
export const ttftSeconds = bound(2.5, latencyBucketsSeconds);
export const tpotSeconds = bound(0.1, tokenBucketsSeconds);

/** Ends that are ours to prevent; what a client did wrong or gave up says nothing of the service. */
export const failures = outcomes((status) => status >= 500);
export const clientFaults = outcomes((status) => status < 500);

function bound(seconds: number, buckets: readonly number[]): number {
  if (!buckets.includes(seconds) || Number.isInteger(seconds)) throw new Error(`${seconds} s is not a bound of the histogram`);
  return seconds;
}

function outcomes(choose: (status: number) => boolean): string {
  return Object.entries(errorCatalogue)
    .filter(([, { status }]) => choose(status))
    .map(([code]) => code)
    .join("|");
}
