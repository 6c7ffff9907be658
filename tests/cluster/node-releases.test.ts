// Two releases of the chart side by side on a real node: one with a NATS of its own, one with a NATS that was there before, and an Ingress. Neither
// knows of the other, and one goes without the other. Needs root; the steps build on each other.
import { beforeAll, expect, it } from "vitest";
import { nodeRelease, restricted } from "./node-release.ts";
import { applyObjects, cluster, describeOnMachine, kube, stepMs, upMs } from "./real-node.ts";
import { busObjects, credentialSecrets } from "./served-model-objects.ts";

const bus = "pelagic-bus";
const namespaces = { own: "pelagic-own-bus", external: "pelagic-external-bus" };
const models = { own: "plankton", external: "krill" };
const releases = { own: nodeRelease(namespaces.own), external: nodeRelease(namespaces.external) };

async function served(which: keyof typeof models): Promise<string[]> {
  const response = await fetch(`http://${await releases[which].address()}:8000/v1/models`, { signal: AbortSignal.timeout(10_000) });
  return ((await response.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
}

describeOnMachine("two releases on a node", () => {
  beforeAll(async () => {
    await cluster("up");
    for (const namespace of [bus, ...Object.values(namespaces)]) restricted(namespace);
    applyObjects(busObjects(bus));
    await kube("-n", bus, "rollout", "status", "deployment/nats", "--timeout=120s");
    applyObjects(credentialSecrets(namespaces.external));
  }, upMs);

  it(
    "each serves its own model, and knows none of the other's",
    async () => {
      const secrets = ["gateway", "prefill", "decode"].map((role) => `nats.existingSecrets.${role}=bus-${role}`);
      const external = [`nats.externalUrl=nats.${bus}:4222`, ...secrets, `modelService.name=${models.external}`];
      const ingress = ["gateway.ingress.enabled=true", "gateway.ingress.host=models.example.com", "gateway.ingress.tlsSecret=certificate"];
      await releases.own.helm("install", "--wait");
      await releases.external.helm("install", "--set", [...external, ...ingress].join(","), "--wait");
      for (const which of ["own", "external"] as const) {
        await releases[which].answers(models[which]);
        expect(await served(which)).toEqual([models[which]]);
      }
      expect(await releases.own.podsOf("nats")).toHaveLength(1);
      expect(await releases.external.podsOf("nats")).toEqual([]);
      expect(await releases.external.kube("get", "ingress", "pelagic-gateway", "-o", "jsonpath={.spec.rules[0].host}")).toBe(
        "models.example.com",
      );
      expect(await releases.external.helm("test")).toContain("663");
    },
    2 * stepMs,
  );

  it(
    "one goes, and nothing of it is left but what it was given; the other one goes on",
    async () => {
      await releases.external.uninstallWhole(["gateway", "prefill", "decode"].map((role) => `Secret bus-${role}`));
      await releases.own.answers(models.own);
      await releases.own.uninstallWhole();
    },
    2 * stepMs,
  );
});
