// A release of the chart in a namespace of the machine's one node, with the images that ./pelagic cluster makes.
import { expect } from "vitest";
import { natsTag, pelagicTag } from "../../services/cli/cluster/images.ts";
import { kubeconfigFile } from "../../services/cli/cluster/layout.ts";
import { chart, helm, type Manifest } from "./helm.ts";
import { applyObjects, kube } from "./real-node.ts";
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
  podsOf(component: string): Promise<string[]>;
  /** Once no more than `given` is left, or after a minute: pods end in their own time. */
  leftInTheEnd(given?: string[]): Promise<string[]>;
}

/** The namespace is made, and takes none but pods as restricted as can be. */
export async function nodeRelease(namespace: string): Promise<NodeRelease> {
  applyObjects([restrictedNamespace(namespace)]);
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
  return {
    async helm(command, ...flags) {
      const what = ["install", "upgrade"].includes(command) ? [chart, ...imageFlags] : [];
      const result = await helm([command, "pelagic", ...what, ...flags, "--namespace", namespace, "--timeout", "240s"], kubeconfigFile);
      expect(result.exitCode, result.stdout + result.stderr).toBe(0);
      return result.stdout + result.stderr;
    },
    kube: inNamespace,
    async address() {
      address ||= await inNamespace("get", "service", "pelagic-gateway", "-o", "jsonpath={.spec.clusterIP}");
      return address;
    },
    async podsOf(component) {
      const names = await inNamespace(
        ...["get", "pods", "-l", `app.kubernetes.io/component=${component}`, "-o", "jsonpath={.items[*].metadata.name}"],
      );
      return names.split(" ").filter((name) => name !== "");
    },
    async leftInTheEnd(given = []) {
      let left = await whatIsLeft();
      for (let tries = 0; left.some((name) => !given.includes(name)) && tries < 60; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        left = await whatIsLeft();
      }
      return left;
    },
  };
}
