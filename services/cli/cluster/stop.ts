// Ends what `cluster up` started and takes away what it made: processes, containers, mounts, interfaces, firewall tables, control groups,
// settings. It works from what is there, so that it also clears what a killed start left.
import {
  cpSync,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { CliError } from "../cli-error.ts";
import { identifyProcess, isRunning, type ProcessIdentity, signalProcess, waitUntilGone } from "../stack/process-table.ts";
import type { ClusterInstance } from "./instance.ts";
import { cacheDir, containerdSocket, network, podNetworkName, stateDir } from "./layout.ts";
import { mountsUnder } from "./mounts.ts";
import { otherNode } from "./other-node.ts";
import { attempt } from "./shell.ts";

/** Folders with fixed names that the kubelet, containerd and CNI make; where they were not there before, they go. The inner ones first. */
export const removedIfMissing = ["/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/var/lib/cni", "/run/containerd", "/opt/cni"];

const stopMs = 15_000;
/** They keep nothing that anyone wants, and wait for each other's connections. */
const killMs = 3_000;
const controlPlane = ["kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"];
/** The kubelet ends first, which would start containers again; containerd last, which ends them. */
const names = ["kubelet", ...controlPlane, "containerd"];
const shim = "containerd-shim";

/** Where it kept the logs, if it was to keep them. */
export async function stopNode(instance: ClusterInstance | undefined, options: { keepLogs?: boolean } = {}): Promise<string | undefined> {
  await endProcesses(["kubelet"]);
  await endProcesses(controlPlane);
  await endContainers();
  await endProcesses(["containerd"]);
  await endShims();
  // They have one name whoever made them.
  const alone = otherNode() === undefined;
  if (alone) for (const family of ["ip", "ip6"]) await attempt("nft", ["delete", "table", family, "kube-proxy"]);
  for (const bridge of [network.podBridge, network.nodeBridge]) await attempt("ip", ["link", "del", bridge]);
  for (const target of mountsUnder(readFileSync("/proc/mounts", "utf8"), stateDir)) await attempt("umount", ["-l", target]);
  for (const [path, value] of Object.entries(instance?.before.sysctls ?? {})) restore(path, value);
  if (alone) removeControlGroups();
  removePodLogLinks();
  removeCniResults();
  const kept = options.keepLogs ? keepLogs() : undefined;
  for (const dir of instance?.before.missingDirs ?? []) if (removedIfMissing.includes(dir)) rmSync(dir, { recursive: true, force: true });
  rmSync(stateDir, { recursive: true, force: true });
  const left = whatIsLeft();
  if (left.length > 0) throw new CliError(`the node is stopped, but this is left: ${left.join("; ")}`);
  return kept;
}

/** Whatever of the node is still there, in words. */
export function whatIsLeft(): string[] {
  const interfaces = readdirSync("/sys/class/net").filter((name) => name === network.nodeBridge || name === network.podBridge);
  return [
    ...interfaces.map((name) => `the interface ${name}`),
    ...mountsUnder(readFileSync("/proc/mounts", "utf8"), stateDir).map((path) => `the mount ${path}`),
    ...nodeProcessesThatRun().map(({ name, identity }) => `process ${identity.pid} (${name})`),
    ...(existsSync(stateDir) ? [stateDir] : []),
    ...(otherNode() === undefined ? controlGroups().map((path) => `the control group ${path}`) : []),
  ];
}

async function endProcesses(meant: string[]): Promise<void> {
  const end = async ({ identity }: { identity: ProcessIdentity }) => {
    if (!signalProcess(identity, "SIGTERM") || (await waitUntilGone(identity, killMs))) return;
    signalProcess(identity, "SIGKILL");
    await waitUntilGone(identity, stopMs);
  };
  await Promise.all(
    nodeProcessesThatRun()
      .filter(({ name }) => meant.includes(name))
      .map(end),
  );
}

async function endContainers(): Promise<void> {
  if (!existsSync(containerdSocket)) return;
  const ctr = (...args: string[]) => attempt("ctr", ["-a", containerdSocket, "-n", "k8s.io", ...args]);
  const tasks = (await ctr("tasks", "ls", "-q")).split("\n").filter((id) => id !== "");
  // Its shim, its mounts and its control group go with it.
  await Promise.all(tasks.map((id) => ctr("tasks", "rm", "-f", id)));
}

/** Shims that outlived their containerd, and the containers' processes, which are their children. */
async function endShims(): Promise<void> {
  const shims = nodeProcessesThatRun().flatMap(({ name, identity }) => (name.startsWith(shim) ? [identity] : []));
  const meant = [...childrenOf(shims.map(({ pid }) => pid)).map(identifyProcess), ...shims];
  for (const identity of meant) signalProcess(identity, "SIGKILL");
  await Promise.all(meant.map((identity) => waitUntilGone(identity, stopMs)));
}

/** By name and by the node's folder among the arguments: also those of a start that was killed. Somebody's kubectl is none of them. */
function nodeProcessesThatRun(): { name: string; identity: ProcessIdentity }[] {
  return pids().flatMap((pid) => {
    const [command, ...args] = read(`/proc/${pid}/cmdline`).split("\0") as [string, ...string[]];
    const name = basename(command);
    const ours = (names.includes(name) || name.startsWith(shim)) && args.some((arg) => arg.includes(`${stateDir}/`));
    const identity = identifyProcess(pid);
    return ours && isRunning(identity) ? [{ name, identity }] : [];
  });
}

function childrenOf(parents: number[]): number[] {
  const parentOf = new Map(pids().map((pid) => [pid, Number(/^PPid:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1])]));
  const found = new Set<number>();
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const [pid, parent] of parentOf) if (parents.includes(parent) || found.has(parent)) found.add(pid);
  }
  return [...found];
}

