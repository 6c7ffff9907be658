// A browser for the console's tests: one on PATH, or else Debian's, with what it needs and this machine lacks, unpacked under .cache without
// root and without touching the machine's own packages.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { CliError, messageOf } from "./cli-error.ts";
import { findOnPath, lastLines, runCommand } from "./run-command.ts";
import { inTree } from "./tree.ts";

/** Whatever release its sources have: only the current one is there to be had. */
const packages = ["chromium", "fonts-liberation"];
const names = ["chromium", "chromium-browser", "google-chrome"];
const timeoutMs = 600_000;

/** The path of an executable that starts; it needs --no-sandbox where it was unpacked here. */
export async function chromiumBinary(progress: (text: string) => void): Promise<string> {
  for (const name of names) {
    const path = findOnPath(name);
    if (path !== undefined && (await starts(path)) === undefined) return path;
  }
  const dir = inTree(".cache", "chromium");
  const executable = join(dir, "run");
  if (!existsSync(executable)) {
    try {
      await unpack(dir, progress);
    } catch (error) {
      throw new CliError(`no browser for the console's tests: ${messageOf(error)}. Debian: apt-get install chromium`);
    }
  }
  const reason = await starts(executable);
  if (reason === undefined) return executable;
  throw new CliError(
    `the browser in ${dir} does not start: ${reason}. Remove that folder, or install chromium (Debian: apt-get install chromium)`,
  );
}

/** Why not, if not. */
async function starts(path: string): Promise<string | undefined> {
  const result = await runCommand(path, ["--version"], { timeoutMs: 30_000 });
  return result.exitCode === 0 && /\d+\.\d+/.test(result.stdout) ? undefined : lastLines(result, 1) || `exited with ${result.exitCode}`;
}

async function unpack(dir: string, progress: (text: string) => void): Promise<void> {
  if (findOnPath("apt-get") === undefined || findOnPath("dpkg-deb") === undefined) throw new Error("none on PATH, and this is not Debian");
  progress("getting chromium from Debian (about 130 MB)");
  mkdirSync(inTree(".cache"), { recursive: true });
  const work = mkdtempSync(inTree(".cache", ".getting-chromium-"));
  try {
    const archives = await download(work);
    const root = join(work, "root");
    mkdirSync(root);
    for (const archive of archives) await mustRun("dpkg-deb", ["--extract", archive, root]);
    // The machine's own fonts too; its configuration may be missing.
    writeFileSync(
      join(root, "fonts.conf"),
      [
        '<?xml version="1.0"?>',
        "<fontconfig>",
        `<dir>${dir}/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir>${dir}/fonts-cache</cachedir>`,
        '<match><edit name="family" mode="append_last"><string>Liberation Sans</string></edit></match>',
        "</fontconfig>",
        "",
      ].join("\n"),
    );
    writeFileSync(
      join(root, "run"),
      [
        "#!/bin/sh",
        'here=$(dirname "$0")',
        `export LD_LIBRARY_PATH="${libraryDirs(root)
          .map((name) => `$here/${name}`)
          .join(":")}" FONTCONFIG_FILE="$here/fonts.conf"`,
        'exec "$here/usr/lib/chromium/chromium" "$@"',
        "",
      ].join("\n"),
      { mode: 0o755 },
    );
    try {
      renameSync(root, dir);
    } catch (error) {
      // Another process may have been faster.
      if (!existsSync(join(dir, "run"))) throw error;
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Where its shared libraries are: some look for others in folders that only an installed package would name. */
function libraryDirs(root: string): string[] {
  const dirs = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter(({ name }) => /\.so(\.|$)/.test(name))
    .map(({ parentPath }) => relative(root, parentPath));
  return [...new Set(dirs)].sort();
}

/** The packages and what they depend on beyond what is installed, as files. apt resolves and checks them, with lists of its own: the machine's may be old, or none. */
async function download(work: string): Promise<string[]> {
  for (const sub of ["state/lists/partial", "cache/archives/partial"]) mkdirSync(join(work, sub), { recursive: true });
  const options = {
    "Dir::State": join(work, "state"),
    "Dir::State::status": "/var/lib/dpkg/status",
    "Dir::Cache": join(work, "cache"),
    "Debug::NoLocking": "1",
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
    "Acquire::Retries": "3",
  };
  const flags = ["-qq", ...Object.entries(options).flatMap(([name, value]) => ["-o", `${name}=${value}`])];
  await mustRun("apt-get", [...flags, "update"]);
  await mustRun("apt-get", [...flags, "--yes", "--no-install-recommends", "--download-only", "install", ...packages]);
  const archives = join(work, "cache", "archives");
  return readdirSync(archives)
    .filter((name) => name.endsWith(".deb"))
    .map((name) => join(archives, name));
}

async function mustRun(command: string, args: string[]): Promise<void> {
  const result = await runCommand(command, args, { env: { DEBIAN_FRONTEND: "noninteractive" }, timeoutMs });
  if (result.exitCode !== 0) throw new Error(`${command} failed: ${lastLines(result, 2)}`);
}
