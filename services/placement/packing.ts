// Items into packs of as many each: always into the least loaded pack with room, the first of equals. The largest item first makes it a good packing.
// In float32, as the published balancer has it.

export class Packing {
  readonly loads: Float32Array;
  private readonly each: number;
  private readonly held: Int32Array;
  /** The packs with room, the least loaded first. */
  private readonly heap: Int32Array;
  private size: number;

  constructor(packs: number, each: number) {
    this.each = each;
    this.loads = new Float32Array(packs);
    this.held = new Int32Array(packs);
    this.heap = new Int32Array(packs);
    this.size = packs;
    this.clear();
  }

  clear(): void {
    this.loads.fill(0);
    this.held.fill(0);
    for (let i = 0; i < this.heap.length; i++) this.heap[i] = i;
    this.size = this.heap.length;
  }

  /** Returns the item's place: pack * each + its number there. */
  put(weight: number): number {
    const { loads, held, heap, each } = this;
    const pack = heap[0] as number;
    const place = pack * each + (held[pack] as number)++;
    (loads[pack] as number) += weight;
    const moved = held[pack] === each ? (heap[--this.size] as number) : pack;
    const load = loads[moved] as number;
    let at = 0;
    for (let child = 1; child < this.size; child = 2 * at + 1) {
      if (child + 1 < this.size && this.before(heap[child + 1] as number, heap[child] as number)) child++;
      const next = heap[child] as number;
      const nextLoad = loads[next] as number;
      if (nextLoad > load || (nextLoad === load && next > moved)) break;
      heap[at] = next;
      at = child;
    }
    heap[at] = moved;
    return place;
  }

  private before(a: number, b: number): boolean {
    const loadA = this.loads[a] as number;
    const loadB = this.loads[b] as number;
    return loadA < loadB || (loadA === loadB && a < b);
  }
}

const maxItems = 1 << 16;

/** Indexes by falling weight, equals in their order. Weights are no less than 0, so that their bits are in their order. */
export function descending(weights: Float32Array): Int32Array {
  const items = weights.length;
  const bits = new Uint32Array(weights.buffer, weights.byteOffset, items);
  const keys = new Float64Array(items);
  for (let i = 0; i < items; i++) keys[i] = (bits[i] as number) * maxItems + (maxItems - 1 - i);
  keys.sort();
  const order = new Int32Array(items);
  for (let i = 0; i < items; i++) {
    const key = keys[items - 1 - i] as number;
    order[i] = maxItems - 1 - (key - Math.floor(key / maxItems) * maxItems);
  }
  return order;
}

/** The place of each item, the largest first; with one item a pack, its own number. */
export function packBalanced(weights: Float32Array, packs: number): Int32Array {
  const each = weights.length / packs;
  const places = new Int32Array(weights.length);
  if (each === 1) {
    for (let item = 0; item < places.length; item++) places[item] = item;
    return places;
  }
  const order = descending(weights);
  if (each === 2 && (weights[order[packs - 1] as number] as number) > 0) {
    packPairs(weights, order, places);
    return places;
  }
  const packing = new Packing(packs, each);
  for (let i = 0; i < order.length; i++) {
    const item = order[i] as number;
    places[item] = packing.put(weights[item] as number);
  }
  return places;
}

/** As a packing of two items a pack ends up where the larger half of the items are above 0: one of them into each pack, then the others, the largest into the
 * pack with the smallest; among equal packs the first one first. */
function packPairs(weights: Float32Array, order: Int32Array, places: Int32Array): void {
  const packs = order.length / 2;
  for (let pack = 0; pack < packs; pack++) places[order[pack] as number] = 2 * pack;
  for (let end = packs, next = packs; end > 0; ) {
    const load = weights[order[end - 1] as number];
    let first = end - 1;
    while (first > 0 && weights[order[first - 1] as number] === load) first--;
    for (let pack = first; pack < end; pack++) places[order[next++] as number] = 2 * pack + 1;
    end = first;
  }
}
