// ./pelagic status: the workers, their blocks and the running requests, as the gateway sees them.
import type { Command } from "commander";
import type { WorkerState } from "../lib/contracts/messages.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { runningInstance } from "./instances.ts";
import { groupLines, rankStatuses } from "./rank-groups.ts";
import type { FoundInstance } from "./stack/run-dir.ts";
import { formatTable } from "./terminal.ts";
import { portNumber } from "./up.ts";

const timeoutMs = 5_000;

/** What GET /status on the gateway's admin port answers; a field that is missing is shown as such. */
interface GatewayStatus {
  gateway?: { models?: { name: string; notReady: string | null }[]; requests?: Record<string, number>; uptimeSeconds?: number };
  workers?: Partial<WorkerState>[];
}

export function register(program: Command): void {
  program
    .command("status")
    .description("show workers, free blocks and running requests")
    .option("--port <port>", "the instance on this port", portNumber)
    .option("--json", "as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic status --json")
    .action(status);
}

async function status(options: { port?: number; json?: boolean }): Promise<void> {
  const instance = runningInstance(options.port);
  if (!instance) throw new CliError("nothing is running here: ./pelagic up starts it");
  const address = `http://127.0.0.1:${instance.port}`;
  const known = await gatewayStatus(instance);
  const { gateway, workers = [] } = known;
  const ranks = await rankStatuses(workers);
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ address, supervisorPid: instance.supervisor.pid, ...known, ranks })}\n`);
    return;
  }
  const requests = Object.entries(gateway?.requests ?? {});
  process.stdout.write(`${address}  up ${gateway?.uptimeSeconds ?? "?"} s\n`);
  for (const { name, folder } of instance.models) {
    const notReady = gateway?.models?.find((model) => model.name === name)?.notReady;
    process.stdout.write(`model ${name}  ${folder}${notReady ? `  NOT READY: ${notReady}` : ""}\n`);
  }
  process.stdout.write(`requests: ${requests.map(([name, value]) => `${value} ${name}`).join(", ") || "unknown"}\n\n`);
  process.stdout.write(`${workerTable(workers)}\n`);
  const groups = groupLines(ranks);
  if (groups.length > 0) process.stdout.write(`\n${groups.join("\n")}\n`);
}

/** Of the gateway of a stack on this machine. */
export async function gatewayStatus({ port, adminPort, runDir }: FoundInstance): Promise<GatewayStatus> {
  try {
    const response = await fetch(`http://127.0.0.1:${adminPort}/status`, { signal: AbortSignal.timeout(timeoutMs) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return (await response.json()) as GatewayStatus;
  } catch (error) {
    throw new CliError(`the gateway on port ${port} does not answer (${messageOf(error)}): its log is in ${runDir}/logs`);
  }
}

export function workerTable(workers: Partial<WorkerState>[]): string {
  const severalModels = new Set(workers.map(({ modelName }) => modelName)).size > 1;
  return formatTable(
    [
      "worker",
      ...(severalModels ? ["model"] : []),
      "role",
      "state",
      "free",
      "cached",
      "blocks",
      "running",
      "waiting",
      "prefill tok/s",
      "decode step ms",
    ],
    workers.map((worker) => [
      worker.workerId ?? "?",
      ...(severalModels ? [worker.modelName ?? "?"] : []),
      worker.role ?? "?",
      stateText(worker),
      worker.blocks?.free ?? "?",
      worker.blocks?.cached ?? "?",
      worker.blocks?.total ?? "?",
      worker.requests?.running ?? "?",
      worker.requests?.waiting ?? "?",
      Math.round(worker.rates?.prefillTokensPerSecond ?? 0),
      Math.round((worker.rates?.decodeStepSeconds ?? 0) * 1e5) / 100,
    ]),
  );
}

/** A worker that drains keeps its state until it has ended: what is left tells how far it is. */
function stateText({ state, reason, requests }: Partial<WorkerState>): string {
  if (reason) return `${state} (${reason})`;
  if (state !== "draining" || requests === undefined) return state ?? "?";
  return requests.running + requests.waiting === 0 ? "drained" : state;
}
