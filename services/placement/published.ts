// The published balancer (deepseek-ai/EPLB), from its description: copies to the experts with the largest load a copy, then packing. In its arithmetic
// (float32, stable sorts, the first of equals), so that its plans are made again slot for slot. Our own policy begins here and is never worse.
import { copiesByLoad } from "./copies.ts";
import { descending, packBalanced } from "./packing.ts";
import type { PlacementShape } from "./shape.ts";
import { packCopies } from "./start.ts";

/** Whether its rule keeps groups of experts whole on nodes; otherwise it takes all ranks as one node. */
export function keepsGroups({ groups, nodes }: PlacementShape): boolean {
  return groups % nodes === 0;
}

/** One layer: the logical expert of each slot. */
export function publishedPlacement(load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  const [groups, nodes] = keepsGroups(shape) ? [shape.groups, shape.nodes] : [1, 1];
  const weights = new Float32Array(load);
  const order = expertsByNode(weights, groups, nodes);
  const [expertsEach, slotsEach] = [shape.experts / nodes, shape.slots / nodes];
  const placed = new Int32Array(shape.slots);
  for (let node = 0; node < nodes; node++) {
    const own = order.subarray(node * expertsEach, (node + 1) * expertsEach);
    const ownWeights = Float32Array.from(own, (expert) => weights[expert] as number);
    const its = packCopies(ownWeights, copiesByLoad(ownWeights, descending(ownWeights), slotsEach, slotsEach), shape.ranks / nodes);
    for (let i = 0; i < slotsEach; i++) placed[node * slotsEach + i] = own[its[i] as number] as number;
  }
  return placed;
}

/** Experts in the order of the nodes that their groups are packed onto, as many to each. */
function expertsByNode(weights: Float32Array, groups: number, nodes: number): Int32Array {
  const size = weights.length / groups;
  const groupLoads = new Float32Array(groups);
  for (let i = 0; i < weights.length; i++) (groupLoads[Math.floor(i / size)] as number) += weights[i] as number;
  const places = packBalanced(groupLoads, nodes);
  const order = new Int32Array(weights.length);
  for (let i = 0; i < order.length; i++) order[(places[Math.floor(i / size)] as number) * size + (i % size)] = i;
  return order;
}
