// Programs that only some tests and benchmarks need, unpacked under .cache: that needs no root and leaves the machine as it is.
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "./cli-error.ts";
import { findOnPath, lastLines, runCommand } from "./run-command.ts";
import { inTree } from "./tree.ts";

/** The folder into which the distribution's package of this name is unpacked; throws what is missing. */
export async function debianPackage(name: string, progress: (text: string) => void): Promise<string> {
  const dir = inTree(".cache", name);
  if (existsSync(join(dir, "usr"))) return dir;
  for (const tool of ["apt-get", "dpkg-deb"]) {
    if (findOnPath(tool) === undefined) throw new CliError(`neither ${name} nor ${tool} is installed`);
  }
  progress(`getting ${name}`);
  await fillCached(dir, async (work) => {
    const got = await runCommand("apt-get", ["download", name], { cwd: work, timeoutMs: 120_000 });
    if (got.exitCode !== 0) throw new CliError(`apt-get download ${name}: ${lastLines(got, 1)}`);
    const unpacked = await runCommand("sh", ["-c", `dpkg-deb -x ${name}_*.deb . && rm ${name}_*.deb`], { cwd: work, timeoutMs: 60_000 });
    if (unpacked.exitCode !== 0) throw new CliError(`dpkg-deb: ${lastLines(unpacked, 1)}`);
  });
  return dir;
}

/** All of it or nothing: another run may be filling it, too. */
export async function fillCached(dir: string, write: (work: string) => Promise<void>): Promise<void> {
  mkdirSync(inTree(".cache"), { recursive: true });
  const work = mkdtempSync(inTree(".cache", ".getting-"));
  try {
    await write(work);
    if (!existsSync(dir)) renameSync(work, dir);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
