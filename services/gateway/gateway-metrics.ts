// What the gateway counts. Labels are bounded: endpoints, outcomes, statuses and the models served, never names that a client chose.
import { kvBlockTokens } from "../lib/contracts/block-key.ts";
import type { WorkerState } from "../lib/contracts/messages.ts";
import { Counter, Gauge, Histogram, latencyBucketsSeconds, type Registry, tokenBucketsSeconds } from "../lib/runtime/metrics.ts";

export type Endpoint = "chat" | "completions" | "responses" | "messages";

/** The decode workers of a served model. */
export type DecodeWorkers = { modelName: string; workers: readonly Pick<WorkerState, "blocks" | "requests">[] };

export class GatewayMetrics {
  readonly timeToFirstToken: Histogram<"endpoint" | "model_name">;
  readonly timePerOutputToken: Histogram<"endpoint" | "model_name">;
  /** Between what arrives of one answer; one that comes with several tokens counts once. */
  readonly interTokenLatency: Histogram<"endpoint" | "model_name">;
  readonly requestDuration: Histogram<"endpoint" | "model_name">;
  readonly resumes: Counter<"model_name">;
  readonly cancellations: Histogram;
  readonly requests: Counter<"endpoint" | "outcome" | "model_name">;
  readonly tokens: Counter<"kind" | "model_name">;
  readonly ignoredFields: Counter;
  readonly slo: Counter<"slo" | "outcome" | "priority" | "model_name">;
  readonly http: Counter<"route" | "status">;

  constructor(
    registry: Registry,
    gauges: { running(): number; waiting(): number; cancelling(): number; bodyBytes(): number; decode(): DecodeWorkers[] },
  ) {
    const registers = [registry];
    this.timeToFirstToken = new Histogram({
      name: "gen_ai_server_time_to_first_token_seconds",
      help: "From a request's arrival to its first token on the way to the client.",
      labelNames: ["endpoint", "model_name"],
      buckets: latencyBucketsSeconds,
      registers,
    });
    this.timePerOutputToken = new Histogram({
      name: "gen_ai_server_time_per_output_token_seconds",
      help: "(last - first token time) / (tokens - 1), per request.",
      labelNames: ["endpoint", "model_name"],
      buckets: tokenBucketsSeconds,
      registers,
    });
    this.interTokenLatency = new Histogram({
      name: "pelagic_gateway_inter_token_latency_seconds",
      help: "Between one arrival of an answer's tokens and the next.",
      labelNames: ["endpoint", "model_name"],
      buckets: tokenBucketsSeconds,
      registers,
    });
    this.cancellations = new Histogram({
      name: "pelagic_gateway_cancellation_seconds",
      help: "From giving a request up, as when its client leaves, to decode's word that nothing of it is left there.",
      buckets: latencyBucketsSeconds,
      registers,
    });
    this.resumes = new Counter({
      name: "pelagic_gateway_resumes_total",
      help: "Answers that another decode worker went on with.",
      labelNames: ["model_name"],
      registers,
    });
    this.requestDuration = new Histogram({
      name: "gen_ai_server_request_duration_seconds",
      help: "From a request's arrival to its end.",
      labelNames: ["endpoint", "model_name"],
      buckets: latencyBucketsSeconds,
      registers,
    });
    this.requests = new Counter({
      name: "pelagic_gateway_requests_total",
      help: "Ended requests; outcome is a finish reason or an error code.",
      labelNames: ["endpoint", "outcome", "model_name"],
      registers,
    });
    this.tokens = new Counter({
      name: "pelagic_gateway_tokens_total",
      help: "Tokens of ended requests: prompt, cached (of the prompt), completion, reasoning (of the completion).",
      labelNames: ["kind", "model_name"],
      registers,
    });
    this.slo = new Counter({
      name: "pelagic_gateway_slo_total",
      help: "Objectives (ttft, tpot) and deadlines that requests named, attained or missed; refused and failed requests miss theirs.",
      labelNames: ["slo", "outcome", "priority", "model_name"],
      registers,
    });
    this.ignoredFields = new Counter({
      name: "pelagic_gateway_unknown_fields_total",
      help: "Request fields that this server does not know and left out of account.",
      registers,
    });
    this.http = new Counter({
      name: "pelagic_gateway_http_responses_total",
      help: "HTTP responses by route and status.",
      labelNames: ["route", "status"],
      registers,
    });
    const gauge = (name: string, help: string, read: () => number) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.set(read());
        },
      });
    gauge("pelagic_gateway_requests_waiting", "Requests that wait for a place in the gateway or for room at a worker.", gauges.waiting);
    gauge("pelagic_gateway_requests_running", "Requests in the gateway.", gauges.running);
    gauge("pelagic_gateway_cancellations_pending", "Cancellations that decode has not yet confirmed.", gauges.cancelling);
    gauge("pelagic_gateway_body_bytes", "Request bodies held in memory.", gauges.bodyBytes);
    likeVllm(registry, gauges.decode);
  }
}

/** The names that autoscalers and the Gateway API's endpoint picker know, of each model's whole pool behind this gateway. */
function likeVllm(registry: Registry, decode: () => DecodeWorkers[]): void {
  const sum = ({ workers }: DecodeWorkers, read: (worker: DecodeWorkers["workers"][number]) => number) =>
    workers.reduce((total, worker) => total + read(worker), 0);
  const gauge = (name: string, help: string, read: (pool: DecodeWorkers) => number) =>
    new Gauge({
      name,
      help,
      labelNames: ["model_name"],
      registers: [registry],
      collect() {
        for (const pool of decode()) this.set({ model_name: pool.modelName }, read(pool));
      },
    });
  gauge("vllm:num_requests_running", "Requests that hold KV blocks, on all decode workers.", (pool) =>
    sum(pool, ({ requests }) => requests.running),
  );
  gauge("vllm:num_requests_waiting", "Requests that wait on decode workers.", (pool) => sum(pool, ({ requests }) => requests.waiting));
  gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use by requests, 0 to 1.", (pool) => {
    const total = sum(pool, ({ blocks }) => blocks.total);
    return total === 0 ? 0 : 1 - sum(pool, ({ blocks }) => blocks.free + blocks.cached) / total;
  });
  new Gauge({
    name: "vllm:cache_config_info",
    help: "Sizes of the KV cache, as labels.",
    labelNames: ["model_name", "block_size", "num_gpu_blocks"],
    registers: [registry],
    collect() {
      this.reset();
      for (const pool of decode()) {
        const num_gpu_blocks = String(sum(pool, ({ blocks }) => blocks.total));
        this.set({ model_name: pool.modelName, block_size: String(kvBlockTokens), num_gpu_blocks }, 1);
      }
    },
  });
}
