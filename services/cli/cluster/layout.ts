// Where the cluster of this machine keeps things, which addresses it takes, and what it is made of.
import { join } from "node:path";
import { inTree } from "../tree.ts";

export const versions = {
  kubernetes: "1.36.3",
  coredns: "1.15.0",
  helm: "3.22.0",
  kubeconform: "0.8.0",
  kwok: "0.8.0",
} as const;

/** Built once and kept, each tree its own. */
export const cacheDir = inTree(".cache", "cluster");
export const binDir = join(cacheDir, "bin");
export const archiveDir = join(cacheDir, "archives");

/**
 * What runs keeps here, one for the machine as its bridge is: a short path, since sockets have room for 107 characters, and on a disk,
 * since pods' files lie in it. `down` removes it.
 */
export const stateDir = "/var/lib/pelagic-cluster";
export const kubeconfigFile = join(stateDir, "admin.kubeconfig");
export const containerdSocket = join(stateDir, "containerd.sock");

export const network = {
  /** An address of the node that pods reach: on a bridge, as a kernel need not have a dummy device. */
  nodeBridge: "pelagic0",
  nodeIp: "10.245.0.1",
  podBridge: "pelagic-pods",
  podCidr: "10.244.0.0/16",
  nodePodCidr: "10.244.0.0/24",
  serviceCidr: "10.96.0.0/16",
  dnsIp: "10.96.0.10",
  domain: "cluster.local",
} as const;

export const nodeName = "local";
/** Of the CNI list, and so of what libcni remembers of it. */
export const podNetworkName = "pelagic-pods";
