// One deployment and one way to place experts, over loads of many intervals: balancedness of each interval under the plan then in force, and bytes moved. A plan
// is made after an interval, from what was counted until then, and is in force from the next one.
import { balancedness, type ExpertPlan, firstPlan } from "../../lib/contracts/expert-placement.ts";
import { ExpertLoadWindow } from "../../lib/expert-load/window.ts";
import { forecastLoads } from "../forecast.ts";
import { movesBetween, replan } from "../moves.ts";
import { ourSettings } from "../settings.ts";
import { place } from "../policies.ts";
import type { PlacementShape } from "../shape.ts";

export interface Way {
  name: string;
  /** `none`: each expert once, for ever. `published`: that balancer on the sum of the last intervals, taken as it comes. `ours`: forecast, few moves. */
  kind: "none" | "published" | "ours";
  /** Intervals between plans. */
  every: number;
}

export interface Course {
  way: Way;
  /** By interval, from the first in which every way may have had a plan. */
  balancedness: number[];
  moves: number;
  plans: number;
}

export const windowIntervals = 10;

export function simulate(loads: Iterable<Float64Array>, layers: number, shape: PlacementShape, ways: readonly Way[]): Course[] {
  const { experts, slots, ranks } = shape;
  const first = firstPlan({ layerCount: layers, experts, rankCount: ranks, slotsPerRank: slots / ranks });
  const bare = firstPlan({ layerCount: layers, experts, rankCount: ranks, slotsPerRank: slots / ranks, used: experts });
  const window = new ExpertLoadWindow({ counts: layers * experts, intervals: windowIntervals, halfLife: windowIntervals });
  const plans = ways.map(({ kind }): ExpertPlan => (kind === "none" ? bare : first));
  const courses = ways.map((way): Course => ({ way, balancedness: [], moves: 0, plans: 0 }));
  let interval = 0;
  for (const counted of loads) {
    const now = rows(counted, experts);
    for (const [i, course] of courses.entries())
      if (interval >= windowIntervals) course.balancedness.push(balancedness(plans[i] as ExpertPlan, now));
    window.add(counted);
    window.close();
    interval++;
    for (const [i, course] of courses.entries()) {
      const { kind, every } = course.way;
      if (kind === "none" || interval % every !== 0) continue;
      const before = plans[i] as ExpertPlan;
      let after: ExpertPlan;
      if (kind === "published") {
        after = {
          ...before,
          version: before.version + 1,
          layers: rows(window.total(), experts).map((load) => [...place("published", load, shape)]),
        };
      } else {
        const forecast = forecastLoads(window.intervals(), experts, ourSettings);
        after = replan(before, forecast, shape, "balanced", { tolerance: ourSettings.tolerance }).plan;
      }
      course.moves += movesBetween(before, after).length;
      course.plans++;
      plans[i] = after;
    }
  }
  return courses;
}

function rows(counts: Float64Array, experts: number): Float64Array[] {
  return Array.from({ length: counts.length / experts }, (_, layer) => counts.subarray(layer * experts, (layer + 1) * experts));
}
