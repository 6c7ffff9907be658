// ./pelagic hostile: the real stack asked what nobody meant, field by field and byte by byte.
import type { Command } from "commander";
import { runHostile } from "./hostile/run.ts";
import { interruptedExitCode, onInterrupt } from "./interrupt.ts";
import { prepareFirst } from "./prepare.ts";
import { count } from "./up.ts";

interface Options {
  seed: number;
  times: number;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("hostile")
    .description("ask a real stack what nobody meant, and see that it answers, serves others and holds nothing afterwards")
    .option("--seed <n>", "of all values", count(0), 1)
    .option("--times <n>", "values of each field of the API, and of each message on the bus", count(4), 20)
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic hostile --times 100 --seed 7\n\nExit code 1 on any violation.")
    .action(async (options: Options) => {
      await prepareFirst();
      const interrupt = onInterrupt(() => undefined);
      const report = await runHostile({ ...options, onProgress: (text) => process.stderr.write(`  ${text}\n`), signal: interrupt });
      process.stdout.write(`${JSON.stringify(report, null, options.json ? undefined : 2)}\n`);
      process.exitCode = interrupt.aborted ? interruptedExitCode : report.ok ? 0 : 1;
    });
}
