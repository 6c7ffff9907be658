// One layer while a placement is sought: which expert each slot holds, what each rank bears, and what a change would make of it. Never two copies of
// an expert on one rank.

export class LayerState {
  readonly weights: Float64Array;
  readonly ranks: number;
  readonly slotsPerRank: number;
  readonly placed: Int32Array;
  /** Copies of each expert. */
  readonly count: Int32Array;
  readonly loads: Float64Array;
  /** Slots of each expert, in no order. */
  readonly slotsOf: number[][];
  private readonly held: Uint8Array;

  /** Of a placement without two copies of an expert on one rank. */
  constructor(weights: Float64Array, ranks: number, placed: Int32Array) {
    this.weights = weights;
    this.ranks = ranks;
    this.slotsPerRank = placed.length / ranks;
    this.placed = Int32Array.from(placed);
    this.count = new Int32Array(weights.length);
    this.loads = new Float64Array(ranks);
    this.slotsOf = Array.from(weights, () => []);
    this.held = new Uint8Array(ranks * weights.length);
    for (let slot = 0; slot < placed.length; slot++) {
      const expert = placed[slot] as number;
      (this.count[expert] as number)++;
      (this.slotsOf[expert] as number[]).push(slot);
      this.held[this.rankOf(slot) * weights.length + expert] = 1;
    }
    this.recompute();
  }

  rankOf(slot: number): number {
    return Math.floor(slot / this.slotsPerRank);
  }

  holds(rank: number, expert: number): boolean {
    return this.held[rank * this.weights.length + expert] === 1;
  }

  /** Load of one copy. */
  share(expert: number): number {
    return (this.weights[expert] as number) / (this.count[expert] as number);
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
    const [expertA, expertB] = [this.placed[a] as number, this.placed[b] as number];
    this.put(a, expertA, expertB);
    this.put(b, expertB, expertA);
    const difference = this.share(expertA) - this.share(expertB);
    (this.loads[this.rankOf(a)] as number) -= difference;
    (this.loads[this.rankOf(b)] as number) += difference;
  }

  /** The slot's expert, of which there is another copy, makes room for a copy of this one. */
  replace(slot: number, expert: number): void {
    const before = this.placed[slot] as number;
    for (const each of [before, expert]) this.add(each, -this.share(each));
    this.put(slot, before, expert);
    (this.count[before] as number)--;
    (this.count[expert] as number)++;
    for (const each of [before, expert]) this.add(each, this.share(each));
  }

  /** Sums gather errors of rounding while they are kept up to date. */
  recompute(): void {
    this.loads.fill(0);
    for (let slot = 0; slot < this.placed.length; slot++) {
      (this.loads[this.rankOf(slot)] as number) += this.share(this.placed[slot] as number);
    }
  }

  private add(expert: number, load: number): void {
    for (const slot of this.slotsOf[expert] as number[]) (this.loads[this.rankOf(slot)] as number) += load;
  }

  private put(slot: number, before: number, expert: number): void {
    const experts = this.weights.length;
    const rank = this.rankOf(slot);
    const slots = this.slotsOf[before] as number[];
    slots[slots.indexOf(slot)] = slots[slots.length - 1] as number;
    slots.pop();
    (this.slotsOf[expert] as number[]).push(slot);
    this.held[rank * experts + before] = 0;
    this.held[rank * experts + expert] = 1;
    this.placed[slot] = expert;
  }
}
