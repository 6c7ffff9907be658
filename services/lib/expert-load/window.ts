// Tokens of each expert of each layer, by interval: the last ones each for itself, and all of them with what is old counting less. One addition a count and
// step; memory is fixed at the start.

export interface WindowSize {
  /** MoE layers times logical experts. */
  counts: number;
  /** Closed intervals that are kept. */
  intervals: number;
  /** Intervals after which tokens count half in `decayed`. */
  halfLife: number;
}

export class ExpertLoadWindow {
  /** A ring, the open interval at `open`. */
  private readonly ring: Float64Array[];
  private readonly old: Float64Array;
  private readonly keep: number;
  private open = 0;
  private closed = 0;

  constructor({ counts, intervals, halfLife }: WindowSize) {
    if (!(intervals >= 1 && Number.isInteger(intervals))) throw new RangeError(`intervals: ${intervals} is no whole number of 1 or more`);
    if (!(halfLife > 0)) throw new RangeError(`halfLife: ${halfLife} is not above 0`);
    this.ring = Array.from({ length: intervals + 1 }, () => new Float64Array(counts));
    this.old = new Float64Array(counts);
    this.keep = 0.5 ** (1 / halfLife);
  }

  /** A step's counts, [layers, experts]. Rows that stand for no token must not be among them. */
  add(counts: ArrayLike<number>): void {
    const into = this.ring[this.open] as Float64Array;
    if (counts.length !== into.length) throw new RangeError(`counts: ${counts.length} values, not ${into.length}`);
    for (let i = 0; i < into.length; i++) (into[i] as number) += counts[i] as number;
  }

  /** Ends the open interval, whether anything came in it or not. */
  close(): void {
    const ended = this.ring[this.open] as Float64Array;
    for (let i = 0; i < ended.length; i++) this.old[i] = (this.old[i] as number) * this.keep + (ended[i] as number);
    this.closed = Math.min(this.closed + 1, this.ring.length - 1);
    this.open = (this.open + 1) % this.ring.length;
    (this.ring[this.open] as Float64Array).fill(0);
  }

  /** The closed intervals that are kept, the oldest first; not to be written to, and good until the next `close`. */
  intervals(): Float64Array[] {
    return Array.from(
      { length: this.closed },
      (_, i) => this.ring[(this.open - this.closed + i + this.ring.length) % this.ring.length] as Float64Array,
    );
  }

  /** Of the closed intervals that are kept. */
  total(): Float64Array {
    const sum = new Float64Array(this.old.length);
    for (const interval of this.intervals()) for (let i = 0; i < sum.length; i++) (sum[i] as number) += interval[i] as number;
    return sum;
  }

  /** Of all closed intervals ever. */
  decayed(): Float64Array {
    return this.old.slice();
  }

  /** The same with what came in the open interval, which counts whole. */
  late(): Float64Array {
    const open = this.ring[this.open] as Float64Array;
    return this.old.map((count, i) => count + (open[i] as number));
  }
}
