// The running stacks that a command can mean: services of this tree, or with a port the one that listens there.
import { type Bus, silentLog } from "../lib/contracts/bus.ts";
import { readNatsCredentials } from "../lib/runtime/config.ts";
import { connectBus } from "../lib/runtime/nats-bus.ts";
import { CliError } from "./cli-error.ts";
import { isRunning } from "./stack/process-table.ts";
import { listInstances, type FoundInstance } from "./stack/run-dir.ts";
import { treeRoot } from "./tree.ts";

export function runningInstances(): FoundInstance[] {
  return listInstances().filter(
    ({ kind, tree, ready, supervisor }) => kind === "service" && tree === treeRoot && ready && isRunning(supervisor),
  );
}

/** The one that is meant; undefined where none runs. */
export function runningInstance(port?: number): FoundInstance | undefined {
  const running = runningInstances().filter((instance) => port === undefined || instance.port === port);
  if (running.length > 1)
    throw new CliError(
      `several instances run here (ports ${running.map((instance) => instance.port).join(", ")}): choose one with --port N, or with --base-url where the command takes that`,
    );
  if (port !== undefined && running.length === 0)
    throw new CliError(`nothing of ours runs on port ${port}: ./pelagic up --port ${port} starts it`);
  return running[0];
}

/** As the user who runs it. */
export function connectTo({ url, credentialsFile }: NonNullable<FoundInstance["nats"]>): Promise<Bus> {
  return connectBus({ servers: url, ...readNatsCredentials(credentialsFile), name: "cli", log: silentLog });
}
