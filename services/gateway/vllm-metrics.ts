// vLLM's names, for those who know no others: the endpoint picker of the Gateway API's inference extension, which scrapes the port that serves requests,
// and autoscalers (KEDA and others), which ask Prometheus. They are of each model's whole pool behind this gateway, as if that were one model server.
import { kvBlockTokens } from "../lib/contracts/block-key.ts";
import { errorCatalogue } from "../lib/contracts/errors.ts";
import type { WorkerState } from "../lib/contracts/messages.ts";
import { alsoAs, Gauge, type Labels, type Registry } from "../lib/runtime/metrics.ts";
import type { GatewayMetrics } from "./gateway-metrics.ts";

/** The decode workers of one of the models, and what waits before them. */
export interface Pool {
  modelName: string;
  waiting: number;
  workers: readonly Pick<WorkerState, "blocks" | "requests">[];
}

/** What the endpoint picker reads. */
export function poolGauges(registers: Registry[], pools: () => readonly Pool[]): void {
  const gauge = (name: string, help: string, read: (pool: Pool) => number) =>
    new Gauge({
      name,
      help,
      labelNames: ["model_name"],
      registers,
      collect() {
        this.reset();
        for (const pool of pools()) this.set({ model_name: pool.modelName }, read(pool));
      },
    });
  gauge("vllm:num_requests_running", "Requests that hold KV blocks, on all decode workers.", (pool) =>
    sum(pool, ({ requests }) => requests.running),
  );
  gauge(
    "vllm:num_requests_waiting",
    "Requests that wait, in this gateway and on all decode workers.",
    (pool) => pool.waiting + sum(pool, ({ requests }) => requests.waiting),
  );
  const usage = (pool: Pool) => {
    const total = sum(pool, ({ blocks }) => blocks.total);
    return total === 0 ? 0 : 1 - sum(pool, ({ blocks }) => blocks.free + blocks.cached) / total;
  };
  gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use by requests, 0 to 1.", usage);
  gauge("vllm:gpu_cache_usage_perc", "The same, by the name that endpoint pickers before 1.3 read.", usage);
  new Gauge({
    name: "vllm:cache_config_info",
    help: "Sizes of the KV cache, as labels.",
    labelNames: ["model_name", "block_size", "num_gpu_blocks"],
    registers,
    collect() {
      this.reset();
      for (const pool of pools()) {
        const num_gpu_blocks = String(sum(pool, ({ blocks }) => blocks.total));
        this.set({ model_name: pool.modelName, block_size: String(kvBlockTokens), num_gpu_blocks }, 1);
      }
    },
  });
}

function sum({ workers }: Pool, read: (worker: Pool["workers"][number]) => number): number {
  return workers.reduce((total, worker) => total + read(worker), 0);
}

/** What autoscalers and dashboards ask for. */
export function requestNames(registry: Registry, metrics: GatewayMetrics): void {
  // Requests that named none of the models belong to none.
  const whole = ({ model_name }: Labels) => (model_name ? { model_name } : null);
  for (const [name, histogram] of [
    ["time_to_first_token_seconds", metrics.timeToFirstToken],
    ["inter_token_latency_seconds", metrics.interTokenLatency],
    // Its name before 0.11.
    ["time_per_output_token_seconds", metrics.interTokenLatency],
    ["request_time_per_output_token_seconds", metrics.timePerOutputToken],
    ["request_prompt_tokens", metrics.promptTokens],
    ["request_generation_tokens", metrics.completionTokens],
  ] as const) {
    alsoAs(registry, histogram, `vllm:${name}`, whole);
  }
  for (const [name, kind] of [
    ["prompt_tokens_total", "prompt"],
    ["generation_tokens_total", "completion"],
    ["prefix_cache_queries_total", "prompt"],
    ["prefix_cache_hits_total", "cached"],
  ] as const) {
    alsoAs(registry, metrics.tokens, `vllm:${name}`, (labels) => (labels.kind === kind ? whole(labels) : null));
  }
  alsoAs(registry, metrics.requests, "vllm:request_success_total", (labels) => {
    const model = whole(labels);
    const reason = finishedReason(String(labels.outcome));
    return model === null || reason === null ? null : { ...model, finished_reason: reason };
  });
}

/** null: the request was refused, and is not counted there. */
function finishedReason(outcome: string): "stop" | "length" | "abort" | "error" | null {
  if (outcome === "stop" || outcome === "length") return outcome;
  if (outcome === "tool_calls") return "stop";
  if (outcome === "cancelled") return "abort";
  return Object.hasOwn(errorCatalogue, outcome) && errorCatalogue[outcome as keyof typeof errorCatalogue].status >= 500 ? "error" : null;
}