/** Of the kubelet, which has one name for all of its pods; on cgroup v1 in every hierarchy. */
function controlGroups(): string[] {
  const root = "/sys/fs/cgroup";
  const dirs = existsSync(root) ? readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory()) : [];
  return [root, ...dirs.map(({ name }) => join(root, name))].map((dir) => join(dir, "kubepods")).filter((dir) => existsSync(dir));
}

function removeControlGroups(): void {
  const remove = (dir: string) => {
    for (const entry of readdirSync(dir, { withFileTypes: true })) if (entry.isDirectory()) remove(join(dir, entry.name));
    try {
      rmdirSync(dir);
    } catch {
      // Somebody is in it: whatIsLeft names it.
    }
  };
  // A link of one hierarchy to another shows twice.
  for (const dir of controlGroups()) if (existsSync(dir)) remove(dir);
}

/** The kubelet links each container's log at a fixed place. */
function removePodLogLinks(): void {
  const dir = "/var/log/containers";
  for (const name of existsSync(dir) ? readdirSync(dir) : []) {
    const path = join(dir, name);
    if (lstatSync(path).isSymbolicLink() && readlinkSync(path).startsWith(`${stateDir}/`)) unlinkSync(path);
  }
}

/** What libcni remembers of pods that were never taken down by the kubelet. */
function removeCniResults(): void {
  const dir = "/var/lib/cni/results";
  for (const name of existsSync(dir) ? readdirSync(dir) : []) if (name.startsWith(`${podNetworkName}-`)) unlinkSync(join(dir, name));
}

function restore(path: string, value: string): void {
  try {
    if (readFileSync(path, "utf8").trim() !== value) writeFileSync(path, value);
  } catch {
    // A setting that this machine does not let anyone write was not written before either.
  }
}

function keepLogs(): string | undefined {
  const [from, to] = [join(stateDir, "logs"), join(cacheDir, "failed-logs")];
  if (!existsSync(from)) return undefined;
  rmSync(to, { recursive: true, force: true });
  cpSync(from, to, { recursive: true });
  return to;
}

function pids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
