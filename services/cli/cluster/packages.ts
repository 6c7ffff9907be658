// Debian's packages that a node needs, installed where they are missing. Needs root.
import { runCommand } from "../run-command.ts";
import { missingPackages } from "./machine.ts";
import { must } from "./shell.ts";

export async function installPackages(progress: (text: string) => void): Promise<void> {
  const missing = missingPackages();
  if (missing.length === 0) return;
  progress(`installing ${missing.join(", ")}`);
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const args = ["install", "--yes", "--quiet", "--no-install-recommends", ...missing];
  // The lists may be there already, and then this takes no network.
  if ((await runCommand("apt-get", args, { env, timeoutMs: 900_000 })).exitCode === 0) return;
  await must("apt-get update", "apt-get", ["update", "--quiet"], { env, timeoutMs: 300_000 });
  await must("apt-get install", "apt-get", args, { env, timeoutMs: 900_000 });
}
