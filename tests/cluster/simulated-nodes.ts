// Nodes that kwok plays on a test API server: the real scheduler gives them pods, and kwok says of each that it runs and is ready. No container starts.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream, writeFileSync } from "node:fs";
import { join } from "node:path";
import { clusterBinary } from "../../services/cli/cluster/binaries.ts";
import type { TestApiServer } from "./api-server.ts";

const programs = ["kube-scheduler", "kwok"];
/** As many pods as a real node takes. */
const podsPerNode = 110;

const stage = (name: string, kind: string, matchExpressions: object[], next: object) => ({
  ...{ apiVersion: "kwok.x-k8s.io/v1alpha1", kind: "Stage", metadata: { name } },
  spec: { resourceRef: { apiGroup: "v1", kind }, selector: { matchExpressions }, next },
});
const isReady = `{ type: Ready, status: "True", reason: Simulated, lastTransitionTime: {{ Now | Quote }} }`;

/** What becomes of nodes and pods, at once. */
const stages = [
  stage("node-ready", "Node", [{ key: ".status.conditions", operator: "DoesNotExist" }], { statusTemplate: `conditions: [${isReady}]` }),
  stage(
    "pod-ready",
    "Pod",
    [
      { key: ".metadata.deletionTimestamp", operator: "DoesNotExist" },
      { key: ".status.podIP", operator: "DoesNotExist" },
    ],
    { statusTemplate: `{ phase: Running, podIP: 127.0.0.1, podIPs: [{ ip: 127.0.0.1 }], conditions: [${isReady}] }` },
  ),
  stage("pod-gone", "Pod", [{ key: ".metadata.deletionTimestamp", operator: "Exists" }], { finalizers: { empty: true }, delete: true }),
];

/** Undefined where they can be played. */
export function simulatedNodesMissing(): string | undefined {
  const missing = programs.filter((name) => clusterBinary(name) === undefined);
  return missing.length === 0 ? undefined : `no ${missing.join(" and ")} in PELAGIC_CLUSTER_BIN, PATH or .cache/cluster/bin`;
}

/** The server needs the controllers that make pods. They stop with `stop`, before the server does. */
export async function startSimulatedNodes(server: TestApiServer, count: number): Promise<{ stop(): Promise<void> }> {
  const children: ChildProcess[] = [];
  const start = (name: string, args: string[]) => {
    const log = createWriteStream(join(server.dir, `${name}.log`));
    const child = spawn(clusterBinary(name) as string, args, { stdio: ["ignore", "pipe", "pipe"], cwd: server.dir });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    children.push(child);
  };
  const killAll = () => {
    for (const child of children) child.kill("SIGKILL");
  };
  process.once("exit", killAll);
  for (let each = 0; each < count; each++) await makeNode(server, `simulated-${each}`);
  // Above the rates meant to spare a shared cluster, so that what is measured is the operator.
  const rates = ["--kube-api-qps", "500", "--kube-api-burst", "1000"];
  start("kube-scheduler", ["--kubeconfig", server.kubeconfig, "--leader-elect=false", "--secure-port", "0", ...rates]);
  const config = join(server.dir, "kwok.yaml");
  writeFileSync(config, stages.map((stage) => JSON.stringify(stage)).join("\n---\n"));
  start("kwok", ["--kubeconfig", server.kubeconfig, "--config", config, "--manage-all-nodes=true"]);
  await server.until("ready nodes", async () => {
    const { body } = await server.call("GET", "/api/v1/nodes");
    const ready = body.items.filter(({ status }: { status: { conditions?: { type: string; status: string }[] } }) =>
      status.conditions?.some((each) => each.type === "Ready" && each.status === "True"),
    );
    return ready.length === count ? true : undefined;
  });
  return {
    async stop() {
      process.off("exit", killAll);
      for (const child of children) {
        if (child.exitCode !== null || child.signalCode !== null) continue;
        await new Promise<void>((resolve) => {
          child.once("exit", () => resolve());
          child.kill("SIGKILL");
        });
      }
    },
  };
}

async function makeNode(server: TestApiServer, name: string): Promise<void> {
  const capacity = { cpu: "64", memory: "512Gi", pods: String(podsPerNode) };
  const made = await server.call("POST", "/api/v1/nodes", {
    body: { metadata: { name, labels: { "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "simulated" } }, spec: {} },
  });
  if (made.status !== 201) throw new Error(JSON.stringify(made.body));
  const merge = async (path: string, body: object) => {
    const patched = await server.call("PATCH", path, { body, contentType: "application/merge-patch+json" });
    if (patched.status !== 200) throw new Error(JSON.stringify(patched.body));
  };
  await merge(`/api/v1/nodes/${name}/status`, { status: { capacity, allocatable: capacity } });
  // New nodes are tainted as not ready, which a controller that does not run here would take away.
  await merge(`/api/v1/nodes/${name}`, { spec: { taints: null } });
}
