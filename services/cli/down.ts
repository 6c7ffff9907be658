// ./pelagic down: stops what `up` started, and cleans up after a supervisor that was killed.
import type { Command } from "commander";
import { CliError } from "./cli-error.ts";
import { isRunning, signalProcess, waitUntilGone } from "./stack/process-table.ts";
import { cleanUpInstance, listInstances, type FoundInstance } from "./stack/run-dir.ts";
import { treeRoot } from "./tree.ts";
import { portNumber } from "./up.ts";

/** More than a supervisor takes for its own bounded stop. */
const stopTimeoutMs = 20_000;

interface DownOptions {
  port?: number;
  all?: boolean;
  json?: boolean;
}

export function register(program: Command): void {
  program
    .command("down")
    .description("stop the instances that `up` started from this tree")
    .option("--port <port>", "only the one on this port", portNumber)
    .option("--all", "those of this user's other trees, too")
    .option("--json", "print what was stopped as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic down --port 8001")
    .action(down);
}

async function down(options: DownOptions): Promise<void> {
  const meant = listInstances().filter((instance) => {
    if (!options.all && instance.tree !== treeRoot) return false;
    if (options.port !== undefined && instance.port !== options.port) return false;
    // A private one is its owner's to stop, unless the owner died.
    return instance.kind === "service" || !isRunning(instance.supervisor);
  });
  if (options.port !== undefined && meant.length === 0) throw new CliError(`nothing of ours runs on port ${options.port}`);
  await Promise.all(meant.map(stopInstance));
  if (options.json) {
    process.stdout.write(
      `${JSON.stringify({ stopped: meant.map(({ tree, port, supervisor }) => ({ tree, port, pid: supervisor.pid })) })}\n`,
    );
  } else if (meant.length === 0) {
    process.stdout.write("nothing is running\n");
  } else {
    for (const { port, models } of meant) {
      const names = models.map(({ name }) => name).join(", ");
      process.stdout.write(`stopped ${port === null ? "an instance" : `port ${port}`} (${names})\n`);
    }
  }
}

async function stopInstance(instance: FoundInstance): Promise<void> {
  if (signalProcess(instance.supervisor, "SIGTERM") && !(await waitUntilGone(instance.supervisor, stopTimeoutMs))) {
    signalProcess(instance.supervisor, "SIGKILL");
    await waitUntilGone(instance.supervisor, 2_000);
  }
  // Does nothing more where the supervisor stopped everything itself.
  await cleanUpInstance(instance);
}
