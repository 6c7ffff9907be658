// What runs, as the node's own folder says it: whose tree it is, which processes, and how the machine was before.
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../cli-error.ts";
import { identifyProcess, isRunning, type ProcessIdentity } from "../stack/process-table.ts";
import { stateDir } from "./layout.ts";

export interface ClusterInstance {
  tree: string;
  startedAt: string;
  ready: boolean;
  /** The command that is starting or stopping it; null where none is at work. */
  worker: ProcessIdentity | null;
  processes: (ProcessIdentity & { name: string })[];
  before: MachineBefore;
}

/** What the node changes, as it was, for `down`. */
export interface MachineBefore {
  /** /proc/sys paths and their values. */
  sysctls: Record<string, string>;
  /** Folders that the programs make wherever they run, and that were not there. */
  missingDirs: string[];
}

const file = join(stateDir, "instance.json");

export function readInstance(): ClusterInstance | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as ClusterInstance;
  } catch {
    return undefined;
  }
}

/** The folder's maker owns the machine's one node: of two starts at once, one makes it. */
export function claimInstance(instance: ClusterInstance): void {
  try {
    // Passed through by whoever started it with sudo, to the kubeconfig, and seen into by nobody.
    mkdirSync(stateDir, { mode: 0o711 });
  } catch (error) {
    throw existsSync(stateDir) ? new CliError("another ./pelagic cluster has just begun to start a node on this machine") : error;
  }
  writeInstance(instance);
}

export function writeInstance(instance: ClusterInstance): void {
  const partial = `${file}.new`;
  writeFileSync(partial, `${JSON.stringify(instance, null, 2)}\n`, { mode: 0o600 });
  renameSync(partial, file);
}

export function thisProcess(): ProcessIdentity {
  return identifyProcess(process.pid);
}

export type InstanceState = "none" | "busy" | "running" | "broken";

/** Pure but for the process table. Broken: something of it is gone, and the rest is to be cleaned up. */
export function stateOf(instance: ClusterInstance | undefined, running = isRunning, self = process.pid): InstanceState {
  if (instance === undefined) return "none";
  if (instance.worker !== null && instance.worker.pid !== self && running(instance.worker)) return "busy";
  return instance.ready && instance.processes.every((process) => running(process)) ? "running" : "broken";
}
