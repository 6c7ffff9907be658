// One layer while a placement is sought: which expert each slot holds, what each rank bears, and what a change would make of it. Never two copies of
// an expert on one rank.

/** Ends a list of slots. */
export const noSlot = -1;

export class LayerState {
  readonly weights: Float64Array;
  readonly ranks: number;
  readonly slotsPerRank: number;
  readonly placed: Int32Array;
  /** Copies of each expert. */
  readonly count: Int32Array;
  /** Load of one copy of each expert. */
  readonly share: Float64Array;
  readonly loads: Float64Array;
  /** A slot of each expert, and of each slot another one of its expert; in no order. */
  readonly firstSlot: Int32Array;
  readonly nextSlot: Int32Array;
  private readonly rankOfSlot: Int32Array;
  private readonly held: Uint8Array;

  /** Of a placement without two copies of an expert on one rank. */
  constructor(weights: Float64Array, ranks: number, placed: Int32Array) {
    const experts = weights.length;
    const slots = placed.length;
    this.weights = weights;
    this.ranks = ranks;
    this.slotsPerRank = slots / ranks;
    this.placed = placed.slice();
    this.count = new Int32Array(experts);
    this.share = new Float64Array(experts);
    this.loads = new Float64Array(ranks);
    this.firstSlot = new Int32Array(experts).fill(noSlot);
    this.nextSlot = new Int32Array(slots);
    this.rankOfSlot = new Int32Array(slots);
    this.held = new Uint8Array(ranks * experts);
    for (let slot = 0, rank = -1; slot < slots; slot++) {
      if (slot % this.slotsPerRank === 0) rank++;
      const expert = placed[slot] as number;
      (this.count[expert] as number)++;
      this.nextSlot[slot] = this.firstSlot[expert] as number;
      this.firstSlot[expert] = slot;
      this.rankOfSlot[slot] = rank;
      this.held[rank * experts + expert] = 1;
    }
    for (let expert = 0; expert < experts; expert++) this.share[expert] = (weights[expert] as number) / (this.count[expert] as number);
    this.recompute();
  }

  rankOf(slot: number): number {
    return this.rankOfSlot[slot] as number;
  }

  holds(rank: number, expert: number): boolean {
    return this.held[rank * this.weights.length + expert] === 1;
  }

  heaviest(): number {
    let rank = 0;
    for (let i = 1; i < this.ranks; i++) if ((this.loads[i] as number) > (this.loads[rank] as number)) rank = i;
    return rank;
  }

  largestLoad(): number {
    return this.loads[this.heaviest()] as number;
  }

  swap(a: number, b: number): void {
    const expertA = this.placed[a] as number;
    const expertB = this.placed[b] as number;
    this.put(a, expertA, expertB);
    this.put(b, expertB, expertA);
    const difference = (this.share[expertA] as number) - (this.share[expertB] as number);
    (this.loads[this.rankOf(a)] as number) -= difference;
    (this.loads[this.rankOf(b)] as number) += difference;
  }

  /** The slot's expert, of which there is another copy, makes room for a copy of this one. */
  replace(slot: number, expert: number): void {
    const before = this.placed[slot] as number;
    this.add(before, -(this.share[before] as number));
    this.add(expert, -(this.share[expert] as number));
    this.put(slot, before, expert);
    this.share[before] = (this.weights[before] as number) / --(this.count[before] as number);
    this.share[expert] = (this.weights[expert] as number) / ++(this.count[expert] as number);
    this.add(before, this.share[before] as number);
    this.add(expert, this.share[expert] as number);
  }

  /** Sums gather errors of rounding while they are kept up to date. */
  recompute(): void {
    this.loads.fill(0);
    for (let slot = 0; slot < this.placed.length; slot++) {
      (this.loads[this.rankOf(slot)] as number) += this.share[this.placed[slot] as number] as number;
    }
  }

  private add(expert: number, load: number): void {
    for (let slot = this.firstSlot[expert] as number; slot !== noSlot; slot = this.nextSlot[slot] as number) {
      (this.loads[this.rankOf(slot)] as number) += load;
    }
  }

  private put(slot: number, before: number, expert: number): void {
    const experts = this.weights.length;
    const rank = this.rankOf(slot);
    this.unlink(slot, before);
    this.nextSlot[slot] = this.firstSlot[expert] as number;
    this.firstSlot[expert] = slot;
    this.held[rank * experts + before] = 0;
    this.held[rank * experts + expert] = 1;
    this.placed[slot] = expert;
  }

  private unlink(slot: number, expert: number): void {
    const next = this.nextSlot[slot] as number;
    let each = this.firstSlot[expert] as number;
    if (each === slot) {
      this.firstSlot[expert] = next;
      return;
    }
    while (this.nextSlot[each] !== slot) each = this.nextSlot[each] as number;
    this.nextSlot[each] = next;
  }
}
