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

/** One copy each, the others to the largest load a copy in turn, the first of equals; no more of an expert than `most`. `hottest` is `descending(weights)`. */
export function copiesByLoad(weights: Float32Array, hottest: Int32Array, slots: number, most: number): Copies {
  const experts = weights.length;
  const count = new Int32Array(experts).fill(1);
  const items = new Int32Array(slots);
  for (let expert = 0; expert < experts; expert++) items[expert] = expert;
  // Of the hottest so many have copies already, with these loads each; where nobody may have any, the first takes all.
  const share = weights.slice();
  let copied = 0;
  for (let place = experts; place < slots; place++) {
    let largest = most > 1 && copied < experts ? copied : -1;
    for (let i = 0; i < copied; i++) {
      const expert = hottest[i] as number;
      if (count[expert] !== most && (largest < 0 || isBefore(share, expert, hottest[largest] as number))) largest = i;
    }
    const expert = largest < 0 ? 0 : (hottest[largest] as number);
    if (largest === copied) copied++;
    items[place] = expert;
    share[expert] = (weights[expert] as number) / ++(count[expert] as number);
  }
  return { items, count };
}

function isBefore(share: Float32Array, a: number, b: number): boolean {
  const difference = (share[a] as number) - (share[b] as number);
  return difference > 0 || (difference === 0 && a < b);
}

/** What no placement undercuts: the mean rank load, and what the rank with the largest copy bears, which has smaller copies as well. A smaller copy than there
 * is leaves one copy less for the other experts. Copies are those of `copiesByLoad`. */
export function leastPossible(weights: Float64Array, { items, count }: Copies, ranks: number): number {
  const shares = new Float64Array(weights.length);
  let sum = 0;
  let largest = 0;
  for (let expert = 0; expert < weights.length; expert++) {
    const weight = weights[expert] as number;
    const share = weight / (count[expert] as number);
    sum += weight;
    shares[expert] = share;
    if (share > largest) largest = share;
  }
  shares.sort();
  let small = 0;
  for (let i = items.length / ranks - 2; i >= 0; i--) small += shares[i] as number;
  let least = largest + small;
  const left = count.slice();
  for (let place = items.length - 1, less = 1; place >= weights.length && largest < least; place--, less++) {
    const expert = items[place] as number;
    largest = Math.max(largest, (weights[expert] as number) / --(left[expert] as number));
    least = Math.min(least, largest + small / (less + 1));
  }
  return Math.max(sum / ranks, least);
}

/** Other copies than these, if better ones are found in so many tries; else these. `floor` is `leastPossible`, above 0. With two slots a rank what was given
 * last is taken sooner, as it makes the largest copies only a little larger, and a cold expert is given a copy sooner, as its two make the smallest partners. */
export function searchCopies(
  weights: Float64Array,
  hottest: Int32Array,
  start: Copies,
  { ranks, floor, tries }: { ranks: number; floor: number; tries: number },
): Copies {
  const slots = start.items.length;
  const experts = weights.length;
  const given = slots - experts;
  if (given === 0) return start;
  const count = start.count.slice();
  const items = start.items.slice();
  const pairs = slots === 2 * ranks;
  const packing = pairs ? undefined : new Packing(ranks, slots / ranks);
  let kept: Float64Array = sortedShares(weights, count, slots);
  let tried: Float64Array = new Float64Array(slots);
  let least = excessOf(kept, floor, packing, Infinity);
  const draw = drawer();
  let gained = 0;
  let changed = false;
  for (let i = 0; i < tries && i - gained < patience && least > negligible; i++) {
    const place = pairs ? slots - 1 - sooner(draw(), given) : experts + Math.floor(draw() * given);
    const from = items[place] as number;
    const to = pairs ? (hottest[experts - 1 - sooner(draw(), experts)] as number) : Math.floor(draw() * experts);
    if (from === to || count[to] === ranks) continue;
    exchange(kept, tried, weights[from] as number, count[from] as number, weights[to] as number, count[to] as number);
    const excess = excessOf(tried, floor, packing, least);
    if (excess > least) continue;
    if (excess < least * worthwhile) gained = i;
    least = excess;
    const before = kept;
    kept = tried;
    tried = before;
    (count[from] as number)--;
    (count[to] as number)++;
    items[place] = to;
    changed = true;
  }
  return changed ? { items, count } : start;
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
  into.set(sorted);
  const length = into.length;
  regroup(into, length, from / fromCount, fromCount, from / (fromCount - 1), fromCount - 1);
  regroup(into, length - 1, to / toCount, toCount, to / (toCount + 1), toCount + 1);
}

/** Among the first `length` numbers, in their order, `wasCount` equal ones become `nowCount` others. */
function regroup(sorted: Float64Array, length: number, was: number, wasCount: number, now: number, nowCount: number): void {
  const start = firstNotBelow(sorted, length, was);
  const end = start + wasCount;
  const place = firstNotBelow(sorted, length, now);
  if (place < end) {
    // Smaller ones. Where both are 0, place is start.
    const at = Math.min(place, start);
    sorted.copyWithin(end + nowCount - wasCount, end, length);
    sorted.copyWithin(at + nowCount, at, start);
    sorted.fill(now, at, at + nowCount);
  } else {
    sorted.copyWithin(start, end, place);
    sorted.fill(now, place - wasCount, place - wasCount + nowCount);
    sorted.copyWithin(place - wasCount + nowCount, place, length);
  }
}

function firstNotBelow(sorted: Float64Array, length: number, value: number): number {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sorted[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** How uneven ranks become when copies are simply packed: the sum of the fourth powers of what each bears above the floor, as a part of it, since few large
 * excesses are worse than many small ones. Exact where it is at most `limit`. Without a packing two copies go onto each rank. */
function excessOf(sorted: Float64Array, floor: number, packing: Packing | undefined, limit: number): number {
  let sum = 0;
  if (packing === undefined) {
    // The packing joins the largest to the smallest.
    for (let low = 0, high = sorted.length - 1; low < high && sum <= limit; low++, high--) {
      const part = ((sorted[low] as number) + (sorted[high] as number)) / floor - 1;
      if (part > 0) sum += part * part * part * part;
    }
    return sum;
  }
  packing.clear();
  for (let i = sorted.length - 1; i >= 0; i--) packing.put(sorted[i] as number);
  for (let rank = 0; rank < packing.loads.length; rank++) {
    const part = (packing.loads[rank] as number) / floor - 1;
    if (part > 0) sum += part * part * part * part;
  }
  return sum;
}

/** Numbers from 0 to 1, the same ones every time: Numerical Recipes' linear congruence, its high bits. */
function drawer(): () => number {
  let state = 1;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

/** A whole number below n, small ones sooner. */
function sooner(drawn: number, n: number): number {
  return Math.floor(drawn * Math.sqrt(drawn) * n);
}
