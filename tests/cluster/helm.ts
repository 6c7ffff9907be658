// helm and kubeconform as a user runs them, on a test API server; CRDs of others from the Go module proxy.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { clusterBinary } from "../../services/cli/cluster/binaries.ts";
import { versions } from "../../services/cli/cluster/layout.ts";
import { type CommandResult, findOnPath, runCommand } from "../../services/cli/run-command.ts";
import { inTree } from "../../services/cli/tree.ts";

export const chart = inTree("charts", "pelagic");
const timeoutMs = 120_000;

/** Why no chart can be tried here. */
export function helmMissing(): string | undefined {
  const missing = ["helm", "kubeconform"].filter((name) => clusterBinary(name) === undefined);
  return missing.length === 0 ? undefined : `no ${missing.join(" and ")} in PELAGIC_CLUSTER_BIN, .cache/cluster/bin or PATH`;
}

export function helm(args: string[], kubeconfig?: string): Promise<CommandResult> {
  // No settings of whoever runs the tests.
  const env = { KUBECONFIG: kubeconfig ?? "/dev/null", HELM_NAMESPACE: undefined, HELM_DRIVER: undefined };
  return runCommand(clusterBinary("helm") as string, args, { env, timeoutMs });
}

// biome-ignore lint/suspicious/noExplicitAny: any object's fields
export type Manifest = any;

export function manifests(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((each) => each.toJS())
    .filter((each) => each !== null && each !== undefined);
}

/** What is rendered, hooks too. Throws helm's words where it refuses. */
export async function template(values: object = {}, release = "pelagic", namespace = "trial"): Promise<string> {
  const set = Object.entries(values).flatMap(([path, value]) => ["--set-json", `${path}=${JSON.stringify(value)}`]);
  const args = ["template", release, chart, "--namespace", namespace, "--kube-version", versions.kubernetes, ...set];
  const result = await helm(args);
  if (result.exitCode !== 0) throw new Error(result.stderr);
  return result.stdout;
}

/** Of modules that are not ours; undefined where there is no Go to ask for them. */
export async function crdsOfOthers(): Promise<Manifest[] | undefined> {
  const files = [
    [
      "github.com/prometheus-operator/prometheus-operator@v0.85.0",
      "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ],
    [
      "github.com/prometheus-operator/prometheus-operator@v0.85.0",
      "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ],
    [
      "github.com/prometheus-operator/prometheus-operator@v0.85.0",
      "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ],
    ["sigs.k8s.io/gateway-api@v1.4.0", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
    ["github.com/kedacore/keda/v2@v2.21.0", "config/crd/bases/keda.sh_scaledobjects.yaml"],
  ] as const;
  const go = findOnPath("go");
  if (go === undefined) return undefined;
  const crds: Manifest[] = [];
  for (const [module, path] of files) {
    const downloaded = await runCommand(go, ["mod", "download", "-json", module], { cwd: "/", env: { GOFLAGS: "" }, timeoutMs });
    const dir = (JSON.parse(downloaded.stdout || "{}") as { Dir?: string }).Dir;
    if (dir === undefined) throw new Error(`${module}: ${downloaded.stdout}${downloaded.stderr}`);
    crds.push(...manifests(readFileSync(join(dir, path), "utf8")));
  }
  return crds;
}
