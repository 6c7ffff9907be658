// Where the search for a placement begins: copies by load, then the largest copies first onto the least loaded rank that has room and no copy yet.
import { descending } from "./published.ts";
import type { PlacementShape } from "./shape.ts";

type Size = Pick<PlacementShape, "slots" | "ranks">;

/** One layer. Needs as many experts as a rank has slots; then no rank needs two copies of one. */
export function startPlacement(weights: Float64Array, size: Size): Int32Array {
  const count = copiesByLoad(weights, size);
  const share = Float32Array.from(weights, (weight, expert) => weight / (count[expert] as number));
  const order = descending(share);
  const byLoad = fill(order, count, share, size, (load) => load);
  if (byLoad !== undefined) return byLoad;
  // Loads led to where only ranks that hold the expert have room. With the most copies first, each onto the emptiest ranks, there is always a place.
  const byCopies = order.toSorted((a, b) => (count[b] as number) - (count[a] as number));
  return fill(byCopies, count, share, size, (_, held) => held) as Int32Array;
}

/** One copy each, the others to the largest load a copy in turn; no more than there are ranks. */
export function copiesByLoad(weights: Float64Array, { slots, ranks }: Size): Int32Array {
  const count = new Int32Array(weights.length).fill(1);
  const share = ranks > 1 ? weights.slice() : new Float64Array(weights.length).fill(-1);
  for (let spare = slots - weights.length; spare > 0; spare--) {
    let largest = 0;
    for (let expert = 1; expert < share.length; expert++) if ((share[expert] as number) > (share[largest] as number)) largest = expert;
    (count[largest] as number)++;
    share[largest] = count[largest] === ranks ? -1 : (weights[largest] as number) / (count[largest] as number);
  }
  return count;
}

/** Experts in this order, each copy onto the rank with room that costs least; undefined where one finds none. */
function fill(
  order: Int32Array,
  count: Int32Array,
  share: Float32Array,
  { slots, ranks }: Size,
  cost: (load: number, held: number) => number,
): Int32Array | undefined {
  const perRank = slots / ranks;
  const placed = new Int32Array(slots);
  const loads = new Float64Array(ranks);
  const held = new Int32Array(ranks);
  const holder = new Int32Array(ranks).fill(-1);
  for (const expert of order) {
    for (let copy = 0; copy < (count[expert] as number); copy++) {
      let chosen = -1;
      let least = Infinity;
      for (let rank = 0; rank < ranks; rank++) {
        if (held[rank] === perRank || holder[rank] === expert) continue;
        const its = cost(loads[rank] as number, held[rank] as number);
        if (its < least) {
          least = its;
          chosen = rank;
        }
      }
      if (chosen < 0) return undefined;
      holder[chosen] = expert;
      placed[chosen * perRank + (held[chosen] as number)++] = expert;
      (loads[chosen] as number) += share[expert] as number;
    }
  }
  return placed;
}
