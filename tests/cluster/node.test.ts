// A real node: it comes up with our images, they run as restricted pods and serve a model through a Service, and nothing is left afterwards.
// Needs root; the first run builds Kubernetes. The steps build on each other.
import { readdirSync, readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { beforeAll, expect, it } from "vitest";
import { cudaTag, pelagicTag } from "../../services/cli/cluster/images.ts";
import { readInstance } from "../../services/cli/cluster/instance.ts";
import { stateDir } from "../../services/cli/cluster/layout.ts";
import { whatIsLeft } from "../../services/cli/cluster/stop.ts";
import { inTree } from "../../services/cli/tree.ts";
import { applyObjects, askSum, cluster, describeOnMachine, kube, stepMs, upMs } from "./real-node.ts";
import { composeObjects, composeService } from "./compose-objects.ts";
import { restricted } from "./node-release.ts";
import { namespace, onePod } from "./served-model-objects.ts";

const version = (JSON.parse(readFileSync(inTree("package.json"), "utf8")) as { version: string }).version;

/** What a node adds to. */
function machineState(): Record<string, string[]> {
  const tables = spawnSync("nft", ["list", "tables"], { encoding: "utf8" }).stdout ?? "";
  const settings = ["net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];
  return {
    interfaces: readdirSync("/sys/class/net"),
    tables: tables.split("\n").filter((line) => line !== ""),
    settings: settings.map((name) => `${name}=${readFileSync(`/proc/sys/${name}`, "utf8").trim()}`),
    folders: ["/var/lib", "/var/log", "/run"].flatMap((dir) => readdirSync(dir).map((name) => `${dir}/${name}`)),
    mounts: readFileSync("/proc/mounts", "utf8")
      .split("\n")
      .filter((line) => line.includes(stateDir) || line.includes(inTree(".cache")) || line.includes("netns")),
  };
}

describeOnMachine("a node", () => {
  let before: Record<string, string[]>;

  beforeAll(() => {
    before = machineState();
  });

  it(
    "comes up, and a second time changes nothing",
    async () => {
      expect(await cluster("up")).toMatchObject({ event: "up", started: true });
      const processes = readInstance()?.processes;
      expect(await cluster("up")).toMatchObject({ event: "up", started: false });
      expect(readInstance()?.processes).toEqual(processes);
      expect(await kube("get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names}")).toContain(pelagicTag);
    },
    upMs,
  );

  it(
    "runs the image as a restricted pod",
    async () => {
      restricted(namespace);
      applyObjects([onePod("version", ["--version"]), onePod("unknown", ["no-such-process"])]);
      await kube("-n", namespace, "wait", "pod/version", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s");
      expect((await kube("-n", namespace, "logs", "version")).trim()).toBe(version);
      await kube("-n", namespace, "wait", "pod/unknown", "--for=jsonpath={.status.phase}=Failed", "--timeout=120s");
      expect(await kube("-n", namespace, "logs", "unknown")).toContain(
        "unknown process no-such-process; one of gateway | prefill | decode",
      );
    },
    stepMs,
  );

  it(
    "serves the embedded model as deploy/images/compose.yaml says, its processes finding NATS by name",
    async () => {
      applyObjects(composeObjects(namespace));
      await kube("-n", namespace, "wait", "deployment", "--all", "--for=condition=Available", "--timeout=240s");
      const address = await kube("-n", namespace, "get", "service", "gateway", "-o", "jsonpath={.spec.clusterIP}");
      expect(await askSum(address, 120_000)).toMatch(/\b663\b/);
    },
    stepMs + 120_000,
  );

  it(
    "has the image with the CUDA backend, which is loaded and says what this machine lacks",
    async () => {
      expect(await cluster("images", "--cuda")).toMatchObject({
        images: expect.arrayContaining([expect.objectContaining({ tag: cudaTag })]),
      });
      const objects = [
        composeService(namespace, "decode", {
          name: "decode-cuda",
          image: cudaTag,
          env: { PELAGIC_BACKEND: "cuda", PELAGIC_WORKER_ID: "decode-cuda" },
        }),
      ];
      applyObjects(objects);
      const pod = ["-l", "app=decode-cuda", "--tail=-1"];
      for (let said = "", tries = 0; !said.includes("no NVIDIA driver"); tries++) {
        expect(tries, said).toBeLessThan(240);
        await new Promise((resolve) => setTimeout(resolve, 500));
        // There are none before its container is made.
        said = await kube("-n", namespace, "logs", ...pod).catch(String);
      }
    },
    upMs,
  );

  it(
    "leaves nothing behind",
    async () => {
      expect(await cluster("down")).toMatchObject({ stopped: true });
      expect(whatIsLeft()).toEqual([]);
      const after = machineState();
      for (const [what, entries] of Object.entries(after))
        expect(
          entries.filter((entry) => !before[what]?.includes(entry)),
          what,
        ).toEqual([]);
      expect(await cluster("down")).toMatchObject({ stopped: false });
    },
    stepMs,
  );
});
