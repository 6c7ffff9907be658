// Where the API server is and who we are: a file as kubectl takes it, or the service account of the pod.
import { existsSync } from "node:fs";
import { KubeConfig } from "@kubernetes/client-node";
import { z } from "zod";
import { ConfigError } from "../../services/lib/runtime/config.ts";

export const accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount";

export const kubeconfigField = {
  /** As kubectl takes it; in a pod its service account, unless given. */
  kubeconfig: z.string().min(1).optional(),
};

export function loadKubeConfig(path: string | undefined): KubeConfig {
  const kubeConfig = new KubeConfig();
  if (path !== undefined) {
    try {
      kubeConfig.loadFromFile(path);
    } catch (error) {
      throw new ConfigError(`--kubeconfig (PELAGIC_KUBECONFIG): ${path}: ${error instanceof Error ? error.message : String(error)}`);
    }
    if (kubeConfig.getCurrentCluster() === null)
      throw new ConfigError(`--kubeconfig (PELAGIC_KUBECONFIG): ${path} has no current context with a cluster`);
    return kubeConfig;
  }
  if (!existsSync(`${accountFolder}/token`))
    throw new ConfigError("--kubeconfig (PELAGIC_KUBECONFIG): missing, and this is no pod with a service account");
  kubeConfig.loadFromCluster();
  return kubeConfig;
}
