// What each program of the node is told. Pure: from addresses, tokens and folders to arguments and files.
import { join } from "node:path";
import { binDir, containerdSocket, kubeconfigFile, network, nodeName, podNetworkName, stateDir } from "./layout.ts";
import { pauseTag } from "./images.ts";

export interface NodeSecrets {
  /** Bearer tokens, fresh at each start. */
  tokens: Record<Identity, string>;
}

export const identities = ["admin", "controllers", "scheduler", "kubelet", "proxy"] as const;
export type Identity = (typeof identities)[number];

const users: Record<Identity, { user: string; group?: string }> = {
  admin: { user: "admin", group: "system:masters" },
  controllers: { user: "system:kube-controller-manager" },
  scheduler: { user: "system:kube-scheduler" },
  kubelet: { user: `system:node:${nodeName}`, group: "system:nodes" },
  proxy: { user: "system:kube-proxy" },
};

export interface NodeProcess {
  name: string;
  command: string;
  args: string[];
}

const { nodeIp } = network;
const apiAddress = `https://${nodeIp}:6443`;
export const apiCertificate = join(stateDir, "certs", "apiserver.crt");
export const serviceAccountKey = join(stateDir, "service-account.key");
const podLogsDir = join(stateDir, "pod-logs");

export function kubeconfigOf(identity: Identity): string {
  return identity === "admin" ? kubeconfigFile : join(stateDir, `${identity}.kubeconfig`);
}

export function nodeFiles(secrets: NodeSecrets): Record<string, string> {
  const kubeconfigs = identities.map((identity): [string, string] => [kubeconfigOf(identity), kubeconfig(secrets.tokens[identity])]);
  return {
    ...Object.fromEntries(kubeconfigs),
    [join(stateDir, "tokens.csv")]: tokenFile(secrets),
    [join(stateDir, "cni", "10-pods.conflist")]: `${JSON.stringify(cniList)}\n`,
    [join(stateDir, "containerd.toml")]: containerdConfig,
    // JSON is YAML.
    [join(stateDir, "kubelet.yaml")]: `${JSON.stringify(kubeletConfig, null, 2)}\n`,
    // Pods that are not the cluster's DNS clients have no names to ask for.
    [join(stateDir, "resolv.conf")]: "nameserver 127.0.0.1\n",
  };
}

