// What the operator scrapes: HTTP servers with the metrics of gateways and workers, and pods in a test API server that say where they are. Counters
// grow as the load says that is set.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestApiServer } from "./api-server.ts";

export interface Load {
  requestsPerSecond: number;
  promptTokens: number;
  answerTokens: number;
  /** In the gateway's queue. */
  waiting: number;
}

export const idle: Load = { requestsPerSecond: 0, promptTokens: 0, answerTokens: 0, waiting: 0 };

/** One served model, as its processes count it. */
export class CountedModel {
  private load = idle;
  private sinceMs = performance.now();
  private requests = 0;
  private prompted = 0;
  private answered = 0;

  constructor(readonly name: string) {}

  set(load: Partial<Load>): void {
    this.grow();
    this.load = { ...this.load, ...load };
  }

  private grow(): void {
    const requests = ((performance.now() - this.sinceMs) / 1000) * this.load.requestsPerSecond;
    this.sinceMs = performance.now();
    this.requests += requests;
    this.prompted += requests * this.load.promptTokens;
    this.answered += requests * this.load.answerTokens;
  }

  gateway(): string {
    this.grow();
    const of = `model_name="${this.name}"`;
    return [
      `pelagic_gateway_requests_total{endpoint="chat",outcome="stop",${of}} ${this.requests}`,
      `pelagic_gateway_requests_waiting{${of}} ${this.load.waiting}`,
      `pelagic_gateway_tokens_total{kind="completion",${of}} ${this.answered}`,
      `vllm:e2e_request_latency_seconds_count{${of}} ${this.requests}`,
    ].join("\n");
  }

  prefill(): string {
    this.grow();
    return `pelagic_prefill_tokens_per_second 1000\npelagic_queued_prefill_tokens 0\npelagic_prefilled_tokens_total ${this.prompted}`;
  }

  /** A step of 10 sequences takes 20 ms. */
  decode(): string {
    this.grow();
    const steps = this.answered / 10;
    return [
      `pelagic_step_sequences_sum ${steps * 10}\npelagic_step_sequences_count ${steps}\npelagic_decode_step_seconds 0.02`,
      `vllm:num_requests_running{model_name="${this.name}"} ${this.load.requestsPerSecond > 0 ? 10 : 0}`,
      `vllm:kv_cache_usage_perc{model_name="${this.name}"} 0.1`,
    ].join("\n");
  }
}

export interface Endpoint {
  port: number;
  /** No longer answers; connections to it are refused. */
  stop(): Promise<void>;
}

/** `port`: where one stood before. */
export async function startEndpoint(text: () => string, port = 0): Promise<Endpoint> {
  const server: Server = createServer((request, response) => {
    response.writeHead(request.url === "/metrics" ? 200 : 404).end(text());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

const longAgo = new Date(Date.now() - 3_600_000).toISOString().replace(/\.\d+/, "");

/** A pod that is ready since an hour, or that no node takes since then. */
export async function makePod(
  server: TestApiServer,
  name: string,
  labels: Record<string, string>,
  where: { port: number } | "unschedulable",
): Promise<void> {
  const path = "/api/v1/namespaces/default/pods";
  const placed = where !== "unschedulable";
  const ports = placed ? [{ name: "metrics", containerPort: where.port }] : [];
  const made = await server.call("POST", path, {
    body: {
      metadata: { name, labels },
      spec: { ...(placed && { nodeName: "node" }), containers: [{ name: "c", image: "example.com/pelagic:1", ports }] },
    },
  });
  if (made.status !== 201) throw new Error(JSON.stringify(made.body));
  const condition = (type: string, status: string) => ({ type, status, lastTransitionTime: longAgo });
  const status = placed
    ? { phase: "Running", podIP: "127.0.0.1", podIPs: [{ ip: "127.0.0.1" }], conditions: [condition("Ready", "True")] }
    : { phase: "Pending", conditions: [{ ...condition("PodScheduled", "False"), reason: "Unschedulable", message: "0/1 nodes" }] };
  const patched = await server.call("PATCH", `${path}/${name}/status`, { body: { status }, contentType: "application/merge-patch+json" });
  if (patched.status !== 200) throw new Error(JSON.stringify(patched.body));
}
