// Starts the node: its bridge, the control plane, containerd with the images, the kubelet, the proxy, cluster DNS.
import { spawn } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { chownSync, closeSync, existsSync, mkdirSync, openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { CliError, messageOf } from "../cli-error.ts";
import { lastLines, runCommand } from "../run-command.ts";
import { identifyProcess, isRunning } from "../stack/process-table.ts";
import { treeRoot } from "../tree.ts";
import { binaryPath } from "./binaries.ts";
import { removedIfMissing, stopNode } from "./stop.ts";
import { dnsObjects } from "./dns.ts";
import { claimInstance, type ClusterInstance, thisProcess, writeInstance } from "./instance.ts";
import { freePort } from "../free-port.ts";
import { containerdSocket, kubeconfigFile, network, nodeName, stateDir } from "./layout.ts";
import {
  apiCertificate,
  apiServerProcess,
  containerdProcess,
  controlProcesses,
  etcdProcess,
  identities,
  type NodeProcess,
  nodeFiles,
  nodeProcesses,
  serviceAccountKey,
} from "./node-config.ts";
import { must, waitUntil } from "./shell.ts";

/** A start takes 14 s on two idle cores. */
const partMs = 180_000;
/** What the kubelet sets for itself, and what pods need. */
const sysctls = [
  "net.ipv4.ip_forward",
  "vm.overcommit_memory",
  "vm.panic_on_oom",
  "kernel.panic",
  "kernel.panic_on_oops",
  "kernel.keys.root_maxkeys",
  "kernel.keys.root_maxbytes",
].map((name) => `/proc/sys/${name.replaceAll(".", "/")}`);

export async function startNode(archives: string[], progress: (text: string) => void): Promise<void> {
  const instance: ClusterInstance = {
    tree: treeRoot,
    startedAt: new Date().toISOString(),
    ready: false,
    worker: thisProcess(),
    processes: [],
    before: {
      sysctls: Object.fromEntries(sysctls.filter((path) => existsSync(path)).map((path) => [path, readFileSync(path, "utf8").trim()])),
      missingDirs: removedIfMissing.filter((path) => !existsSync(path)),
    },
  };
  claimInstance(instance);
  try {
    await startParts(instance, archives, progress);
  } catch (error) {
    const logs = await stopNode(instance, { keepLogs: true });
    throw new CliError(`${messageOf(error)}${logs === undefined ? "" : ` (logs: ${logs})`}`);
  }
  instance.ready = true;
  instance.worker = null;
  writeInstance(instance);
}

async function startParts(instance: ClusterInstance, archives: string[], progress: (text: string) => void): Promise<void> {
  const start = (part: NodeProcess) => startProcess(instance, part);
  await addBridge();
  for (const [path, text] of Object.entries(nodeFiles({ tokens: freshTokens() }))) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text, { mode: 0o600 });
  }
  // By sudo: kubectl and helm are for the person who asked.
  const [uid, gid] = [Number(process.env.SUDO_UID), Number(process.env.SUDO_GID)];
  if (uid > 0 && gid > 0) chownSync(kubeconfigFile, uid, gid);
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(serviceAccountKey, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");

  progress("starting the control plane");
  const etcdPort = await freePort();
  const etcd = start(etcdProcess({ client: etcdPort, peer: await freePort() }));
  const apiServer = start(apiServerProcess(etcdPort));
  start(containerdProcess);
  await waitUntil("the API server", async () => ended(etcd) ?? ended(apiServer) ?? (await whyNotServing()), partMs);
  for (const part of controlProcesses) start(part);

  progress("starting the node");
  await waitUntil("containerd", () => failing("ctr", ["-a", containerdSocket, "version"]), partMs);
  await importImages(archives);
  const [kubelet, proxy] = nodeProcesses.map(start) as [Started, Started];
  await waitUntil("the node", async () => ended(kubelet) ?? ended(proxy) ?? (await whyNodeNotReady()), partMs);

  progress("starting cluster DNS");
  const objects = join(stateDir, "dns.json");
  writeFileSync(objects, JSON.stringify({ apiVersion: "v1", kind: "List", items: dnsObjects }));
  await must("applying cluster DNS", kubectl(), [...asAdmin, "apply", "-f", objects]);
  const available = [...asAdmin, "-n", "kube-system", "wait", "--for=condition=Available", "deployment/coredns", "--timeout=1s"];
  await waitUntil("cluster DNS", () => failing(kubectl(), available), partMs);
}

/** Replaces images of the same names; pods that run keep the old ones. */
export async function importImages(archives: string[]): Promise<void> {
  for (const archive of archives) {
    await must(`importing ${archive}`, "ctr", ["-a", containerdSocket, "-n", "k8s.io", "images", "import", archive], {
      timeoutMs: 300_000,
    });
  }
}

export function kubectl(): string {
  return binaryPath("kubectl") as string;
}

export const asAdmin = ["--kubeconfig", kubeconfigFile];

interface Started {
  name: string;
  identity: ReturnType<typeof identifyProcess>;
  log: string;
}

/** In a session of its own: it outlives this command. */
function startProcess(instance: ClusterInstance, part: NodeProcess): Started {
  const log = join(stateDir, "logs", `${part.name}.log`);
  mkdirSync(dirname(log), { recursive: true });
  const output = openSync(log, "a", 0o600);
  const child = spawn(part.command, part.args, { cwd: stateDir, detached: true, stdio: ["ignore", output, output] });
  closeSync(output);
  child.on("error", () => undefined);
  child.unref();
  if (child.pid === undefined) throw new CliError(`${part.command} could not be started`);
  const identity = identifyProcess(child.pid);
  instance.processes.push({ name: part.name, ...identity });
  writeInstance(instance);
  return { name: part.name, identity, log };
}

/** No use in waiting for what has ended. */
function ended({ name, identity, log }: Started): undefined {
  if (isRunning(identity)) return undefined;
  const tail = readFileSync(log, "utf8").trim().split("\n").slice(-3).join("\n");
  throw new CliError(`${name} ended: ${tail}`);
}

async function addBridge(): Promise<void> {
  const { nodeBridge, nodeIp } = network;
  const made = await runCommand("ip", ["link", "add", nodeBridge, "type", "bridge"], { timeoutMs: 10_000 });
  if (made.exitCode !== 0)
    throw new CliError(
      `the bridge ${nodeBridge} cannot be made (${lastLines(made, 1)}): if something else uses that name or ${nodeIp}, stop it first`,
    );
  await must("giving the node its address", "ip", ["addr", "add", `${nodeIp}/32`, "dev", nodeBridge]);
  await must("starting the bridge", "ip", ["link", "set", nodeBridge, "up"]);
}

async function whyNotServing(): Promise<string | undefined> {
  if (!existsSync(apiCertificate) || statSync(apiCertificate).size === 0) return "no certificate yet";
  return await failing(kubectl(), [...asAdmin, "get", "--raw", "/readyz"]);
}

async function whyNodeNotReady(): Promise<string | undefined> {
  return await failing(kubectl(), [...asAdmin, "wait", "--for=condition=Ready", `node/${nodeName}`, "--timeout=1s"]);
}

async function failing(command: string, args: string[]): Promise<string | undefined> {
  const result = await runCommand(command, args, { timeoutMs: 20_000 });
  return result.exitCode === 0 ? undefined : lastLines(result, 1);
}

function freshTokens() {
  return Object.fromEntries(identities.map((identity) => [identity, randomBytes(24).toString("hex")])) as Record<
    (typeof identities)[number],
    string
  >;
}
