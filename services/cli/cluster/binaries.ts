// The programs that no package has: Kubernetes, cluster DNS and the tools of the tests, from the Go module proxy, one after another since
// two linkers at once take 4 GB. A module of our own stands in for Kubernetes' tree, whose parts are modules of their own.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../cli-error.ts";
import { findOnPath, lastLines, runCommand, type CommandResult } from "../run-command.ts";
import { binDir, cacheDir, versions } from "./layout.ts";

export interface GoBinary {
  name: string;
  /** A package of the Kubernetes tree, or with its version one of a module that installs by itself. */
  package: string;
}

const kubernetes = (name: string): GoBinary => ({ name, package: `k8s.io/kubernetes/cmd/${name}` });

export const goBinaries: GoBinary[] = [
  ...["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"].map(kubernetes),
  { name: "coredns", package: `github.com/coredns/coredns@v${versions.coredns}` },
  { name: "helm", package: `helm.sh/helm/v3/cmd/helm@v${versions.helm}` },
  { name: "kubeconform", package: `github.com/yannh/kubeconform/cmd/kubeconform@v${versions.kubeconform}` },
  { name: "kwok", package: `sigs.k8s.io/kwok/cmd/kwok@v${versions.kwok}` },
];

/** A build from nothing of the largest, on two busy cores. */
const buildTimeoutMs = 3_600_000;

/** Those that are neither built nor, of kubectl, on PATH. */
export function missingBinaries(): GoBinary[] {
  return goBinaries.filter(({ name }) => binaryPath(name) === undefined);
}

/** Any kubectl will do: it warns where it is older. */
export function binaryPath(name: string): string | undefined {
  const path = join(binDir, name);
  if (existsSync(path)) return path;
  return name === "kubectl" ? findOnPath(name) : undefined;
}

export async function buildBinaries(missing: GoBinary[], progress: (text: string) => void): Promise<void> {
  const go = findOnPath("go");
  if (missing.length === 0) return;
  if (go === undefined) throw new CliError("Go is missing: install Go 1.26 or later (https://go.dev/dl)");
  mkdirSync(binDir, { recursive: true });
  for (const [at, binary] of missing.entries()) {
    const begun = performance.now();
    progress(`building ${binary.name} (${at + 1} of ${missing.length}; from an empty cache it takes minutes)`);
    const work = mkdtempSync(join(cacheDir, "build-"));
    try {
      const result = binary.package.includes("@") ? await goInstall(go, binary, work) : await goBuild(go, binary, work, progress);
      const built = join(work, binary.name);
      if (result.exitCode !== 0 || !existsSync(built)) throw new CliError(`${binary.name} could not be built: ${lastLines(result, 5)}`);
      // Whole or not at all.
      renameSync(built, join(binDir, binary.name));
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
    progress(`built ${binary.name} in ${Math.round((performance.now() - begun) / 1000)} s`);
  }
}

function goInstall(go: string, { package: path }: GoBinary, work: string): Promise<CommandResult> {
  return runCommand(go, ["install", "-ldflags", "-s -w", path], {
    env: { CGO_ENABLED: "0", GOBIN: work, GOFLAGS: "" },
    cwd: work,
    timeoutMs: buildTimeoutMs,
  });
}

async function goBuild(go: string, binary: GoBinary, work: string, progress: (text: string) => void): Promise<CommandResult> {
  const module = join(cacheDir, "kubernetes-module");
  if (!existsSync(join(module, "go.mod"))) await writeModule(go, module, progress);
  return runCommand(
    go,
    ["build", "-mod=mod", "-buildvcs=false", "-ldflags", linkerFlags(versions.kubernetes), "-o", join(work, binary.name), binary.package],
    {
      env: { CGO_ENABLED: "0", GOFLAGS: "" },
      cwd: module,
      timeoutMs: buildTimeoutMs,
    },
  );
}

async function writeModule(go: string, module: string, progress: (text: string) => void): Promise<void> {
  progress(`downloading Kubernetes ${versions.kubernetes} from the Go module proxy`);
  mkdirSync(module, { recursive: true });
  const options = { env: { GOFLAGS: "" }, cwd: module, timeoutMs: 600_000 };
  const downloaded = await runCommand(go, ["mod", "download", "-json", `k8s.io/kubernetes@v${versions.kubernetes}`], options);
  const path = /"GoMod": "([^"]+)"/.exec(downloaded.stdout)?.[1];
  if (path === undefined) throw new CliError(`Kubernetes could not be downloaded: ${lastLines(downloaded, 3)}`);
  const partial = join(module, "go.mod.new");
  writeFileSync(partial, kubernetesModule(readFileSync(path, "utf8"), versions.kubernetes));
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
    `require k8s.io/kubernetes v${version}`,
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
