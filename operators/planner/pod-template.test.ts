// The worker's pod: its configuration is taken by the worker's own schema, so that a renamed field cannot go unseen.
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { operatorVariables } from "../api/kubernetes-fields.ts";
import { poolNames } from "../api/model-service.ts";
import { decodeFields, rankFields, workerFields } from "../../services/lib/engine/worker-config.ts";
import { busFields, loadConfig, processFields, variableName } from "../../services/lib/runtime/config.ts";
import { podTemplate } from "./pod-template.ts";
import { quantityValue, wholeCpus } from "./quantity.ts";
import { config, modelService } from "./testing/model-services.ts";

const workerSchema = z.object({ ...processFields, ...busFields, ...workerFields, ...decodeFields, ...rankFields });

/** Of a pod, as Kubernetes fills them in. */
const fields: Record<string, string> = {
  "metadata.name": "ms-decode-1-x",
  "metadata.labels['apps.kubernetes.io/pod-index']": "2",
  "status.podIP": "10.1.2.3",
};

function envOf(service: ReturnType<typeof modelService>, pool: (typeof poolNames)[number], group?: string): Record<string, string> {
  const [container] = podTemplate(service, pool, config, group).spec.containers;
  const env = (container?.env ?? []) as { name: string; value?: string; valueFrom?: { fieldRef: { fieldPath: string } } }[];
  return Object.fromEntries(
    env.map(({ name, value, valueFrom }) => [name, value ?? fields[valueFrom?.fieldRef.fieldPath as string] ?? ""]),
  );
}

describe("a worker's environment", () => {
  const service = modelService({
    servedName: "deepseek",
    model: { pvc: { claimName: "models", path: "v3" } },
    kv: { dtype: "float32" },
    pools: {
      prefill: {},
      decode: {
        cacheMemoryMib: 1024,
        drainSeconds: 30,
        resources: { limits: { cpu: "3500m" } },
        podTemplate: { env: [{ name: "PELAGIC_LOG_LEVEL", value: "debug" }] },
      },
    },
  });

  it("is what the worker's own schema takes", () => {
    const read = loadConfig(workerSchema, { env: envOf(service, "decode"), argv: [] });
    expect(read).toMatchObject({
      workerId: "ms-decode-1-x",
      service: "default",
      natsUrl: "nats://nats:4222",
      natsCredentialsFile: "/var/run/pelagic/nats/credentials.json",
      model: "/var/lib/pelagic/model/v3",
      modelName: "deepseek",
      kvDtype: "float32",
      kvMemoryMib: 1024,
      backend: "cpu",
      threads: 3,
      drainMs: 30_000,
      logLevel: "debug",
      metricsHost: "0.0.0.0",
      metricsPort: 9100,
    });
    expect(loadConfig(workerSchema, { env: envOf(modelService(), "prefill"), argv: [] })).toMatchObject({
      model: "models/plankton",
      modelName: "ms",
      kvMemoryMib: 256,
    });
  });

  it("says to a rank which one it is, of which group, and where the others find it", () => {
    const spread = modelService({ experts: { ranks: 4, redundancy: 8, policy: "published", rebalanceSeconds: 30 } });
    const read = loadConfig(workerSchema, { env: envOf(spread, "decode", "ms-decode-1a2b"), argv: [] });
    expect(read).toMatchObject({
      rank: 2,
      rankCount: 4,
      rankGroup: "test/ms-decode-1a2b",
      redundantExperts: 8,
      expertPolicy: "published",
      rebalanceSeconds: 30,
    });
    expect(read).toMatchObject({ rankHost: "10.1.2.3", rankPort: 9200 });
    const { metadata, spec } = podTemplate(spread, "decode", config, "ms-decode-1a2b");
    expect(metadata.labels).toMatchObject({ "pelagic.dev/rank-group": "ms-decode-1a2b" });
    expect(spec.containers[0]?.ports).toContainEqual({ name: "ranks", containerPort: 9200, protocol: "TCP" });
    expect(podTemplate(spread, "prefill", config).metadata.labels).not.toHaveProperty("pelagic.dev/rank-group");
  });

  it("has no variable that the worker does not know, and none that a ModelService may set too", () => {
    const known = Object.keys(workerSchema.shape).map(variableName);
    const { PELAGIC_LOG_LEVEL: _, ...set } = envOf(
      { ...service, spec: { ...service.spec, experts: { ranks: 4, redundancy: 0, policy: "balanced", rebalanceSeconds: 60 } } },
      "decode",
      "g",
    );
    expect(Object.keys(set).filter((name) => !known.includes(name))).toEqual([]);
    const reserved: readonly string[] = operatorVariables;
    expect(Object.keys(set).filter((name) => !reserved.includes(name))).toEqual([]);
    expect(operatorVariables.filter((name) => !known.includes(name))).toEqual([]);
  });
});

describe("a worker's pod", () => {
  it("has longer than its drain before it is killed", () => {
    for (const pool of poolNames) expect(podTemplate(modelService(), pool, config).spec.terminationGracePeriodSeconds).toBeGreaterThan(120);
  });

  it("asks for GPUs as requests and limits alike, one unless told otherwise", () => {
    const resources = (gpus?: number) => {
      const pool = { backend: "cuda" as const, ...(gpus && { gpus }), resources: { requests: { cpu: "1" } } };
      return podTemplate(modelService({ pools: { prefill: pool, decode: pool } }), "decode", config).spec.containers[0]?.resources;
    };
    expect(resources()).toEqual({ requests: { cpu: "1", "nvidia.com/gpu": "1" }, limits: { "nvidia.com/gpu": "1" } });
    expect(resources(4)?.limits).toEqual({ "nvidia.com/gpu": "4" });
    expect(podTemplate(modelService(), "decode", config).spec.containers[0]?.resources).toBeUndefined();
  });

  it("keeps its own labels whatever is added", () => {
    const { metadata } = podTemplate(modelService({ pools: { decode: { podTemplate: { labels: { team: "a" } } } } }), "decode", config);
    expect(metadata.labels).toMatchObject({ team: "a", "pelagic.dev/modelservice": "ms", "pelagic.dev/pool": "decode" });
  });

  it("has no Secret where the bus has no users", () => {
    const { prefillNatsSecret: _, decodeNatsSecret: __, ...open } = config;
    const { spec } = podTemplate(modelService(), "decode", open);
    expect(JSON.stringify(spec)).not.toContain('nats","mountPath');
    expect(spec.volumes).toHaveLength(1);
  });
});

describe("quantities", () => {
  it("are compared as numbers", () => {
    expect(quantityValue("500m")).toBe(0.5);
    expect(quantityValue("1Gi")).toBe(2 ** 30);
    expect(quantityValue("1e3")).toBe(1000);
    expect(quantityValue("2E")).toBe(2e18);
    expect(quantityValue(3)).toBe(3);
    expect(quantityValue("lots")).toBeUndefined();
    // As the API server writes what a person wrote.
    expect(quantityValue("1.4Gi")).toBe(quantityValue("1503238553600m"));
    expect(quantityValue("1.005G")).toBe(quantityValue("1005M"));
    for (let milli = 1; milli < 5000; milli++) expect(quantityValue(`${milli}m`)).toBe(quantityValue(String(milli / 1000)));
    expect([wholeCpus("500m"), wholeCpus("3900m"), wholeCpus(2)]).toEqual([1, 3, 2]);
  });
});
