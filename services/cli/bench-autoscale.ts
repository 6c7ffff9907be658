// bench autoscale: the autoscaler beside static splits and HPAs, on published traces in simulated time. The same figures on every machine.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Command } from "commander";
import { type Comparison, compare, type Run } from "../../operators/autoscale/simulation/compare.ts";
import { drawComparison } from "../../operators/autoscale/simulation/draw.ts";
import { scenario, scenarioNames } from "../../operators/autoscale/simulation/scenarios.ts";
import { Random } from "../lib/simulator/random.ts";
import { atLeast, atMost, type BenchReport, type BenchRow, type BenchTarget, commit, printReport } from "./bench-report.ts";
import { CliError } from "./cli-error.ts";
import { inTree } from "./tree.ts";
import { count } from "./up.ts";

interface AutoscaleOptions {
  scenario?: string;
  seed: number;
  svg?: string;
  json?: boolean;
}

export function register(bench: Command): void {
  bench
    .command("autoscale")
    .description("the autoscaler beside static splits and HPAs on queue depth, on published traces in simulated time")
    .option("--scenario <name>", `one of ${scenarioNames.join(", ")} (default: all)`)
    .option("--seed <n>", "of the workers' start-up times", count(1, 2 ** 32 - 1), 1)
    .option("--svg <file>", "draw the figures, too")
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic bench autoscale --scenario code")
    .action(benchAutoscale);
}

function benchAutoscale(options: AutoscaleOptions): void {
  const chosen = scenarioNames.filter((name) => options.scenario === undefined || name === options.scenario);
  if (chosen.length === 0) throw new CliError(`--scenario: ${options.scenario} is none of ${scenarioNames.join(", ")}`, 2);
  const seeded = () => {
    const random = new Random(options.seed);
    return () => random.real();
  };
  const comparisons = chosen.map((name) => {
    if (!options.json) process.stderr.write(`${name}\n`);
    return compare(
      scenario(name, (file) => inTree("testdata", "traces", file)),
      seeded,
    );
  });
  if (options.svg) {
    mkdirSync(dirname(options.svg), { recursive: true });
    writeFileSync(options.svg, drawComparison(comparisons));
  }
  const report: BenchReport = {
    bench: "autoscale",
    machine: "simulated",
    commit: commit(),
    rows: comparisons.flatMap(rowsOf),
    targets: comparisons.flatMap(targetsOf),
  };
  if (!options.json) for (const comparison of comparisons) process.stdout.write(`\n${markdown(comparison)}\n`);
  printReport(options.json ? report : { ...report, rows: [] }, options.json);
}

/** More within SLOs for less than HPAs on queue depth; and where the load changes its kind, more than the best static split of equal cost. */
function targetsOf({ scenario: name, planner, hpaWaiting, staticEqualHours }: Comparison): BenchTarget[] {
  return [
    atLeast(`${name}: within SLOs, beside the best HPA on waiting`, planner.attained, "of requests", hpaWaiting.attained),
    atMost(`${name}: replica-hours, beside that HPA`, planner.replicaHours, "h", hpaWaiting.replicaHours),
    ...(name === "both"
      ? [
          atLeast(
            `${name}: within SLOs, beside the best static split of as many replica-hours`,
            planner.attained,
            "of requests",
            staticEqualHours.attained,
          ),
        ]
      : []),
  ];
}

/** What the table shows of a comparison. */
function shown(comparison: Comparison): { name: string; run: Run }[] {
  const { planner, staticEqualHours, staticAsGood, hpaWaiting, hpaRunning, hpaRunningAsGood } = comparison;
  const rows: [string, Run | null][] = [
    ["planner", planner],
    ["static, as many replica-hours", staticEqualHours],
    ["static, as good", staticAsGood],
    ["HPA on waiting", hpaWaiting],
    ["HPA on waiting and running", hpaRunning],
    ["HPA on waiting and running, as good", hpaRunningAsGood],
  ];
  return rows.flatMap(([name, run]) => (run === null ? [] : [{ name: run.setting ? `${name} (${run.setting})` : name, run }]));
}

/** As ceiling the best of the others in the same run. */
function rowsOf(comparison: Comparison): BenchRow[] {
  const rows = shown(comparison);
  return measures.flatMap(([what, unit, pick, best]) =>
    rows.map(({ name, run }) => {
      const ceiling = best(...rows.filter((other) => other.run !== run).map((other) => pick(other.run)));
      const value = pick(run);
      return { what: `${comparison.scenario}: ${what}, ${name}`, value, unit, ceiling, ratio: value / ceiling };
    }),
  );
}

const measures: [what: string, unit: string, pick: (run: Run) => number, best: (...values: number[]) => number][] = [
  ["within both SLOs", "of requests", ({ attained }) => attained, Math.max],
  ["TTFT within its SLO", "of requests", ({ attainedTtft }) => attainedTtft, Math.max],
  ["TPOT within its SLO", "of requests", ({ attainedTpot }) => attainedTpot, Math.max],
  ["replica-hours", "h", ({ replicaHours }) => replicaHours, Math.min],
  ["TTFT p90", "s", ({ ttftP90Seconds }) => ttftP90Seconds, Math.min],
];

function markdown(comparison: Comparison): string {
  const percent = (part: number) => `${(100 * part).toFixed(1)}%`;
  const lines = shown(comparison).map(
    ({ name, run }) =>
      `| ${name} | ${percent(run.attained)} | ${percent(run.attainedTtft)} | ${percent(run.attainedTpot)} | ${run.ttftP90Seconds.toFixed(1)} s | ${run.replicaHours.toFixed(1)} | ${(run.replicaHours / comparison.hours).toFixed(1)} | ${run.changes} |`,
  );
  return [
    `| ${comparison.scenario} | within SLOs | TTFT | TPOT | TTFT p90 | replica-hours | mean replicas | changes |`,
    "|---|---|---|---|---|---|---|---|",
    ...lines,
  ].join("\n");
}
