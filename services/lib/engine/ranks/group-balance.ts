// How evenly the ranks that are there share a load.
import { type ExpertPlan, layerBalancedness } from "../../contracts/expert-placement.ts";

/** In each MoE layer mean rank load over largest, of the ranks that are there; loads: [MoE layers, logical experts]. */
export function groupBalancedness(plan: ExpertPlan, isThere: (rank: number) => boolean, loads: Float64Array): number[] {
  const experts = loads.length / plan.layers.length;
  return plan.layers.map((slots, layer) => {
    const placed = slots.filter((_, slot) => isThere(Math.floor(slot / plan.slotsPerRank)));
    return layerBalancedness(placed, plan.slotsPerRank, loads.subarray(layer * experts, (layer + 1) * experts));
  });
}
