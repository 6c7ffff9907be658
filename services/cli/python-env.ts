// Python packages that tests and comparisons run: a virtual environment under .cache for each file of requirements, made by uv from wheels
// with the hashes in that file. It is made anew when the file changes, and needs no network when it does not.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { messageOf } from "./cli-error.ts";
import { pinnedWheel, pinnedWheels } from "./pinned-wheels.ts";
import { type CommandResult, findOnPath, lastLines, runCommand } from "./run-command.ts";
import { inTree } from "./tree.ts";

/** There is no such environment to be had on this machine, for a reason that is not ours: no Python, or no package index. */
export class NoPythonEnv extends Error {}

const pythonVersions = ">=3.11,<3.14";
const makeMs = 600_000;

/**
 * The python of the environment that `requirements` describes, a path in the tree. A package that `besides` names by file asks for a newer
 * Python than it needs, and is installed nevertheless.
 */
export async function pythonEnv(requirements: string, progress: (text: string) => void, besides?: string): Promise<string> {
  const files = [requirements, ...(besides === undefined ? [] : [besides])].map((path) => inTree(path));
  const hash = createHash("sha256");
  for (const file of files) hash.update(readFileSync(file));
  const name = basename(requirements, ".txt");
  const base = inTree(".cache", "python");
  const dir = join(base, `${name}-${hash.digest("hex").slice(0, 16)}`);
  const python = join(dir, "bin", "python");
  if (existsSync(python)) return python;
  mkdirSync(base, { recursive: true });
  const work = mkdtempSync(join(base, ".making-"));
  try {
    progress(`getting the Python packages of ${requirements}`);
    const uv = await uvRunner(progress);
    const env = join(work, name);
    // Relocatable: it is made elsewhere and moved into place, so that whatever is there is whole.
    await uv(["venv", "--relocatable", "--no-python-downloads", "--python", pythonVersions, env]);
    const install = ["--python", env, "--require-hashes", "--only-binary", ":all:", "--no-deps"];
    await uv(["pip", "install", ...install, "-r", files[0] as string]);
    if (files[1] !== undefined) await uv(["pip", "install", ...install, "--python-version", "3.13", "-r", files[1]]);
    try {
      renameSync(env, dir);
    } catch (error) {
      // Another process may have been faster.
      if (!existsSync(python)) throw error;
    }
    for (const other of readdirSync(base)) {
      if (other.slice(0, -17) === name && join(base, other) !== dir) rmSync(join(base, other), { recursive: true, force: true });
    }
    return python;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function uvRunner(progress: (text: string) => void): Promise<(args: string[]) => Promise<void>> {
  let executable: string;
  try {
    executable = await pinnedWheel(pinnedWheels.uv, progress);
  } catch (error) {
    throw isAbsence(messageOf(error)) ? new NoPythonEnv(messageOf(error)) : error;
  }
  const index = process.env.PIP_INDEX_URL ?? (await pipsIndex());
  const env = {
    UV_CACHE_DIR: inTree(".cache", "uv"),
    UV_NO_CONFIG: "1",
    ...(index && { UV_DEFAULT_INDEX: index }),
    ...(process.env.PIP_CERT && !process.env.SSL_CERT_FILE && { SSL_CERT_FILE: process.env.PIP_CERT }),
  };
  return async (args) => {
    const result: CommandResult = await runCommand(executable, [...args, "--quiet"], { env, timeoutMs: makeMs });
    if (result.exitCode === 0) return;
    const said = lastLines(result, 6) || `${args[0]} did not end within ${makeMs / 1000} s`;
    throw isAbsence(said) ? new NoPythonEnv(said) : new Error(said);
  };
}

/** uv does not read pip's configuration. */
async function pipsIndex(): Promise<string | undefined> {
  const python = findOnPath("python3");
  if (python === undefined) return undefined;
  const result = await runCommand(python, ["-m", "pip", "config", "get", "global.index-url"], { timeoutMs: 60_000 });
  return result.exitCode === 0 ? result.stdout.trim() : undefined;
}

/** What pip and uv say where there is no Python or no way to the index; anything else, such as a wrong hash, is a failure. */
export function isAbsence(said: string): boolean {
  return /No interpreter found|python3 is not installed|neither pip nor venv|Failed to fetch|Request failed|error sending request|No matching distribution found|Network is unreachable|timed out/i.test(
    said,
  );
}
