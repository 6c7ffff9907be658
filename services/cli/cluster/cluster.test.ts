import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, it } from "vitest";
import { debianRelease } from "./bases.ts";
import { kubernetesModule } from "./binaries.ts";
import { type ClusterInstance, stateOf } from "./instance.ts";
import { type MachineFacts, missingPackages, whyNoCluster } from "./machine.ts";
import { controlProcesses, identities, nodeFiles, nodeProcesses } from "./node-config.ts";
import { stateDir } from "./layout.ts";
import { mountsUnder } from "./mounts.ts";
import { otherNode } from "./other-node.ts";

const able: MachineFacts = {
  platform: "linux",
  arch: "x64",
  isRoot: true,
  bridgeProblem: null,
  mountProblem: null,
  otherNode: null,
  missingPackages: [],
  hasAptGet: true,
  hasGo: true,
  missingBinaries: [],
};

describe("what a machine must have", () => {
  it("is nothing where it has it, or can get it", () => {
    expect(whyNoCluster(able)).toEqual([]);
    expect(whyNoCluster({ ...able, missingPackages: ["runc"], missingBinaries: ["helm"] })).toEqual([]);
    expect(whyNoCluster({ ...able, hasGo: false, hasAptGet: false })).toEqual([]);
  });

  it.each<[Partial<MachineFacts>, RegExp]>([
    [{ platform: "darwin" }, /needs Linux.*darwin/],
    [{ isRoot: false }, /root: run it with sudo/],
    [{ bridgeProblem: "Operation not permitted" }, /Operation not permitted.*CAP_NET_ADMIN/],
    [{ mountProblem: "permission denied" }, /permission denied.*CAP_SYS_ADMIN/],
    [{ otherNode: "kubelet (process 7)" }, /node of another cluster \(kubelet \(process 7\) runs\)/],
    [{ missingPackages: ["runc"], hasAptGet: false }, /runc.*no apt-get/],
    [{ missingBinaries: ["kubelet"], hasGo: false }, /kubelet.*install Go/],
  ])("is said where it is missing, with what to do: %j", (facts, reason) => {
    expect(whyNoCluster({ ...able, ...facts })).toEqual([expect.stringMatching(reason)]);
  });

  it("names each package by a file of it", () => {
    expect(missingPackages(() => true)).toEqual([]);
    expect(missingPackages((path) => path !== "/usr/lib/cni/bridge")).toEqual(["containernetworking-plugins"]);
    expect(missingPackages(() => false)).toContain("buildah");
  });
});

describe("the module that builds Kubernetes", () => {
  const goMod = [
    "module k8s.io/kubernetes",
    "go 1.26.0",
    "require k8s.io/api v0.0.0",
    "replace (",
    "\tk8s.io/api => ./staging/src/k8s.io/api",
    "\tk8s.io/client-go => ./staging/src/k8s.io/client-go",
    ")",
    "replace k8s.io/metrics => ./staging/src/k8s.io/metrics",
  ].join("\n");

  it("takes the published module for each that Kubernetes has beside itself", () => {
    expect(kubernetesModule(goMod, "1.36.3").split("\n")).toEqual([
      "module pelagic.dev/cluster",
      "",
      "go 1.26.0",
      "",
      "require k8s.io/kubernetes v1.36.3",
      "",
      "replace k8s.io/api => k8s.io/api v0.36.3",
      "replace k8s.io/client-go => k8s.io/client-go v0.36.3",
      "replace k8s.io/metrics => k8s.io/metrics v0.36.3",
      "",
    ]);
  });

  it("is not guessed from something else", () => {
    expect(() => kubernetesModule("module k8s.io/kubernetes\ngo 1.26.0\n", "1.36.3")).toThrow(/not as expected/);
  });
});

describe("the node", () => {
  const tokens = Object.fromEntries(identities.map((identity) => [identity, `${identity}-token`])) as Record<
    (typeof identities)[number],
    string
  >;
  const files = nodeFiles({ tokens });

  it("has a kubeconfig and a token for each identity, each in that file alone", () => {
    for (const identity of identities) {
      const holders = Object.keys(files).filter((path) => files[path]?.includes(`${identity}-token`));
      expect(holders.map((path) => path.split("/").at(-1)).sort()).toEqual([`${identity}.kubeconfig`, "tokens.csv"].sort());
    }
  });

  it("gives each program only files that exist or that it makes", () => {
    const named = [...controlProcesses, ...nodeProcesses].flatMap(({ args }) => args.filter((arg) => /^--(kubeconfig|config)=/.test(arg)));
    expect(named.length).toBeGreaterThan(3);
    for (const flag of named) expect(Object.keys(files)).toContain(flag.split("=")[1]);
  });

  it("listens for nobody outside", () => {
    const bound = [...controlProcesses, ...nodeProcesses].flatMap(({ args }) => args.filter((arg) => /bind-address=/.test(arg)));
    for (const flag of bound) expect(flag).toMatch(/=10\.245\.0\.1(:\d+)?$/);
  });
});

describe("what is there", () => {
  const process = { name: "etcd", pid: 10, startTime: "1" };
  const instance: ClusterInstance = {
    tree: "/tree",
    startedAt: "",
    ready: true,
    worker: null,
    processes: [process],
    before: { sysctls: {}, missingDirs: [] },
  };
  const all = () => true;
  const none = () => false;

  it("is told apart", () => {
    expect(stateOf(undefined)).toBe("none");
    expect(stateOf(instance, all)).toBe("running");
    expect(stateOf(instance, none)).toBe("broken");
    expect(stateOf({ ...instance, ready: false }, all)).toBe("broken");
  });

  it("is busy while another command is at work, and broken once that was killed", () => {
    const starting = { ...instance, ready: false, worker: { pid: 99, startTime: "2" } };
    expect(stateOf(starting, all, 1)).toBe("busy");
    expect(stateOf(starting, (identity) => identity.pid !== 99, 1)).toBe("broken");
  });

  it("unmounts what lies under a folder, the inner ones first, and no neighbour", () => {
    const table = ["tmpfs /run tmpfs rw", "a /var/lib/x/one rw", "b /var/lib/x/one/two\\040words rw", "c /var/lib/xy rw"].join("\n");
    expect(mountsUnder(table, "/var/lib/x")).toEqual(["/var/lib/x/one/two words", "/var/lib/x/one"]);
  });

  it("takes the release of a Debian, and says of another system that it is none", () => {
    expect(debianRelease('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n')).toBe("bookworm");
    expect(() => debianRelease('PRETTY_NAME="Fedora Linux 42"\nID=fedora\n')).toThrow(/Fedora Linux 42/);
  });
});

describe.skipIf(process.platform !== "linux")("a node of another cluster", () => {
  it("is known by its programs, and our own by its folder", async () => {
    const started = (name: string, folder: string) =>
      spawn(process.execPath, ["--eval", "setTimeout(() => {}, 60_000)", folder], { argv0: name, stdio: "ignore" });
    const children = [started("/usr/bin/kubelet", "/var/lib/kubelet"), started("kube-proxy", `${stateDir}/proxy.kubeconfig`)];
    try {
      await Promise.all(children.map((child) => once(child, "spawn")));
      const found = otherNode() ?? "";
      expect([found.includes(`kubelet (process ${children[0]?.pid})`), found.includes(`${children[1]?.pid}`)]).toEqual([true, false]);
    } finally {
      for (const child of children) child.kill("SIGKILL");
    }
  });
});
