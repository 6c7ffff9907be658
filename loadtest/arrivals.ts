// When requests are sent in an open loop: a pure function of the rate, its course and a seed.
import { exponential, gamma, type Uniform } from "./random.ts";

export const arrivalKinds = ["constant", "poisson", "gamma"] as const;
export type ArrivalKind = (typeof arrivalKinds)[number];

export interface ArrivalOptions {
  kind: ArrivalKind;
  /** Requests per second: at the beginning, and at the end, linear between. */
  ratePerSecond: number;
  endRatePerSecond: number;
  durationSeconds: number;
  /** Shape of the gamma distribution of gaps: 1 is Poisson, below is burstier. */
  burstiness: number;
}

/** Milliseconds from the start, ascending, below the duration. */
export function arrivalTimes(options: ArrivalOptions, random: Uniform): number[] {
  const { kind, ratePerSecond: from, endRatePerSecond: to, durationSeconds: duration, burstiness } = options;
  const gap = { constant: () => 1, poisson: () => exponential(random), gamma: () => gamma(random, burstiness) }[kind];
  // A process of rate one runs on the expected number of arrivals, from * t + (to - from) * t^2 / (2 * duration), solved for t.
  const timeOf = (expected: number): number => {
    const slope = (to - from) / duration;
    if (Math.abs(slope) < 1e-12) return expected / from;
    const root = from * from + 2 * slope * expected;
    return root < 0 ? Number.POSITIVE_INFINITY : (Math.sqrt(root) - from) / slope;
  };
  const times: number[] = [];
  for (let expected = kind === "constant" ? 0 : gap(); ; expected += gap()) {
    const seconds = timeOf(expected);
    if (!(seconds < duration)) return times;
    times.push(seconds * 1000);
  }
}
