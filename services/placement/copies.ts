// How many copies of each expert. Giving each next copy to the largest load a copy makes the largest copy least, which is best for one slot a rank. With
// few slots a rank what counts is what lies together: a copy of a cold expert makes a small partner for a hot one. So copies are taken from experts and
// given to others, at random but always alike, and kept where the ranks' excess over what cannot be undercut became less, as a plain packing shows.
import { Packing } from "./packing.ts";

export interface Copies {
  /** The expert of every copy: one copy of each expert, then the others as they were given. */
  items: Int32Array;
  /** Copies of each expert. */
  count: Int32Array;
}

/** One copy each, the others to the largest load a copy in turn, the first of equals; no more of an expert than `most`. */
export function copiesByLoad(weights: Float32Array, slots: number, most: number): Copies {
  const experts = weights.length;
  const count = new Int32Array(experts).fill(1);
  const items = new Int32Array(slots);
  const share = most > 1 ? weights.slice() : new Float32Array(experts).fill(-1);
  for (let i = 0; i < slots; i++) {
    items[i] = i;
    if (i < experts) continue;
    let largest = 0;
    for (let expert = 1; expert < experts; expert++) if ((share[expert] as number) > (share[largest] as number)) largest = expert;
    items[i] = largest;
    (count[largest] as number)++;
    share[largest] = count[largest] === most ? -1 : (weights[largest] as number) / (count[largest] as number);
  }
  return { items, count };
}

/** What no placement undercuts: the mean rank load, and the least that the largest copy can be. `count` is that of `copiesByLoad`. */
export function leastPossible(weights: Float64Array, count: Int32Array, ranks: number): number {
  let sum = 0;
  let largest = 0;
  for (let expert = 0; expert < weights.length; expert++) {
    sum += weights[expert] as number;
    const share = (weights[expert] as number) / (count[expert] as number);
    if (share > largest) largest = share;
  }
  return Math.max(sum / ranks, largest);
}

/** Other copies than these, if better ones are found in so many tries. `floor` is `leastPossible`, above 0. */
export function searchCopies(weights: Float64Array, start: Copies, ranks: number, floor: number, tries: number): Copies {
  const slots = start.items.length;
  const count = start.count.slice();
  const items = start.items.slice();
  const copied = items.subarray(count.length);
  if (copied.length === 0) return start;
  const trial = new Trial(slots, ranks, floor);
  let kept: Float64Array = sortedShares(weights, count, slots);
  let tried: Float64Array = new Float64Array(slots);
  let least = trial.excess(kept, Infinity);
  const draw = drawer();
  let gained = 0;
  for (let i = 0; i < tries && i - gained < patience && least > negligible; i++) {
    const place = draw(copied.length);
    const from = copied[place] as number;
    const to = draw(count.length);
    if (from === to || count[to] === ranks) continue;
    exchange(kept, tried, weights[from] as number, count[from] as number, weights[to] as number, count[to] as number);
    const excess = trial.excess(tried, least);
    if (excess > least) continue;
    if (excess < least * worthwhile) gained = i;
    least = excess;
    [kept, tried] = [tried, kept];
    (count[from] as number)--;
    (count[to] as number)++;
    copied[place] = to;
  }
  return { items, count };
}

/** The search ends after so many tries without a gain of one part in a thousand. */
const patience = 150;
const worthwhile = 0.999;
/** An excess of one part in a thousand on one rank. */
const negligible = 1e-12;

function sortedShares(weights: Float64Array, count: Int32Array, slots: number): Float64Array {
  const shares = new Float64Array(slots);
  for (let expert = 0, at = 0; expert < weights.length; expert++) {
    for (let i = 0; i < (count[expert] as number); i++) shares[at++] = (weights[expert] as number) / (count[expert] as number);
  }
  return shares.sort();
}

/** Sorted loads of copies, after one expert has one less and another one more. */
function exchange(sorted: Float64Array, into: Float64Array, from: number, fromCount: number, to: number, toCount: number): void {
  let [fromGone, toGone, fromNew, toNew] = [from / fromCount, to / toCount, from / (fromCount - 1), to / (toCount + 1)];
  let [read, write] = [0, 0];
  for (let step = 0; step < 4; step++) {
    const next = Math.min(fromGone, toGone, fromNew, toNew);
    while (read < sorted.length && (sorted[read] as number) < next) into[write++] = sorted[read++] as number;
    if (next === fromGone) {
      read += fromCount;
      fromGone = Infinity;
    } else if (next === toGone) {
      read += toCount;
      toGone = Infinity;
    } else if (next === fromNew) {
      for (let i = 1; i < fromCount; i++) into[write++] = next;
      fromNew = Infinity;
    } else {
      for (let i = 0; i <= toCount; i++) into[write++] = next;
      toNew = Infinity;
    }
  }
  while (read < sorted.length) into[write++] = sorted[read++] as number;
}

/** How uneven ranks become when copies are simply packed: the sum of the fourth powers of what each bears above the floor, as a part of it, since few large
 * excesses are worse than many small ones. */
class Trial {
  private readonly perRank: number;
  private readonly floor: number;
  private readonly packing: Packing;

  constructor(slots: number, ranks: number, floor: number) {
    this.perRank = slots / ranks;
    this.floor = floor;
    this.packing = new Packing(ranks, this.perRank);
  }

  /** Exact where it is at most `limit`. */
  excess(sorted: Float64Array, limit: number): number {
    let sum = 0;
    if (this.perRank === 2) {
      // The packing joins the largest to the smallest.
      for (let low = 0, high = sorted.length - 1; low < high && sum <= limit; low++, high--) {
        sum += this.power((sorted[low] as number) + (sorted[high] as number));
      }
      return sum;
    }
    this.packing.clear();
    for (let i = sorted.length - 1; i >= 0; i--) this.packing.put(sorted[i] as number);
    for (const load of this.packing.loads) sum += this.power(load);
    return sum;
  }

  private power(load: number): number {
    const part = load / this.floor - 1;
    return part > 0 ? part * part * part * part : 0;
  }
}

/** Whole numbers below n, the same ones every time: Numerical Recipes' linear congruence, its high bits. */
function drawer(): (n: number) => number {
  let state = 1;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 0x1_0000_0000) * n);
  };
}
