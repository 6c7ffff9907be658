// buildah with a store of this tree's own, so that the machine's images are not touched, and `rm -r .cache/cluster` forgets it.
import { mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { runCommand, lastLines } from "../run-command.ts";
import { CliError } from "../cli-error.ts";
import { cacheDir } from "./layout.ts";
import { must } from "./shell.ts";

export interface ImageBuild {
  tag: string;
  context: string;
  dockerfile: string;
  args?: Record<string, string>;
}

const buildTimeoutMs = 3_600_000;
const store = ["--root", join(cacheDir, "store"), "--runroot", join(cacheDir, "store-run"), "--storage-driver", "overlay"];
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

/** What earlier builds of a tag left behind. */
export async function pruneImages(): Promise<void> {
  await runCommand("buildah", [...store, "rmi", "--prune"], { env, timeoutMs: 300_000 });
}
