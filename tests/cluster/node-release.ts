// A release of the chart in a namespace of the machine's one node, with the images that ./pelagic cluster makes.
import { beforeAll, expect, it } from "vitest";
import { natsTag, pelagicTag } from "../../services/cli/cluster/images.ts";
import { kubeconfigFile } from "../../services/cli/cluster/layout.ts";
import { chart, helm, type Manifest } from "./helm.ts";
import { applyObjects, askSum, cluster, describeOnMachine, kube, stepMs, upMs } from "./real-node.ts";
import { restrictedNamespace } from "./served-model-objects.ts";

const parts = (image: string) => image.split(/:(?=[^:]*$)/) as [repository: string, tag: string];
export const [repository, tag] = parts(pelagicTag);
const [natsRepository, natsVersion] = parts(natsTag);
const images = { "image.repository": repository, "image.tag": tag, "nats.image.repository": natsRepository, "nats.image.tag": natsVersion };
const imageFlags = Object.entries(images).flatMap(([path, value]) => ["--set-string", `${path}=${value}`]);

export interface NodeRelease {
  /** "install", "upgrade", "test" or "uninstall", and what helm said. */
  helm(command: string, ...flags: string[]): Promise<string>;
  /** kubectl in the namespace. */
  kube(...args: string[]): Promise<string>;
  /** Of the gateways' Service. */
  address(): Promise<string>;
  /** Asks until the answer is right: workers load the model, and the gateway learns of it, after helm has returned. */
  answers(model?: string): Promise<void>;
  podsOf(component: string): Promise<string[]>;
  /** helm uninstall, after which all that is left in the namespace is what it was `given`. */
  uninstallWhole(given?: string[]): Promise<void>;
}

/** Tests of one release on a node that starts for them, and at the end one of its uninstall. The chart is not installed yet. */
export function describeRelease(what: string, namespace: string, tests: (release: NodeRelease) => void): void {
  describeOnMachine(what, () => {
    const release = nodeRelease(namespace);
    beforeAll(async () => {
      await cluster("up");
      restricted(namespace);
    }, upMs);
    tests(release);
    it("leaves nothing after helm uninstall", () => release.uninstallWhole(), stepMs);
  });
}

/** Makes the namespace, which takes none but pods as restricted as can be. */
export function restricted(namespace: string): void {
  applyObjects([restrictedNamespace(namespace)]);
}

export function nodeRelease(namespace: string): NodeRelease {
  const inNamespace = (...args: string[]) => kube("-n", namespace, ...args);
  let address = "";
  /** In the namespace and the cluster, but for what every namespace has. */
  const whatIsLeft = async () => {
    const kinds =
      "deployments,replicasets,statefulsets,pods,services,secrets,configmaps,serviceaccounts,roles,rolebindings,jobs,leases,networkpolicies,ingresses,modelservices,expertplacements";
    const own = JSON.parse(await inNamespace("get", `${kinds},poddisruptionbudgets`, "-o", "json")) as Manifest;
    const wide = JSON.parse(
      await kube("get", "clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=pelagic", "-o", "json"),
    ) as Manifest;
    const otherRelease = ({ metadata }: Manifest) =>
      ![undefined, namespace].includes(metadata.annotations?.["meta.helm.sh/release-namespace"]);
    return [...own.items, ...wide.items.filter((each: Manifest) => !otherRelease(each))]
      .map(({ kind, metadata }: Manifest) => `${kind} ${metadata.name}`)
      .filter((name: string) => !["ServiceAccount default", "ConfigMap kube-root-ca.crt"].includes(name));
  };
  const helmIt = async (command: string, ...flags: string[]) => {
    const what = ["install", "upgrade"].includes(command) ? [chart, ...imageFlags] : [];
    const result = await helm([command, "pelagic", ...what, ...flags, "--namespace", namespace, "--timeout", "240s"], kubeconfigFile);
    expect(result.exitCode, result.stdout + result.stderr).toBe(0);
    return result.stdout + result.stderr;
  };
  const addressOf = async () => {
    address ||= await inNamespace("get", "service", "pelagic-gateway", "-o", "jsonpath={.spec.clusterIP}");
    return address;
  };
  return {
    helm: helmIt,
    kube: inNamespace,
    address: addressOf,
    async answers(model) {
      const endMs = Date.now() + 120_000;
      for (let said = ""; !/\b663\b/.test(said); ) {
        expect(Date.now(), said).toBeLessThan(endMs);
        said = await askSum(await addressOf(), 60_000, model).catch(String);
        if (!/\b663\b/.test(said)) await new Promise((resolve) => setTimeout(resolve, 500));
      }
    },
    async podsOf(component) {
      const names = await inNamespace(
        ...["get", "pods", "-l", `app.kubernetes.io/component=${component}`, "-o", "jsonpath={.items[*].metadata.name}"],
      );
      return names.split(" ").filter((name) => name !== "");
    },
    async uninstallWhole(given = []) {
      await helmIt("uninstall", "--wait");
      let left = await whatIsLeft();
      // Pods end in their own time.
      for (let tries = 0; left.some((name) => !given.includes(name)) && tries < 60; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        left = await whatIsLeft();
      }
      expect(left.sort()).toEqual([...given].sort());
    },
  };
}
