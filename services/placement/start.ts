// Where the search for a placement begins: the largest copies first onto the least loaded rank that has room and no copy yet.
import { descending, packBalanced } from "./packing.ts";
import type { Copies } from "./copies.ts";
import type { PlacementShape } from "./shape.ts";

type Size = Pick<PlacementShape, "slots" | "ranks">;

export interface Start {
  placed: Int32Array;
  /** It is the plain packing, which happens to have no two copies of an expert on one rank. */
  plain: boolean;
}

/** One layer, `count` copies of each expert, at most one a rank; `items` are the copies' experts in any order. */
export function startPlacement(weights: Float32Array, { items, count }: Copies, { slots, ranks }: Size): Start {
  const placed = packCopies(weights, { items, count }, ranks);
  if (!repeats(placed, ranks, count.length)) return { placed, plain: true };

  const share = new Float32Array(weights.length);
  for (let expert = 0; expert < share.length; expert++) share[expert] = (weights[expert] as number) / (count[expert] as number);
  const order = descending(share);
  const byLoad = fill(order, count, share, { slots, ranks }, (load) => load);
  if (byLoad !== undefined) return { placed: byLoad, plain: false };
  // Loads led to where only ranks that hold the expert have room. With the most copies first, each onto the emptiest ranks, there is always a place.
  const byCopies = order.toSorted((a, b) => (count[b] as number) - (count[a] as number));
  return { placed: fill(byCopies, count, share, { slots, ranks }, (_, held) => held) as Int32Array, plain: false };
}

/** The published packing: the expert of each slot. */
export function packCopies(weights: Float32Array, { items, count }: Copies, ranks: number): Int32Array {
  const shares = new Float32Array(items.length);
  for (let i = 0; i < items.length; i++) {
    const expert = items[i] as number;
    shares[i] = (weights[expert] as number) / (count[expert] as number);
  }
  const places = packBalanced(shares, ranks);
  const placed = new Int32Array(items.length);
  for (let i = 0; i < items.length; i++) placed[places[i] as number] = items[i] as number;
  return placed;
}

/** Whether a rank holds two copies of one expert. */
export function repeats(placed: Int32Array, ranks: number, experts: number): boolean {
  const perRank = placed.length / ranks;
  const lastRank = new Int32Array(experts).fill(-1);
  for (let rank = 0, slot = 0; rank < ranks; rank++) {
    for (const end = slot + perRank; slot < end; slot++) {
      const expert = placed[slot] as number;
      if (lastRank[expert] === rank) return true;
      lastRank[expert] = rank;
    }
  }
  return false;
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
