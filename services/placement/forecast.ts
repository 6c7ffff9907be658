// The load that a plan is made for, from intervals gone by: what is late counts more, and an expert whose share swings is taken to be somewhat hotter than its
// mean, since too small a place for it costs the whole layer and too large a one costs little.

export interface ForecastOptions {
  /** Intervals after which one counts half. */
  halfLife: number;
  /** Standard deviations of an expert's share that are added to its mean. */
  hedge: number;
}

/** [layer][expert], shares of a layer's tokens, from intervals of [layers, experts], the oldest first. A layer without tokens is even. */
export function forecastLoads(
  intervals: readonly ArrayLike<number>[],
  experts: number,
  { halfLife, hedge }: ForecastOptions,
): Float64Array[] {
  const layers = (intervals[0]?.length ?? 0) / experts;
  return Array.from({ length: layers }, (_, layer) => forecastLayer(intervals, layer * experts, experts, 0.5 ** (1 / halfLife), hedge));
}

function forecastLayer(intervals: readonly ArrayLike<number>[], first: number, experts: number, keep: number, hedge: number): Float64Array {
  const mean = new Float64Array(experts);
  const square = new Float64Array(experts);
  let weights = 0;
  let weight = 1;
  for (const interval of intervals.toReversed()) {
    let tokens = 0;
    for (let i = 0; i < experts; i++) tokens += interval[first + i] as number;
    for (let i = 0; tokens > 0 && i < experts; i++) {
      const share = (interval[first + i] as number) / tokens;
      (mean[i] as number) += weight * share;
      (square[i] as number) += weight * share * share;
    }
    if (tokens > 0) weights += weight;
    weight *= keep;
  }
  if (weights === 0) return new Float64Array(experts).fill(1 / experts);
  for (let i = 0; i < experts; i++) {
    const its = (mean[i] as number) / weights;
    mean[i] = its + hedge * Math.sqrt(Math.max(0, (square[i] as number) / weights - its * its));
  }
  return mean;
}
