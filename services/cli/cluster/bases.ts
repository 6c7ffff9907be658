// The two bases of our Dockerfiles without a registry: a Debian from its packages, with this machine's node, to build in; and the C library,
// the compiler's runtime and nothing else to run on. Both of this machine's release, so that they fit its node.
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  chmodSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { CliError } from "../cli-error.ts";
import { findOnPath } from "../run-command.ts";
import { buildImage, imageExists } from "./buildah.ts";
import { cacheDir } from "./layout.ts";
import { mountsUnder } from "./mounts.ts";
import { must } from "./shell.ts";

export interface Bases {
  build: string;
  runtime: string;
}

const runtimePackages = ["base-files", "libc6", "libgcc-s1", "libstdc++6"];
/** The host's, since it may trust more than Debian does; under another name in the image, where packages bring their own. */
const hostCertificates = "/etc/ssl/certs/ca-certificates.crt";
const certificates = "/etc/ssl/host-certificates.crt";
/** Counts what changes in how these images are made. */
const recipe = 2;
const userId = 65_532;
const debootstrapMs = 1_200_000;

export async function ensureBases(progress: (text: string) => void): Promise<Bases> {
  const release = debianRelease(readFileSync("/etc/os-release", "utf8"));
  const tag = `${release}-node${process.versions.node}-${recipe}`;
  const bases = { build: `localhost/pelagic-build-base:${tag}`, runtime: `localhost/pelagic-runtime-base:${tag}` };
  if ((await imageExists(bases.build)) && (await imageExists(bases.runtime))) return bases;
  await checkNode();
  const work = join(cacheDir, "bases");
  await removeRoots(work);
  const [build, runtime] = [join(work, "build"), join(work, "runtime")];
  mkdirSync(runtime, { recursive: true });
  try {
    progress(`getting Debian ${release} (debootstrap)`);
    await must("debootstrap", "debootstrap", ["--variant=minbase", release, build], { timeoutMs: debootstrapMs });
    const archives = join(build, "var/cache/apt/archives");
    for (const name of runtimePackages) {
      const archive = readdirSync(archives).find((file) => file.startsWith(`${name}_`));
      if (archive === undefined) throw new CliError(`Debian ${release} came without ${name}`);
      await must(`unpacking ${name}`, "dpkg-deb", ["--extract", join(archives, archive), runtime]);
    }
    await must("emptying apt's cache", "sh", ["-c", 'rm -f "$1"/*.deb', "sh", archives]);
    slim(runtime);
    addNode(build);
    progress("making the base images");
    const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    await baseImage(work, "runtime", bases.runtime, { PATH: path });
    const trusted = { NODE_EXTRA_CA_CERTS: certificates, npm_config_cafile: certificates, PIP_CERT: certificates };
    await baseImage(work, "build", bases.build, { PATH: path, ...(existsSync(hostCertificates) && trusted) });
  } finally {
    await removeRoots(work);
  }
  return bases;
}

/** A debootstrap that was killed leaves /proc and /sys mounted in there. */
async function removeRoots(work: string): Promise<void> {
  for (const target of mountsUnder(readFileSync("/proc/mounts", "utf8"), work)) await must("unmounting", "umount", ["-l", target]);
  rmSync(work, { recursive: true, force: true });
}

export function debianRelease(osRelease: string): string {
  const fields = new Map(
    osRelease.split("\n").map((line) => [line.split("=", 1)[0], line.slice(line.indexOf("=") + 1).replaceAll('"', "")]),
  );
  const release = fields.get("VERSION_CODENAME");
  if (fields.get("ID") !== "debian" || !release)
    throw new CliError(
      `the base images are made from Debian's packages for a Debian host, and this is ${fields.get("PRETTY_NAME") ?? "none"}`,
    );
  return release;
}

/** One whose code is in a library of its own would not run where that library is not. */
async function checkNode(): Promise<void> {
  const needed = await must("ldd", "ldd", [process.execPath]);
  if (/libnode\./.test(needed))
    throw new CliError(
      `${process.execPath} needs Debian's libnode and cannot be carried into an image: put a Node.js of nodejs.org or nodesource first on PATH`,
    );
}

function slim(runtime: string): void {
  for (const dir of ["doc", "man", "info", "lintian", "gcc", "common-licenses"])
    rmSync(join(runtime, "usr/share", dir), { recursive: true, force: true });
  const libraries = readdirSync(join(runtime, "usr/lib"), { withFileTypes: true }).filter((entry) => entry.isDirectory());
  // Character sets of other times.
  for (const { name } of libraries) rmSync(join(runtime, "usr/lib", name, "gconv"), { recursive: true, force: true });
  chmodSync(join(runtime, "tmp"), 0o1777);
  writeFileSync(
    join(runtime, "etc/passwd"),
    `root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:${userId}:${userId}:nonroot:/:/sbin/nologin\n`,
  );
  writeFileSync(join(runtime, "etc/group"), `root:x:0:\nnonroot:x:${userId}:\n`);
}

function addNode(build: string): void {
  const npm = findOnPath("npm");
  if (npm === undefined) throw new CliError("npm is needed beside Node.js (Debian: apt-get install npm)");
  copyFileSync(realpathSync(process.execPath), join(build, "usr/local/bin/node"));
  // …/npm/bin/npm-cli.js
  cpSync(dirname(dirname(realpathSync(npm))), join(build, "usr/local/lib/node_modules/npm"), { recursive: true });
  symlinkSync("../lib/node_modules/npm/bin/npm-cli.js", join(build, "usr/local/bin/npm"));
  if (existsSync(hostCertificates)) {
    mkdirSync(join(build, dirname(certificates)), { recursive: true });
    copyFileSync(hostCertificates, join(build, certificates));
  }
}

async function baseImage(work: string, name: "build" | "runtime", tag: string, env: Record<string, string>): Promise<void> {
  const context = join(work, `${name}-context`);
  mkdirSync(context);
  await must("packing a base", "tar", ["-C", join(work, name), "-cf", join(context, "root.tar"), "."], { timeoutMs: 300_000 });
  const variables = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  writeFileSync(join(context, "Dockerfile"), `FROM scratch\nADD root.tar /\nENV ${variables.join(" ")}\n`);
  await buildImage({ tag, context, dockerfile: join(context, "Dockerfile") });
}
