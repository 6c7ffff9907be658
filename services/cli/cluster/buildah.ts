// buildah with a store of this tree's own, so that the machine's images are not touched, and `rm -r .cache/cluster` forgets it.
import { mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { runCommand, lastLines } from "../run-command.ts";
import { CliError } from "../cli-error.ts";
import { cacheDir } from "./layout.ts";
import { attempt, must } from "./shell.ts";
import { mountsUnder } from "./mounts.ts";

export interface ImageBuild {
  tag: string;
  context: string;
  dockerfile: string;
  args?: Record<string, string>;
}

const buildTimeoutMs = 3_600_000;
const mostStoredBytes = 6 * 1024 ** 3;
const storeDir = join(cacheDir, "store");
const runDir = join(cacheDir, "store-run");
const store = ["--root", storeDir, "--runroot", runDir, "--storage-driver", "overlay"];
/** Containers need no namespaces of their own to compile in. */
const env = { BUILDAH_ISOLATION: "chroot" };

/** Layers that did not change are kept from one build to the next. */
export async function buildImage(build: ImageBuild, onOutput?: (chunk: string) => void): Promise<void> {
  const args = Object.entries(build.args ?? {}).flatMap(([name, value]) => ["--build-arg", `${name}=${value}`]);
  const result = await runCommand(
    "buildah",
    [...store, "build", "--layers", "--pull-never", "--tag", build.tag, "--file", build.dockerfile, ...args, build.context],
    { env, timeoutMs: buildTimeoutMs, onOutput },
  );
  if (result.exitCode !== 0) throw new CliError(`the image ${build.tag} could not be built: ${lastLines(result, 15)}`);
}

export async function imageExists(tag: string): Promise<boolean> {
  return (await runCommand("buildah", [...store, "inspect", "--type", "image", tag], { env, timeoutMs: 60_000 })).exitCode === 0;
}

/** As an OCI archive that containerd imports under the same name. */
export async function writeArchive(tag: string, path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const partial = `${path}.new`;
  rmSync(partial, { force: true });
  await must(`writing ${path}`, "buildah", [...store, "push", "--quiet", tag, `oci-archive:${partial}:${tag}`], {
    env,
    timeoutMs: 600_000,
  });
  renameSync(partial, path);
}

/**
 * After the last build: buildah leaves layers mounted. Layers of earlier builds stay, since they make the next one quick, until they take
 * more than that much.
 */
export async function tidyStore(): Promise<void> {
  const kib = Number.parseInt(await attempt("du", ["-skx", storeDir], 120_000), 10);
  if (kib * 1024 > mostStoredBytes) await runCommand("buildah", [...store, "rmi", "--prune"], { env, timeoutMs: 300_000 });
  for (const target of mountsUnder(readFileSync("/proc/mounts", "utf8"), storeDir)) await attempt("umount", ["-l", target]);
  // It counts there what is mounted.
  rmSync(runDir, { recursive: true, force: true });
}
