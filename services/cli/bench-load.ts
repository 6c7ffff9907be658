// bench load: ./pelagic load beside aiperf, on one stub whose every token has its time.
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import type { LoadReport } from "../../loadtest/report.ts";
import { parseAnnouncement } from "../lib/runtime/process.ts";
import { commit, printReport } from "./bench-report.ts";
import { compare, type Measured, medianRun, type Run, type Served, servedFigures, targetsOf } from "./bench-load/compare.ts";
import { CliError } from "./cli-error.ts";
import { NoPythonEnv, pythonEnv } from "./python-env.ts";
import { type CommandResult, lastLines, runCommand } from "./run-command.ts";
import { embeddedModel } from "./stack/model-folder.ts";
import { SupervisedProcess } from "./stack/supervised-process.ts";
import { inTree } from "./tree.ts";
import { count, number } from "./up.ts";

interface Options {
  rounds: number;
  requests: number;
  rate: number;
  tokens: number;
  ttft: number;
  gap: number;
  json?: boolean;
}

const startMs = 20_000;
const stopMs = 2_000;
const promptTokens = 100;
/** A run whose generator was late is measured again, so often. */
const maxTries = 4;

export function register(bench: Command): void {
  bench
    .command("load")
    .description("./pelagic load beside aiperf (from PyPI, with hashes): the same load on the same stub")
    .option("--rounds <n>", "runs of each, one after the other; the report has their medians", count(1, 100), 5)
    .option("--requests <n>", "requests of a run", count(10, 100_000), 100)
    .option("--rate <r>", "requests per second", number(0.1, 1_000), 8)
    .option("--tokens <n>", "of each answer", count(2, 10_000), 40)
    .option("--ttft <seconds>", "the stub's time to the first token, in the mean", number(0), 0.3)
    .option("--gap <seconds>", "and between tokens", number(0), 0.02)
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic bench load --json")
    .action(async (options: Options) => {
      const progress = (text: string) => void process.stderr.write(`${text}\n`);
      const { load, aiperf } = await runs(options, await aiperfPython(progress), progress);
      const rows = compare(medianRun(load), medianRun(aiperf));
      const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores`;
      printReport({ bench: "load", machine, commit: commit(), rows, targets: targetsOf(rows) }, options.json);
    });
}

async function aiperfPython(progress: (text: string) => void): Promise<string> {
  try {
    return await pythonEnv("tests/clients/python/requirements/aiperf.txt", progress);
  } catch (error) {
    if (error instanceof NoPythonEnv) throw new CliError(`aiperf is not to be had: ${error.message}`);
    throw error;
  }
}

async function runs(options: Options, python: string, progress: (text: string) => void): Promise<Record<"load" | "aiperf", Run[]>> {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-bench-load-"));
  let port: number | undefined;
  const stub = new SupervisedProcess(
    {
      name: "stub",
      command: process.execPath,
      args: () => [new URL("bench-load/stub.js", import.meta.url).pathname, String(options.ttft * 1000), String(options.gap * 1000)],
      env: () => ({}),
      logFile: join(dir, "stub.log"),
      onStdoutLine: (line) => {
        port = parseAnnouncement(line)?.port ?? port;
      },
    },
    { onStarted: () => undefined, onDied: () => undefined, onGivenUp: () => undefined },
  );
  try {
    stub.start();
    for (const deadline = performance.now() + startMs; port === undefined; ) {
      if (performance.now() > deadline) throw new CliError(`the stub did not start: ${stub.logTail(2).join(" ")}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const url = `http://127.0.0.1:${port}`;
    const tools = {
      load: () => ownFigures(url, options, join(dir, "load.json")),
      aiperf: () => aiperfFigures(python, url, options, join(dir, "aiperf")),
    };
    const done: Record<keyof typeof tools, Run[]> = { load: [], aiperf: [] };
    for (let round = 0; round < options.rounds; round++) {
      // Who goes first takes turns, too.
      for (const name of round % 2 === 0 ? (["load", "aiperf"] as const) : (["aiperf", "load"] as const)) {
        progress(`round ${round + 1} of ${options.rounds}: ${name}`);
        done[name].push(await runOf(name, tools[name], url, options));
      }
    }
    return done;
  } finally {
    await stub.stop(stopMs);
    rmSync(dir, { recursive: true, force: true });
  }
}

async function runOf(name: string, tool: () => Promise<Measured | null>, url: string, { requests }: Options): Promise<Run> {
  for (let tries = 1; tries <= maxTries; tries++) {
    const said = await tool();
    const served = (await (await fetch(`${url}/served`)).json()) as Served[];
    if (served.length !== requests) throw new CliError(`${name} sent ${served.length} requests, not ${requests}`);
    if (said !== null) return { said, served: servedFigures(served) };
  }
  throw new CliError(`${name}: the generator was late in each of ${maxTries} runs: the machine is too busy`);
}

/** null where it was late, and says so. */
async function ownFigures(url: string, { requests, rate, tokens }: Options, out: string): Promise<Measured | null> {
  const load = ["--arrivals", "constant", "--rate", String(rate), "--duration", String(requests / rate)];
  const shape = ["--prompt-tokens", String(promptTokens), "--output-tokens", String(tokens)];
  const args = [inTree("dist", "services", "cli", "main.js"), "load", "--base-url", `${url}/v1`, "--model", "stub", ...load, ...shape];
  rmSync(out, { force: true });
  const result = await run(process.execPath, [...args, "--out", out], { requests, rate });
  if (!existsSync(out)) throw failure(args, result);
  const { summary } = JSON.parse(readFileSync(out, "utf8")) as LoadReport;
  const { ttftSeconds, tpotSeconds } = summary;
  if (ttftSeconds === null || tpotSeconds === null || summary.byOutcome.ok !== requests)
    throw new CliError("load: not every request was answered");
  if (summary.refused !== null) return null;
  const ms = ({ mean, p50, p90 }: typeof ttftSeconds) => ({ mean: mean * 1000, p50: p50 * 1000, p90: p90 * 1000 });
  return { ttft: ms(ttftSeconds), tpot: ms(tpotSeconds) };
}

async function aiperfFigures(python: string, url: string, options: Options, dir: string): Promise<Measured> {
  const { requests, rate, tokens } = options;
  const target = ["--url", url, "--model", "stub", "--endpoint-type", "chat", "--streaming", "--tokenizer", embeddedModel()];
  const load = ["--request-rate", String(rate), "--arrival-pattern", "constant", "--request-count", String(requests)];
  const shape = ["--isl", String(promptTokens), "--isl-stddev", "0", "--osl", String(tokens), "--use-server-token-count"];
  const args = ["-m", "aiperf", "profile", ...target, ...load, ...shape, "--ui", "none", "--output-artifact-dir", dir];
  const result = await run(python, args, options);
  if (result.exitCode !== 0) throw failure(args, result);
  const report = JSON.parse(readFileSync(join(dir, "profile_export_aiperf.json"), "utf8"));
  if (report.request_count?.avg !== requests) throw new CliError("aiperf: not every request was answered");
  const ms = ({ avg, p50, p90 }: { avg: number; p50: number; p90: number }) => ({ mean: avg, p50, p90 });
  return { ttft: ms(report.time_to_first_token), tpot: ms(report.inter_token_latency) };
}

function run(command: string, args: string[], { requests, rate }: Pick<Options, "requests" | "rate">): Promise<CommandResult> {
  // With HF_HUB_OFFLINE aiperf takes no folder for a tokenizer's name.
  const env = { HF_HUB_OFFLINE: undefined, NO_PROXY: "127.0.0.1", OPENAI_API_KEY: undefined };
  return runCommand(command, args, { env, timeoutMs: 120_000 + (2_000 * requests) / rate });
}

function failure(args: string[], result: CommandResult): CliError {
  return new CliError(`${args.slice(0, 3).join(" ")}: ${lastLines(result, 4)}`);
}
