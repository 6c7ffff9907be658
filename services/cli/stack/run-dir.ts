// What a running stack keeps on disk: a folder for its owner only, with NATS configuration, credentials, logs and instance.json,
// by which `down`, `status` and `ask` find it. It is gone when the stack stops, but for the logs of one that failed.
import { randomBytes } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir, tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { CliError, messageOf } from "../cli-error.ts";
import { isRunning, signalProcess, waitUntilGone, type ProcessIdentity } from "./process-table.ts";

export interface InstanceProcess extends ProcessIdentity {
  name: string;
}

export interface Instance {
  /** The checkout that it was started from. */
  tree: string;
  /** "service": by `up`, for `down`, `ask` and `status` to find. "private": of one command or test, which stops it. */
  kind: "service" | "private";
  supervisor: ProcessIdentity;
  processes: InstanceProcess[];
  /** The gateway's user port and admin port, once they are known. */
  port: number | null;
  adminPort: number | null;
  /** host:port of its NATS server, and the credentials with which a command may speak to workers. */
  nats: { url: string; credentialsFile: string; service: string } | null;
  /** What clients call each model, and its folder. */
  models: { name: string; folder: string }[];
  ready: boolean;
  startedAt: string;
}

export interface FoundInstance extends Instance {
  runDir: string;
}

const instanceFile = "instance.json";
const logsDir = "logs";
/** Logs of failed starts that are kept. */
const keptFailures = 5;

export function createRunDir(): string {
  const dir = join(privateBase(), `${Date.now().toString(36)}-${randomBytes(4).toString("hex")}`);
  mkdirSync(join(dir, logsDir), { recursive: true, mode: 0o700 });
  return dir;
}

export function logsOf(runDir: string): string {
  return join(runDir, logsDir);
}

/** For the owner only, and whole at any time. */
export function writePrivateFile(path: string, content: string): void {
  const temporary = `${path}.new`;
  rmSync(temporary, { force: true });
  writeFileSync(temporary, content, { mode: 0o600, flag: "wx" });
  renameSync(temporary, path);
}

export function writeInstance(runDir: string, instance: Instance): void {
  writePrivateFile(join(runDir, instanceFile), `${JSON.stringify(instance, null, 2)}\n`);
}

/** Everything goes; or all but the logs. */
export function removeRunDir(runDir: string, keepLogs: boolean): void {
  if (!keepLogs) {
    rmSync(runDir, { recursive: true, force: true });
    return;
  }
  if (!existsSync(runDir)) return;
  for (const name of readdirSync(runDir)) {
    if (name !== logsDir) rmSync(join(runDir, name), { recursive: true, force: true });
  }
}

/** Instances of this user, oldest first. One whose supervisor died is among them until it is cleaned up. */
export function listInstances(): FoundInstance[] {
  const base = privateBase();
  const found: FoundInstance[] = [];
  for (const name of readdirSync(base).sort()) {
    const runDir = join(base, name);
    try {
      found.push({ ...(JSON.parse(readFileSync(join(runDir, instanceFile), "utf8")) as Instance), runDir });
    } catch {
      // The logs of a failed start, or a folder being made.
    }
  }
  return found;
}

/** Ends what a dead supervisor left running, and its files: only processes whose pid and start time are those recorded. */
export async function cleanUpInstance(instance: FoundInstance): Promise<void> {
  for (const child of instance.processes) signalProcess(child, "SIGKILL");
  await Promise.all(instance.processes.map((child) => waitUntilGone(child, 2_000)));
  removeRunDir(instance.runDir, false);
}

/** Leftovers of supervisors that were killed, and all but the newest logs of failed starts. */
export async function cleanUpLeftovers(): Promise<void> {
  const instances = listInstances();
  for (const instance of instances) {
    if (!isRunning(instance.supervisor)) await cleanUpInstance(instance);
  }
  const base = privateBase();
  const failures = readdirSync(base)
    .sort()
    .map((name) => join(base, name))
    // A folder without instance.json may be one that is being made now.
    .filter((dir) => !existsSync(join(dir, instanceFile)) && Date.now() - statSync(dir).mtimeMs > 60_000);
  for (const dir of failures.slice(0, Math.max(0, failures.length - keptFailures))) rmSync(dir, { recursive: true, force: true });
}

/** The first of the usual places that can be used, made for this user alone. */
function privateBase(): string {
  const { XDG_RUNTIME_DIR: runtimeDir } = process.env;
  const candidates = [
    ...(runtimeDir ? [join(runtimeDir, "pelagic")] : []),
    // Where there is no such home, making it is not ours (and Node's recursive mkdir never returns under /proc).
    ...(existsSync(homedir()) ? [join(homedir(), ".cache", "pelagic", "run")] : []),
    join(tmpdir(), `pelagic-${userInfo().uid}`),
  ];
  const reasons: string[] = [];
  for (const dir of candidates) {
    try {
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      const stat = lstatSync(dir);
      // In a shared folder somebody else may have put it there first.
      if (!stat.isDirectory() || stat.uid !== userInfo().uid || (stat.mode & 0o077) !== 0) throw new Error("not ours alone (mode 0700)");
      return dir;
    } catch (error) {
      reasons.push(`${dir}: ${messageOf(error)}`);
    }
  }
  throw new CliError(`no folder for run files: ${reasons.join("; ")}`);
}
