// What two load generators say of the same load on the same stub, and what the stub says it did. Pure.
import { type Percentiles, percentiles } from "../../../loadtest/summary.ts";
import { atMost, type BenchRow, type BenchTarget } from "../bench-report.ts";

/** One request, by the clock of the stub. */
export interface Served {
  ttftMs: number;
  tpotMs: number;
  tokens: number;
}

const statistics = ["mean", "p50", "p90"] as const;
const figures = ["ttft", "tpot"] as const;
type Statistics = Pick<Percentiles, (typeof statistics)[number]>;
/** In milliseconds. */
export type Measured = Record<(typeof figures)[number], Statistics>;

export interface Run {
  /** By the tool. */
  said: Measured;
  /** By the stub, of the same requests. */
  served: Measured;
}

export function servedFigures(served: readonly Served[]): Measured {
  const of = (pick: (one: Served) => number) => percentiles(served.map(pick)) as Percentiles;
  return { ttft: of(({ ttftMs }) => ttftMs), tpot: of(({ tpotMs }) => tpotMs) };
}

/** Each figure's median over the runs: one disturbed run is none of it. */
export function medianRun(runs: readonly Run[]): Run {
  const of = (side: keyof Run): Measured => {
    const statisticsOf = (figure: (typeof figures)[number]) =>
      Object.fromEntries(statistics.map((name) => [name, median(runs.map((run) => run[side][figure][name]))])) as unknown as Statistics;
    return { ttft: statisticsOf("ttft"), tpot: statisticsOf("tpot") };
  };
  return { said: of("said"), served: of("served") };
}

function median(values: number[]): number {
  const sorted = values.sort((a, b) => a - b);
  const half = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(half)] as number) + (sorted[Math.ceil(half)] as number)) / 2;
}

const besideAiperf = "load / aiperf";

/** The two tools beside each other, and each beside what the stub did by its own clock. */
export function compare(load: Run, aiperf: Run): BenchRow[] {
  return figures.flatMap((figure) =>
    statistics.flatMap((name) => {
      const row = (what: string, value: number, ceiling: number): BenchRow => ({
        what: `${figure.toUpperCase()} ${name}: ${what}`,
        value: round(value),
        unit: "ms",
        ceiling: round(ceiling),
        ratio: round(value / ceiling),
      });
      const [ours, theirs] = [load.said[figure][name], aiperf.said[figure][name]];
      return [
        row(besideAiperf, ours, theirs),
        row("load / stub", ours, load.served[figure][name]),
        row("aiperf / stub", theirs, aiperf.served[figure][name]),
      ];
    }),
  );
}

/** Equal within this share. */
const promisedDifference = 0.03;

export function targetsOf(rows: readonly BenchRow[]): BenchTarget[] {
  return [atMost("largest difference of load and aiperf", largestDifference(rows), "", promisedDifference)];
}

/** As a share: of the two tools, over both figures. */
export function largestDifference(rows: readonly BenchRow[]): number {
  return Math.max(...rows.filter(({ what }) => what.endsWith(besideAiperf)).map(({ ratio }) => Math.abs(ratio - 1)));
}

const round = (value: number) => Number(value.toPrecision(5));
