// What an API server alone needs, without root and without a change to the machine: Debian's etcd, unpacked under .cache, and kube-apiserver.
import { debianPackage } from "../cached-package.ts";
import { CliError } from "../cli-error.ts";
import { apiServerMissing, buildBinaries, clusterBinary, missingBinaries } from "./binaries.ts";

/** Gets and builds what is missing; where it cannot be had within that time, says why. What Go has compiled by then the next try need not. */
export async function apiServerPrograms(progress: (text: string) => void, boundMs: number): Promise<string | undefined> {
  try {
    if (clusterBinary("etcd") === undefined) await debianPackage("etcd-server", progress);
    if (clusterBinary("kube-apiserver") === undefined)
      await buildBinaries(
        missingBinaries().filter(({ name }) => name === "kube-apiserver"),
        progress,
        boundMs,
      );
  } catch (error) {
    if (error instanceof CliError) return error.message;
    throw error;
  }
  return apiServerMissing();
}
