// The published balancer (deepseek-ai/EPLB), from its description: copies to the experts with the largest load a copy, then packing into the least
// loaded rank that has room. In its arithmetic (float32, stable sorts, the first of equals), so that plans are its very plans. Our own policy starts
// from here and is never worse.
import type { PlacementShape } from "./shape.ts";

/** Whether its rule keeps groups of experts whole on nodes; otherwise it takes all ranks as one node. */
export function keepsGroups({ groups, nodes }: PlacementShape): boolean {
  return groups % nodes === 0;
}

/** One layer: the logical expert of each slot. */
export function publishedPlacement(load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  const { experts, slots, ranks } = shape;
  const [groups, nodes] = keepsGroups(shape) ? [shape.groups, shape.nodes] : [1, 1];
  const weights = Float32Array.from(load);
  const order = expertsByNode(weights, groups, nodes);

  const expertsEach = experts / nodes;
  const slotsEach = slots / nodes;
  const placed = new Int32Array(slots);
  for (let node = 0; node < nodes; node++) {
    const own = order.subarray(node * expertsEach, (node + 1) * expertsEach);
    const { copyOf, count } = replicate(
      own.map((expert) => weights[expert] as number),
      slotsEach,
    );
    const share = copyOf.map((i) => (weights[own[i] as number] as number) / (count[i] as number));
    const { pack, place } = packBalanced(share, ranks / nodes);
    const perRank = slots / ranks;
    for (let i = 0; i < slotsEach; i++) {
      placed[node * slotsEach + (pack[i] as number) * perRank + (place[i] as number)] = own[copyOf[i] as number] as number;
    }
  }
  return placed;
}

/** Experts in the order of the nodes that their groups are packed onto, as many to each. Here as floats, like everything that is packed. */
function expertsByNode(weights: Float32Array, groups: number, nodes: number): Float32Array {
  const size = weights.length / groups;
  const groupLoads = new Float32Array(groups);
  for (let i = 0; i < weights.length; i++) (groupLoads[Math.floor(i / size)] as number) += weights[i] as number;
  const { pack, place } = packBalanced(groupLoads, nodes);
  const order = new Float32Array(weights.length);
  for (let group = 0; group < groups; group++) {
    const first = ((pack[group] as number) * (groups / nodes) + (place[group] as number)) * size;
    for (let i = 0; i < size; i++) order[first + i] = group * size + i;
  }
  return order;
}

/** Each item's expert and each expert's copies: one each, then one more for the largest load a copy, until there are so many items. */
function replicate(weights: Float32Array, items: number): { copyOf: Float32Array; count: Float32Array } {
  const count = new Float32Array(weights.length).fill(1);
  const share = weights.slice();
  const copyOf = new Float32Array(items);
  for (let i = 0; i < items; i++) {
    let largest = i;
    if (i >= weights.length) {
      largest = 0;
      for (let expert = 1; expert < share.length; expert++) if ((share[expert] as number) > (share[largest] as number)) largest = expert;
      (count[largest] as number)++;
      share[largest] = (weights[largest] as number) / (count[largest] as number);
    }
    copyOf[i] = largest;
  }
  return { copyOf, count };
}

/** As many items in each pack: the largest first, into the least loaded pack with room. */
function packBalanced(weights: Float32Array, packs: number): { pack: Int32Array; place: Int32Array } {
  const each = weights.length / packs;
  const pack = new Int32Array(weights.length);
  const place = new Int32Array(weights.length);
  if (each === 1) return { pack: pack.map((_, i) => i), place };
  const loads = new Float32Array(packs);
  const filled = new Int32Array(packs);
  // A heap of the packs with room, the least loaded first, the first of equals: at the start, in order.
  const heap = Int32Array.from(loads.keys());
  let size = packs;
  const before = (a: number, b: number) => (loads[a] as number) < (loads[b] as number) || (loads[a] === loads[b] && a < b);
  for (const item of descending(weights)) {
    const chosen = heap[0] as number;
    pack[item] = chosen;
    place[item] = (filled[chosen] as number)++;
    (loads[chosen] as number) += weights[item] as number;
    let moved = chosen;
    if (filled[chosen] === each) moved = heap[--size] as number;
    let at = 0;
    for (let child = 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && before(heap[child + 1] as number, heap[child] as number)) child++;
      if (!before(heap[child] as number, moved)) break;
      heap[at] = heap[child] as number;
      at = child;
    }
    heap[at] = moved;
  }
  return { pack, place };
}

const maxItems = 1 << 16;

/** Indexes by falling weight, equals in their order. Weights are no less than 0, so that their bits are in their order. */
export function descending(weights: Float32Array): Int32Array {
  const bits = new Uint32Array(weights.buffer, weights.byteOffset, weights.length);
  const keys = new Float64Array(weights.length);
  for (let i = 0; i < keys.length; i++) keys[i] = (bits[i] as number) * maxItems + (maxItems - 1 - i);
  keys.sort();
  const order = new Int32Array(weights.length);
  for (let i = 0; i < order.length; i++) order[i] = maxItems - 1 - ((keys[order.length - 1 - i] as number) % maxItems);
  return order;
}
