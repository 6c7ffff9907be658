// How plans are made from loads that change. Chosen on seeds of the simulation other than the one that is shown (docs/benchmarks.md).
import type { Policy } from "./policies.ts";

export interface PlanSettings {
  policy: Policy;
  /** In intervals, see forecast.ts. */
  halfLife: number;
  hedge: number;
  /** See ReplacementLimits. */
  tolerance: number;
}

export const ourSettings: PlanSettings = { policy: "balanced", halfLife: 1, hedge: 0.5, tolerance: 0.03 };
