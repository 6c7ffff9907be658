// The goodput knee: the highest rate at which a share of all offered requests is still good, found by doubling and then bisecting. Pure: asks
// for one rate at a time.

export interface KneePoint {
  ratePerSecond: number;
  /** Share of good requests. */
  share: number;
}

/** How near the bounds must come, as a share of the rate. */
const precision = 0.1;
/** For one attainment. */
export const maxPoints = 14;

/** The next rate to try; null: it is found, or cannot be found within the bounds. Points of a search before, for another attainment, serve, too. */
export function nextRate(points: readonly KneePoint[], attainment: number, firstRate: number): number | null {
  if (points.length === 0) return firstRate;
  const { held, failed } = bounds(points, attainment);
  if (failed === null) return (held as number) * 2;
  // Below a hundredth of the first rate, no rate holds.
  if (held === null) return failed / 2 < firstRate / 100 ? null : failed / 2;
  return failed / held - 1 <= precision ? null : Math.sqrt(failed * held);
}

/** The highest rate that held, below the lowest that did not; null: none held. */
export function kneeOf(points: readonly KneePoint[], attainment: number): number | null {
  return bounds(points, attainment).held;
}

function bounds(points: readonly KneePoint[], attainment: number): { held: number | null; failed: number | null } {
  const rates = (held: boolean) => points.filter(({ share }) => share >= attainment === held).map(({ ratePerSecond }) => ratePerSecond);
  const failed = rates(false).length === 0 ? null : Math.min(...rates(false));
  const below = rates(true).filter((rate) => failed === null || rate < failed);
  return { held: below.length === 0 ? null : Math.max(...below), failed };
}
