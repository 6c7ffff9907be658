// The metrics of simulated processes, in the form that scrapes of real ones have once parsed.
import type { Sample, Series } from "../metrics-text.ts";

export function gaugeSeries(name: string, value: number, labels: Sample["labels"] = {}): Series {
  return new Map([[name, [{ labels, value }]]]);
}

export class Distribution {
  private readonly bounds: readonly number[];
  private readonly counts: number[];
  private sum = 0;
  private count = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = bounds.map(() => 0);
  }

  observe(value: number): void {
    const bucket = this.bounds.findIndex((bound) => value <= bound);
    if (bucket >= 0) this.counts[bucket] = (this.counts[bucket] as number) + 1;
    this.sum += value;
    this.count++;
  }

  series(name: string, labels: Sample["labels"]): Series {
    let below = 0;
    const buckets = this.bounds.map((bound, i) => {
      below += this.counts[i] as number;
      return { labels: { ...labels, le: String(bound) }, value: below };
    });
    return new Map([
      [`${name}_bucket`, [...buckets, { labels: { ...labels, le: "+Inf" }, value: this.count }]],
      ...gaugeSeries(`${name}_sum`, this.sum, labels),
      ...gaugeSeries(`${name}_count`, this.count, labels),
    ]);
  }
}