export function etcdProcess(ports: { client: number; peer: number }): NodeProcess {
  const [client, peer] = [`http://127.0.0.1:${ports.client}`, `http://127.0.0.1:${ports.peer}`];
  return {
    name: "etcd",
    command: "etcd",
    args: [
      ...["--data-dir", join(stateDir, "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client],
      ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", `default=${peer}`],
      // Nothing here outlives the machine.
      "--unsafe-no-fsync",
    ],
  };
}

export function apiServerProcess(etcdPort: number): NodeProcess {
  return kubernetesProcess("kube-apiserver", {
    "etcd-servers": `http://127.0.0.1:${etcdPort}`,
    "bind-address": nodeIp,
    "secure-port": "6443",
    "advertise-address": nodeIp,
    "cert-dir": join(stateDir, "certs"),
    "service-cluster-ip-range": network.serviceCidr,
    "service-account-issuer": "https://kubernetes.default.svc",
    "service-account-key-file": serviceAccountKey,
    "service-account-signing-key-file": serviceAccountKey,
    "authorization-mode": "Node,RBAC",
    "token-auth-file": join(stateDir, "tokens.csv"),
    "kubelet-preferred-address-types": "InternalIP",
  });
}

export const controlProcesses: NodeProcess[] = [
  kubernetesProcess("kube-controller-manager", {
    kubeconfig: kubeconfigOf("controllers"),
    "service-account-private-key-file": serviceAccountKey,
    "root-ca-file": apiCertificate,
    "use-service-account-credentials": "true",
    "leader-elect": "false",
    "cert-dir": join(stateDir, "controllers-certs"),
    "bind-address": nodeIp,
    "allocate-node-cidrs": "true",
    "cluster-cidr": network.podCidr,
  }),
  kubernetesProcess("kube-scheduler", {
    kubeconfig: kubeconfigOf("scheduler"),
    "leader-elect": "false",
    "cert-dir": join(stateDir, "scheduler-certs"),
    "bind-address": nodeIp,
  }),
];

export const containerdProcess: NodeProcess = {
  name: "containerd",
  command: "containerd",
  args: ["--config", join(stateDir, "containerd.toml")],
};

export const nodeProcesses: NodeProcess[] = [
  kubernetesProcess("kubelet", {
    config: join(stateDir, "kubelet.yaml"),
    kubeconfig: kubeconfigOf("kubelet"),
    "hostname-override": nodeName,
    "node-ip": nodeIp,
    "root-dir": join(stateDir, "kubelet"),
    "cert-dir": join(stateDir, "kubelet-certs"),
  }),
  kubernetesProcess("kube-proxy", {
    kubeconfig: kubeconfigOf("proxy"),
    "proxy-mode": "nftables",
    "hostname-override": nodeName,
    "cluster-cidr": network.podCidr,
    "healthz-bind-address": `${nodeIp}:10256`,
    "metrics-bind-address": `${nodeIp}:10249`,
    // The machine's own connection tracking is left as it is.
    "conntrack-max-per-core": "0",
    "conntrack-tcp-timeout-established": "0s",
    "conntrack-tcp-timeout-close-wait": "0s",
  }),
];

function kubernetesProcess(name: string, flags: Record<string, string>): NodeProcess {
  return { name, command: join(binDir, name), args: Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`) };
}

function kubeconfig(token: string): string {
  return `${JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "pelagic", cluster: { server: apiAddress, "certificate-authority": apiCertificate } }],
    users: [{ name: "user", user: { token } }],
    contexts: [{ name: "pelagic", context: { cluster: "pelagic", user: "user" } }],
    "current-context": "pelagic",
  })}\n`;
}

function tokenFile({ tokens }: NodeSecrets): string {
  return identities
    .map((identity) => {
      const { user, group } = users[identity];
      return `${tokens[identity]},${user},${identity}${group === undefined ? "" : `,"${group}"`}\n`;
    })
    .join("");
}

const cniList = {
  cniVersion: "1.0.0",
  name: podNetworkName,
  plugins: [
    {
      type: "bridge",
      bridge: network.podBridge,
      isGateway: true,
      // Pods reach the node and each other, and nothing else.
      ipMasq: false,
      hairpinMode: true,
      ipam: {
        type: "host-local",
        dataDir: join(stateDir, "cni-addresses"),
        ranges: [[{ subnet: network.nodePodCidr }]],
        routes: [{ dst: "0.0.0.0/0" }],
      },
    },
  ],
};

const containerdConfig = `version = 2
root = "${join(stateDir, "containerd")}"
state = "${join(stateDir, "containerd-state")}"
[grpc]
  address = "${containerdSocket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${pauseTag}"
  # Without CAP_SYS_RESOURCE nobody may lower it.
  restrict_oom_score_adj = true
  # Then they are ours to unmount.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${join(stateDir, "cni")}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`;

const kubeletConfig = {
  apiVersion: "kubelet.config.k8s.io/v1beta1",
  kind: "KubeletConfiguration",
  address: nodeIp,
  healthzPort: 0,
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: "AlwaysAllow" },
  // Without systemd, and with the older cgroups where a machine has these.
  cgroupDriver: "cgroupfs",
  failCgroupV1: false,
  failSwapOn: false,
  clusterDNS: [network.dnsIp],
  clusterDomain: network.domain,
  containerRuntimeEndpoint: `unix://${containerdSocket}`,
  resolvConf: join(stateDir, "resolv.conf"),
  podLogsDir,
  // No rules in the machine's own firewall.
  makeIPTablesUtilChains: false,
  // The disk is the machine's, and images need not be found again.
  evictionHard: { "nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi" },
  imageGCHighThresholdPercent: 100,
};
