// The chart on a real node, as a user meets it: helm install, a chat through the Service, helm test, an upgrade, helm uninstall, and nothing is
// left. Needs root; the steps build on each other.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { askQuestion } from "../../services/cli/chat-client.ts";
import { natsTag, pelagicTag } from "../../services/cli/cluster/images.ts";
import { kubeconfigFile } from "../../services/cli/cluster/layout.ts";
import { chart, helm, type Manifest } from "./helm.ts";
import { cluster, clusterDown, kube, stepMs, upMs, whyNoNode } from "./real-node.ts";

const namespace = "pelagic-chart";
const inNamespace = ["-n", namespace];
const whyNot = await whyNoNode();
const [natsRepository, natsVersion] = natsTag.split(/:(?=[^:]*$)/) as [string, string];
const [repository, tag] = pelagicTag.split(/:(?=[^:]*$)/) as [string, string];
const images = { "image.repository": repository, "image.tag": tag, "nats.image.repository": natsRepository, "nats.image.tag": natsVersion };
const values = Object.entries(images).flatMap(([path, value]) => ["--set-string", `${path}=${value}`]);

async function release(command: string, ...flags: string[]): Promise<string> {
  const result = await helm([command, "pelagic", ...flags, "--namespace", namespace, "--timeout", "240s"], kubeconfigFile);
  expect(result.exitCode, result.stdout + result.stderr).toBe(0);
  return result.stdout + result.stderr;
}

async function ask(): Promise<string> {
  const address = await kube(...inNamespace, "get", "service", "pelagic-gateway", "-o", "jsonpath={.spec.clusterIP}");
  const answer = await askQuestion({
    baseUrl: `http://${address}:8000`,
    apiKey: undefined,
    model: "plankton",
    text: "What is 127 + 536?",
    thinking: true,
    temperature: 0,
    maxTokens: 512,
    signal: AbortSignal.timeout(60_000),
  });
  return answer.content;
}

/** Of the namespace and of the cluster, but for what every namespace has. */
async function whatIsLeft(): Promise<string[]> {
  const kinds =
    "deployments,replicasets,pods,services,secrets,configmaps,serviceaccounts,roles,rolebindings,jobs,leases,networkpolicies,modelservices";
  const own = JSON.parse(await kube(...inNamespace, "get", `${kinds},poddisruptionbudgets`, "-o", "json")) as Manifest;
  const wide = JSON.parse(
    await kube("get", "clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/part-of=pelagic", "-o", "json"),
  ) as Manifest;
  return [...own.items, ...wide.items]
    .map(({ kind, metadata }: Manifest) => `${kind} ${metadata.name}`)
    .filter((name: string) => !["ServiceAccount default", "ConfigMap kube-root-ca.crt"].includes(name));
}

describe.skipIf(whyNot.length > 0)(`the chart on a node${whyNot.length > 0 ? ` (skipped: ${whyNot.join("; ")})` : ""}`, () => {
  beforeAll(async () => {
    await cluster("up");
    await kube("create", "namespace", namespace);
    await kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted");
  }, upMs);
  afterAll(clusterDown, stepMs);

  it(
    "answers a chat within a minute of helm install",
    async () => {
      const begun = performance.now();
      const notes = await release("install", chart, ...values, "--wait");
      expect(await ask()).toMatch(/\b663\b/);
      const seconds = (performance.now() - begun) / 1000;
      console.log(`helm install to the answer: ${seconds.toFixed(1)} s`);
      expect(notes).toContain("helm test pelagic");
      expect(seconds).toBeLessThan(60);
      expect(await kube(...inNamespace, "get", "modelservice", "plankton")).toMatch(/plankton +plankton +1\/1 +1\/1 +True/);
    },
    stepMs,
  );

  it(
    "passes its own test",
    async () => {
      const said = await release("test");
      expect(said).toContain("Phase:          Succeeded");
      expect(said).toContain("663");
    },
    stepMs,
  );

  it(
    "upgrades: the job brings the CRD up to date, two gateways and two operators answer, and what is not changed stays",
    async () => {
      const pods = () => kube(...inNamespace, "get", "pods", "-l", "app.kubernetes.io/component in (prefill,decode,nats)", "-o", "name");
      const before = await pods();
      await kube("annotate", "crd", "modelservices.pelagic.dev", "pelagic.dev/version=0.0.1", "--overwrite");
      await release("upgrade", chart, ...values, "--set", "gateway.replicas=2,operator.replicas=2", "--wait");
      expect(await ask()).toMatch(/\b663\b/);
      expect(await pods()).toBe(before);
      expect(await kube("get", "crd", "modelservices.pelagic.dev", "-o", "jsonpath={.metadata.annotations}")).not.toContain("0.0.1");
    },
    stepMs,
  );

  it(
    "leaves nothing after helm uninstall",
    async () => {
      await release("uninstall", "--wait");
      let left = await whatIsLeft();
      // Pods end in their own time.
      for (let tries = 0; left.length > 0 && tries < 120; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        left = await whatIsLeft();
      }
      expect(left).toEqual([]);
    },
    stepMs,
  );
});
