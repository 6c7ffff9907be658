// bench router: our router beside simpler ones, on published traces in simulated time. The same figures on every machine.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Command } from "commander";
import { comparePolicies, type Comparison } from "../lib/simulator/routing/compare.ts";
import { drawComparison } from "../lib/simulator/routing/draw.ts";
import { readTrace } from "../lib/simulator/routing/trace.ts";
import { type BenchReport, type BenchRow, commit } from "./bench-report.ts";
import { CliError } from "./cli-error.ts";
import { formatTable } from "./terminal.ts";
import { inTree } from "./tree.ts";

const traces = ["conversation", "synthetic"] as const;
/** Times as recorded, and faster: about half, two thirds and nearly all of what the prefill workers can do without a cache. */
const speeds = [1, 1.4, 1.7];

interface RouterOptions {
  trace?: string;
  speed?: string;
  svg?: string;
  json?: boolean;
}

export function register(bench: Command): void {
  bench
    .command("router")
    .description("the router beside round robin, least load, power of two and prefix only, on published traces in simulated time")
    .option("--trace <name>", `one trace (${traces.join(" or ")}; default: both)`)
    .option("--speed <factor>", `play it so much faster (default: ${speeds.join(", ")})`)
    .option("--svg <file>", "draw the figures, too")
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic bench router --trace conversation --speed 1.4")
    .action(benchRouter);
}

function benchRouter(options: RouterOptions): void {
  const chosen = traces.filter((name) => options.trace === undefined || name === options.trace);
  if (chosen.length === 0) throw new CliError(`--trace: ${options.trace} is neither ${traces.join(" nor ")}`, 2);
  const speed = options.speed === undefined ? undefined : Number(options.speed);
  if (speed !== undefined && !(speed > 0 && speed < 100)) throw new CliError(`--speed: ${options.speed} is no factor`, 2);
  const results: { trace: string; speed: number; comparisons: Comparison[] }[] = [];
  for (const trace of chosen) {
    for (const each of speed === undefined ? speeds : [speed]) {
      if (!options.json) process.stderr.write(`${trace} x${each}\n`);
      const comparisons = comparePolicies(readTrace(inTree("testdata", "traces", `mooncake-${trace}.jsonl.gz`), each));
      results.push({ trace, speed: each, comparisons });
    }
  }
  if (options.svg) {
    mkdirSync(dirname(options.svg), { recursive: true });
    writeFileSync(options.svg, drawComparison(results));
  }
  if (options.json) {
    const report: BenchReport = { bench: "router", machine: "simulated", commit: commit(), rows: results.flatMap(rowsOf), targets: [] };
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  for (const { trace, speed: factor, comparisons } of results) {
    process.stdout.write(`\n${trace}, ${factor} times as fast\n${table(comparisons)}\n`);
  }
}

/** As ceiling the best of the others in the same run. */
function rowsOf({ trace, speed, comparisons }: { trace: string; speed: number; comparisons: Comparison[] }): BenchRow[] {
  const rows: BenchRow[] = [];
  for (const [what, unit, pick, best] of measures) {
    for (const comparison of comparisons) {
      const others = comparisons.filter(({ policy }) => policy !== comparison.policy).map(pick);
      const ceiling = best(...others);
      rows.push({
        what: `${trace} x${speed}: ${what}, ${comparison.policy}`,
        value: pick(comparison),
        unit,
        ceiling,
        ratio: pick(comparison) / ceiling,
      });
    }
  }
  return rows;
}

const measures: [what: string, unit: string, pick: (comparison: Comparison) => number, best: (...values: number[]) => number][] = [
  ["hit rate", "of prompt tokens", ({ hitRate }) => hitRate, Math.max],
  ["TTFT p50", "s", ({ ttftP50Seconds }) => ttftP50Seconds, Math.min],
  ["TTFT p99", "s", ({ ttftP99Seconds }) => ttftP99Seconds, Math.min],
  ["TPOT", "s", ({ tpotSeconds }) => tpotSeconds, Math.min],
  ["prefill imbalance", "max/mean", ({ prefillImbalance }) => prefillImbalance, Math.min],
  ["decode imbalance", "max/mean", ({ decodeImbalance }) => decodeImbalance, Math.min],
];

function table(comparisons: Comparison[]): string {
  return formatTable(
    ["policy", "hit rate", "TTFT p50 s", "TTFT p99 s", "TPOT ms", "prefill max/mean", "decode max/mean"],
    comparisons.map((c) => [
      c.policy,
      Number(c.hitRate.toFixed(3)),
      Number(c.ttftP50Seconds.toFixed(2)),
      Number(c.ttftP99Seconds.toFixed(2)),
      Number((c.tpotSeconds * 1000).toFixed(1)),
      Number(c.prefillImbalance.toFixed(2)),
      Number(c.decodeImbalance.toFixed(2)),
    ]),
  );
}
