// Who is looked at, and who waits for whom: real HTTP servers, and the cluster as the watches would have it.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, it } from "vitest";
import type { Pod, Workload } from "../planner/kubernetes.ts";
import { poolLabel, serviceLabel } from "../planner/names.ts";
import type { ModelService } from "../api/model-service.ts";
import { modelService, nothingObserved } from "../planner/testing/model-services.ts";
import { Autoscaler, type AutoscalerOptions } from "./autoscaler.ts";
import { Scraper } from "./scraper.ts";

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

/** Says `text`; without one it takes connections and never answers. */
async function endpoint(text?: string): Promise<number> {
  const server = createServer((_, response) => {
    if (text !== undefined) response.end(text);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

function pod(name: string, port: number, labels: Record<string, string> = {}): Pod {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace: "test", labels },
    spec: { containers: [{ name: "c", ports: [{ name: "metrics", containerPort: port }] }] },
    status: {
      phase: "Running",
      podIP: "127.0.0.1",
      conditions: [{ type: "Ready", status: "True", lastTransitionTime: "2020-01-01T00:00:00Z" }],
    },
  } as unknown as Pod;
}

const range = { minReplicas: 1, maxReplicas: 1000 };
const scaled = (name: string) =>
  modelService(
    {
      slo: { ttftSeconds: 2, tpotSeconds: 0.05 },
      autoscaling: { policy: "slo", prefill: range, decode: range, scaleToZeroAfterSeconds: 60, stabilizationSeconds: 60 },
    },
    { name, uid: name },
  );

function workloads(service: ModelService, replicas: number): Workload[] {
  const { name, namespace, uid } = service.metadata;
  return ["prefill", "decode"].map((pool) => ({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      ...{ name: `${name}-${pool}`, namespace, labels: { [serviceLabel]: name, [poolLabel]: pool } },
      ownerReferences: [{ apiVersion: service.apiVersion, kind: service.kind, name, uid: uid as string, controller: true }],
    },
    spec: { replicas },
  })) as Workload[];
}

it("wakes a model for which a request waits before all workers of another one have answered, which hang", async () => {
  const hanging = await endpoint();
  const gateway = await endpoint('pelagic_gateway_requests_waiting{model_name="sleepy"} 1');
  const services = [scaled("busy"), scaled("sleepy")];
  // More than are asked at once, many times over.
  const pods = Array.from({ length: 500 }, (_, i) => pod(`busy-decode-${i}`, hanging, { [serviceLabel]: "busy", [poolLabel]: "decode" }));
  let failed = 0;
  let wake = () => {};
  const woken = new Promise<void>((resolve) => {
    wake = resolve;
  });
  const autoscaler = new Autoscaler({
    watched: {
      ownServices: () => services as never[],
      synced: true,
      observe: (key) => {
        const [busy, sleepy] = services as [ModelService, ModelService];
        return key === "test/busy"
          ? { ...nothingObserved(), deployments: workloads(busy, 500), pods }
          : { ...nothingObserved(), deployments: workloads(sleepy, 0) };
      },
      gatewayPods: () => [pod("gateway-0", gateway)],
      gatewaysWhere: "here",
    } satisfies AutoscalerOptions["watched"],
    scraper: new Scraper({
      scraped(result) {
        if (result === "failed") failed++;
      },
    }),
    leads: () => true,
    changed: (key) => {
      if (key === "test/sleepy") wake();
    },
    intervalMs: 50,
    log: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
  });
  autoscaler.start();
  await woken;
  expect(failed).toBeLessThan(pods.length);
  await autoscaler.stop();
});
