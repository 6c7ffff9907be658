// A node of somebody else's cluster on this machine: it has the same names as ours (kube-proxy's tables, the kubelet's control groups), so that the two
// would take from each other, and `down` what is not ours.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { stateDir } from "./layout.ts";

const programs = ["kubelet", "kube-proxy", "kubelite", "k3s", "k3s-server", "k3s-agent", "k0s"];

/** Undefined where there is none; those in containers with a network of their own are in nobody's way. */
export function otherNode(): string | undefined {
  const found = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const [command = "", ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        const name = basename(command.split(" ")[0] as string);
        const ours = args.some((arg) => arg.includes(`${stateDir}/`));
        if (!programs.includes(name) || ours) return [];
        return readlinkSync(`/proc/${pid}/ns/net`) === readlinkSync("/proc/self/ns/net") ? [`${name} (process ${pid})`] : [];
      } catch {
        // It has ended meanwhile, or is not ours to look into.
        return [];
      }
    });
  return found.length === 0 ? undefined : found.join(", ");
}
