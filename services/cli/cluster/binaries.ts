// The programs that no package has: Kubernetes, cluster DNS and the tools of the tests, from the Go module proxy, one after another since
// two linkers at once take 4 GB. A module of our own stands in for Kubernetes' tree, whose parts are modules of their own.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../cli-error.ts";
import { inTree } from "../tree.ts";
import { findOnPath, lastLines, runCommand, type CommandResult } from "../run-command.ts";
import { goBuildInfo } from "./go-build-info.ts";
import { binDir, cacheDir, versions } from "./layout.ts";

export interface GoBinary {
  name: string;
  package: string;
  version: string;
}

const kubernetesCommands = "k8s.io/kubernetes/cmd/";
const kubernetes = (name: string): GoBinary => ({ name, package: `${kubernetesCommands}${name}`, version: versions.kubernetes });

export const goBinaries: GoBinary[] = [
  ...["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"].map(kubernetes),
  { name: "coredns", package: "github.com/coredns/coredns", version: versions.coredns },
  { name: "helm", package: "helm.sh/helm/v3/cmd/helm", version: versions.helm },
  { name: "kubeconform", package: "github.com/yannh/kubeconform/cmd/kubeconform", version: versions.kubeconform },
  { name: "kwok", package: "sigs.k8s.io/kwok/cmd/kwok", version: versions.kwok },
];

/** A build from nothing of the largest, on two busy cores. */
const buildTimeoutMs = 3_600_000;

/** Those that are neither built in the version named above nor, of kubectl, on PATH. */
export function missingBinaries(dir = binDir): GoBinary[] {
  return goBinaries.filter(({ name }) => binaryPath(name, dir) === undefined);
}

/** A program of a node. One that was built in another version is as good as none; of kubectl any on PATH will do: it warns where it is older. */
export function binaryPath(name: string, dir = binDir): string | undefined {
  const wanted = goBinaries.find((binary) => binary.name === name);
  if (wanted !== undefined && builtVersion(wanted, dir) === wanted.version) return join(dir, name);
  return name === "kubectl" ? findOnPath(name) : undefined;
}

/** Debian's package, unpacked. */
const unpackedEtcd = inTree(".cache", "etcd-server", "usr", "bin", "etcd");

/** A program of an API server in a test: PELAGIC_CLUSTER_BIN's in whatever version, a node's, or PATH's. */
export function clusterBinary(name: string): string | undefined {
  const given = join(process.env.PELAGIC_CLUSTER_BIN ?? "", name);
  return process.env.PELAGIC_CLUSTER_BIN && existsSync(given) ? given : (binaryPath(name) ?? findOnPath(name) ?? unpacked(name));
}

const unpacked = (name: string) => (name === "etcd" && existsSync(unpackedEtcd) ? unpackedEtcd : undefined);

/** Why no API server can be started here; undefined where one can. */
export function apiServerMissing(withControllers = false): string | undefined {
  const needed = ["etcd", "kube-apiserver", ...(withControllers ? ["kube-controller-manager"] : [])];
  const missing = needed.filter((name) => clusterBinary(name) === undefined);
  const where = `PELAGIC_CLUSTER_BIN, PATH or, of version ${versions.kubernetes}, .cache/cluster/bin`;
  return missing.length === 0 ? undefined : `no ${missing.join(" and ")} in ${where}`;
}

/** Without its "v"; "unknown" where it is not this program. */
function builtVersion(binary: GoBinary, dir: string): string | undefined {
  const path = join(dir, binary.name);
  if (!existsSync(path)) return undefined;
  const info = goBuildInfo(path);
  return info?.package === binary.package ? info.version.replace(/^v/, "") : "unknown";
}

