// Placements that keep each group of experts on one node, so that a gate that limits a token's nodes sends no more between nodes than the model was
// trained for: groups onto nodes, then each node by itself.
import { improve } from "./improve.ts";
import { noWorse, placeLayer } from "./layer.ts";
import { LayerState } from "./layer-state.ts";
import { packBalanced } from "./packing.ts";
import { publishedPlacement } from "./published.ts";
import type { PlacementShape } from "./shape.ts";

/** One layer. Needs as many groups on each node. */
export function placeGrouped(load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  const { experts, slots, ranks, nodes, groups } = shape;
  const size = experts / groups;
  const part: PlacementShape = { experts: experts / nodes, slots: slots / nodes, ranks: ranks / nodes, nodes: 1, groups: 1 };
  const placed = new Int32Array(slots);
  const ofNode = groupsOfNodes(load, size, nodes);
  for (let node = 0; node < nodes; node++) {
    const own = (ofNode[node] as number[]).flatMap((group) => Array.from({ length: size }, (_, i) => group * size + i));
    const its = placeLayer(
      own.map((expert) => load[expert] as number),
      part,
    );
    for (let i = 0; i < its.length; i++) placed[node * part.slots + i] = own[its[i] as number] as number;
  }
  return noWorse(placed, publishedPlacement(load, shape), shape, load);
}

/** As many groups to each node, so that the most loaded node has little. */
function groupsOfNodes(load: ArrayLike<number>, size: number, nodes: number): number[][] {
  const weights = new Float64Array(load.length / size);
  for (let i = 0; i < load.length; i++) (weights[Math.floor(i / size)] as number) += load[i] as number;
  const placed = new Int32Array(weights.length);
  for (const [group, place] of packBalanced(Float32Array.from(weights), nodes).entries()) placed[place] = group;
  const state = new LayerState(weights, nodes, placed);
  improve(state, 0, weights.length);
  const each = weights.length / nodes;
  return Array.from({ length: nodes }, (_, node) => [...state.placed.subarray(node * each, (node + 1) * each)]);
}
