// Where the control plane's programs are, for tests that start one.
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { inTree } from "./tree.ts";

/** PELAGIC_CLUSTER_BIN, or what `./pelagic cluster` builds, or PATH. */
export function clusterBinary(name: string): string | undefined {
  const dirs = [process.env.PELAGIC_CLUSTER_BIN ?? "", inTree(".cache", "cluster", "bin"), ...(process.env.PATH ?? "").split(delimiter)];
  return dirs
    .filter((dir) => dir !== "")
    .map((dir) => join(dir, name))
    .find((path) => existsSync(path));
}

/** Why no API server can be started here; undefined where one can. */
export function apiServerMissing(withControllers = false): string | undefined {
  const needed = ["etcd", "kube-apiserver", ...(withControllers ? ["kube-controller-manager"] : [])];
  const missing = needed.filter((name) => clusterBinary(name) === undefined);
  return missing.length === 0 ? undefined : `no ${missing.join(" and ")} in PELAGIC_CLUSTER_BIN, .cache/cluster/bin or PATH`;
}