export async function buildBinaries(missing: GoBinary[], progress: (text: string) => void, boundMs = buildTimeoutMs): Promise<void> {
  const go = findOnPath("go");
  if (missing.length === 0) return;
  if (go === undefined) throw new CliError("Go is missing: install Go 1.26 or later (https://go.dev/dl)");
  mkdirSync(binDir, { recursive: true });
  for (const [at, binary] of missing.entries()) {
    const begun = performance.now();
    progress(`${buildText(binary)} (${at + 1} of ${missing.length}; from an empty cache it takes minutes)`);
    const work = mkdtempSync(join(cacheDir, "build-"));
    try {
      const isKubernetes = binary.package.startsWith(kubernetesCommands);
      const result = isKubernetes ? await goBuild(go, binary, work, progress, boundMs) : await goInstall(go, binary, work, boundMs);
      const built = join(work, binary.name);
      if (result.exitCode === null) throw new CliError(`${binary.name} was not built within ${Math.round(boundMs / 60_000)} minutes`);
      if (result.exitCode !== 0 || !existsSync(built)) throw new CliError(`${binary.name} could not be built: ${lastLines(result, 5)}`);
      const version = builtVersion(binary, work);
      // Or it would be built again each time.
      if (version !== binary.version) throw new CliError(`${binary.name} was built in version ${version}, not ${binary.version}`);
      // Whole or not at all.
      renameSync(built, join(binDir, binary.name));
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
    progress(`built ${binary.name} in ${Math.round((performance.now() - begun) / 1000)} s`);
  }
}

export function buildText(binary: GoBinary, dir = binDir): string {
  const old = builtVersion(binary, dir);
  return `building ${binary.name} ${binary.version}${old === undefined ? "" : ` in place of version ${old}`}`;
}

function goInstall(go: string, { package: path, version }: GoBinary, work: string, timeoutMs: number): Promise<CommandResult> {
  return runCommand(go, ["install", "-ldflags", "-s -w", `${path}@v${version}`], {
    env: { CGO_ENABLED: "0", GOBIN: work, GOFLAGS: "" },
    cwd: work,
    timeoutMs,
  });
}

async function goBuild(
  go: string,
  binary: GoBinary,
  work: string,
  progress: (text: string) => void,
  timeoutMs: number,
): Promise<CommandResult> {
  const module = join(cacheDir, "kubernetes-module");
  const goMod = join(module, "go.mod");
  const isCurrent = existsSync(goMod) && readFileSync(goMod, "utf8").includes(`\n${requirement(binary.version)}\n`);
  if (!isCurrent) await writeModule(go, module, binary.version, progress);
  return runCommand(
    go,
    ["build", "-mod=mod", "-buildvcs=false", "-ldflags", linkerFlags(binary.version), "-o", join(work, binary.name), binary.package],
    {
      env: { CGO_ENABLED: "0", GOFLAGS: "" },
      cwd: module,
      timeoutMs,
    },
  );
}

/** The line of the go.mod that says which Kubernetes it is. */
const requirement = (version: string) => `require k8s.io/kubernetes v${version}`;

async function writeModule(go: string, module: string, version: string, progress: (text: string) => void): Promise<void> {
  progress(`downloading Kubernetes ${version} from the Go module proxy`);
  mkdirSync(module, { recursive: true });
  const options = { env: { GOFLAGS: "" }, cwd: module, timeoutMs: 600_000 };
  const downloaded = await runCommand(go, ["mod", "download", "-json", `k8s.io/kubernetes@v${version}`], options);
  const path = /"GoMod": "([^"]+)"/.exec(downloaded.stdout)?.[1];
  if (path === undefined) throw new CliError(`Kubernetes could not be downloaded: ${lastLines(downloaded, 3)}`);
  const partial = join(module, "go.mod.new");
  writeFileSync(partial, kubernetesModule(readFileSync(path, "utf8"), version));
  renameSync(partial, join(module, "go.mod"));
}

/** A go.mod that requires Kubernetes with the published versions of the modules that its own go.mod finds beside itself. */
export function kubernetesModule(goMod: string, version: string): string {
  const go = /^go (\S+)$/m.exec(goMod)?.[1];
  const staged = [...goMod.matchAll(/^\s*(?:replace )?(k8s\.io\/\S+) => \.\/staging\/src\/\S+$/gm)].map((match) => match[1] as string);
  if (go === undefined || staged.length === 0) throw new CliError(`the go.mod of Kubernetes ${version} is not as expected`);
  const published = `v0.${version.split(".").slice(1).join(".")}`;
  return [
    "module pelagic.dev/cluster",
    "",
    `go ${go}`,
    "",
    requirement(version),
    "",
    ...[...new Set(staged)].sort().map((name) => `replace ${name} => ${name} ${published}`),
    "",
  ].join("\n");
}

function linkerFlags(version: string): string {
  const [major, minor] = version.split(".");
  const values = { gitVersion: `v${version}`, gitMajor: major, gitMinor: minor };
  return `-s -w ${Object.entries(values)
    .map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`)
    .join(" ")}`;
}
