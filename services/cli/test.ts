// ./pelagic test: every check of the tree, in order, with a summary whose last line is "N passed, N failed".
import type { Command } from "commander";
import { messageOf } from "./cli-error.ts";
import { formatSeconds, formatTable } from "./terminal.ts";
import { clusterStages, testStages, type StageResult } from "./test-stages.ts";

interface StageReport extends StageResult {
  stage: string;
  seconds: number;
}

export function register(program: Command): void {
  program
    .command("test")
    .description("run every test and check")
    .option("--fast", "without the sanitizers, the end-to-end tests, published clients and the API server")
    .option("--cluster", "only what needs Kubernetes: the operator and the chart on an API server, and on a node where one can run (root)")
    .option("--json", "print the summary as JSON before the last line")
    .addHelpText("after", "\nExample:\n  ./pelagic test --fast")
    .action(test);
}

async function test(options: { fast?: boolean; cluster?: boolean; json?: boolean }): Promise<void> {
  const print = (text: string) => process.stdout.write(text);
  const reports: StageReport[] = [];
  for (const stage of options.cluster ? clusterStages() : testStages(options.fast ?? false)) {
    print(`\n== ${stage.name}\n`);
    const begunMs = performance.now();
    let result: StageResult;
    try {
      result = await stage.run(print);
    } catch (error) {
      print(`${messageOf(error)}\n`);
      result = { passed: 0, failed: 1, skipped: [] };
    }
    reports.push({ stage: stage.name, seconds: (performance.now() - begunMs) / 1000, ...result });
  }
  print(
    `\n${formatTable(
      ["stage", "passed", "failed", "time"],
      reports.map((report) => [report.stage, report.passed, report.failed, formatSeconds(report.seconds)]),
    )}\n`,
  );
  for (const { skipped } of reports) {
    for (const what of skipped) print(`skipped: ${what}\n`);
  }
  for (const { stage, failed, failures } of reports) {
    for (const what of failures ?? (failed > 0 ? ["see its output above"] : [])) print(`failed: ${stage}: ${what}\n`);
  }
  if (options.json) print(`${JSON.stringify({ stages: reports })}\n`);
  const passed = reports.reduce((sum, report) => sum + report.passed, 0);
  const failed = reports.reduce((sum, report) => sum + report.failed, 0);
  print(`${passed} passed, ${failed} failed\n`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}
