// Pods that no node takes: asked for long enough they are cancelled, and not asked for again before a back-off that doubles.
import { constants, type PoolRange } from "./config.ts";
import type { PoolSnapshot } from "./snapshot.ts";

export interface Refusal {
  /** As many as found a node. */
  limit: number;
  untilSeconds: number;
  backOffSeconds: number;
}

export function refusalAfter(
  refusal: Refusal | null,
  { replicas, wanted }: PoolSnapshot<unknown>,
  range: PoolRange,
  atSeconds: number,
): Refusal | null {
  const placed = replicas.filter(({ state }) => state !== "unschedulable").length;
  const stuck = replicas.some(({ state, stateSeconds }) => state === "unschedulable" && stateSeconds >= constants.unschedulableSeconds);
  const limit = Math.max(range.minReplicas, placed);
  // Who was counted as placed for want of news may turn out to find no node either.
  if (refusal !== null && atSeconds < refusal.untilSeconds) return { ...refusal, limit: stuck ? limit : Math.max(refusal.limit, placed) };
  if (stuck) {
    const backOffSeconds = refusal === null ? constants.backOffSeconds : Math.min(constants.mostBackOffSeconds, refusal.backOffSeconds * 2);
    return { limit, untilSeconds: atSeconds + backOffSeconds, backOffSeconds };
  }
  // Over once more were placed than did find a node then; until that it is remembered, for the next back-off.
  return refusal !== null && placed >= wanted && placed > refusal.limit ? null : refusal;
}

/** How many may be asked for now. */
export function limitNow(refusal: Refusal | null, atSeconds: number): number {
  return refusal !== null && atSeconds < refusal.untilSeconds ? refusal.limit : Number.POSITIVE_INFINITY;
}
