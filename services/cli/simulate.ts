// ./pelagic simulate: the protocol under every fault, in simulated time. Exit code 1 when a run violates what must hold.
import type { Command } from "commander";
import { runScenario } from "../lib/simulator/run.ts";
import { faultKinds, makeScenario, type Scenario, struckPoints } from "../lib/simulator/scenario.ts";
import { runSeeds } from "../lib/simulator/pool.ts";
import { shrink } from "../lib/simulator/shrink.ts";
import { Tally } from "../lib/simulator/tally.ts";
import { CliError } from "./cli-error.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { runMutants } from "./simulate-mutants.ts";
import { formatTable } from "./terminal.ts";

/** With as many runs, each fault must have struck at each point so often. */
const coverageRuns = 10_000;
const coverageTimes = 50;
const progressMs = 1_000;

interface SimulateOptions {
  seed?: string;
  runs?: string;
  hours?: string;
  threads?: string;
  json?: boolean;
  mutants?: boolean;
  failFast?: boolean;
}

export function register(program: Command): void {
  program
    .command("simulate")
    .description("run the protocol under seeded faults, in simulated time, and check every answer and every block")
    .option("--seed <n>", "replay one seed exactly, with its history; with --runs or --hours, begin there")
    .option("--runs <n>", "so many seeds (default 1000)")
    .option("--hours <h>", "until so much time has been simulated")
    .option("--threads <n>", "threads (default: all cores)")
    .option("--fail-fast", "stop at the first seed that fails")
    .option("--mutants", "check that each of a list of one-line bugs makes the simulation fail")
    .option("--json", "print the result as JSON")
    .addHelpText("after", "\nExamples:\n  ./pelagic simulate --runs 10000\n  ./pelagic simulate --seed 42\n  ./pelagic simulate --mutants")
    .action(simulate);
}

async function simulate(options: SimulateOptions): Promise<void> {
  const number = (name: "seed" | "runs" | "hours" | "threads", least: number): number | undefined => {
    const text = options[name];
    if (text === undefined) return undefined;
    const value = Number(text);
    if (!Number.isFinite(value) || value < least || (name === "hours" && value === 0) || (name !== "hours" && !Number.isInteger(value))) {
      throw new CliError(`--${name}: ${text} is no ${name === "hours" ? "number above 0" : `whole number of ${least} or more`}`, 2);
    }
    return value;
  };
  const [seed, runs, hours, threads] = [number("seed", 0), number("runs", 1), number("hours", 0), number("threads", 1)];
  if (options.mutants) return runMutants({ json: options.json ?? false, threads });
  if (seed !== undefined && runs === undefined && hours === undefined) return replay(makeScenario(seed), options.json ?? false);

  const interrupted = onInterrupt(() => undefined);
  const tally = new Tally();
  const begunMs = performance.now();
  let shownMs = begunMs;
  await runSeeds({
    firstSeed: seed ?? 0,
    threads,
    wanted: (begun) => (hours === undefined ? begun < (runs ?? 1_000) : tally.simulatedMs < hours * 3_600_000),
    onResult: (result) => {
      tally.add(result);
      if (!options.json && performance.now() - shownMs > progressMs) {
        shownMs = performance.now();
        process.stderr.write(`${tally.runs} runs, ${(tally.simulatedMs / 3_600_000).toFixed(2)} hours, ${tally.failures.length} failed\n`);
      }
      return interrupted.aborted || (options.failFast && tally.failures.length > 0);
    },
  });
  const seconds = (performance.now() - begunMs) / 1000;
  const rare = !interrupted.aborted && tally.runs >= coverageRuns ? tally.rarerThan(coverageTimes) : [];
  const summary = {
    runs: tally.runs,
    failed: tally.failures.length,
    interrupted: interrupted.aborted,
    simulatedHours: tally.simulatedMs / 3_600_000,
    seconds,
    messages: tally.messages,
    outcomes: tally.outcomes,
    resumes: tally.resumes,
    historyHash: tally.historyHash,
    failures: tally.failures.slice(0, 20),
    coverage: tally.coverage(),
    rarelyStruck: rare,
  };
  if (options.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
  else {
    process.stdout.write(
      `${formatTable(
        ["struck at", ...faultKinds],
        struckPoints.map((point) => [point, ...faultKinds.map((kind) => tally.struck(point, kind))]),
      )}\n`,
    );
    const ends = Object.entries(tally.outcomes).map(([outcome, count]) => `${count} ${outcome}`);
    process.stdout.write(
      `\n${tally.runs} runs, ${summary.simulatedHours.toFixed(2)} simulated hours in ${seconds.toFixed(0)} s: ${ends.join(", ")}; ${tally.resumes} resumes\n`,
    );
    process.stdout.write(`${tally.failures.length} runs failed\n`);
  }
  const [first] = tally.failures.toSorted((a, b) => a.seed - b.seed);
  if (first !== undefined) {
    if (!options.json && !interrupted.aborted) await explain(makeScenario(first.seed));
    throw new CliError(`${tally.failures.length} of ${tally.runs} runs failed; the first: ./pelagic simulate --seed ${first.seed}`);
  }
  if (interrupted.aborted) throw new CliError(`interrupted after ${tally.runs} runs, none of which failed`, interruptedExitCode);
  if (rare.length > 0) throw new CliError(`struck fewer than ${coverageTimes} times: ${rare.join(", ")}`);
}

/** One seed, with all that happened. */
async function replay(scenario: Scenario, json: boolean): Promise<void> {
  const result = await runScenario(scenario, { history: true });
  if (json) process.stdout.write(`${JSON.stringify({ ...result, scenario })}\n`);
  else {
    for (const line of result.history) process.stdout.write(`${line}\n`);
    process.stdout.write(`history ${result.historyHash}, ${JSON.stringify(result.outcomes)}\n`);
  }
  if (result.violations.length === 0) return;
  if (!json) await explain(scenario);
  throw new CliError(`seed ${scenario.seed}: ${result.violations.join("; ")}`);
}

async function explain(scenario: Scenario): Promise<void> {
  const shortest = await shrink(scenario, async (candidate) => (await runScenario(candidate)).violations.length > 0);
  const { history, violations } = await runScenario(shortest, { history: true });
  process.stdout.write(`\nThe shortest history found for seed ${scenario.seed}:\n${JSON.stringify(shortest)}\n`);
  for (const line of history) process.stdout.write(`${line}\n`);
  for (const violation of violations) process.stdout.write(`VIOLATED: ${violation}\n`);
}
