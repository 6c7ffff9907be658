// What the gateway counts. Labels are bounded: endpoints, outcomes and statuses, never names that a client chose.
import { Counter, Gauge, Histogram, latencyBucketsSeconds, type Registry, tokenBucketsSeconds } from "../lib/runtime/metrics.ts";

export type Endpoint = "chat" | "completions" | "responses" | "messages";

export class GatewayMetrics {
  readonly timeToFirstToken: Histogram<"endpoint">;
  readonly timePerOutputToken: Histogram<"endpoint">;
  readonly requestDuration: Histogram<"endpoint">;
  readonly requests: Counter<"endpoint" | "outcome">;
  readonly tokens: Counter<"kind">;
  readonly ignoredFields: Counter;
  readonly slo: Counter<"slo" | "outcome" | "priority">;
  readonly http: Counter<"route" | "status">;

  constructor(registry: Registry, gauges: { running(): number; cancelling(): number; bodyBytes(): number }) {
    const registers = [registry];
    this.timeToFirstToken = new Histogram({
      name: "gen_ai_server_time_to_first_token_seconds",
      help: "From a request's arrival to its first token on the way to the client.",
      labelNames: ["endpoint"],
      buckets: latencyBucketsSeconds,
      registers,
    });
    this.timePerOutputToken = new Histogram({
      name: "gen_ai_server_time_per_output_token_seconds",
      help: "(last - first token time) / (tokens - 1), per request.",
      labelNames: ["endpoint"],
      buckets: tokenBucketsSeconds,
      registers,
    });
    this.requestDuration = new Histogram({
      name: "gen_ai_server_request_duration_seconds",
      help: "From a request's arrival to its end.",
      labelNames: ["endpoint"],
      buckets: latencyBucketsSeconds,
      registers,
    });
    this.requests = new Counter({
      name: "pelagic_gateway_requests_total",
      help: "Ended requests; outcome is a finish reason or an error code.",
      labelNames: ["endpoint", "outcome"],
      registers,
    });
    this.tokens = new Counter({
      name: "pelagic_gateway_tokens_total",
      help: "Tokens of ended requests: prompt, cached (of the prompt), completion, reasoning (of the completion).",
      labelNames: ["kind"],
      registers,
    });
    this.slo = new Counter({
      name: "pelagic_gateway_slo_total",
      help: "Objectives (ttft, tpot) and deadlines that requests named, attained or missed; refused and failed requests miss theirs.",
      labelNames: ["slo", "outcome", "priority"],
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
    gauge("pelagic_gateway_requests_running", "Requests in the gateway.", gauges.running);
    gauge("pelagic_gateway_cancellations_pending", "Cancellations that decode has not yet confirmed.", gauges.cancelling);
    gauge("pelagic_gateway_body_bytes", "Request bodies held in memory.", gauges.bodyBytes);
  }
}
