// Two releases of the chart side by side on a real node: one with a NATS of its own, one with a NATS that was there before, and an Ingress. Neither
// knows of the other, and one goes without the other. Needs root; the steps build on each other.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type NodeRelease, nodeRelease } from "./node-release.ts";
import { applyObjects, askSum, cluster, clusterDown, kube, stepMs, upMs, whyNoNode } from "./real-node.ts";
import { busObjects, credentialSecrets, restrictedNamespace } from "./served-model-objects.ts";

const whyNot = await whyNoNode();
const bus = "pelagic-bus";
const namespaces = { own: "pelagic-own-bus", external: "pelagic-external-bus" };
const models = { own: "plankton", external: "krill" };
const releases = {} as Record<keyof typeof models, NodeRelease>;

async function served(which: keyof typeof models): Promise<string[]> {
  const response = await fetch(`http://${await releases[which].address()}:8000/v1/models`, { signal: AbortSignal.timeout(10_000) });
  return ((await response.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
}

/** Workers load the model and the gateway learns of it after helm has returned. */
async function answers(which: keyof typeof models): Promise<void> {
  const endMs = Date.now() + 120_000;
  for (let said = ""; !/\b663\b/.test(said); ) {
    expect(Date.now(), said).toBeLessThan(endMs);
    said = await askSum(await releases[which].address(), 60_000, models[which]).catch(String);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

describe.skipIf(whyNot.length > 0)(`two releases on a node${whyNot.length > 0 ? ` (skipped: ${whyNot.join("; ")})` : ""}`, () => {
  beforeAll(async () => {
    await cluster("up");
    applyObjects([restrictedNamespace(bus), ...busObjects(bus)]);
    await kube("-n", bus, "rollout", "status", "deployment/nats", "--timeout=120s");
    for (const which of ["own", "external"] as const) releases[which] = await nodeRelease(namespaces[which]);
    applyObjects(credentialSecrets(namespaces.external));
  }, upMs);
  afterAll(clusterDown, stepMs);

  it(
    "each serves its own model, and knows none of the other's",
    async () => {
      const secrets = ["gateway", "prefill", "decode"].map((role) => `nats.existingSecrets.${role}=bus-${role}`);
      const external = [`nats.externalUrl=nats.${bus}:4222`, ...secrets, `modelService.name=${models.external}`];
      const ingress = ["gateway.ingress.enabled=true", "gateway.ingress.host=models.example.com", "gateway.ingress.tlsSecret=certificate"];
      await releases.own.helm("install", "--wait");
      await releases.external.helm("install", "--set", [...external, ...ingress].join(","), "--wait");
      for (const which of ["own", "external"] as const) {
        await answers(which);
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
      await releases.external.helm("uninstall", "--wait");
      const given = ["gateway", "prefill", "decode"].map((role) => `Secret bus-${role}`);
      expect((await releases.external.leftInTheEnd(given)).sort()).toEqual(given.sort());
      await answers("own");
      await releases.own.helm("uninstall", "--wait");
      expect(await releases.own.leftInTheEnd()).toEqual([]);
    },
    2 * stepMs,
  );
});
