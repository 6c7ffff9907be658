// One layer's placement, better than the published one: from its copies and its packing, changes that relieve the heaviest rank; where that is not enough,
// other numbers of copies. Never two copies of an expert on a rank, unless a rank has more slots than there are experts or the published plan, which may
// have them, is better so.
import { copiesByLoad, leastPossible, searchCopies } from "./copies.ts";
import { improve } from "./improve.ts";
import { LayerState } from "./layer-state.ts";
import { descending } from "./packing.ts";
import { keepsGroups, publishedPlacement } from "./published.ts";
import type { PlacementShape } from "./shape.ts";
import { repeats, type Start, startPlacement } from "./start.ts";

/** Of what is possible at all: where changes end, and where other counts of copies are not sought. */
const perfect = 1.00002;
const nearEnough = 1.0005;
const mostChanges = 300;
const negligible = 1e-9;
/** With two slots a rank a try is a hundred times as quick. */
const triesOfPairs = 400;
const triesOfMore = 100;
const fewCopies = 256;

export function placeLayer(load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  const { experts, slots, ranks } = shape;
  const perRank = slots / ranks;
  // Each rank has every expert, whatever the loads.
  if (perRank >= experts) return Int32Array.from({ length: slots }, (_, slot) => (slot % perRank) % experts);
  const rounded = new Float32Array(load);
  const weights = new Float64Array(load);
  const hottest = descending(rounded);
  const byLoad = copiesByLoad(rounded, hottest, slots, ranks);
  const start = startPlacement(rounded, byLoad, shape);
  const floor = leastPossible(weights, byLoad, ranks);
  if (floor === 0) return start.placed;

  // Pairs of the largest copies with the smallest are the best there are of these copies, and of many a change or two makes no difference.
  const settled = (of: Start) =>
    of.plain && perRank === 2 && slots > fewCopies ? asItIs(weights, ranks, of.placed) : improved(weights, ranks, of.placed, floor);
  let best = settled(start);
  const consider = (other: Improved) => {
    if (other.largest < best.largest) best = other;
  };
  if (perRank > 1 && best.largest > floor * nearEnough) {
    const copies = searchCopies(weights, hottest, byLoad, { ranks, floor, tries: perRank === 2 ? triesOfPairs : triesOfMore });
    if (copies !== byLoad) consider(settled(startPlacement(rounded, copies, shape)));
  }
  // A plain start is the published plan where its rule keeps no groups and gives no expert more copies than there are ranks.
  const fromPublished = start.plain && !keepsGroups(shape) && byLoad.count.every((copies) => copies < ranks);
  const published = fromPublished ? start.placed : publishedPlacement(load, shape);
  if (!fromPublished && largestLoad(weights, ranks, published) < best.largest && !repeats(published, ranks, experts)) {
    consider(improved(weights, ranks, published, floor));
  }
  return best.placed === published ? published : noWorse(best.placed, published, shape, load);
}

/** Ours, or the published plan where it is better, or as good and without two copies of an expert on a rank. Then the last bit of what is worked out from
 * the plan is the same, too. */
export function noWorse(ours: Int32Array, published: Int32Array, shape: PlacementShape, load: ArrayLike<number>): Int32Array {
  const weights = new Float64Array(load);
  const its = largestLoad(weights, shape.ranks, published);
  const own = largestLoad(weights, shape.ranks, ours);
  if (own < its * (1 - negligible)) return ours;
  return its < own * (1 - negligible) || !repeats(published, shape.ranks, shape.experts) ? published : ours;
}

interface Improved {
  placed: Int32Array;
  /** The largest load of a rank. */
  largest: number;
}

function improved(weights: Float64Array, ranks: number, placed: Int32Array, floor: number): Improved {
  const before = asItIs(weights, ranks, placed);
  if (before.largest <= floor * perfect) return before;
  const state = new LayerState(weights, ranks, placed);
  return improve(state, floor * perfect, mostChanges) === 0 ? before : { placed: state.placed, largest: state.largestLoad() };
}

function asItIs(weights: Float64Array, ranks: number, placed: Int32Array): Improved {
  return { placed, largest: largestLoad(weights, ranks, placed) };
}

function largestLoad(weights: Float64Array, ranks: number, placed: Int32Array): number {
  const count = new Int32Array(weights.length);
  for (let slot = 0; slot < placed.length; slot++) (count[placed[slot] as number] as number)++;
  const perRank = placed.length / ranks;
  let largest = 0;
  for (let rank = 0, slot = 0; rank < ranks; rank++) {
    let load = 0;
    for (const end = slot + perRank; slot < end; slot++) {
      const expert = placed[slot] as number;
      load += (weights[expert] as number) / (count[expert] as number);
    }
    if (load > largest) largest = load;
  }
  return largest;
}
