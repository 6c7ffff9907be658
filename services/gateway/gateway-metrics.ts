// What the gateway counts. Labels are bounded: endpoints, outcomes, statuses and the models served, never names that a client chose.
import { Counter, Gauge, Histogram, latencyBucketsSeconds, Registry, tokenBucketsSeconds } from "../lib/runtime/metrics.ts";
import { type Pool, poolGauges, requestNames } from "./vllm-metrics.ts";

/** Where answers come from. The first path of each names its route, in metrics, logs and spans: what stands in a request is the client's own text. */
export const endpointPaths = {
  chat: ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions"],
  completions: ["/v1/completions", "/completions", "/beta/completions"],
  responses: ["/v1/responses", "/responses"],
  messages: ["/v1/messages", "/anthropic/v1/messages"],
} as const;
export type Endpoint = keyof typeof endpointPaths;
const endpoints = Object.keys(endpointPaths) as Endpoint[];

const lengthBuckets = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144];

export class GatewayMetrics {
  readonly timeToFirstToken: Histogram<"endpoint" | "model_name">;
  readonly timePerOutputToken: Histogram<"endpoint" | "model_name">;
  /** Between what arrives of one answer; one that comes with several tokens counts once. */
  readonly interTokenLatency: Histogram<"endpoint" | "model_name">;
  readonly requestDuration: Histogram<"endpoint" | "model_name">;
  /** Of answered requests, as vLLM has it: refusals, which take no time, would hide slowness from autoscalers. */
  readonly endToEnd: Histogram<"model_name">;
  readonly phases: Histogram<"phase" | "model_name">;
  readonly promptTokens: Histogram<"model_name">;
  readonly completionTokens: Histogram<"model_name">;
  readonly resumes: Counter<"model_name">;
  readonly cancellations: Histogram;
  readonly requests: Counter<"endpoint" | "outcome" | "model_name">;
  readonly tokens: Counter<"kind" | "model_name">;
  readonly ignoredFields: Counter;
  readonly slo: Counter<"slo" | "outcome" | "priority" | "model_name">;
  readonly http: Counter<"route" | "status">;
  readonly modelFaults: Counter<"fault">;
  private readonly registry: Registry;
  /** What the port that serves requests shows to whoever picks among gateways: load, and nothing of who causes it. */
  readonly pool = new Registry();

  constructor(
    registry: Registry,
    gauges: {
      running(): number;
      waiting(): number;
      cancelling(): number;
      bodyBytes(): number;
      keysUnread(): boolean;
      pools(): readonly Pool[];
      /** Names that workers have and that are not served. */
      modelsMissing(): number;
    },
  ) {
    this.registry = registry;
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
      help: "(last - first token time) / (tokens - 1), per answer.",
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
    this.endToEnd = new Histogram({
      name: "vllm:e2e_request_latency_seconds",
      help: "From an answered request's arrival to its end.",
      labelNames: ["model_name"],
      buckets: latencyBucketsSeconds,
      registers,
    });
    this.phases = new Histogram({
      name: "pelagic_gateway_phase_seconds",
      help: "Where the time of answered requests went: the phases of ./pelagic trace, one after another.",
      labelNames: ["phase", "model_name"],
      buckets: latencyBucketsSeconds,
      registers,
    });
    const length = (name: string, help: string) =>
      new Histogram({ name, help, labelNames: ["model_name"], buckets: lengthBuckets, registers });
    this.promptTokens = length("pelagic_gateway_prompt_tokens", "Prompt tokens of an answered request.");
    this.completionTokens = length("pelagic_gateway_completion_tokens", "Tokens of its answers.");
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
    new Gauge({
      name: "pelagic_gateway_requests_waiting",
      help: "Requests that wait for a place in the gateway or for room at a worker.",
      labelNames: ["model_name"],
      registers,
      collect() {
        this.reset();
        let others = gauges.waiting();
        for (const { modelName, waiting } of gauges.pools()) {
          this.set({ model_name: modelName }, waiting);
          others -= waiting;
        }
        // They need no worker.
        this.set({ model_name: "" }, others);
      },
    });
    gauge("pelagic_gateway_requests_running", "Requests in the gateway.", gauges.running);
    gauge("pelagic_gateway_cancellations_pending", "Cancellations that decode has not yet confirmed.", gauges.cancelling);
    gauge("pelagic_gateway_body_bytes", "Request bodies held in memory.", gauges.bodyBytes);
    gauge("pelagic_gateway_keys_unread", "1 while the keys file cannot be read and the keys before it are taken.", () =>
      Number(gauges.keysUnread()),
    );
    this.modelFaults = new Counter({
      name: "pelagic_gateway_model_faults_total",
      help: "Models that workers announced and that could not be learned: other files than announced (sender), files that cannot be served (content), files that were not to be had (unavailable).",
      labelNames: ["fault"],
      registers,
    });
    for (const fault of ["sender", "content", "unavailable"]) this.modelFaults.inc({ fault }, 0);
    gauge("pelagic_gateway_models_missing", "Model names that workers have and that this gateway does not serve.", gauges.modelsMissing);
    for (const { modelName } of gauges.pools()) this.begin(modelName);
    poolGauges([registry, this.pool], gauges.pools);
    requestNames(registry, this);
  }

  /** A rate is asked for of what was there before the first request, too. */
  begin(modelName: string): void {
    const model = { model_name: modelName };
    for (const endpoint of endpoints) {
      for (const histogram of [this.timeToFirstToken, this.timePerOutputToken, this.interTokenLatency, this.requestDuration]) {
        histogram.zero({ endpoint, ...model });
      }
      this.requests.inc({ endpoint, outcome: "stop", ...model }, 0);
    }
    for (const kind of ["prompt", "cached", "completion", "reasoning"]) this.tokens.inc({ kind, ...model }, 0);
    for (const histogram of [this.promptTokens, this.completionTokens, this.endToEnd]) histogram.zero(model);
    this.resumes.inc(model, 0);
  }

  /** Nothing is left of a model that is served no more: names come and go, and must not gather. */
  async forget(modelName: string): Promise<void> {
    for (const metric of this.registry.getMetricsAsArray()) {
      if (!(metric instanceof Counter || metric instanceof Gauge || metric instanceof Histogram)) continue;
      for (const { labels } of (await metric.get()).values) {
        const { le: _, ...own } = labels as { le?: unknown; model_name?: string };
        if (own.model_name === modelName) metric.remove(own);
      }
    }
  }
}
