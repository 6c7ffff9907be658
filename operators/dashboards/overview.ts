// What clients get: objectives, latencies, ends, tokens.
import { clientFaults, failures, tpotSeconds, ttftSeconds } from "./objectives.ts";
import type { DashboardSpec } from "./panels.ts";
import { orZero, quantile, rate, series, sumBy } from "./promql.ts";

const window = "$__rate_interval";
const inScope = 'namespace=~"$namespace",model_name=~"$model"';
const gateway = (name: string, more = "") => series(name, "gateway", [inScope, more].filter(Boolean).join(","));
const sumRate = (name: string, by = "", more = "") => sumBy(by, rate(gateway(name, more), window));
const quantiles = (name: string) =>
  ([0.5, 0.99] as const).map((q) => [quantile(q, "model_name", gateway(`${name}_bucket`), window), `p${q * 100} {{model_name}}`] as const);

const ttft = "gen_ai_server_time_to_first_token_seconds";
const tpot = "gen_ai_server_time_per_output_token_seconds";
const ended = (more: string) => sumRate("pelagic_gateway_requests_total", "", more);
/** Per second, those above the bound. */
const missed = (name: string, bound: number) => `(${sumRate(`${name}_count`)} - ${sumRate(`${name}_bucket`, "", `le="${bound}"`)})`;
const burn = (over: string) => `max by (slo) (pelagic:slo_burn:ratio${over}{${inScope}})`;

