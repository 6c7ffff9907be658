// One layer's placement, better than the published one: from its copies and its packing, changes that relieve the heaviest rank; where that is not enough,
// other numbers of copies. Never two copies of an expert on a rank, unless a rank has more slots than there are experts or the published plan, which may
// have them, is better so.
import { rankLoads } from "../lib/contracts/expert-placement.ts";
import { copiesByLoad, leastPossible, searchCopies } from "./copies.ts";
import { improve } from "./improve.ts";
import { LayerState } from "./layer-state.ts";
import { keepsGroups, publishedPlacement } from "./published.ts";
import type { PlacementShape } from "./shape.ts";
import { repeats, startPlacement } from "./start.ts";

/** Of what is possible at all: where changes end, and where other counts of copies are not sought. */
const perfect = 1.00002;
const nearEnough = 1.0005;
const mostChanges = 300;
const negligible = 1e-9;
/** With two slots a rank a try is a hundred times as quick. */
const triesOfPairs = 400;
const triesOfMore = 100;

export function placeLayer(load: ArrayLike<number>, shape: PlacementShape): Int32Array {
  const { experts, slots, ranks } = shape;
  const perRank = slots / ranks;
  // Each rank has every expert, whatever the loads.
  if (perRank >= experts) return Int32Array.from({ length: slots }, (_, slot) => (slot % perRank) % experts);
  const rounded = Float32Array.from(load);
  const weights = Float64Array.from(load);
  const byLoad = copiesByLoad(rounded, slots, ranks);
  const floor = leastPossible(weights, byLoad.count, ranks);
  if (floor === 0) return startPlacement(rounded, byLoad, shape).placed;

  const start = startPlacement(rounded, byLoad, shape);
  const candidates = [improved(weights, ranks, start.placed, floor)];
  const bestLoad = () => Math.min(...candidates.map((state) => state.largestLoad()));
  if (perRank > 1 && bestLoad() > floor * nearEnough) {
    const copies = searchCopies(weights, byLoad, ranks, floor, perRank === 2 ? triesOfPairs : triesOfMore);
    candidates.push(improved(weights, ranks, startPlacement(rounded, copies, shape).placed, floor));
  }
  // A plain start is the published plan where its rule keeps no groups and gives no expert more copies than there are ranks.
  const fromPublished = start.plain && !keepsGroups(shape) && byLoad.count.every((copies) => copies < ranks);
  const published = fromPublished ? start.placed : publishedPlacement(load, shape);
  if (!fromPublished && largestOf(published, shape, load) < bestLoad() && !repeats(published, ranks, experts)) {
    candidates.push(improved(weights, ranks, published, floor));
  }
  const best = candidates.reduce((best, state) => (state.largestLoad() < best.largestLoad() ? state : best)).placed;
  return noWorse(best, published, shape, load);
}

/** Ours, or the published plan where it is better, or as good and without two copies of an expert on a rank. Then the last bit of what is worked out from
 * the plan is the same, too. */
export function noWorse(ours: Int32Array, published: Int32Array, shape: PlacementShape, load: ArrayLike<number>): Int32Array {
  const [its, own] = [largestOf(published, shape, load), largestOf(ours, shape, load)];
  if (own < its * (1 - negligible)) return ours;
  return its < own * (1 - negligible) || !repeats(published, shape.ranks, shape.experts) ? published : ours;
}

function largestOf(placed: Int32Array, { slots, ranks }: PlacementShape, load: ArrayLike<number>): number {
  return Math.max(...rankLoads(placed, slots / ranks, load));
}

function improved(weights: Float64Array, ranks: number, placed: Int32Array, floor: number): LayerState {
  const state = new LayerState(weights, ranks, placed);
  improve(state, floor * perfect, mostChanges);
  return state;
}
