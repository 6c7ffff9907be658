// What a machine must have to carry the node. Pure over what was found; machineFacts finds it.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { tmpdir } from "node:os";
import { findOnPath, lastLines, runCommand } from "../run-command.ts";
import { otherNode } from "./other-node.ts";

export interface MachineFacts {
  platform: string;
  arch: string;
  isRoot: boolean;
  /** Null where it can; otherwise what the kernel or the tool said. */
  bridgeProblem: string | null;
  mountProblem: string | null;
  /** Of another cluster, by its programs. */
  otherNode: string | null;
  missingPackages: string[];
  hasAptGet: boolean;
  hasGo: boolean;
  missingBinaries: string[];
}

/** Debian package to a file by which to see that it is there. */
const packageFiles: Record<string, string[]> = {
  iproute2: ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"],
  "etcd-server": ["/usr/bin/etcd"],
  containerd: ["/usr/bin/containerd"],
  runc: ["/usr/sbin/runc", "/usr/bin/runc"],
  "containernetworking-plugins": ["/usr/lib/cni/bridge"],
  nftables: ["/usr/sbin/nft"],
  iptables: ["/usr/sbin/iptables"],
  conntrack: ["/usr/sbin/conntrack"],
  buildah: ["/usr/bin/buildah"],
  debootstrap: ["/usr/sbin/debootstrap"],
};

/** Each reason why no node can run here, with what to do about it; empty where one can. */
export function whyNoCluster(facts: MachineFacts): string[] {
  const reasons: string[] = [];
  if (facts.platform !== "linux" || !["x64", "arm64"].includes(facts.arch))
    reasons.push(`a node needs Linux on x64 or arm64, and this is ${facts.platform} on ${facts.arch}`);
  else if (!facts.isRoot) reasons.push("interfaces, mounts and containers need root: run it with sudo");
  else {
    if (facts.otherNode !== null)
      reasons.push(`this machine is a node of another cluster (${facts.otherNode} runs), which would lose its rules and control groups`);
    if (facts.bridgeProblem !== null)
      reasons.push(`no bridge can be made (${facts.bridgeProblem}): in a container it takes CAP_NET_ADMIN and the kernel's module bridge`);
    if (facts.mountProblem !== null)
      reasons.push(
        `no overlay can be mounted (${facts.mountProblem}): in a container it takes CAP_SYS_ADMIN, and a folder that is no overlay itself`,
      );
  }
  if (facts.missingPackages.length > 0 && !facts.hasAptGet)
    reasons.push(
      `${facts.missingPackages.join(", ")} are missing, and there is no apt-get to install them: install them as this system does`,
    );
  if (facts.missingBinaries.length > 0 && !facts.hasGo)
    reasons.push(`${facts.missingBinaries.join(", ")} are to be built, and Go is missing: install Go 1.26 or later (https://go.dev/dl)`);
  return reasons;
}

export function missingPackages(exists: (path: string) => boolean = existsSync): string[] {
  return Object.entries(packageFiles).flatMap(([name, files]) => (files.some(exists) ? [] : [name]));
}

export async function machineFacts(missingBinaries: string[]): Promise<MachineFacts> {
  const isRoot = process.getuid?.() === 0;
  const probe = isRoot && process.platform === "linux";
  return {
    platform: process.platform,
    arch: process.arch,
    isRoot,
    bridgeProblem: probe ? await bridgeProblem() : null,
    mountProblem: probe ? await mountProblem() : null,
    otherNode: probe ? (otherNode() ?? null) : null,
    missingPackages: missingPackages(),
    hasAptGet: findOnPath("apt-get") !== undefined,
    hasGo: findOnPath("go") !== undefined,
    missingBinaries,
  };
}

async function bridgeProblem(): Promise<string | null> {
  // Where the tool itself is missing it comes with the packages, and the start says what fails then.
  if (findOnPath("ip") === undefined) return null;
  const name = `pelagic-p${process.pid % 100_000}`;
  const made = await runCommand("ip", ["link", "add", name, "type", "bridge"], { timeoutMs: 10_000 });
  if (made.exitCode !== 0) return lastLines(made, 1);
  await runCommand("ip", ["link", "del", name], { timeoutMs: 10_000 });
  return null;
}

async function mountProblem(): Promise<string | null> {
  const dir = mkdtempSync(join(existsSync("/var/lib") ? "/var/lib" : tmpdir(), "pelagic-probe-"));
  try {
    const script = 'cd "$1" && mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m && umount m';
    const tried = await runCommand("sh", ["-c", script, "sh", dir], { timeoutMs: 10_000 });
    return tried.exitCode === 0 ? null : lastLines(tried, 1);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