export const overview: DashboardSpec = {
  uid: "pelagic-overview",
  title: "Pelagic / Overview",
  what: "What clients of the gateways get, held to the objectives. Alerts and what to do: docs/alerts.md.",
  variables: ["model"],
  rows: [
    {
      title: "Objectives",
      panels: [
        {
          title: "Error budget left (30 days)",
          what: "Of the errors that the objectives allow in 30 days, the share not yet made. At 0 the objective is missed: put changes off and find what fails, below.",
          unit: "percentunit",
          kind: "stat",
          red: { below: 0.1 },
          queries: [[`1 - max by (slo) (pelagic:slo_burn:ratio30d{${inScope}})`, "{{slo}}"]],
        },
        {
          title: "Burn rate",
          what: "How many times faster than allowed the budget is used; 1 uses all of it in 30 days. Above 14.4 for an hour it pages: look at which objective, then at the panels beneath.",
          unit: "none",
          red: { above: 1 },
          queries: [
            [burn("5m"), "{{slo}} 5m"],
            [burn("1h"), "{{slo}} 1h"],
            [burn("6h"), "{{slo}} 6h"],
          ],
        },
        {
          title: "Goodput",
          what: `Offered: ended requests but for clients' faults. Good, at least: answered within ${ttftSeconds} s to the first token and ${tpotSeconds} s for each further one (those that missed either are taken off, twice if both). A widening gap is overload or failure.`,
          unit: "reqps",
          queries: [
            [ended(`outcome!~"${clientFaults}"`), "offered"],
            [`clamp_min(${sumRate(`${ttft}_count`)} - ${missed(ttft, ttftSeconds)} - ${missed(tpot, tpotSeconds)}, 0)`, "good, at least"],
          ],
        },
      ],
    },
    {
      title: "Latency",
      panels: [
        {
          title: "Time to first token",
          what: `Arrival to first token. Above ${ttftSeconds} s it counts as missed: see where the time goes; queue means too few decode workers, first token too few prefill workers.`,
          unit: "s",
          red: { above: ttftSeconds },
          queries: quantiles(ttft),
        },
        {
          title: "Time per output token",
          what: `Above ${tpotSeconds} s it counts as missed: batches are too large or the workers' cores too few; see step time in Prefill and decode.`,
          unit: "s",
          red: { above: tpotSeconds },
          queries: quantiles(tpot),
        },
        {
          title: "Between tokens",
          what: "Between one arrival of an answer's tokens and the next. A p99 far above p50 is answers that pause: preempted or moved.",
          unit: "s",
          queries: quantiles("pelagic_gateway_inter_token_latency_seconds"),
        },
        {
          title: "Where the time goes",
          what: "Mean of each phase, one after another. The phase that grew says where to look: queue and first token in the workers, tokenize and read body in the gateway.",
          unit: "s",
          stacked: true,
          queries: [
            [
              `${sumRate("pelagic_gateway_phase_seconds_sum", "phase")} / ${sumRate("pelagic_gateway_phase_seconds_count", "phase")}`,
              "{{phase}}",
            ],
          ],
        },
        {
          title: "Whole requests",
          what: "Arrival to end, refused and failed ones included. Long answers make it long: compare with the completion lengths.",
          unit: "s",
          queries: quantiles("gen_ai_server_request_duration_seconds"),
        },
        {
          title: "Objectives that requests named, attained",
          what: "Of x-slo-ttft-ms, x-slo-tpot-ms and x-request-timeout-ms. Clients may ask for more than the service promises: compare with the latencies before adding workers.",
          unit: "percentunit",
          max: 1,
          queries: [
            [
              `${sumRate("pelagic_gateway_slo_total", "slo", 'outcome="attained"')} / ${sumRate("pelagic_gateway_slo_total", "slo")}`,
              "{{slo}}",
            ],
          ],
        },
      ],
    },
    {
      title: "Requests",
      panels: [
        {
          title: "Ends",
          what: "By finish reason or error. overloaded: add workers; no_workers: see whether they run; worker_lost: see their restarts; internal: the gateway's log has the request.",
          unit: "reqps",
          stacked: true,
          queries: [[sumRate("pelagic_gateway_requests_total", "outcome"), "{{outcome}}"]],
        },
        {
          title: "Failed by our fault",
          what: "Share of all but clients' faults. Any lasting value uses the error budget: look for its outcome beside.",
          unit: "percentunit",
          queries: [
            [
              `${orZero(ended(`outcome=~"${failures}"`), ended(`outcome!~"${clientFaults}"`))} / ${ended(`outcome!~"${clientFaults}"`)}`,
              "failed",
            ],
          ],
        },
        {
          title: "Running and waiting",
          what: "Running: on decode workers. Waiting: there and in one gateway; in gateways: before anything is spent on them. Waiting that does not fall: decode is too small, or full of blocks.",
          unit: "short",
          queries: [
            [`max by (namespace, model_name) (${gateway("vllm:num_requests_running")})`, "running {{namespace}} {{model_name}}"],
            [`sum by (namespace, model_name) (${gateway("pelagic_gateway_requests_waiting")})`, "in gateways {{namespace}} {{model_name}}"],
            [`max by (namespace, model_name) (${gateway("vllm:num_requests_waiting")})`, "waiting {{namespace}} {{model_name}}"],
          ],
        },
        {
          title: "Tokens",
          what: "Of ended requests. cached is the part of prompt that was found in caches, reasoning a part of completion.",
          unit: "ops",
          queries: [[sumRate("pelagic_gateway_tokens_total", "kind"), "{{kind}}"]],
        },
        {
          title: "Lengths",
          what: "Prompts and answers. Longer prompts need prefill workers, longer answers decode workers.",
          unit: "short",
          queries: [
            ...([0.5, 0.99] as const).map(
              (q) => [quantile(q, "", gateway("pelagic_gateway_prompt_tokens_bucket"), window), `prompt p${q * 100}`] as const,
            ),
            ...([0.5, 0.99] as const).map(
              (q) => [quantile(q, "", gateway("pelagic_gateway_completion_tokens_bucket"), window), `completion p${q * 100}`] as const,
            ),
          ],
        },
        {
          title: "Resumes",
          what: "Answers that another decode worker went on with. Expected in roll-outs; otherwise see which worker died.",
          unit: "ops",
          queries: [[sumRate("pelagic_gateway_resumes_total", "model_name"), "{{model_name}}"]],
        },
      ],
    },
    {
      title: "Gateways",
      panels: [
        {
          title: "Processes that answer Prometheus",
          what: "Fewer than there should be: see the pods of that component.",
          unit: "short",
          queries: [['sum by (component) (up{namespace=~"$namespace",component=~"gateway|prefill|decode|operator"})', "{{component}}"]],
        },
        {
          title: "Event loop lag, p99",
          what: "A gateway that lags adds to every token's time: give it a core more, or run one more.",
          unit: "s",
          queries: [[series("nodejs_eventloop_lag_p99_seconds", "gateway", 'namespace=~"$namespace"'), "{{pod}}"]],
        },
        {
          title: "Memory",
          what: "Resident, and the request bodies in it. Growth that never ends is a leak: take a heap snapshot before it restarts.",
          unit: "bytes",
          queries: [
            [series("process_resident_memory_bytes", "gateway", 'namespace=~"$namespace"'), "{{pod}}"],
            [series("pelagic_gateway_body_bytes", "gateway", 'namespace=~"$namespace"'), "bodies {{pod}}"],
          ],
        },
        {
          title: "Cancellations",
          what: "From a client's leaving to decode's word that nothing of it is left. Pending ones that stay hold blocks: see PelagicCancellationsStuck.",
          unit: "s",
          queries: [
            [
              quantile(0.99, "", series("pelagic_gateway_cancellation_seconds_bucket", "gateway", 'namespace=~"$namespace"'), window),
              "p99",
            ],
          ],
        },
        {
          title: "HTTP responses",
          what: "All routes, by status. 401 and 429: a client's key or limits; 404: a wrong path or model.",
          unit: "reqps",
          queries: [
            [
              sumBy("status", rate(series("pelagic_gateway_http_responses_total", "gateway", 'namespace=~"$namespace"'), window)),
              "{{status}}",
            ],
          ],
        },
      ],
    },
  ],
};
