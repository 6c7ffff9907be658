// ./pelagic chaos: the real stack under load, struck at named points of its protocol; every answer must stay what it was.
import { Option, type Command } from "commander";
import { chaosDefaults, onlyChoices, runChaos, type ChaosReport, type Only } from "./chaos/run.ts";
import { CliError } from "./cli-error.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { prepareFirst } from "./prepare.ts";
import { count } from "./up.ts";
import { InvalidArgumentError } from "commander";

interface Options {
  minutes: number;
  seed: number;
  kills?: number;
  disconnects?: number;
  only?: Only;
  model?: string;
  gateways: number;
  prefill: number;
  decode: number;
  decodeRanks?: number;
  redundantExperts?: number;
  rebalanceSeconds?: number;
  rebalanceEvery?: number;
  calm: number;
  kvBlocks: number;
  requests: number;
  clients: number;
  leavers: number;
  gap: number;
  json?: boolean;
}

export function register(program: Command): void {
  const defaults = chaosDefaults;
  program
    .command("chaos")
    .description("kill, stop and restart the processes of a real stack under load, and compare every answer with the undisturbed one")
    .option("--minutes <m>", "at most so long, beside the undisturbed answers and the last look for leaks", positive, 3)
    .option("--seed <n>", "of requests and strikes", count(0), defaults.seed)
    .option(
      "--kills <n>",
      "end once so many workers were killed; with --only stop, restart or nats, once there were so many of those",
      count(1),
    )
    .option("--disconnects <n>", "end once so many clients left in mid-answer (with --kills: once there were both)", count(1))
    .addOption(new Option("--only <what>", "only this").choices(onlyChoices))
    .option("--model <dir>", "a Hugging Face model folder (default: the one in models/)")
    .option("--gateways <n>", "gateways", count(1, 16), defaults.gateways)
    .option("--prefill <n>", "prefill workers", count(0, 16), defaults.prefill)
    .option("--decode <n>", "decode workers", count(1, 16), defaults.decode)
    .option("--decode-ranks <n>", "instead of --decode: ranks that share the model's experts; --only kill kills these alone", count(1, 16))
    .option("--redundant-experts <n>", "with --decode-ranks: copies of some experts beside one of each", count(0, 8_192))
    .option("--rebalance-seconds <n>", "with --decode-ranks: how often experts are placed anew by their load; 0: never", count(0, 86_400))
    .option("--rebalance-every <s>", "with --decode-ranks: tell them so often to place their experts otherwise, at random", count(1, 3_600))
    .option("--calm <s>", "load alone for so long before the first strike, for a TPOT to compare with", count(0, 3_600), 0)
    .option("--kv-blocks <n>", "KV blocks of 64 tokens in each worker; few make it preempt", count(8), defaults.kvBlocks)
    .option("--requests <n>", "different requests", count(8, 10_000), defaults.requests)
    .option("--clients <n>", "clients that stay", count(1, 500), defaults.stayers)
    .option("--leavers <n>", "clients that leave", count(0, 500), defaults.leavers)
    .option("--gap <ms>", "one strike in each such time, at a random moment of it", count(0, 600_000), defaults.meanGapMs)
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      "\nExample:\n  ./pelagic chaos --minutes 3 --json\n\nExit code 1 on any violation, with the request and the log lines that name it.",
    )
    .action(async (options: Options) => {
      checkRankOptions(options);
      await prepareFirst();
      const report = await runChaos({
        ...defaults,
        ...options,
        stayers: options.clients,
        meanGapMs: options.gap,
        calmMs: options.calm * 1000,
        ...(options.rebalanceEvery !== undefined && { rebalanceEveryMs: options.rebalanceEvery * 1000 }),
        onProgress: (text) => process.stderr.write(`  ${text}\n`),
        signal: onInterrupt(() => undefined),
      });
      process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : format(report));
      process.exitCode = report.ok ? (report.interrupted ? interruptedExitCode : 0) : 1;
    });
}

/** What would have no effect, and a report that says nothing of it, is refused. */
function checkRankOptions({ decodeRanks, redundantExperts, rebalanceSeconds, rebalanceEvery }: Options): void {
  if (decodeRanks !== undefined) return;
  const given = { "--redundant-experts": redundantExperts, "--rebalance-seconds": rebalanceSeconds, "--rebalance-every": rebalanceEvery };
  for (const [name, value] of Object.entries(given))
    if (value !== undefined) throw new CliError(`${name}: experts are placed on --decode-ranks, and there are none`, 2);
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("a number above 0");
  return value;
}

function ms({ p50, p99 }: { p50: number; p99: number }): string {
  return `${Math.round(p50 * 1000)} / ${Math.round(p99 * 1000)}`;
}

function format(report: ChaosReport): string {
  const lines = [
    `${report.strikes.total} strikes (${report.strikes.workerKills} workers killed), ${report.disconnects} disconnects, ${report.resumes.lost + report.resumes.moved} resumes in ${Math.round(report.seconds)} s`,
    `${report.pool.answered} of ${report.pool.requests} requests answered exactly, ${report.pool.resumedEither} of them after a resume`,
    ...(report.rebalances.taken > 0
      ? [`experts moved ${report.rebalances.taken} times (${report.rebalances.refused} orders refused)`]
      : []),
    ...(report.calm.tpotSeconds && report.tpotSeconds
      ? [`TPOT p50 / p99: ${ms(report.tpotSeconds)} ms struck, ${ms(report.calm.tpotSeconds)} ms before`]
      : []),
    ...(report.storm
      ? [`storm: ${report.storm.dispatched} streams dropped, new requests answered after ${report.storm.answerSeconds.join(", ")} s`]
      : []),
    ...report.violations.map((violation) => `VIOLATION ${violation.requestId ?? ""} ${violation.what}`),
    ...(report.interrupted ? ["interrupted"] : []),
    report.ok ? "everything as if nothing had happened" : `NOT AS IT SHOULD BE (logs: ${report.logs})`,
  ];
  return `${lines.join("\n")}\n`;
}
