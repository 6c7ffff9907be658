// What the autoscaler is told by the user, and the constants that nobody has to set.

import type { ModelServiceSpec } from "../api/model-service.ts";

export interface PoolRange {
  minReplicas: number;
  maxReplicas: number;
}

export interface AutoscaleConfig {
  prefill: PoolRange;
  decode: PoolRange;
  ttftSeconds: number;
  tpotSeconds: number;
  /** Fewer replicas must have been enough for so long before any is taken away. */
  stabilizationSeconds: number;
  /** null: never to zero. */
  scaleToZeroAfterSeconds: number | null;
}

/** null: nothing is to be decided, or the SLOs to decide by are missing (policy external may be without). */
export function autoscaleConfigOf(spec: Pick<ModelServiceSpec, "autoscaling" | "slo">): AutoscaleConfig | null {
  const { policy, prefill, decode, stabilizationSeconds, scaleToZeroAfterSeconds = null } = spec.autoscaling;
  if (policy === "none" || prefill === undefined || decode === undefined || spec.slo === undefined) return null;
  const { ttftSeconds, tpotSeconds } = spec.slo;
  return { prefill, decode, ttftSeconds, tpotSeconds, stabilizationSeconds, scaleToZeroAfterSeconds };
}

export const constants = {
  /** A worker's samples do not count for so long after it became ready, nor do violations while one of its pool is so young. */
  warmupSeconds: 30,
  /** Rates are averages with this time constant. */
  rateSeconds: 60,
  /** What requests are like (tokens of an answer), and how fast workers are. */
  profileSeconds: 240,
  /** Excess work that waits should be done within so long. */
  backlogSeconds: 30,
  /** Part of a replica's capacity that is planned for, at first and at most, and at least after violations. */
  utilisation: { prefill: 0.75, decode: 0.85 },
  leastUtilisation: 0.35,
  /** After a violation at less than what is planned for, this part of it. */
  utilisationCut: 0.88,
  /** Cuts fade with this time constant. */
  utilisationSeconds: 3600,
  /** An SLO missed so soon after a pool got fewer: it is held twice as long from then on, up to so many times; which fades like a cut. */
  regretSeconds: 900,
  mostHold: 8,
  /** Fewer replicas only where they would be used less than this part of what is planned for. */
  downBand: 0.85,
  /** TPOT is planned for at this part of its SLO: steps beside prefill are longer. */
  tpotMargin: 0.9,
  /** KV blocks that requests may hold, of a decode worker's. */
  cacheLimit: 0.85,
  /** At most doubled, or so many more, in one decision; at most this part fewer (one at least). */
  mostAdded: 2,
  mostRemovedShare: 0.25,
  /** Pods without a node for so long are cancelled (a node autoscaler needs minutes), and not asked for again for a time that doubles. */
  unschedulableSeconds: 300,
  backOffSeconds: 120,
  mostBackOffSeconds: 1800,
} as const;
