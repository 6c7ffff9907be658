// How many tokens each logical expert got, over all steps of this process: the input of placement, and the console's heat map.

export class ExpertTally {
  /** [MoE layers, logical experts]. Exact up to 2^53, which no process lives to see. */
  private sums = new Float64Array(0);

  /** A step's counts; a runner that has none gives an empty array. */
  add(counts: Uint32Array): void {
    if (this.sums.length !== counts.length) this.sums = new Float64Array(counts.length);
    for (let i = 0; i < counts.length; i++) this.sums[i] = (this.sums[i] as number) + (counts[i] as number);
  }

  /** [MoE layers, logical experts], not to be written to; empty before the first step. */
  get totals(): Float64Array {
    return this.sums;
  }
}
